//! Telemetry as city and factory devices send it: JSON of exactly 200 bytes, in which names repeat
//! and readings wander.

use edge_gateway::record::{NewRecord, Origin, PayloadKind, SourceName, Stamp};

/// Bytes of a payload.
pub(crate) const PAYLOAD_BYTES: usize = 200;
/// Payloads made in advance, so that making them is not what is measured.
const PAYLOADS: usize = 4096;
const DEVICES: u64 = 50;
/// Of large payloads fewer are made in advance.
const MESSAGES_BYTES: usize = 16 << 20;

/// A stream of records.
#[derive(Debug)]
pub(crate) struct Telemetry {
    source: SourceName,
    /// Subject and payload.
    records: Vec<(String, Vec<u8>)>,
    next: usize,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        let mut random = 1;
        Self {
            source: SourceName::new("city").expect("a valid name"),
            records: (0..PAYLOADS as u64)
                .map(|number| record(number, DEVICES, &mut random))
                .collect(),
            next: 0,
        }
    }

    /// The next record.
    pub(crate) fn record(&mut self) -> NewRecord<'_> {
        let number = self.next;
        self.next += 1;
        let (subject, payload) = &self.records[number % PAYLOADS];
        NewRecord {
            source: &self.source,
            subject,
            kind: PayloadKind::Opaque,
            origin: Origin::Mqtt {
                qos: 1,
                packet_id: number as u16,
                dup: false,
                settled: Default::default(),
            },
            received: Stamp {
                wall_ms: 1_763_700_000_000 + number as i64,
                mono_ms: 10_000_000 + number as u64,
            },
            payload,
        }
    }
}

/// Subjects and payloads of `devices` in turn, in which each device speaks at least once. What is
/// beyond a payload's readings are further readings.
pub(crate) fn messages(devices: u64, payload_bytes: usize) -> Vec<(String, Vec<u8>)> {
    let mut random = 1;
    let count = (MESSAGES_BYTES / payload_bytes).min(PAYLOADS) as u64;
    let sized = |number| {
        let (subject, mut payload) = record(number, devices, &mut random);
        while payload.len() < payload_bytes {
            let reading = format!(",{}", next(&mut random) % 100_000);
            payload.extend_from_slice(reading.as_bytes());
        }
        payload.truncate(payload_bytes);
        (subject, payload)
    };
    (0..devices * count.div_ceil(devices)).map(sized).collect()
}

/// A device's name, and what it says.
fn record(number: u64, devices: u64, random: &mut u64) -> (String, Vec<u8>) {
    let device = number % devices;
    let sequence = number / devices;
    let mut reading = |low: u64, span: u64| low + next(random) % span;
    let text = format!(
        "{{\"source\":\"city\",\"device\":\"air-{device:04}\",\"sequence\":{sequence},\
         \"sent_ms\":{},\"pm10\":{}.{},\"pm25\":{}.{},\"no2\":{}.{},\"o3\":{}.{},\
         \"temperature\":{}.{},\"humidity\":{}.{},\"battery_mv\":{}}}",
        1_763_700_000_000 + number * 7 + reading(0, 5),
        reading(10, 40),
        reading(0, 10),
        reading(5, 20),
        reading(0, 10),
        reading(15, 50),
        reading(0, 10),
        reading(40, 60),
        reading(0, 10),
        reading(10, 20),
        reading(0, 10),
        reading(30, 60),
        reading(0, 10),
        reading(3300, 300),
    );
    let mut payload = text.into_bytes();
    // White space is allowed in JSON.
    payload.resize(PAYLOAD_BYTES, b' ');
    (format!("city/north/air/air-{device:04}"), payload)
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
