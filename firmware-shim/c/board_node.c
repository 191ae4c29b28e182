/* A sensor node for the LM3S6965 evaluation kit, freestanding: no C library, no allocator.
 *
 * The same job as ../firmware does in Rust, cut down to what shows the calls: a sample every second,
 * the link over UART0 at 115,200 baud, polled between the ticks of a millisecond. */
#include "firmware_shim.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))

#define RCC REGISTER(0x400fe060u)
#define RIS REGISTER(0x400fe050u)
#define RCGC1 REGISTER(0x400fe104u)
#define RCGC2 REGISTER(0x400fe108u)
#define PORT_A_FUNCTION REGISTER(0x40004420u)
#define PORT_A_DIGITAL REGISTER(0x4000451cu)
#define UART_DATA REGISTER(0x4000c000u)
#define UART_FLAGS REGISTER(0x4000c018u)
#define UART_BAUD_INTEGER REGISTER(0x4000c024u)
#define UART_BAUD_FRACTION REGISTER(0x4000c028u)
#define UART_LINE REGISTER(0x4000c02cu)
#define UART_CONTROL REGISTER(0x4000c030u)
#define TICK_CONTROL REGISTER(0xe000e010u)
#define TICK_RELOAD REGISTER(0xe000e014u)
#define TICK_CURRENT REGISTER(0xe000e018u)

#define BUSY (1u << 3)
#define RX_EMPTY (1u << 4)
#define TX_FULL (1u << 5)

#define CLOCK_HZ 50000000u
#define BAUD 115200u
#define SAMPLE_MS 1000u

/* Of the linker script. */
extern uint32_t stack_top, data_in_flash, data_start, data_end, bss_start, bss_end;

static firmware_shim_node node;
static volatile uint32_t ticks;

static void on_tick(void) { ticks = ticks + 1; }

static void start_hardware(void) {
  /* 8 MHz crystal, PLL, 50 MHz. */
  uint32_t clock = 3u << 23 | 1u << 22 | 0xeu << 6;
  RCC = clock | 1u << 13 | 1u << 11;
  RCC = clock | 1u << 11;
  for (uint32_t polls = 0; polls < 100000 && !(RIS & 1u << 6); polls++) {
  }
  RCC = clock;
  RCGC1 |= 1u << 0;
  RCGC2 |= 1u << 0;
  PORT_A_FUNCTION |= 3;
  PORT_A_DIGITAL |= 3;
  uint32_t divisor = (CLOCK_HZ * 4 + BAUD / 2) / BAUD;
  UART_BAUD_INTEGER = divisor >> 6;
  UART_BAUD_FRACTION = divisor & 63;
  UART_LINE = 3u << 5 | 1u << 4;
  UART_CONTROL = 1u << 9 | 1u << 8 | 1u << 0;
  TICK_RELOAD = CLOCK_HZ / 1000 - 1;
  TICK_CURRENT = 0;
  TICK_CONTROL = 7;
}

static void sample(uint32_t number, uint64_t now) {
  const firmware_shim_reading readings[] = {
      {.name = "sequence", .value = (double)number},
      {.name = "temperature", .unit = "Cel", .value = 20.0 + (double)(number % 50) / 10.0},
  };
  double unix_s = (double)firmware_shim_unix_ms(&node, now) / 1000.0;
  firmware_shim_push_readings(&node, "urn:dev:mac:0024befffe804ff3/", unix_s, readings, 2);
}

static _Noreturn void run(void) {
  /* A product counts its boots in flash or EEPROM; this board has neither at hand. */
  const firmware_shim_config config = {.session = 1, .bits_per_second = BAUD};
  firmware_shim_init(&node, sizeof node, &config);

  static uint8_t frame[FIRMWARE_SHIM_FRAME_BYTES_MAX];
  int32_t size = 0;
  int32_t written = 0;
  bool on_line = false;
  uint32_t samples = 0;
  uint64_t now = 0;
  uint64_t next_sample = 0;
  for (;;) {
    now += (uint32_t)(ticks - (uint32_t)now);
    while (!(UART_FLAGS & RX_EMPTY)) {
      uint8_t byte = (uint8_t)UART_DATA;
      firmware_shim_feed(&node, now, &byte, 1);
    }
    if (now >= next_sample) {
      sample(samples++, now);
      next_sample += SAMPLE_MS;
    }
    if (on_line && written == size && !(UART_FLAGS & BUSY)) {
      firmware_shim_transmitted(&node, now);
      on_line = false;
    }
    if (!on_line) {
      size = firmware_shim_poll(&node, now, frame, sizeof frame);
      written = 0;
      on_line = size > 0;
    }
    while (on_line && written < size && !(UART_FLAGS & TX_FULL)) UART_DATA = frame[written++];
    __asm__ volatile("wfi");
  }
}

static _Noreturn void on_reset(void) {
  uint32_t *from = &data_in_flash;
  for (uint32_t *to = &data_start; to < &data_end;) *to++ = *from++;
  for (uint32_t *to = &bss_start; to < &bss_end;) *to++ = 0;
  start_hardware();
  run();
}

static void on_fault(void) {
  for (;;) {
  }
}

/* What the processor reads at reset: where the stack begins, then a handler for each exception. */
static const struct {
  uint32_t *stack;
  void (*handlers[15])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    .stack = &stack_top,
    .handlers = {[0] = on_reset, [1] = on_fault, [2] = on_fault, [14] = on_tick},
};
