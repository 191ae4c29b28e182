//! The device's end of the link for firmware in C: [`Sender`], decoder and `SenML` behind functions.
//!
//! The header is `include/firmware_shim.h`, made from this module. A node lives in memory that the
//! caller owns, whose size the header gives; nothing allocates. All decisions are in safe code
//! ([`node`]); the functions here turn pointers into references and numbers into results.
//!
//! This is the one module with `unsafe`: what a C caller passes cannot be checked by the compiler.
//! What can be checked at run time is: null pointers, the memory's size and alignment, and whether
//! the node was ever initialised. The rest is the caller's promise, in each function's `Safety`.
//!
//! Nothing here panics on any input. If it did, a hosted program would abort, and bare metal would
//! stop for the watchdog.

#![allow(
    unsafe_code,
    reason = "a C caller's pointers are taken on trust, here and nowhere else"
)]

mod node;
#[cfg(test)]
mod tests;

use core::ffi::{CStr, c_char};

pub use node::{FRAME_BYTES_MAX, Node, PAYLOAD_BYTES_MAX, RING_SLOTS};

use crate::link::sender::Config;
use node::{MARK, READINGS_MAX, Value};

/// What became of a call: [`Status::Ok`], or why nothing was done. Errors are negative, so that a
/// function may return a count or an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// A pointer is null that must not be.
    Null = -1,
    /// The node's memory is too small or not aligned: header and library were built with different
    /// sizes.
    NodeMemory = -2,
    /// The node was not initialised.
    NotInitialised = -3,
    /// The message is larger than a place in the ring.
    PayloadTooLong = -4,
    /// A text is not UTF-8.
    NotUtf8 = -5,
    /// Over 23 readings in a message, or none.
    ReadingCount = -6,
    /// The buffer does not hold a frame; `FIRMWARE_SHIM_FRAME_BYTES_MAX` always does.
    BufferTooSmall = -7,
}

/// What a node is told about itself and its line.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NodeConfig {
    /// Speed of the line; 0 if it has none that matters.
    pub bits_per_second: u32,
    /// This boot: a stored boot counter or hardware randomness.
    pub session: u16,
    /// 0 point to point, 1 to 254 a node on a shared line.
    pub address: u8,
    /// Most messages in flight; half of the ring is a good choice, 0 means that.
    pub window: u8,
    /// Nobody answers: each message is sent once.
    pub one_way: bool,
}

/// One measured value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Reading {
    /// What was measured. Not null.
    pub name: *const c_char,
    /// In which unit, by RFC 8428 ("Cel", "V", "%RH"); null if it has none.
    pub unit: *const c_char,
    /// The value.
    pub value: f64,
}

/// Begins a node and its session. Whatever `node` held before is gone.
///
/// # Safety
/// `node`, if not null, points to `node_bytes` bytes that nobody else uses; `config`, if not null,
/// to a configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_init(
    node: *mut Node,
    node_bytes: usize,
    config: *const NodeConfig,
) -> Status {
    // SAFETY: by this function's contract.
    let Some(config) = (unsafe { config.as_ref() }) else {
        return Status::Null;
    };
    if node.is_null() {
        return Status::Null;
    }
    if !node.is_aligned() || node_bytes < size_of::<Node>() {
        return Status::NodeMemory;
    }
    let sender = Config {
        address: config.address,
        session: config.session,
        window: match config.window {
            0 => (RING_SLOTS as u8).div_ceil(2),
            window => window,
        },
        bits_per_second: config.bits_per_second,
        one_way: config.one_way,
    };
    // SAFETY: it is not null, aligned, and large enough; what it held needs no drop.
    unsafe { node.write(Node::NEW) };
    // SAFETY: a node has just been written here.
    unsafe { &mut *node }.configure(sender);
    Status::Ok
}

/// Keeps readings to be sent, as one message (a SenML pack in CBOR). If the ring is full, its oldest
/// message is given up and counted (`firmware_shim_lost`).
///
/// `unix_s` is when they were taken, in seconds since 1970; 0 if that is unknown: then it is when the
/// gateway received them.
///
/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses now; `base_name`, if not null,
/// to a text that ends in 0; `readings`, if not null, to `count` readings whose texts end in 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_push_readings(
    node: *mut Node,
    base_name: *const c_char,
    unix_s: f64,
    readings: *const Reading,
    count: usize,
) -> Status {
    if count == 0 || count > READINGS_MAX {
        return Status::ReadingCount;
    }
    if readings.is_null() || !readings.is_aligned() {
        return Status::Null;
    }
    // SAFETY: by this function's contract, for node, readings and texts.
    let (node, readings, base_name) = unsafe {
        match (
            initialised(node),
            core::slice::from_raw_parts(readings, count),
            text(base_name),
        ) {
            (Ok(node), readings, Ok(base_name)) => (node, readings, base_name),
            (Err(status), ..) | (.., Err(status)) => return status,
        }
    };
    let values = readings.iter().map(|reading| {
        // SAFETY: by this function's contract.
        let (name, unit) = unsafe { (text(reading.name)?, text(reading.unit)?) };
        Ok(Value {
            name: name.ok_or(Status::Null)?,
            unit,
            value: reading.value,
        })
    });
    status(node.push_values(base_name, unix_s, count, values))
}

