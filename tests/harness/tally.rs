//! The oracle's book: which sequences of which device have been seen, and in what order.
//!
//! A repeated sequence is a duplicate and nothing else: what is sent again comes late by nature. Out
//! of order is a sequence seen for the first time after a higher one of its device. A device takes 65
//! bits a sequence, so that millions of records fit.
//!
//! Kafka may get a record of the gateway's log twice; its `ce_id`, which names its place there, then
//! is the same. A sequence under another `ce_id` than before was stored twice.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};

use serde::Deserialize;

/// Above this a sequence is taken for damage: its bitmap would not fit a small machine.
const SEQUENCE_MAX: u64 = 1 << 28;

/// Whose record it is and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Where the sender says it belongs.
    pub source: String,
    /// The sender.
    pub device: String,
    /// Its count of its messages, from 0.
    pub sequence: u64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records read.
    pub records: u64,
    /// Different (source, device, sequence).
    pub distinct: u64,
    /// Records seen before.
    pub duplicates: u64,
    /// Those of them that have another id than when first seen: they lie in the gateway's log twice.
    pub stored_again: u64,
    /// First seen after a higher sequence of the same device.
    pub out_of_order: u64,
    /// Sequences missing below the highest seen of their device.
    pub missing: u64,
    /// Records of a device in another partition than its first.
    pub moved: u64,
    /// Records whose payload has no identity.
    pub unreadable: u64,
    /// Devices seen.
    pub devices: u64,
}

/// One topic's book.
#[derive(Debug, Default)]
pub struct Tally {
    devices: HashMap<String, Device>,
    name: String,
    counts: Counts,
}

#[derive(Debug)]
struct Device {
    partition: i32,
    seen: Vec<u64>,
    /// Hash of the id that a sequence was first seen with; 0 without.
    ids: Vec<u64>,
    highest: u64,
    distinct: u64,
}

impl Tally {
    /// Enters one record, with the id that the gateway gave it, where it gave one.
    pub fn enter(&mut self, partition: i32, payload: &[u8], id: Option<&[u8]>) {
        self.counts.records += 1;
        match identify(payload) {
            Some(identity) => self.enter_identity(partition, &identity, id.map_or(0, hash)),
            None => self.counts.unreadable += 1,
        }
    }

    /// What has been counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let missing = |device: &Device| device.highest + 1 - device.distinct;
        Counts {
            missing: self.devices.values().map(missing).sum(),
            devices: self.devices.len() as u64,
            ..self.counts
        }
    }

    fn enter_identity(&mut self, partition: i32, identity: &Identity, id: u64) {
        self.name.clear();
        self.name.push_str(&identity.source);
        self.name.push('\n');
        self.name.push_str(&identity.device);
        if !self.devices.contains_key(&self.name) {
            self.devices
                .insert(self.name.clone(), Device::new(partition));
        }
        let device = self.devices.get_mut(&self.name).expect("just made");
        self.counts.moved += u64::from(device.partition != partition);
        if device.is_seen(identity.sequence) {
            self.counts.duplicates += 1;
            self.counts.stored_again += u64::from(device.id(identity.sequence) != id);
            return;
        }
        let late = device.distinct > 0 && identity.sequence < device.highest;
        self.counts.out_of_order += u64::from(late);
        self.counts.distinct += 1;
        device.mark(identity.sequence, id);
    }
}

fn hash(id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    hasher.finish()
}

impl Device {
    const fn new(partition: i32) -> Self {
        Self {
            partition,
            seen: Vec::new(),
            ids: Vec::new(),
            highest: 0,
            distinct: 0,
        }
    }

    fn is_seen(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence);
        self.seen.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn id(&self, sequence: u64) -> u64 {
        let index = usize::try_from(sequence).expect("sequences are bounded");
        self.ids.get(index).copied().unwrap_or(0)
    }

