/* Shifts the wall clock of a process by the seconds in the file BOARD_CLOCK, read at every look, so
 * that a test may set the clock while the process runs. Preloaded (see clockless_board.rs).
 *
 * Monotonic clocks stay, and so do timespec_get and gettimeofday: librdkafka makes deadlines of them,
 * which the kernel compares with its own clock. The gateway gives every message its timestamp. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static time_t shift(void) {
  char text[32];
  const char *path = getenv("BOARD_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return 0;
  ssize_t bytes = read(file, text, sizeof text - 1);
  close(file);
  if (bytes <= 0) return 0;
  text[bytes] = 0;
  return strtoll(text, NULL, 10);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
  return failed;
}
