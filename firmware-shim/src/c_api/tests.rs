//! The functions as C calls them; what a sanitizer can see is tested from C, in `c/api_test.c`.

use super::*;
use crate::decoder::{Decoder, Outcome};
use crate::frame::{Header, Kind, encode};
use crate::senml::{self, Number};

static CONFIG: NodeConfig = NodeConfig {
    bits_per_second: 0,
    session: 7,
    address: 3,
    window: 0,
    one_way: false,
};

fn node() -> Box<Node> {
    let mut memory = Box::<Node>::new_uninit();
    let status =
        unsafe { firmware_shim_init(memory.as_mut_ptr(), size_of::<Node>(), &raw const CONFIG) };
    assert_eq!(status, Status::Ok);
    unsafe { memory.assume_init() }
}

fn poll(node: &mut Node, now_ms: u64) -> Vec<u8> {
    let mut out = [0; FRAME_BYTES_MAX];
    let bytes = unsafe { firmware_shim_poll(node, now_ms, out.as_mut_ptr(), out.len()) };
    let bytes = usize::try_from(bytes).expect("no error");
    if bytes > 0 {
        unsafe { firmware_shim_transmitted(node, now_ms) };
    }
    out[..bytes].to_vec()
}

fn feed(node: &mut Node, bytes: &[u8]) -> i32 {
    unsafe { firmware_shim_feed(node, 0, bytes.as_ptr(), bytes.len()) }
}

fn answer(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut out = [0; 64];
    let used = encode(header, payload, &mut out).expect("fits");
    out[..used].to_vec()
}

#[test]
fn readings_become_one_senml_pack() {
    let mut node = node();
    let readings = [
        Reading {
            name: c"t".as_ptr(),
            unit: c"Cel".as_ptr(),
            value: 21.5,
        },
        Reading {
            name: c"n".as_ptr(),
            unit: core::ptr::null(),
            value: -1.0,
        },
    ];
    let status = unsafe {
        firmware_shim_push_readings(
            &raw mut *node,
            c"urn:a/".as_ptr(),
            1.7e9,
            readings.as_ptr(),
            2,
        )
    };
    assert_eq!(status, Status::Ok);
    let mut decoder: Decoder = Decoder::new();
    let bytes = poll(&mut node, 0);
    let (last, before) = bytes.split_last().expect("a frame");
    assert!(before.iter().all(|&b| decoder.push(b) == Outcome::Pending));
    let Outcome::Frame(frame) = decoder.push(*last) else {
        panic!("a whole frame");
    };
    assert_eq!((frame.header.kind, frame.header.address), (Kind::Senml, 3));
    let mut records = Vec::new();
    senml::for_each(frame.payload, |record| records.push(*record)).expect("a pack");
    assert_eq!(records[0].base_name, Some("urn:a/"));
    assert_eq!(records[0].base_time, Some(Number::Float(1.7e9)));
    assert_eq!(records[0].unit, Some("Cel"));
    assert_eq!(records[0].value, Some(Number::Float(21.5)));
    assert_eq!((records[1].base_name, records[1].unit), (None, None));
    assert_eq!(records[1].name, Some("n"));
    assert_eq!(records.len(), 2);
}

#[test]
fn a_message_is_held_until_its_ack_and_the_time_is_kept() {
    let mut node = node();
    let push = |node: &mut Node| unsafe { firmware_shim_push_bytes(node, b"x".as_ptr(), 1) };
    assert_eq!(push(&mut node), Status::Ok);
    assert!(!poll(&mut node, 0).is_empty());
    assert!(poll(&mut node, 1).is_empty());
    assert_eq!(unsafe { firmware_shim_held(&raw mut *node) }, 1);
    assert_eq!(feed(&mut node, &answer(Header::ack(3, 7, 1), &[])), 1);
    assert_eq!(unsafe { firmware_shim_held(&raw mut *node) }, 0);
    assert_eq!(unsafe { firmware_shim_unix_ms(&raw mut *node, 5) }, 0);
    let time = answer(Header::time(3, 7), &crate::frame::time_payload(1_000));
    assert_eq!(feed(&mut node, &time), 0);
    assert_eq!(unsafe { firmware_shim_unix_ms(&raw mut *node, 5) }, 1_005);
}

#[test]
fn a_full_ring_counts_what_it_gives_up() {
    let mut node = node();
    for _ in 0..RING_SLOTS + 3 {
        unsafe { firmware_shim_push_bytes(&raw mut *node, b"x".as_ptr(), 1) };
    }
    assert_eq!(unsafe { firmware_shim_lost(&raw mut *node) }, 3);
}

#[test]
fn a_session_that_clashes_is_left_for_the_next() {
    let mut node = node();
    unsafe { firmware_shim_push_bytes(&raw mut *node, b"x".as_ptr(), 1) };
    poll(&mut node, 0);
    assert_eq!(feed(&mut node, &answer(Header::ack(3, 7, 900), &[])), 0);
    assert_eq!(node.held(), 1);
    assert!(!poll(&mut node, 0).is_empty(), "sent again at once");
    assert_eq!(feed(&mut node, &answer(Header::ack(3, 8, 1), &[])), 1);
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let mut node = node();
    let node = &raw mut *node;
    let null = core::ptr::null_mut();
    let reading = Reading {
        name: core::ptr::null(),
        unit: core::ptr::null(),
        value: 0.0,
    };
    let not_utf8 = Reading {
        name: c"\xff".as_ptr(),
        ..reading
    };
    let push = |reading: &Reading, count| unsafe {
        firmware_shim_push_readings(node, core::ptr::null(), 0.0, reading, count)
    };
    assert_eq!(push(&reading, 1), Status::Null);
    assert_eq!(push(&not_utf8, 1), Status::NotUtf8);
    assert_eq!(push(&reading, 0), Status::ReadingCount);
    assert_eq!(push(&reading, 24), Status::ReadingCount);
    unsafe {
        assert_eq!(
            firmware_shim_push_bytes(null, b"x".as_ptr(), 1),
            Status::Null
        );
        assert_eq!(firmware_shim_push_bytes(node, null.cast(), 1), Status::Null);
        let long = [0; PAYLOAD_BYTES_MAX + 1];
        assert_eq!(
            firmware_shim_push_bytes(node, long.as_ptr(), long.len()),
            Status::PayloadTooLong
        );
        assert_eq!(firmware_shim_held(node), 0);
        assert_eq!(firmware_shim_push_bytes(node, long.as_ptr(), 1), Status::Ok);
        let mut out = [0; 8];
        assert_eq!(firmware_shim_poll(node, 0, out.as_mut_ptr(), 8), -7);
        assert_eq!(firmware_shim_poll(node, 0, null.cast(), 8), -1);
        let size = size_of::<Node>();
        assert_eq!(
            firmware_shim_init(null, size, &raw const CONFIG),
            Status::Null
        );
        assert_eq!(firmware_shim_init(node, size, null.cast()), Status::Null);
        assert_eq!(
            firmware_shim_init(node, size - 1, &raw const CONFIG),
            Status::NodeMemory
        );
        let mut zeroed = Box::<Node>::new_zeroed();
        let status = firmware_shim_transmitted(zeroed.as_mut_ptr(), 0);
        assert_eq!(status, Status::NotInitialised);
    }
}
