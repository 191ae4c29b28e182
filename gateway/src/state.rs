//! State that guarantees rest on, derived from the records themselves (I9): link sessions, and of
//! each MQTT source its session at the broker, its filters there, and its redelivery [`window`]; and
//! when the boots of the board began, which dates records once its clock is set.
//!
//! The commit log applies every record to it once the record is synced, and writes it whole at the
//! head of each segment. So it is as durable as the records, and needs no file of its own. What a
//! source has to keep beside its records it appends as a record of its own
//! ([`PayloadKind::Note`]).

pub mod window;

use std::collections::{BTreeMap, BTreeSet};

use firmware_shim::link::LinkState;
use serde::{Deserialize, Serialize};

use crate::clock::timeline::Boots;
use crate::commit_log::{BadCheckpoint, DurableState};
use crate::config::{Config, Source, SourceKind};
use crate::record::{Origin, PayloadKind, RecordView, SessionNote, SourceName};
use window::{Content, EntryCheckpoint, Identity, Window};

/// What an entry of a window takes in a checkpoint, at most: an array of four numbers in CBOR.
const WINDOW_ENTRY_BYTES: u64 = 1 + 9 + 3 + 1 + 9;

/// What a source finds of its own after a restart.
#[derive(Clone, Debug, Default)]
pub struct RecoveredSource {
    /// Link sessions by address.
    pub links: BTreeMap<u8, LinkState>,
    /// The source has stored MQTT records before: a session is expected at the broker.
    pub mqtt_session_expected: bool,
    /// Which session that is; empty before the first.
    pub mqtt_session: String,
    /// Filters that it may be subscribed to.
    pub mqtt_filters: BTreeSet<String>,
    /// What its broker may send again.
    pub mqtt_window: Window,
}

/// The state of all sources, by their names.
#[derive(Clone, Debug, Default)]
pub struct GatewayState {
    sources: BTreeMap<String, RecoveredSource>,
    /// Bounds of their windows.
    windows: BTreeMap<String, usize>,
    /// When boots began, by the clocks of their records.
    boots: Boots,
}

impl GatewayState {
    /// An empty state. The windows of its MQTT sources together hold no more than a sixteenth of a
    /// segment takes as a checkpoint ([`DurableState::checkpoint`]). `receive_maximum` is no bound
    /// to rely on: Mosquitto 2.0.11 had more than twice as many in flight after an absence.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let is_mqtt = |source: &&Source| matches!(source.kind, SourceKind::Mqtt(_));
        let sources = config.sources.iter().filter(is_mqtt);
        let entries = config.buffer.segment_bytes / 16 / WINDOW_ENTRY_BYTES;
        let share = usize::try_from(entries).unwrap_or(usize::MAX) / sources.clone().count().max(1);
        let bound = share.min(usize::from(u16::MAX));
        Self {
            sources: BTreeMap::new(),
            boots: Boots::default(),
            windows: sources.map(|s| (s.name.to_string(), bound)).collect(),
        }
    }

    /// What is known of one source.
    #[must_use]
    pub fn source(&self, name: &SourceName) -> RecoveredSource {
        let known = self.sources.get(name.as_str()).cloned();
        known.unwrap_or_else(|| self.new_source(name.as_str()))
    }

    /// When the boots began whose records it has seen.
    #[must_use]
    pub fn boots(&self) -> &Boots {
        &self.boots
    }

    fn new_source(&self, name: &str) -> RecoveredSource {
        let entries_max = self.windows.get(name).copied();
        RecoveredSource {
            mqtt_window: entries_max.map_or_else(Window::default, Window::new),
            ..RecoveredSource::default()
        }
    }

    fn entry(&mut self, source: &str) -> &mut RecoveredSource {
        if !self.sources.contains_key(source) {
            self.sources
                .insert(source.to_owned(), self.new_source(source));
        }
        self.sources.get_mut(source).expect("it was put there")
    }
}

impl RecoveredSource {
    fn apply_mqtt(&mut self, record: &RecordView<'_>) {
        let Origin::Mqtt {
            qos,
            packet_id,
            settled,
            ..
        } = record.origin
        else {
            return;
        };
        self.mqtt_window.settle(settled);
        match record.kind {
            PayloadKind::Note => self.apply_note(record.payload),
            // Of no message: the session's end is in the note behind it.
            PayloadKind::Gap => {}
            PayloadKind::Opaque | PayloadKind::SenmlCbor => {
                self.mqtt_session_expected = true;
                if packet_id != 0 {
                    let content = Content::of(record.subject.as_bytes(), record.payload);
                    let publish = Identity {
                        packet_id,
                        qos,
                        content,
                    };
                    self.mqtt_window.store(record.offset, publish);
                }
            }
        }
    }