/// Keeps a message of any bytes to be sent. If the ring is full, its oldest message is given up and
/// counted (`firmware_shim_lost`).
///
/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses now; `bytes`, if not null, to
/// `count` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_push_bytes(
    node: *mut Node,
    bytes: *const u8,
    count: usize,
) -> Status {
    // SAFETY: by this function's contract.
    match unsafe { (initialised(node), slice(bytes, count)) } {
        (Ok(node), Ok(bytes)) => status(node.push_bytes(bytes)),
        (Err(status), _) | (_, Err(status)) => status,
    }
}

/// The next frame to write to the line: how many bytes of `out` it takes, 0 if there is none to send
/// now, or an error. Once its last byte has left call `firmware_shim_transmitted`, before the next
/// poll.
///
/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses now; `out`, if not null, to
/// `out_bytes` bytes that may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_poll(
    node: *mut Node,
    now_ms: u64,
    out: *mut u8,
    out_bytes: usize,
) -> i32 {
    if out.is_null() {
        return Status::Null as i32;
    }
    // No frame is larger, and a length beyond isize would be no slice.
    let out_bytes = out_bytes.min(FRAME_BYTES_MAX);
    // SAFETY: by this function's contract; the caller's bytes have a value, whatever it is.
    let (node, out) = unsafe {
        (
            initialised(node),
            core::slice::from_raw_parts_mut(out, out_bytes),
        )
    };
    match node.and_then(|node| node.poll(now_ms, out)) {
        Ok(bytes) => bytes,
        Err(status) => status as i32,
    }
}

/// The last byte of the frame that `firmware_shim_poll` gave has left.
///
/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_transmitted(node: *mut Node, now_ms: u64) -> Status {
    // SAFETY: by this function's contract.
    match unsafe { initialised(node) } {
        Ok(node) => {
            node.transmitted(now_ms);
            Status::Ok
        }
        Err(status) => status,
    }
}

/// Takes bytes that came down the line, however they are cut. Returns how many messages they
/// acknowledged, which the gateway now has on disk, or an error.
///
/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses now; `bytes`, if not null, to
/// `count` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_feed(
    node: *mut Node,
    now_ms: u64,
    bytes: *const u8,
    count: usize,
) -> i32 {
    // SAFETY: by this function's contract.
    match unsafe { (initialised(node), slice(bytes, count)) } {
        (Ok(node), Ok(bytes)) => node.feed(now_ms, bytes),
        (Err(status), _) | (_, Err(status)) => status as i32,
    }
}

/// Messages held: not acknowledged yet. 0 also for what is no node.
///
/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_held(node: *mut Node) -> u32 {
    // SAFETY: by this function's contract.
    unsafe { initialised(node) }.map_or(0, |node| node.held())
}

/// Messages given up since the node was initialised, because the ring was full. 0 also for what is no
/// node.
///
/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_lost(node: *mut Node) -> u32 {
    // SAFETY: by this function's contract.
    unsafe { initialised(node) }.map_or(0, |node| node.lost())
}

/// The time in milliseconds since 1970, as the gateway last told it; 0 if it has not, or for what is
/// no node.
///
/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn firmware_shim_unix_ms(node: *mut Node, now_ms: u64) -> u64 {
    // SAFETY: by this function's contract.
    unsafe { initialised(node) }.map_or(0, |node| node.unix_ms(now_ms))
}

fn status(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(Status::Ok)
}

/// # Safety
/// `node`, if not null, points to a node's memory that nobody else uses for `'a`.
unsafe fn initialised<'a>(node: *mut Node) -> Result<&'a mut Node, Status> {
    if node.is_null() {
        return Err(Status::Null);
    }
    if !node.is_aligned() {
        return Err(Status::NodeMemory);
    }
    // SAFETY: not null and aligned; the mark is looked at before anything else is believed.
    let mark = unsafe { (&raw const (*node).mark).read() };
    if mark != MARK {
        return Err(Status::NotInitialised);
    }
    // SAFETY: `firmware_shim_init` has written a node here.
    Ok(unsafe { &mut *node })
}

/// # Safety
/// `text`, if not null, ends in 0 and stays for `'a`.
unsafe fn text<'a>(text: *const c_char) -> Result<Option<&'a str>, Status> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: by this function's contract.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Status::NotUtf8)
}

/// # Safety
/// `bytes`, if not null, points to `count` bytes that stay for `'a`.
unsafe fn slice<'a>(bytes: *const u8, count: usize) -> Result<&'a [u8], Status> {
    match (bytes.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Status::Null),
        // SAFETY: by this function's contract.
        (false, _) => Ok(unsafe { core::slice::from_raw_parts(bytes, count) }),
    }
}

/// Nothing here panics; the library of a bare-metal target must still say what would happen. A
/// watchdog ends it.
#[cfg(all(target_os = "none", not(feature = "std")))]
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
