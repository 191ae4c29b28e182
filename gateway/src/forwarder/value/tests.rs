use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

fn json_of(kind: PayloadKind, payload: &[u8]) -> Result<(Vec<u8>, &'static str), NotJson> {
    let mut buffer = Vec::new();
    value(ValueFormat::Json, kind, payload, &mut buffer)
        .map(|(value, media)| (value.to_vec(), media))
}

fn senml(payload: &[u8]) -> Result<String, NotJson> {
    json_of(PayloadKind::SenmlCbor, payload)
        .map(|(value, _)| String::from_utf8(value).expect("JSON is UTF-8"))
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn a_pack_of_one_reading_becomes_senml_json() {
    let pack = from_hex(
        "81a421781d75726e3a6465763a6d61633a303032346265666666653830346666312f006b74656d706572\
         6174757265016343656c02fb4035800000000000",
    );
    assert_eq!(
        senml(&pack).expect("SenML"),
        r#"[{"bn":"urn:dev:mac:0024befffe804ff1/","n":"temperature","u":"Cel","v":21.5}]"#
    );
}

#[test]
fn base_time_booleans_and_strings_become_senml_json() {
    let pack = from_hex(
        "85a521781c75726e3a6465763a6f773a313065323037336130313038303036332f221a6553f100006776\
         6f6c7461676501615602fb405e066666666666a4006763757272656e74062401614102fb3ff333333333\
         3333a4006763757272656e74060001614102fb3ffb333333333333a20064646f6f7204f5a200656c6162\
         656c036770726573732d34",
    );
    let written: Json = serde_json::from_str(&senml(&pack).expect("SenML")).expect("JSON");
    let expected = serde_json::json!([
        {"bn": "urn:dev:ow:10e2073a01080063/", "bt": 1_700_000_000, "n": "voltage", "u": "V", "v": 120.1},
        {"n": "current", "t": -5, "u": "A", "v": 1.2},
        {"n": "current", "t": 0, "u": "A", "v": 1.7},
        {"n": "door", "vb": true},
        {"n": "label", "vs": "press-4"},
    ]);
    assert_eq!(written, expected);
}

#[test]
fn numbers_keep_every_digit() {
    for (cbor, json) in [
        ("1bffffffffffffffff", "18446744073709551615"),
        ("3bffffffffffffffff", "-18446744073709551616"),
        ("fb3fb999999999999a", "0.1"),
        ("fa3dcccccd", "0.10000000149011612"),
        ("f94d60", "21.5"),
        ("c4822018d7", "215e-1"),
    ] {
        let pack = from_hex(&format!("81a102{cbor}"));
        assert_eq!(senml(&pack).expect("SenML"), format!(r#"[{{"v":{json}}}]"#));
    }
}

#[test]
fn a_number_that_json_cannot_say_makes_the_record_undeliverable() {
    for float in ["f97e00", "f97c00", "fbfff0000000000000"] {
        assert!(
            senml(&from_hex(&format!("81a102{float}"))).is_err(),
            "{float}"
        );
    }
}

#[test]
fn data_values_become_base64_for_urls_and_unknown_labels_stay() {
    let pack = from_hex("81a30843fbffbf0918646178820102");
    assert_eq!(
        senml(&pack).expect("SenML"),
        r#"[{"vd":"-_-_","9":100,"x":[1,2]}]"#
    );
}

#[test]
fn what_is_no_pack_is_refused() {
    for bytes in [
        "",
        "01",
        "a0",
        "8101",
        "818101",
        "81a0ff",
        "81",
        "81a1028101",
        "9f",
    ] {
        let bytes = from_hex(bytes);
        let mut out = Vec::new();
        assert!(append_senml_json(&bytes, &mut out).is_err(), "{bytes:x?}");
    }
}

#[test]
fn deep_nesting_is_refused_rather_than_followed() {
    let mut pack = vec![0x81, 0xa1, 0x61, b'x'];
    pack.extend(std::iter::repeat_n(0x81, 100_000));
    assert!(senml(&pack).is_err());
}

#[test]
fn json_stays_byte_for_byte() {
    let text = br#" {"b" : 1.0e400, "a": "\u00e4", "b":2 } "#;
    let (value, media) = json_of(PayloadKind::Opaque, text).expect("JSON");
    assert_eq!(value, text);
    assert_eq!(media, JSON);
}

#[test]
fn other_bytes_become_base64_in_an_object() {
    for bytes in [&b"\xff\x00"[..], b"21.5 C", b"{\"a\":1", b"\"\xff\""] {
        let (value, media) = json_of(PayloadKind::Opaque, bytes).expect("any bytes");
        let object: Json = serde_json::from_slice(&value).expect("JSON");
        assert!(object["base64"].is_string(), "{object}");
        assert_eq!(media, JSON);
    }
    let (value, _) = json_of(PayloadKind::Opaque, b"\xff\x00").expect("any bytes");
    assert_eq!(value, br#"{"base64":"/wA="}"#);
}

#[test]
fn a_payload_goes_as_it_is_and_its_type_is_told_by_its_first_byte() {
    let mut buffer = Vec::new();
    for (kind, payload, media) in [
        (PayloadKind::Opaque, &b"{\"a\":1}"[..], JSON),
        (PayloadKind::Opaque, b"[1]", JSON),
        (PayloadKind::Opaque, b"21.5", BYTES),
        (PayloadKind::Opaque, b"", BYTES),
        (PayloadKind::SenmlCbor, b"\x80", SENML_CBOR),
    ] {
        let made = value(ValueFormat::Payload, kind, payload, &mut buffer).expect("as it is");
        assert_eq!(made, (payload, media));
    }
}

proptest! {
    #[test]
    fn whatever_comes_out_is_json(payload in prop::collection::vec(any::<u8>(), 1..64), cbor: bool) {
        let kind = if cbor { PayloadKind::SenmlCbor } else { PayloadKind::Opaque };
        if let Ok((value, _)) = json_of(kind, &payload) {
            let parsed = serde_json::from_slice::<IgnoredAny>(&value);
            prop_assert!(parsed.is_ok(), "{}", String::from_utf8_lossy(&value));
        }
    }
}
