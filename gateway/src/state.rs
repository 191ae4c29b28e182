//! State that guarantees rest on, derived from the records themselves (I9): link sessions, and
//! which sources an MQTT broker keeps a session for.
//!
//! The commit log applies every record to it once the record is synced, and writes it whole at the
//! head of each segment. So it is as durable as the records, and needs no file of its own.

use std::collections::{BTreeMap, HashMap};

use firmware_shim::link::LinkState;
use serde::{Deserialize, Serialize};

use crate::commit_log::{BadCheckpoint, DurableState};
use crate::record::{Origin, PayloadKind, RecordView, SourceName};

/// What a source finds of its own after a restart.
#[derive(Clone, Debug, Default)]
pub struct RecoveredSource {
    /// Link sessions by address.
    pub links: HashMap<u8, LinkState>,
    /// The source has stored MQTT records before: a session is expected at the broker.
    pub mqtt_session_expected: bool,
}

/// The state of all sources, by their names.
#[derive(Clone, Debug, Default)]
pub struct GatewayState {
    sources: BTreeMap<String, RecoveredSource>,
}

impl GatewayState {
    /// What is known of one source.
    #[must_use]
    pub fn source(&self, name: &SourceName) -> RecoveredSource {
        self.sources.get(name.as_str()).cloned().unwrap_or_default()
    }

    fn entry(&mut self, source: &str) -> &mut RecoveredSource {
        if !self.sources.contains_key(source) {
            self.sources
                .insert(source.to_owned(), RecoveredSource::default());
        }
        self.sources.get_mut(source).expect("it was put there")
    }
}

impl DurableState for GatewayState {
    fn apply(&mut self, record: &RecordView<'_>) {
        // A gap is no message of a device.
        if record.kind == PayloadKind::Gap {
            return;
        }
        match record.origin {
            Origin::Line => {}
            Origin::Link {
                address,
                session,
                sequence,
                crc,
            } => {
                let links = &mut self.entry(record.source).links;
                links
                    .entry(address)
                    .or_default()
                    .accept(session, sequence, crc);
            }
            Origin::Mqtt { .. } => self.entry(record.source).mqtt_session_expected = true,
        }
    }

    fn checkpoint(&self, out: &mut Vec<u8>) {
        let sources: Vec<SourceCheckpoint> =
            self.sources.iter().map(SourceCheckpoint::of).collect();
        out.extend(serde_cbor::to_vec(&sources).expect("numbers and texts are always CBOR"));
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), BadCheckpoint> {
        self.sources.clear();
        let sources: Vec<SourceCheckpoint> =
            serde_cbor::from_slice(bytes).map_err(|_| BadCheckpoint)?;
        self.sources = sources
            .into_iter()
            .map(SourceCheckpoint::into_entry)
            .collect();
        Ok(())
    }
}

/// One source in a checkpoint, CBOR with its fields' names.
#[derive(Debug, Serialize, Deserialize)]
struct SourceCheckpoint {
    name: String,
    mqtt: bool,
    links: Vec<(u8, u16, u32, Vec<u32>)>,
}

impl SourceCheckpoint {
    fn of((name, source): (&String, &RecoveredSource)) -> Self {
        let crcs = |link: &LinkState| link.crcs[..usize::from(link.crcs_len)].to_vec();
        let link =
            |(address, link): (&u8, &LinkState)| (*address, link.session, link.next, crcs(link));
        Self {
            name: name.clone(),
            mqtt: source.mqtt_session_expected,
            links: source.links.iter().map(link).collect(),
        }
    }

