/* Shim link v1 for firmware in C: the device's end of a lossless serial line.
 *
 * Made from src/c_api of the crate firmware-shim; do not edit. README.md there says how to build the
 * static library and how to drive it. No function allocates, blocks, or keeps a pointer that it was
 * given; none may run at the same time as another one on the same node. */

#ifndef FIRMWARE_SHIM_H
#define FIRMWARE_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many messages a node holds, 1 to 255, and the most bytes in one, up to 1024. For other figures
 * define them for the C compiler, and set variables of these names when the library is built. */
#ifndef FIRMWARE_SHIM_RING_SLOTS
#define FIRMWARE_SHIM_RING_SLOTS 8
#endif
#ifndef FIRMWARE_SHIM_PAYLOAD_BYTES_MAX
#define FIRMWARE_SHIM_PAYLOAD_BYTES_MAX 128
#endif

/* A buffer of this size takes every frame of a node. */
#define FIRMWARE_SHIM_FRAME_BYTES_MAX \
  (FIRMWARE_SHIM_PAYLOAD_BYTES_MAX + 14 + (FIRMWARE_SHIM_PAYLOAD_BYTES_MAX + 13 + 253) / 254)

/* The memory of a node, for example a static variable. Its content is the library's. */
struct firmware_shim_node {
  uint64_t memory[(192 + FIRMWARE_SHIM_RING_SLOTS * (FIRMWARE_SHIM_PAYLOAD_BYTES_MAX + 6)) / 8];
};

/*
 What became of a call: [`Status::Ok`], or why nothing was done. Errors are negative, so that a
 function may return a count or an error.
 */
enum firmware_shim_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   Done.
   */
  FIRMWARE_SHIM_STATUS_OK = 0,
  /*
   A pointer is null that must not be.
   */
  FIRMWARE_SHIM_STATUS_NULL = -1,
  /*
   The node's memory is too small or not aligned: header and library were built with different
   sizes.
   */
  FIRMWARE_SHIM_STATUS_NODE_MEMORY = -2,
  /*
   The node was not initialised.
   */
  FIRMWARE_SHIM_STATUS_NOT_INITIALISED = -3,
  /*
   The message is larger than a place in the ring.
   */
  FIRMWARE_SHIM_STATUS_PAYLOAD_TOO_LONG = -4,
  /*
   A text is not UTF-8.
   */
  FIRMWARE_SHIM_STATUS_NOT_UTF8 = -5,
  /*
   Over 23 readings in a message, or none.
   */
  FIRMWARE_SHIM_STATUS_READING_COUNT = -6,
  /*
   The buffer does not hold a frame; `FIRMWARE_SHIM_FRAME_BYTES_MAX` always does.
   */
  FIRMWARE_SHIM_STATUS_BUFFER_TOO_SMALL = -7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum firmware_shim_status firmware_shim_status;
#else
typedef int32_t firmware_shim_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 A device's end of the link, in memory of a C program.
 */
typedef struct firmware_shim_node firmware_shim_node;

/*
 What a node is told about itself and its line.
 */
typedef struct firmware_shim_config {
  /*
   Speed of the line; 0 if it has none that matters.
   */
  uint32_t bits_per_second;
  /*
   This boot: a stored boot counter or hardware randomness.
   */
  uint16_t session;
  /*
   0 point to point, 1 to 254 a node on a shared line.
   */
  uint8_t address;
  /*
   Most messages in flight; half of the ring is a good choice, 0 means that.
   */
  uint8_t window;
  /*
   Nobody answers: each message is sent once.
   */
  bool one_way;
} firmware_shim_config;

/*
 One measured value.
 */
typedef struct firmware_shim_reading {
  /*
   What was measured. Not null.
   */
  const char *name;
  /*
   In which unit, by RFC 8428 ("Cel", "V", "%RH"); null if it has none.
   */
  const char *unit;
  /*
   The value.
   */
  double value;
} firmware_shim_reading;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Begins a node and its session. Whatever `node` held before is gone.

 # Safety
 `node`, if not null, points to `node_bytes` bytes that nobody else uses; `config`, if not null,
 to a configuration.
 */
firmware_shim_status firmware_shim_init(struct firmware_shim_node *node,
                                        size_t node_bytes,
                                        const struct firmware_shim_config *config);

/*
 Keeps readings to be sent, as one message (a SenML pack in CBOR). If the ring is full, its oldest
 message is given up and counted (`firmware_shim_lost`).

 `unix_s` is when they were taken, in seconds since 1970; 0 if that is unknown: then it is when the
 gateway received them.

 # Safety
 `node`, if not null, points to a node's memory that nobody else uses now; `base_name`, if not null,
 to a text that ends in 0; `readings`, if not null, to `count` readings whose texts end in 0.
 */
firmware_shim_status firmware_shim_push_readings(struct firmware_shim_node *node,
                                                 const char *base_name,
                                                 double unix_s,
                                                 const struct firmware_shim_reading *readings,
                                                 size_t count);

/*
 Keeps a message of any bytes to be sent. If the ring is full, its oldest message is given up and
 counted (`firmware_shim_lost`).

 # Safety
 `node`, if not null, points to a node's memory that nobody else uses now; `bytes`, if not null, to
 `count` bytes.
 */
firmware_shim_status firmware_shim_push_bytes(struct firmware_shim_node *node,
                                              const uint8_t *bytes,
                                              size_t count);

/*
 The next frame to write to the line: how many bytes of `out` it takes, 0 if there is none to send
 now, or an error. Once its last byte has left call `firmware_shim_transmitted`, before the next
 poll.

 # Safety
 `node`, if not null, points to a node's memory that nobody else uses now; `out`, if not null, to
 `out_bytes` bytes that may be written to.
 */
int32_t firmware_shim_poll(struct firmware_shim_node *node,
                           uint64_t now_ms,
                           uint8_t *out,
                           size_t out_bytes);

/*
 The last byte of the frame that `firmware_shim_poll` gave has left.

 # Safety
 `node`, if not null, points to a node's memory that nobody else uses now.
 */
firmware_shim_status firmware_shim_transmitted(struct firmware_shim_node *node, uint64_t now_ms);

/*
 Takes bytes that came down the line, however they are cut. Returns how many messages they
 acknowledged, which the gateway now has on disk, or an error.

 # Safety
 `node`, if not null, points to a node's memory that nobody else uses now; `bytes`, if not null, to
 `count` bytes.
 */
int32_t firmware_shim_feed(struct firmware_shim_node *node,
                           uint64_t now_ms,
                           const uint8_t *bytes,
                           size_t count);

/*
 Messages held: not acknowledged yet. 0 also for what is no node.

 # Safety
 `node`, if not null, points to a node's memory that nobody else uses now.
 */
uint32_t firmware_shim_held(struct firmware_shim_node *node);

/*
 Messages given up since the node was initialised, because the ring was full. 0 also for what is no
 node.

 # Safety
 `node`, if not null, points to a node's memory that nobody else uses now.
 */
uint32_t firmware_shim_lost(struct firmware_shim_node *node);

/*
 The time in milliseconds since 1970, as the gateway last told it; 0 if it has not, or for what is
 no node.

 # Safety
 `node`, if not null, points to a node's memory that nobody else uses now.
 */
uint64_t firmware_shim_unix_ms(struct firmware_shim_node *node, uint64_t now_ms);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FIRMWARE_SHIM_H */
