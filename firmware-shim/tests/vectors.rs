//! If this fails, do not change the test.
//!
//! The vectors are the protocol: devices in the field were built to them. Every one is checked in
//! both directions, byte for byte.

use firmware_shim::decoder::{Decoder, Outcome, Rejection};
use firmware_shim::frame::{self, FRAME_BYTES_MAX, Header, Kind};
use firmware_shim::senml::{self, Number, Record};
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

fn senml_number(value: &Value) -> Number {
    if let Some(unsigned) = value.as_u64() {
        Number::Unsigned(unsigned)
    } else if let Some(negative) = value.as_i64() {
        Number::Negative(negative)
    } else {
        Number::Float(value.as_f64().expect("a number"))
    }
}

/// The record that a JSON object stands for; panics on a field that it does not know.
fn senml_record(object: &Value) -> Record<'_> {
    let mut record = Record::default();
    for (key, value) in object.as_object().expect("an object") {
        match key.as_str() {
            "bn" => record.base_name = value.as_str(),
            "bt" => record.base_time = Some(senml_number(value)),
            "n" => record.name = value.as_str(),
            "t" => record.time = Some(senml_number(value)),
            "u" => record.unit = value.as_str(),
            "v" => record.value = Some(senml_number(value)),
            "vs" => record.string_value = value.as_str(),
            "vb" => record.bool_value = value.as_bool(),
            other => panic!("no vector had a field {other:?}"),
        }
    }
    record
}

#[test]
fn every_senml_payload_is_written_to_its_exact_bytes_and_read_to_its_exact_fields() {
    let mut packs = 0;
    for vector in vectors("valid") {
        let Some(objects) = vector["senml_json"].as_array() else {
            continue;
        };
        packs += 1;
        let expected: Vec<Record<'_>> = objects.iter().map(senml_record).collect();
        let payload = hex(&vector["payload_hex"]);

        let mut out = [0; 1024];
        let used = senml::encode(&expected, &mut out).expect("fits");
        assert_eq!(out[..used], payload, "{}", vector["name"]);

        let mut read = Vec::new();
        senml::for_each(&payload, |record| read.push(*record)).expect("a pack");
        assert_eq!(read, expected, "{}", vector["name"]);
    }
    assert_eq!(packs, 2);
}

#[test]
fn the_time_vector_carries_its_time() {
    let all = vectors("valid");
    let vector = all.iter().find(|v| v["name"] == "time_unix_ms");
    let payload = hex(&vector.expect("is there")["payload_hex"]);
    assert_eq!(payload, frame::time_payload(1_700_000_000_123));
}
