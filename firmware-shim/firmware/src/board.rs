//! The board: Stellaris LM3S6965 evaluation kit. Clock, tick, UART0 on its USB connector, LED.
//!
//! Register names and bits are those of the LM3S6965 data sheet. The UART is a PL011 as in many
//! parts; for another one little here has to change.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::exception;

/// The PLL's 200 MHz divided by 4.
const CLOCK_HZ: u32 = 50_000_000;
/// Speed of the line.
pub(crate) const BAUD: u32 = 115_200;

/// System control.
mod sysctl {
    use crate::registers::Register;

    const BLOCK: u32 = 0x400f_e000;
    pub(super) const RIS: Register = Register::new(BLOCK, 0x050);
    pub(super) const RIS_PLL_LOCKED: u32 = 1 << 6;
    pub(super) const RCC: Register = Register::new(BLOCK, 0x060);
    /// Divide by 4, divider on, crystal of 8 MHz, from the main oscillator, which is on.
    pub(super) const RCC_50_MHZ: u32 = 3 << 23 | 1 << 22 | 0xe << 6;
    pub(super) const RCC_PLL_OFF: u32 = 1 << 13;
    pub(super) const RCC_BYPASS: u32 = 1 << 11;
    /// Clocks of the peripherals.
    pub(super) const RCGC1: Register = Register::new(BLOCK, 0x104);
    pub(super) const RCGC1_UART0: u32 = 1 << 0;
    pub(super) const RCGC2: Register = Register::new(BLOCK, 0x108);
    pub(super) const RCGC2_GPIO_A: u32 = 1 << 0;
    pub(super) const RCGC2_GPIO_F: u32 = 1 << 5;
}

/// UART0.
mod uart {
    use crate::registers::Register;

    const BLOCK: u32 = 0x4000_c000;
    pub(super) const DATA: Register = Register::new(BLOCK, 0x000);
    pub(super) const DATA_ERRORS: u32 = 0xf00;
    pub(super) const FLAGS: Register = Register::new(BLOCK, 0x018);
    pub(super) const FLAGS_BUSY: u32 = 1 << 3;
    pub(super) const FLAGS_RX_EMPTY: u32 = 1 << 4;
    pub(super) const FLAGS_TX_FULL: u32 = 1 << 5;
    pub(super) const BAUD_INTEGER: Register = Register::new(BLOCK, 0x024);
    pub(super) const BAUD_FRACTION: Register = Register::new(BLOCK, 0x028);
    pub(super) const LINE: Register = Register::new(BLOCK, 0x02c);
    /// 8 data bits, FIFOs on; no parity, one stop bit.
    pub(super) const LINE_8N1_FIFO: u32 = 3 << 5 | 1 << 4;
    pub(super) const CONTROL: Register = Register::new(BLOCK, 0x030);
    /// Receiver, transmitter and the whole of it on.
    pub(super) const CONTROL_ON: u32 = 1 << 9 | 1 << 8 | 1 << 0;
}

/// Ports A (pins of UART0) and F (pin 0: the LED).
mod gpio {
    use crate::registers::Register;

    const PORT_A: u32 = 0x4000_4000;
    const PORT_F: u32 = 0x4002_5000;
    pub(super) const LED: u32 = 1 << 0;
    /// Bits 9–2 of the address are the mask of the pins that are written.
    pub(super) const LED_DATA: Register = Register::new(PORT_F, LED << 2);
    pub(super) const LED_DIRECTION: Register = Register::new(PORT_F, 0x400);
    pub(super) const LED_DIGITAL: Register = Register::new(PORT_F, 0x51c);
    pub(super) const UART_PINS: u32 = 0b11;
    pub(super) const UART_FUNCTION: Register = Register::new(PORT_A, 0x420);
    pub(super) const UART_DIGITAL: Register = Register::new(PORT_A, 0x51c);
}

/// Polls of the PLL before it is taken for broken; it locks within 0.5 ms.
const LOCK_POLLS_MAX: u32 = 100_000;
/// Ticks whose jitter goes into the session's number.
const JITTER_TICKS: u32 = 4;

