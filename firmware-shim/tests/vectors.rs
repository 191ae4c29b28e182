//! If this fails, do not change the test.
//!
//! The vectors are the protocol: devices in the field were built to them. Every one is checked in
//! both directions, byte for byte.

use firmware_shim::decoder::{Decoder, Outcome, Rejection};
use firmware_shim::frame::{self, FRAME_BYTES_MAX, Header, Kind};
use serde_json::Value;

fn vectors(list: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("vectors.json")).expect("JSON");
    all[list].as_array().expect("a list").clone()
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().expect("hexadecimal");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn number<T: TryFrom<u64, Error: std::fmt::Debug>>(vector: &Value, key: &str) -> T {
    let number = vector[key].as_u64().expect("a number");
    T::try_from(number).expect("in range")
}

fn header(vector: &Value) -> Header {
    Header {
        kind: Kind::from_nibble(number(vector, "kind")).expect("a kind"),
        address: number(vector, "address"),
        session: number(vector, "session"),
        sequence: number(vector, "sequence"),
        backlog: number(vector, "backlog"),
    }
}

#[test]
fn every_valid_vector_is_encoded_to_its_exact_bytes() {
    for vector in vectors("valid") {
        let mut out = [0; FRAME_BYTES_MAX];
        let used = frame::encode(header(&vector), &hex(&vector["payload_hex"]), &mut out);
        let used = used.expect("fits");
        assert_eq!(out[..used], hex(&vector["frame_hex"]), "{}", vector["name"]);
    }
}

#[test]
fn every_valid_vector_is_decoded_to_its_exact_fields_at_its_last_byte() {
    for vector in vectors("valid") {
        let bytes = hex(&vector["frame_hex"]);
        let (last, before) = bytes.split_last().expect("not empty");
        let mut decoder: Decoder = Decoder::new();
        for &byte in before {
            assert_eq!(decoder.push(byte), Outcome::Pending, "{}", vector["name"]);
        }
        let Outcome::Frame(frame) = decoder.push(*last) else {
            panic!("{} is not decoded", vector["name"]);
        };
        assert_eq!(frame.header, header(&vector), "{}", vector["name"]);
        assert_eq!(frame.payload, hex(&vector["payload_hex"]));
    }
}

#[test]
fn every_invalid_vector_is_rejected_for_its_exact_reason_and_no_other() {
    for vector in vectors("invalid") {
        let mut decoder: Decoder = Decoder::new();
        let mut reasons: Vec<&str> = Vec::new();
        for byte in hex(&vector["frame_hex"]) {
            match decoder.push(byte) {
                Outcome::Pending => {}
                Outcome::Frame(frame) => panic!("{}: {frame:?}", vector["name"]),
                Outcome::Rejected(rejection) => reasons.push(rejection.reason()),
            }
        }
        // The flipped bit makes a 0x00, which cuts its frame in two: both halves are rejected.
        reasons.dedup();
        assert_eq!(reasons, [vector["reason"].as_str().expect("a reason")]);
    }
}

#[test]
fn every_reason_has_an_invalid_vector() {
    let reasons: Vec<Value> = vectors("invalid")
        .iter()
        .map(|v| v["reason"].clone())
        .collect();
    for rejection in [
        Rejection::Cobs,
        Rejection::TooShort,
        Rejection::TooLong,
        Rejection::Crc,
        Rejection::Version,
        Rejection::Kind,
    ] {
        assert!(reasons.iter().any(|r| r == rejection.reason()));
    }
}
