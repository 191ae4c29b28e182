//! Sensor readings as `SenML` packs in CBOR (RFC 8428, section 6), without an allocator.
//!
//! A pack is an array of maps with small integers for labels. Records borrow their strings from
//! the payload, and a number keeps whether it was sent as an integer or as a float: a counter must
//! not come out as `1.0` behind three programs. Floats are always written with 64 bits, which is
//! what devices in the field do; shorter ones are read.
//!
//! Not read: indefinite-length strings (there is no place to put them together) and numbers as
//! tagged decimal fractions. Labels that are not known are skipped, except those that end in `_`,
//! which RFC 8428 (section 4.4) forbids to skip.

mod decode;
mod encode;

pub use decode::{base_name, for_each};
pub use encode::encode;

/// A number as it was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// An integer from 0 on.
    Unsigned(u64),
    /// An integer below 0.
    Negative(i64),
    /// Anything else.
    Float(f64),
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        u64::try_from(value).map_or(Self::Negative(value), Self::Unsigned)
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// One record of a pack. The fields are those of RFC 8428, sections 4.1 and 4.2, in the order in
/// which they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Record<'a> {
    /// `bn`: prefix of every name from here on.
    pub base_name: Option<&'a str>,
    /// `bt`: added to every time from here on, in seconds.
    pub base_time: Option<Number>,
    /// `bu`: unit where none is given.
    pub base_unit: Option<&'a str>,
    /// `bv`: added to every value from here on.
    pub base_value: Option<Number>,
    /// `bs`: added to every sum from here on.
    pub base_sum: Option<Number>,
    /// `bver`: version of the format, 10 if absent.
    pub base_version: Option<Number>,
    /// `n`: what was measured.
    pub name: Option<&'a str>,
    /// `t`: when, in seconds; below 2²⁸ relative to now.
    pub time: Option<Number>,
    /// `ut`: most seconds until the next reading.
    pub update_time: Option<Number>,
    /// `u`: in which unit.
    pub unit: Option<&'a str>,
    /// `v`: a number.
    pub value: Option<Number>,
    /// `vs`: a text.
    pub string_value: Option<&'a str>,
    /// `vb`: yes or no.
    pub bool_value: Option<bool>,
    /// `vd`: bytes.
    pub data_value: Option<&'a [u8]>,
    /// `s`: the integral of the value over time.
    pub sum: Option<Number>,
}

/// CBOR labels, RFC 8428 table 4.
mod label {
    pub(super) const BASE_VERSION: i64 = -1;
    pub(super) const BASE_NAME: i64 = -2;
    pub(super) const BASE_TIME: i64 = -3;
    pub(super) const BASE_UNIT: i64 = -4;
    pub(super) const BASE_VALUE: i64 = -5;
    pub(super) const BASE_SUM: i64 = -6;
    pub(super) const NAME: i64 = 0;
    pub(super) const UNIT: i64 = 1;
    pub(super) const VALUE: i64 = 2;
    pub(super) const STRING_VALUE: i64 = 3;
    pub(super) const BOOL_VALUE: i64 = 4;
    pub(super) const SUM: i64 = 5;
    pub(super) const TIME: i64 = 6;
    pub(super) const UPDATE_TIME: i64 = 7;
    pub(super) const DATA_VALUE: i64 = 8;
}