/// Milliseconds since the start, modulo 2³².
static TICKS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    // The only writer, so that a load and a store are enough.
    TICKS.store(
        TICKS.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// The board, running.
pub(crate) struct Board {
    /// Time of the last look at the clock; its upper half counts the turns of [`TICKS`].
    now_ms: u64,
    /// What differs from boot to boot.
    jitter: u32,
}

impl Board {
    /// Brings up clock, tick, UART and LED.
    pub(crate) fn start() -> Self {
        let lock_polls = start_clock();
        sysctl::RCGC1.set(sysctl::RCGC1_UART0);
        sysctl::RCGC2.set(sysctl::RCGC2_GPIO_A | sysctl::RCGC2_GPIO_F);
        // A clock needs a few cycles to arrive.
        cortex_m::asm::delay(16);
        start_uart();
        gpio::LED_DIRECTION.set(gpio::LED);
        gpio::LED_DIGITAL.set(gpio::LED);
        start_tick();
        Self {
            now_ms: 0,
            jitter: lock_polls,
        }
    }

    /// A number for the session that begins with this boot.
    ///
    /// What is at hand on this board: how long the PLL took to lock, in cycles of the imprecise
    /// oscillator that it starts on, and how often a loop runs between ticks. Better is a boot counter
    /// in flash or EEPROM, or a random number generator. Two boots with the same number are noticed
    /// at both ends of the link; it only takes them longer.
    pub(crate) fn session(&mut self) -> u16 {
        while TICKS.load(Ordering::Relaxed) < JITTER_TICKS {
            self.jitter = self.jitter.wrapping_add(1);
        }
        (self.jitter ^ self.jitter >> 16) as u16
    }

    /// Milliseconds since the start; never goes back.
    pub(crate) fn now_ms(&mut self) -> u64 {
        let since = TICKS
            .load(Ordering::Relaxed)
            .wrapping_sub(self.now_ms as u32);
        self.now_ms += u64::from(since);
        self.now_ms
    }

    /// The next byte that has come, unless it came damaged.
    pub(crate) fn receive(&mut self) -> Option<u8> {
        while !uart::FLAGS.has(uart::FLAGS_RX_EMPTY) {
            let data = uart::DATA.read();
            if data & uart::DATA_ERRORS == 0 {
                return Some(data as u8);
            }
        }
        None
    }

    /// Whether the UART takes another byte.
    pub(crate) fn can_send(&self) -> bool {
        !uart::FLAGS.has(uart::FLAGS_TX_FULL)
    }

    /// Sends a byte; call it only after [`can_send`](Self::can_send).
    pub(crate) fn send(&mut self, byte: u8) {
        uart::DATA.write(u32::from(byte));
    }

    /// Whether the last byte has left.
    pub(crate) fn has_sent(&self) -> bool {
        !uart::FLAGS.has(uart::FLAGS_BUSY)
    }

    /// Switches the LED.
    pub(crate) fn set_led(&mut self, on: bool) {
        gpio::LED_DATA.write(if on { gpio::LED } else { 0 });
    }

    /// Sleeps until the next tick.
    pub(crate) fn sleep(&self) {
        cortex_m::asm::wfi();
    }
}

/// From the internal oscillator to 50 MHz by crystal and PLL; returns how often it looked before the
/// PLL had locked. Without a lock (a broken crystal) the node goes on with the oscillator it has.
fn start_clock() -> u32 {
    let bypassed = sysctl::RCC_50_MHZ | sysctl::RCC_BYPASS;
    sysctl::RCC.write(bypassed | sysctl::RCC_PLL_OFF);
    sysctl::RCC.write(bypassed);
    for polls in 0..LOCK_POLLS_MAX {
        if sysctl::RIS.has(sysctl::RIS_PLL_LOCKED) {
            sysctl::RCC.clear(sysctl::RCC_BYPASS);
            return polls;
        }
    }
    LOCK_POLLS_MAX
}

fn start_uart() {
    gpio::UART_FUNCTION.set(gpio::UART_PINS);
    gpio::UART_DIGITAL.set(gpio::UART_PINS);
    // In 64ths of a bit's sixteenth, rounded.
    let divisor = (CLOCK_HZ * 4 + BAUD / 2) / BAUD;
    uart::CONTROL.write(0);
    uart::BAUD_INTEGER.write(divisor >> 6);
    uart::BAUD_FRACTION.write(divisor & 0x3f);
    uart::LINE.write(uart::LINE_8N1_FIFO);
    uart::CONTROL.write(uart::CONTROL_ON);
}

fn start_tick() {
    if let Some(core) = cortex_m::Peripherals::take() {
        let mut tick = core.SYST;
        tick.set_clock_source(SystClkSource::Core);
        tick.set_reload(CLOCK_HZ / 1000 - 1);
        tick.clear_current();
        tick.enable_counter();
        tick.enable_interrupt();
    }
}