    /// A note that cannot be read says nothing: the gateway wrote it, and its checksum was good.
    fn apply_note(&mut self, payload: &[u8]) {
        let Ok(note) = serde_cbor::from_slice::<SessionNote>(payload) else {
            return;
        };
        if note.is_new || note.session != self.mqtt_session {
            self.mqtt_window.clear();
        }
        self.mqtt_session_expected = true;
        self.mqtt_session = note.session;
        self.mqtt_filters = note.filters.into_iter().collect();
    }
}

impl DurableState for GatewayState {
    fn apply(&mut self, record: &RecordView<'_>) {
        self.boots.learn(record.boot_id, record.received);
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
            Origin::Mqtt { .. } => self.entry(record.source).apply_mqtt(record),
        }
    }

    fn checkpoint(&self, out: &mut Vec<u8>) {
        let checkpoint = Checkpoint {
            boots: self.boots.clone(),
            sources: self.sources.iter().map(SourceCheckpoint::of).collect(),
        };
        out.extend(serde_cbor::to_vec(&checkpoint).expect("numbers and texts are always CBOR"));
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), BadCheckpoint> {
        self.sources.clear();
        self.boots = Boots::default();
        let checkpoint: Checkpoint = serde_cbor::from_slice(bytes).map_err(|_| BadCheckpoint)?;
        self.boots = checkpoint.boots;
        for source in checkpoint.sources {
            let name = source.name.clone();
            let empty = self.new_source(&name);
            self.sources.insert(name, source.into_source(empty));
        }
        Ok(())
    }
}

/// A checkpoint, CBOR with its fields' names.
#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    boots: Boots,
    sources: Vec<SourceCheckpoint>,
}