/// Why a pack could not be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The pack does not fit the buffer.
    BufferTooSmall {
        /// Its size.
        buffer_bytes: usize,
    },
    /// The payload is no `SenML` pack in CBOR.
    Malformed {
        /// About where.
        offset: u64,
    },
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BufferTooSmall { buffer_bytes } => {
                write!(f, "the pack does not fit a buffer of {buffer_bytes} bytes")
            }
            Self::Malformed { offset } => {
                write!(f, "not a SenML pack in CBOR, near byte {offset}")
            }
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(records: &[Record<'_>]) {
        let mut out = [0; 4096];
        let used = encode(records, &mut out).expect("fits");
        let mut at = 0;
        let count = for_each(&out[..used], |record| {
            assert_eq!(*record, records[at]);
            at += 1;
        });
        assert_eq!(count, Ok(records.len()));
    }

    fn full() -> Record<'static> {
        Record {
            base_name: Some("urn:dev:ow:1/"),
            base_time: Some(Number::Float(1.5)),
            base_unit: Some("Cel"),
            base_value: Some(Number::Negative(-7)),
            base_sum: Some(Number::Unsigned(u64::MAX)),
            base_version: Some(Number::Unsigned(10)),
            name: Some("t"),
            time: Some(Number::Negative(i64::MIN)),
            update_time: Some(Number::Unsigned(60)),
            unit: Some("%RH"),
            value: Some(Number::Float(-0.0)),
            string_value: Some("ä"),
            bool_value: Some(false),
            data_value: Some(&[0, 1, 255]),
            sum: Some(Number::Float(1e300)),
        }
    }

    #[test]
    fn every_field_comes_back_as_it_was_sent() {
        round_trip(&[full(), Record::default(), full()]);
        round_trip(&[]);
    }

    #[test]
    fn an_integer_stays_an_integer_and_a_float_a_float() {
        for number in [
            Number::Unsigned(1),
            Number::Float(1.0),
            Number::from(-1_i64),
            Number::from(1_i64),
        ] {
            round_trip(&[Record {
                value: Some(number),
                ..Record::default()
            }]);
        }
        assert_eq!(Number::from(1_i64), Number::Unsigned(1));
    }

    #[test]
    fn short_floats_of_other_encoders_are_read() {
        // [{2: 1.5 (16 bits)}, {2: 0.1 (32 bits)}]
        let pack = [
            0x82, 0xa1, 0x02, 0xf9, 0x3e, 0x00, 0xa1, 0x02, 0xfa, 0x3d, 0xcc, 0xcc, 0xcd,
        ];
        let mut values = Vec::new();
        for_each(&pack, |record| values.push(record.value)).expect("a pack");
        assert_eq!(
            values,
            [
                Some(Number::Float(1.5)),
                Some(Number::Float(f64::from(0.1_f32)))
            ]
        );
    }

    #[test]
    fn labels_that_are_not_known_are_skipped_unless_they_must_be_understood() {
        // [{"note": [1, 2], 99: null, 0: "x"}]
        let skipped = b"\x81\xa3\x64note\x82\x01\x02\x18\x63\xf6\x00\x61x";
        let mut names = Vec::new();
        for_each(skipped, |record| names.push(record.name)).expect("a pack");
        assert_eq!(names, [Some("x")]);
        // [{"must_": 1}]
        assert!(for_each(b"\x81\xa1\x65must_\x01", |_| {}).is_err());
    }

    #[test]
    fn the_base_name_is_that_of_the_first_record_and_never_empty() {
        let mut out = [0; 256];
        let first = Record {
            base_name: Some("a"),
            ..Record::default()
        };
        for (records, expected) in [
            (vec![first, full()], Some("a")),
            (vec![Record::default(), full()], None),
            (
                vec![Record {
                    base_name: Some(""),
                    ..first
                }],
                None,
            ),
            (vec![], None),
        ] {
            let used = encode(&records, &mut out).expect("fits");
            assert_eq!(base_name(&out[..used]), expected);
        }
        assert_eq!(base_name(b""), None);
        assert_eq!(base_name(b"\x81\xa1\x21"), None);
    }

    #[test]
    fn a_pack_that_does_not_fit_is_refused() {
        let mut out = [0; 4096];
        let used = encode(&[full()], &mut out).expect("fits");
        for buffer_bytes in 0..used {
            assert_eq!(
                encode(&[full()], &mut out[..buffer_bytes]),
                Err(Error::BufferTooSmall { buffer_bytes })
            );
        }
    }

    #[test]
    fn a_pack_that_is_cut_or_followed_by_more_is_malformed() {
        let mut out = [0; 4096];
        let used = encode(&[full()], &mut out).expect("fits");
        for cut in 0..used {
            assert!(for_each(&out[..cut], |_| {}).is_err(), "{cut}");
        }
        assert!(for_each(&out[..=used], |_| {}).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = for_each(&bytes, |_| {});
            let _ = base_name(&bytes);
        }

        #[test]
        fn any_numbers_and_texts_come_back(value in any::<f64>(), n in any::<i64>(), text in ".{0,40}") {
            prop_assume!(!value.is_nan());
            round_trip(&[Record {
                name: Some(&text),
                value: Some(Number::Float(value)),
                time: Some(Number::from(n)),
                ..Record::default()
            }]);
        }
    }
}
