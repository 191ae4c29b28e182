//! Shim link v1: what firmware, simulator and gateway say to each other over a serial line.
//!
//! One crate for both ends, so that they cannot disagree. It has no allocator, no I/O and no
//! clock: bytes and milliseconds go in, frames and deadlines come out, and whoever drives it owns
//! the port. That makes the same code run in an interrupt handler, under tokio and in a property
//! test that loses every third byte.
//!
//! # Layout
//!
//! - [`frame`]: the header, and encoding a frame into a caller's buffer (CRC-32C, then COBS).
//! - [`decoder`]: a byte at a time back into frames; resynchronises at the next 0x00.
//! - [`link::sender`]: the device's end: a ring of unacknowledged messages, sent go-back-N.
//! - [`link::receiver`]: the gateway's end: each message once, in order, acknowledged only when it
//!   is durable.
//! - [`senml`]: sensor readings as `SenML` packs in CBOR (RFC 8428), the usual payload.
//! - `c_api`: the device's end for firmware in C, with feature `c-api`.
//! - [`crc`]: the checksum; by table, or with feature `std` by the processor's instruction.
//!
//! # Invariants
//!
//! - **L1** A frame reaches the caller only if its length, checksum, version and kind are right.
//! - **L2** After any garbage, the next 0x00 ends the damage: the frame after it is decoded.
//! - **L3** The receiver hands each (session, sequence) out once and in order; what a device has
//!   lost for good is counted as a gap.
//! - **L4** An ACK never goes past what its caller has said is durable.
//! - **L5** Memory is fixed when a state machine is made; no input makes it grow or panic.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![cfg_attr(not(feature = "c-api"), forbid(unsafe_code))]
#![cfg_attr(feature = "c-api", deny(unsafe_code))]

#[cfg(feature = "c-api")]
pub mod c_api;
pub mod crc;
pub mod decoder;
pub mod frame;
pub mod link;
pub mod senml;

/// Compiles what the README shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