/// One source in a checkpoint, CBOR with its fields' names.
#[derive(Debug, Serialize, Deserialize)]
struct SourceCheckpoint {
    name: String,
    mqtt: bool,
    session: String,
    filters: BTreeSet<String>,
    window: Vec<EntryCheckpoint>,
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
            session: source.mqtt_session.clone(),
            filters: source.mqtt_filters.clone(),
            window: source.mqtt_window.checkpoint(),
            links: source.links.iter().map(link).collect(),
        }
    }

    fn into_source(self, empty: RecoveredSource) -> RecoveredSource {
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
        let mut mqtt_window = empty.mqtt_window;
        mqtt_window.restore(self.window);
        RecoveredSource {
            links: self.links.into_iter().map(link).collect(),
            mqtt_session_expected: self.mqtt,
            mqtt_session: self.session,
            mqtt_filters: self.filters,
            mqtt_window,
        }
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
    use crate::record::{NewRecord, Offset, Settled, Stamp};

    fn record(source: &'static str, origin: Origin) -> RecordView<'static> {
        RecordView {
            offset: Offset::ZERO,
            source,
            subject: "s",
            kind: PayloadKind::Opaque,
            origin,
            received: Stamp::default(),
            boot_id: 1,
            payload: b"",
        }
    }

    fn name(text: &str) -> SourceName {
        SourceName::new(text).expect("valid")
    }

    fn mqtt(qos: u8, packet_id: u16, settled: Settled) -> Origin {
        Origin::Mqtt {
            qos,
            packet_id,
            dup: false,
            settled,
        }
    }

    fn note(session: &str, is_new: bool, filters: &[&str]) -> Vec<u8> {
        let note = SessionNote {
            session: session.to_owned(),
            is_new,
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
        };
        serde_cbor::to_vec(&note).expect("plain data")
    }

    fn apply_note(state: &mut GatewayState, payload: &[u8]) {
        let mut record = record("city", mqtt(0, 0, Settled::default()));
        record.kind = PayloadKind::Note;
        state.apply(&RecordView { payload, ..record });
    }

    fn through_a_checkpoint(state: &GatewayState) -> GatewayState {
        let mut bytes = Vec::new();
        state.checkpoint(&mut bytes);
        let mut restored = GatewayState {
            windows: state.windows.clone(),
            ..GatewayState::default()
        };
        restored.restore(&bytes).expect("readable");
        restored
    }

    #[test]
    fn a_checkpoint_brings_back_when_boots_began() {
        let mut state = GatewayState::default();
        let received = Stamp {
            wall_ms: 1_900_000_000_000,
            mono_ms: 60_000,
        };
        state.apply(&RecordView {
            received,
            boot_id: 7,
            ..record("city", Origin::Line)
        });
        let restored = through_a_checkpoint(&state);
        assert_ne!(restored.boots(), &Boots::default());
        assert_eq!(restored.boots(), state.boots());
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
        apply_note(&mut state, &note("broker", true, &["a", "b"]));
        state.apply(&record("city", mqtt(1, 4, Settled::default())));
        let restored = through_a_checkpoint(&state);
        let (press, city) = (name("press"), name("city"));
        assert_eq!(restored.source(&press).links, state.source(&press).links);
        assert_eq!(restored.source(&press).links[&3].next, 40);
        assert!(!restored.source(&press).mqtt_session_expected);
        let city = restored.source(&city);
        assert!(city.mqtt_session_expected);
        assert_eq!(city.mqtt_session, "broker");
        assert_eq!(city.mqtt_filters.iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(city.mqtt_window.len(), 1);
    }

    #[test]
    fn the_window_follows_the_records_and_what_they_say_of_earlier_ones() {
        let mut state = GatewayState::default();
        let stored = |state: &mut GatewayState, offset, origin| {
            let offset = Offset::new(offset);
            state.apply(&RecordView {
                offset,
                ..record("city", origin)
            });
            state.source(&name("city")).mqtt_window.len()
        };
        let none = Settled::default();
        assert_eq!(stored(&mut state, 0, mqtt(0, 0, none)), 0);
        assert_eq!(stored(&mut state, 1, mqtt(1, 4, none)), 1);
        assert_eq!(stored(&mut state, 2, mqtt(2, 5, none)), 2);
        let acknowledged = Settled {
            acknowledged_below: Offset::new(2),
            ..none
        };
        assert_eq!(stored(&mut state, 3, mqtt(1, 6, acknowledged)), 2);
        let released = Settled {
            released_below: Offset::new(3),
            ..none
        };
        assert_eq!(stored(&mut state, 4, mqtt(1, 7, released)), 2);
    }

    #[test]
    fn a_session_that_begins_anew_or_is_another_one_has_an_empty_window() {
        for (session, is_new, left) in [("a", false, 1), ("a", true, 0), ("b", false, 0)] {
            let mut state = GatewayState::default();
            apply_note(&mut state, &note("a", true, &[]));
            state.apply(&record("city", mqtt(1, 4, Settled::default())));
            apply_note(&mut state, &note(session, is_new, &[]));
            let city = state.source(&name("city"));
            assert_eq!(city.mqtt_window.len(), left, "{session} {is_new}");
        }
    }

    #[test]
    fn a_gap_is_no_message_of_its_session() {
        let mut state = GatewayState::default();
        let mut gap = record("city", mqtt(0, 0, Settled::default()));
        gap.kind = PayloadKind::Gap;
        state.apply(&gap);
        assert!(!state.source(&name("city")).mqtt_session_expected);
    }

    #[test]
    fn the_windows_bound_holds_through_a_checkpoint() {
        let mut state = GatewayState {
            windows: BTreeMap::from([("city".to_owned(), 3)]),
            ..GatewayState::default()
        };
        for number in 1..9 {
            let mut record = record("city", mqtt(1, number, Settled::default()));
            record.offset = Offset::new(u64::from(number));
            state.apply(&record);
        }
        let mut restored = through_a_checkpoint(&state);
        assert_eq!(restored.source(&name("city")).mqtt_window.len(), 3);
        restored.apply(&RecordView {
            offset: Offset::new(20),
            ..record("city", mqtt(1, 20, Settled::default()))
        });
        assert_eq!(restored.source(&name("city")).mqtt_window.len(), 3);
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
        for sequence in 0..5 {
            append(&log, "press", link(sequence));
        }
        append(&log, "city", mqtt(1, 4, Settled::default()));
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
        assert_eq!(source("city").mqtt_window.len(), 1);
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
            reserve: false,
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
        state.apply(&record("city", mqtt(1, 4, Settled::default())));
        assert_eq!(state.restore(b"\xff\x00"), Err(BadCheckpoint));
        let city = state.source(&name("city"));
        assert!(!city.mqtt_session_expected && city.mqtt_window.is_empty());
    }
}
