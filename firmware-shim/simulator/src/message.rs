//! What one message carries, and its form as JSON.
//!
//! Every payload says source, device, sequence and send time, so that whoever reads them at the
//! far end can count what was lost, doubled or reordered. A message is small and its payload
//! follows from it, so what has to be sent again is made again instead of being kept.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, BytesMut};

use crate::fleet::Fleet;

/// What padding is made of, and what surrounds it in JSON.
const PAD: u8 = b'x';
const PAD_HEAD: &str = ",\"pad\":\"";
const PAD_TAIL: &str = "\"";

/// One message of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which device of a share sends it.
    pub slot: usize,
    /// Its number, from 0, counted per device.
    pub sequence: u64,
    /// When it was first sent, in Unix milliseconds.
    pub sent_ms: i64,
}

/// A device that writes its messages as JSON.
#[derive(Clone, Debug)]
pub struct JsonDevice {
    fleet: Fleet,
    index: u32,
    /// Everything before the sequence.
    head: String,
    bytes_min: usize,
}

impl JsonDevice {
    /// Device `index` of `fleet`, whose payloads are padded to `bytes_min`.
    #[must_use]
    pub fn new(fleet: Fleet, index: u32, bytes_min: usize) -> Self {
        let head = format!(
            "{{\"source\":\"{}\",\"device\":\"{}\",\"sequence\":",
            fleet.source(),
            fleet.device_name(index)
        );
        Self {
            fleet,
            index,
            head,
            bytes_min,
        }
    }

    /// Appends the payload of a message.
    pub fn write(&self, sequence: u64, sent_ms: i64, out: &mut BytesMut) {
        let start = out.len();
        out.put_slice(self.head.as_bytes());
        write_text(out, format_args!("{sequence},\"sent_ms\":{sent_ms}"));
        for reading in self
            .fleet
            .profile
            .readings(self.fleet.seed, self.index, sequence)
        {
            let decimals = usize::from(reading.decimals);
            write_text(
                out,
                format_args!(",\"{}\":{:.decimals$}", reading.name, reading.value),
            );
        }
        let written = out.len() - start + PAD_HEAD.len() + PAD_TAIL.len() + 1;
        if written <= self.bytes_min {
            out.put_slice(PAD_HEAD.as_bytes());
            out.put_bytes(PAD, self.bytes_min - written);
            out.put_slice(PAD_TAIL.as_bytes());
        }
        out.put_u8(b'}');
    }
}

fn write_text(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("a growing buffer takes all text");
}

/// The wall clock in Unix milliseconds.
#[must_use]
pub fn wall_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    fn payload(profile: Profile, sequence: u64, sent_ms: i64, bytes_min: usize) -> BytesMut {
        let fleet = Fleet {
            profile,
            seed: 11,
            first: 0,
            devices: 9,
        };
        let mut out = BytesMut::from(&b"before"[..]);
        JsonDevice::new(fleet, 7, bytes_min).write(sequence, sent_ms, &mut out);
        out.split_off(6)
    }

    #[test]
    fn a_payload_is_json_that_says_source_device_sequence_and_time() {
        let bytes = payload(Profile::Air, 12, 1_700_000_000_000, 0);
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["source"], "sim/air");
        assert_eq!(json["device"], "air-007");
        assert_eq!(json["sequence"], 12);
        assert_eq!(json["sent_ms"], 1_700_000_000_000_i64);
        assert!(json["temperature"].is_number());
        assert!(json.get("pad").is_none());
    }

    #[test]
    fn only_the_send_time_differs_between_two_runs() {
        let earlier = payload(Profile::Energy, 5, 1_111, 0);
        let later = payload(Profile::Energy, 5, 2_222, 0);
        let text = String::from_utf8(earlier.to_vec()).unwrap();
        assert_eq!(text.replace("1111", "2222").as_bytes(), later);
    }

    #[test]
    fn padding_reaches_the_asked_size_exactly() {
        for profile in [
            Profile::Traffic,
            Profile::Air,
            Profile::Energy,
            Profile::Press,
        ] {
            for sequence in [0, 9, 10, 99_999] {
                let bytes = payload(profile, sequence, 1_700_000_000_000, 200);
                assert_eq!(bytes.len(), 200);
                assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
            }
        }
        assert_eq!(payload(Profile::Air, 1, 1, 256 * 1024).len(), 256 * 1024);
    }
}