    fn mark(&mut self, sequence: u64, id: u64) {
        let (word, bit) = place(sequence);
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= bit;
        if id != 0 {
            let index = usize::try_from(sequence).expect("sequences are bounded");
            if index >= self.ids.len() {
                self.ids.resize(index + 1, 0);
            }
            self.ids[index] = id;
        }
        self.highest = self.highest.max(sequence);
        self.distinct += 1;
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let word = usize::try_from(sequence / 64).expect("sequences are bounded");
    (word, 1 << (sequence % 64))
}

/// What a telemetry object of the simulator says of itself.
#[derive(Deserialize)]
struct Telemetry {
    source: String,
    device: String,
    sequence: u64,
}

/// One `SenML` record in JSON, as far as it matters here.
#[derive(Deserialize)]
struct SenmlJson {
    bn: Option<String>,
    n: Option<String>,
    v: Option<f64>,
}

/// Finds who sent `payload`: a JSON object, or a `SenML` pack in JSON or CBOR with a value named
/// `sequence`.
#[must_use]
pub fn identify(payload: &[u8]) -> Option<Identity> {
    let identity = match payload.first()? {
        b'{' => {
            let telemetry: Telemetry = serde_json::from_slice(payload).ok()?;
            Identity {
                source: telemetry.source,
                device: telemetry.device,
                sequence: telemetry.sequence,
            }
        }
        b'[' => from_senml(serde_json::from_slice(payload).ok()?)?,
        _ => from_senml(senml_cbor(payload)?)?,
    };
    (identity.sequence < SEQUENCE_MAX).then_some(identity)
}

fn from_senml(pack: Vec<SenmlJson>) -> Option<Identity> {
    let device = pack.iter().find_map(|record| record.bn.clone())?;
    let is_sequence = |record: &&SenmlJson| record.n.as_deref() == Some("sequence");
    let value = pack.iter().find(is_sequence)?.v?;
    // Sequences are far below 2^53.
    let whole = value >= 0.0 && value.fract() == 0.0 && value < SEQUENCE_MAX as f64;
    whole.then_some(Identity {
        source: "senml".to_owned(),
        device,
        sequence: value as u64,
    })
}

/// Reads a pack by the labels of RFC 8428, table 4: -2 base name, 0 name, 2 value.
fn senml_cbor(payload: &[u8]) -> Option<Vec<SenmlJson>> {
    use serde_cbor::Value;
    let number = |value: &Value| match value {
        Value::Integer(whole) => Some(*whole as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    };
    let text = |value: &Value| match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    let Value::Array(records) = serde_cbor::from_slice(payload).ok()? else {
        return None;
    };
    let record = |record: &Value| {
        let Value::Map(fields) = record else {
            return None;
        };
        let field = |label: i128| fields.get(&Value::Integer(label));
        Some(SenmlJson {
            bn: field(-2).and_then(text),
            n: field(0).and_then(text),
            v: field(2).and_then(number),
        })
    };
    records.iter().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry(device: &str, sequence: u64) -> Vec<u8> {
        format!(r#"{{"source":"s","device":"{device}","sequence":{sequence},"x":1.5}}"#)
            .into_bytes()
    }

    fn counted(sequences: &[u64]) -> Counts {
        let mut tally = Tally::default();
        for sequence in sequences {
            tally.enter(0, &telemetry("d", *sequence), None);
        }
        tally.counts()
    }

    #[test]
    fn a_sequence_under_a_second_id_was_stored_again() {
        let mut tally = Tally::default();
        for (sequence, id) in [(0, "a"), (1, "b"), (1, "b"), (0, "c"), (2, "d"), (2, "")] {
            let id = (!id.is_empty()).then_some(id.as_bytes());
            tally.enter(0, &telemetry("d", sequence), id);
        }
        let counts = tally.counts();
        assert_eq!((counts.duplicates, counts.stored_again), (3, 2));
    }

    #[test]
    fn an_unbroken_run_counts_as_nothing_but_distinct() {
        let counts = counted(&[0, 1, 2, 3]);
        assert_eq!(
            counts,
            Counts {
                records: 4,
                distinct: 4,
                devices: 1,
                ..Counts::default()
            }
        );
    }

    #[test]
    fn a_repeated_run_is_duplicates_and_not_out_of_order() {
        let counts = counted(&[0, 1, 2, 1, 2, 3]);
        assert_eq!((counts.duplicates, counts.out_of_order), (2, 0));
    }

    #[test]
    fn a_sequence_first_seen_after_a_higher_one_is_out_of_order() {
        let counts = counted(&[0, 2, 1, 3]);
        assert_eq!((counts.duplicates, counts.out_of_order), (0, 1));
        assert_eq!(counts.missing, 0);
    }

    #[test]
    fn a_hole_is_missing_even_at_the_start() {
        assert_eq!(counted(&[1, 2, 70]).missing, 68);
    }

    #[test]
    fn a_device_in_a_second_partition_has_moved() {
        let mut tally = Tally::default();
        tally.enter(0, &telemetry("d", 0), None);
        tally.enter(1, &telemetry("d", 1), None);
        tally.enter(1, &telemetry("e", 0), None);
        assert_eq!(tally.counts().moved, 1);
    }

    #[test]
    fn senml_says_the_same_in_cbor_and_in_json() {
        let json = br#"[{"bn":"urn:dev:sim:press-001/","n":"sequence","v":41},{"n":"t","v":1.5}]"#;
        let mut cbor =
            b"\x82\xa3\x21\x76urn:dev:sim:press-001/\x00\x68sequence\x02\x18\x29".to_vec();
        cbor.extend(b"\xa2\x00\x61t\x02\xfb\x3f\xf8\0\0\0\0\0\0");
        let expected = Identity {
            source: "senml".to_owned(),
            device: "urn:dev:sim:press-001/".to_owned(),
            sequence: 41,
        };
        assert_eq!(identify(json).as_ref(), Some(&expected));
        assert_eq!(identify(&cbor).as_ref(), Some(&expected));
    }

    #[test]
    fn what_has_no_identity_is_unreadable() {
        let mut tally = Tally::default();
        for payload in [
            &b""[..],
            b"{}",
            b"[]",
            b"\xff\xfe",
            b"[{\"bn\":\"d\",\"n\":\"sequence\"}]",
        ] {
            tally.enter(0, payload, None);
        }
        assert_eq!(tally.counts().unreadable, 5);
    }
}
