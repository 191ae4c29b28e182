/* A sensor node as a program of the host: its UART is a pseudo-terminal.
 *
 *   host_node LINK COUNT
 *
 * makes a pseudo-terminal with a symbolic link LINK to it, which a gateway opens as its serial device,
 * sends COUNT messages, and ends with 0 once all of them have been acknowledged. */
#define _XOPEN_SOURCE 700

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "firmware_shim.h"

#define SAMPLE_MS 20
#define DEADLINE_MS 120000

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void fail(const char *what) {
  perror(what);
  exit(EXIT_FAILURE);
}

/* A pseudo-terminal in raw mode; returns the device's end, which never blocks. The other one is left
 * open, so that the line lasts while no gateway has it open. */
static int open_line(const char *link) {
  int line = posix_openpt(O_RDWR | O_NOCTTY);
  if (line < 0 || grantpt(line) != 0 || unlockpt(line) != 0) fail("pseudo-terminal");
  int other_end = open(ptsname(line), O_RDWR | O_NOCTTY);
  struct termios raw;
  if (other_end < 0 || tcgetattr(other_end, &raw) != 0) fail("pseudo-terminal");
  raw.c_iflag = 0;
  raw.c_oflag = 0;
  raw.c_lflag = 0;
  if (tcsetattr(other_end, TCSANOW, &raw) != 0) fail("pseudo-terminal");
  if (fcntl(line, F_SETFL, O_NONBLOCK) != 0) fail("pseudo-terminal");
  unlink(link);
  if (symlink(ptsname(line), link) != 0) fail(link);
  return line;
}

static void sample(firmware_shim_node *node, unsigned long number, uint64_t now) {
  const firmware_shim_reading readings[] = {
      {.name = "sequence", .value = (double)number},
      {.name = "temperature", .unit = "Cel", .value = 20.0 + (double)(number % 50) / 10.0},
  };
  double unix_s = (double)firmware_shim_unix_ms(node, now) / 1000.0;
  firmware_shim_status status =
      firmware_shim_push_readings(node, "urn:dev:mac:0024befffe804ff2/", unix_s, readings, 2);
  if (status != FIRMWARE_SHIM_STATUS_OK) {
    fprintf(stderr, "push: %d\n", (int)status);
    exit(EXIT_FAILURE);
  }
}

int main(int argc, char **argv) {
  static firmware_shim_node node;
  if (argc != 3) {
    fprintf(stderr, "usage: %s LINK COUNT\n", argv[0]);
    return EXIT_FAILURE;
  }
  unsigned long count = strtoul(argv[2], NULL, 10);
  int line = open_line(argv[1]);
  const firmware_shim_config config = {
      .session = (uint16_t)(now_ms() ^ (uint64_t)getpid()), /* a device has a boot counter */
      .bits_per_second = 115200,
  };
  if (firmware_shim_init(&node, sizeof node, &config) != FIRMWARE_SHIM_STATUS_OK) return EXIT_FAILURE;

  uint8_t frame[FIRMWARE_SHIM_FRAME_BYTES_MAX];
  int32_t left = 0; /* bytes of the frame that the line has not taken yet */
  int32_t size = 0;
  unsigned long samples = 0;
  unsigned long acknowledged = 0;
  uint64_t start = now_ms();
  uint64_t next_sample = start;
  while (acknowledged < count) {
    uint64_t now = now_ms();
    if (now - start > DEADLINE_MS) {
      fprintf(stderr, "%lu of %lu messages acknowledged\n", acknowledged, count);
      return EXIT_FAILURE;
    }
    /* A device would sample and give up its oldest message; here every one is to arrive. */
    if (samples < count && now >= next_sample && firmware_shim_held(&node) < FIRMWARE_SHIM_RING_SLOTS) {
      sample(&node, samples++, now);
      next_sample = now + SAMPLE_MS;
    }
    if (left == 0) left = size = firmware_shim_poll(&node, now, frame, sizeof frame);
    if (left < 0) return EXIT_FAILURE;
    if (left > 0) {
      ssize_t written = write(line, frame + (size - left), (size_t)left);
      if (written > 0) left -= (int32_t)written;
      if (left == 0) firmware_shim_transmitted(&node, now);
    }
    uint8_t heard[64];
    struct pollfd wait = {.fd = line, .events = POLLIN};
    if (poll(&wait, 1, 5) > 0) {
      ssize_t bytes = read(line, heard, sizeof heard);
      if (bytes > 0) {
        int32_t new = firmware_shim_feed(&node, now, heard, (size_t)bytes);
        if (new < 0) return EXIT_FAILURE;
        acknowledged += (unsigned long)new;
      }
    }
  }
  printf("%lu messages acknowledged, %u lost\n", acknowledged, (unsigned)firmware_shim_lost(&node));
  return EXIT_SUCCESS;
}
