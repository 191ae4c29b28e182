/* The interface used from C, for a sanitizer to watch: library and test are built with one.
 *
 * A node lies in memory of exactly its size, between bytes that are watched, so that a step beyond it
 * ends the program. With the argument "overrun" the test lies about the size of a buffer, to show
 * that a step of the library itself is seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "firmware_shim.h"

#define CHECK(condition)                                             \
  do {                                                               \
    if (!(condition)) {                                              \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(2);                                                       \
    }                                                                \
  } while (0)

#define OK FIRMWARE_SHIM_STATUS_OK

static const firmware_shim_config config = {.session = 7, .address = 3};

static firmware_shim_node *new_node(void) {
  firmware_shim_node *node = malloc(sizeof *node);
  CHECK(node && firmware_shim_init(node, sizeof *node, &config) == OK);
  return node;
}

/* Random numbers that are the same in every run. */
static uint32_t next_random(void) {
  static uint32_t state = 2463534242u;
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

static void every_size_of_message_and_buffer(void) {
  for (size_t bytes = 0; bytes <= FIRMWARE_SHIM_PAYLOAD_BYTES_MAX + 2; bytes++) {
    firmware_shim_node *node = new_node();
    uint8_t *message = malloc(bytes ? bytes : 1);
    memset(message, (int)bytes, bytes);
    firmware_shim_status status = firmware_shim_push_bytes(node, message, bytes);
    free(message);
    CHECK(status == (bytes <= FIRMWARE_SHIM_PAYLOAD_BYTES_MAX ? OK : FIRMWARE_SHIM_STATUS_PAYLOAD_TOO_LONG));
    int32_t size = 0;
    for (size_t room = 1; status == OK && size <= 0; room++) {
      uint8_t *frame = malloc(room);
      size = firmware_shim_poll(node, 0, frame, room);
      CHECK(size == FIRMWARE_SHIM_STATUS_BUFFER_TOO_SMALL || (size_t)size == room);
      CHECK(room <= FIRMWARE_SHIM_FRAME_BYTES_MAX);
      free(frame);
    }
    free(node);
  }
}

static void readings_of_every_number_and_length(void) {
  firmware_shim_node *node = new_node();
  char name[FIRMWARE_SHIM_PAYLOAD_BYTES_MAX + 8];
  for (size_t length = 0; length < sizeof name; length++) {
    memset(name, 'n', length);
    name[length] = 0;
    for (size_t count = 0; count <= 25; count++) {
      firmware_shim_reading *readings = calloc(count ? count : 1, sizeof *readings);
      for (size_t at = 0; at < count; at++) {
        readings[at] = (firmware_shim_reading){.name = name, .unit = at % 2 ? "V" : NULL, .value = 1.5};
      }
      firmware_shim_status status =
          firmware_shim_push_readings(node, length % 3 ? name : NULL, 1.0, readings, count);
      if (count == 0 || count > 23) CHECK(status == FIRMWARE_SHIM_STATUS_READING_COUNT);
      else CHECK(status == OK || status == FIRMWARE_SHIM_STATUS_PAYLOAD_TOO_LONG);
      free(readings);
    }
  }
  free(node);
}

/* Two nodes whose frames, cut and damaged, are fed to each other: neither is a gateway, so nothing may
 * ever be acknowledged. Any bytes at all must do no harm. */
static void noise_on_the_line(void) {
  firmware_shim_node *nodes[2] = {new_node(), new_node()};
  uint64_t now = 0;
  for (int step = 0; step < 200000; step++) {
    firmware_shim_node *node = nodes[step % 2];
    now += next_random() % 50;
    if (next_random() % 4 == 0) {
      uint8_t message[FIRMWARE_SHIM_PAYLOAD_BYTES_MAX];
      size_t bytes = next_random() % (sizeof message + 1);
      memset(message, (int)next_random(), sizeof message);
      CHECK(firmware_shim_push_bytes(node, message, bytes) == OK);
    }
    uint8_t frame[FIRMWARE_SHIM_FRAME_BYTES_MAX];
    int32_t size = firmware_shim_poll(node, now, frame, sizeof frame);
    CHECK(size >= 0);
    if (size > 0) {
      CHECK(firmware_shim_transmitted(node, now) == OK);
      if (next_random() % 2) frame[next_random() % (uint32_t)size] = (uint8_t)next_random();
      CHECK(firmware_shim_feed(nodes[!(step % 2)], now, frame, (size_t)size) == 0);
    } else {
      for (size_t at = 0; at < sizeof frame; at++) frame[at] = (uint8_t)next_random();
      CHECK(firmware_shim_feed(node, now, frame, next_random() % (sizeof frame + 1)) == 0);
    }
  }
  CHECK(firmware_shim_held(nodes[0]) == FIRMWARE_SHIM_RING_SLOTS && firmware_shim_lost(nodes[0]) > 0);
  free(nodes[0]);
  free(nodes[1]);
}

static void what_is_wrong_is_said(void) {
  firmware_shim_node *node = calloc(1, sizeof *node);
  uint8_t byte = 0;
  CHECK(firmware_shim_transmitted(node, 0) == FIRMWARE_SHIM_STATUS_NOT_INITIALISED);
  CHECK(firmware_shim_feed(node, 0, &byte, 1) == FIRMWARE_SHIM_STATUS_NOT_INITIALISED);
  CHECK(firmware_shim_init(node, 64, &config) == FIRMWARE_SHIM_STATUS_NODE_MEMORY);
  CHECK(firmware_shim_init((void *)((char *)node + 1), sizeof *node, &config) ==
        FIRMWARE_SHIM_STATUS_NODE_MEMORY);
  CHECK(firmware_shim_init(node, sizeof *node, NULL) == FIRMWARE_SHIM_STATUS_NULL);
  CHECK(firmware_shim_init(node, sizeof *node, &config) == OK);
  CHECK(firmware_shim_push_readings(node, NULL, 0, NULL, 1) == FIRMWARE_SHIM_STATUS_NULL);
  CHECK(firmware_shim_feed(node, 0, NULL, 0) == 0);
  CHECK(firmware_shim_feed(node, 0, NULL, 1) == FIRMWARE_SHIM_STATUS_NULL);
  CHECK(firmware_shim_poll(node, 0, NULL, 9) == FIRMWARE_SHIM_STATUS_NULL);
  CHECK(firmware_shim_held(NULL) == 0 && firmware_shim_lost(NULL) == 0);
  free(node);
}

static void overrun(void) {
  firmware_shim_node *node = new_node();
  uint8_t *frame = malloc(8);
  firmware_shim_push_bytes(node, (const uint8_t *)"0123456789", 10);
  firmware_shim_poll(node, 0, frame, FIRMWARE_SHIM_FRAME_BYTES_MAX);
  free(frame);
  free(node);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "overrun") == 0) {
    overrun();
    return 0;
  }
  every_size_of_message_and_buffer();
  readings_of_every_number_and_length();
  noise_on_the_line();
  what_is_wrong_is_said();
  puts("ok");
  return 0;
}