    fn into_entry(self) -> (String, RecoveredSource) {
        let link = |(address, session, next, crcs): (u8, u16, u32, Vec<u32>)| {
            let mut state = LinkState {
                session,
                next,
                ..LinkState::default()
            };
            for (kept, crc) in state.crcs.iter_mut().zip(&crcs) {
                *kept = *crc;
            }
            state.crcs_len = crcs.len().min(state.crcs.len()) as u8;
            (address, state)
        };
        let links = self.links.into_iter().map(link).collect();
        (
            self.name,
            RecoveredSource {
                links,
                mqtt_session_expected: self.mqtt,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::clock::SystemClock;
    use crate::commit_log::fs::RealFs;
    use crate::commit_log::{
        CommitLog, CommitReport, Compression, Observer, Opened, Options, Progress,
    };
    use crate::record::{NewRecord, Offset, Stamp};

    fn record(source: &'static str, origin: Origin) -> RecordView<'static> {
        RecordView {
            offset: Offset::ZERO,
            source,
            subject: "s",
            kind: PayloadKind::Opaque,
            origin,
            received: Stamp::default(),
            payload: b"",
        }
    }

    #[test]
    fn a_checkpoint_brings_back_every_link_session_and_mqtt_source() {
        let mut state = GatewayState::default();
        for sequence in 0..40 {
            let crc = sequence * 7;
            let link = Origin::Link {
                address: 3,
                session: 9,
                sequence,
                crc,
            };
            state.apply(&record("press", link));
        }
        let mqtt = Origin::Mqtt {
            qos: 1,
            packet_id: 4,
            dup: false,
        };
        state.apply(&record("city", mqtt));
        let mut bytes = Vec::new();
        state.checkpoint(&mut bytes);
        let mut restored = GatewayState::default();
        restored.restore(&bytes).expect("readable");
        let (press, city) = (SourceName::new("press"), SourceName::new("city"));
        let (press, city) = (press.expect("valid"), city.expect("valid"));
        assert_eq!(restored.source(&press).links, state.source(&press).links);
        assert_eq!(restored.source(&press).links[&3].next, 40);
        assert!(restored.source(&city).mqtt_session_expected);
        assert!(!restored.source(&press).mqtt_session_expected);
    }

    /// The copy is what a disk that lost nothing but the writer holds; that nothing unsynced is
    /// relied on, the log's own crash tests show for any state.
    #[test]
    fn sessions_outlive_a_power_cut_after_all_records_are_delivered_and_gone() {
        let (before, after) = (tempfile::tempdir(), tempfile::tempdir());
        let (before, after) = (before.expect("temp dir"), after.expect("temp dir"));
        let log = open(before.path(), GatewayState::default()).log;
        let link = |sequence| Origin::Link {
            address: 3,
            session: 9,
            sequence,
            crc: sequence,
        };
        let mqtt = Origin::Mqtt {
            qos: 1,
            packet_id: 4,
            dup: false,
        };
        for sequence in 0..5 {
            append(&log, "press", link(sequence));
        }
        append(&log, "city", mqtt);
        // Segments that know of press and city by their checkpoints alone.
        for _ in 0..600 {
            append(&log, "other", Origin::Line);
        }
        let end = log.progress().synced;
        log.commit(end);
        let deadline = Instant::now() + PATIENCE;
        while log.stats().segments > 1 {
            assert!(Instant::now() < deadline, "the log is never emptied");
            std::thread::sleep(Duration::from_millis(5));
        }
        for entry in std::fs::read_dir(before.path()).expect("readable") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), after.path().join(entry.file_name())).expect("copied");
        }

        let opened = open(after.path(), GatewayState::default());
        let mut cursor = opened.log.cursor(opened.log.committed());
        assert!(matches!(cursor.next(), Ok(None)), "nothing to deliver");
        let source = |name| opened.state.source(&SourceName::new(name).expect("valid"));
        let state = source("press").links[&3];
        assert_eq!((state.session, state.next), (9, 5));
        assert_eq!(state.crcs_len, 5, "what a resent message is compared with");
        assert!(source("city").mqtt_session_expected);
        assert!(!source("other").mqtt_session_expected);
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    fn open(dir: &Path, state: GatewayState) -> Opened<GatewayState> {
        #[derive(Debug)]
        struct Nobody;
        impl Observer for Nobody {
            fn progress(&self, _progress: Progress) {}
            fn committed(&self, _report: &CommitReport) {}
            fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
        }
        let options = Options {
            dir: dir.to_path_buf(),
            bytes_max: 16 * SEGMENT_BYTES,
            segment_bytes: SEGMENT_BYTES,
            commit_interval: Duration::ZERO,
            drop_oldest: false,
            age_max: None,
            compression: Compression::None,
            clock: Arc::new(SystemClock::default()),
            owner: "test".to_owned(),
        };
        CommitLog::open(Arc::new(RealFs), options, Box::new(Nobody), state).expect("open")
    }

    const SEGMENT_BYTES: u64 = 256 * 1024;

    /// Appends a record and waits until it is synced.
    fn append(log: &CommitLog, source: &str, origin: Origin) {
        let record = NewRecord {
            source: &SourceName::new(source).expect("valid"),
            subject: "s",
            kind: PayloadKind::Opaque,
            origin,
            received: Stamp::default(),
            payload: &[7; 1000],
        };
        let offset = log.append(&record).expect("there is room");
        assert!(log.wait(offset, PATIENCE).synced > offset);
    }

    #[test]
    fn bytes_that_are_no_checkpoint_leave_an_empty_state() {
        let mut state = GatewayState::default();
        state.apply(&record(
            "city",
            Origin::Mqtt {
                qos: 1,
                packet_id: 4,
                dup: false,
            },
        ));
        assert_eq!(state.restore(b"\xff\x00"), Err(BadCheckpoint));
        let city = SourceName::new("city").expect("valid");
        assert!(!state.source(&city).mqtt_session_expected);
    }
}
