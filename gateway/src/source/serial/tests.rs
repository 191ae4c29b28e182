//! Every kind of line against a log that is a list: what is taken, refused, marked, counted and
//! acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{self, Header, Kind};
use firmware_shim::link::LinkState;
use firmware_shim::senml;
use proptest::prelude::*;

use super::framed::Framed;
use super::line::{Intake, LogFailed, Sink};
use super::shim::ShimLine;
use super::wall::Look;
use crate::commit_log::{AppendError, Condition, Progress};
use crate::framing::{Format, Framing};
use crate::ingest::{NotCommitted, Ticket};
use crate::metrics::{Metrics, SourceReason};
use crate::record::{GapNote, NewRecord, Offset, Origin, PayloadKind, SourceName};

/// A record as the log got it.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    subject: String,
    kind: PayloadKind,
    origin: Origin,
    payload: Vec<u8>,
}

/// A log in memory with room for a number of records.
struct ListLog {
    stored: RefCell<Vec<Stored>>,
    room: Cell<usize>,
}

impl ListLog {
    fn new() -> Self {
        Self {
            stored: RefCell::default(),
            room: Cell::new(usize::MAX),
        }
    }

    fn append(&self, record: &NewRecord<'_>) -> Result<Ticket, AppendError> {
        let room = self.room.get().checked_sub(1).ok_or(AppendError::Full)?;
        self.room.set(room);
        let mut stored = self.stored.borrow_mut();
        stored.push(Stored {
            subject: record.subject.to_owned(),
            kind: record.kind,
            origin: record.origin,
            payload: record.payload.to_vec(),
        });
        Ok(Ticket::at(Offset::new(stored.len() as u64 - 1)))
    }

    /// Everything appended is synced.
    fn synced(&self) -> Progress {
        Progress {
            synced: Offset::new(self.stored.borrow().len() as u64),
            condition: Condition::Running,
        }
    }

    fn payloads(&self) -> Vec<Vec<u8>> {
        let stored = self.stored.borrow();
        stored.iter().map(|record| record.payload.clone()).collect()
    }
}

fn with_sink<R>(log: &ListLog, run: impl FnOnce(&Sink<'_>) -> R) -> R {
    run(&|record| log.append(record))
}

struct Bench {
    log: ListLog,
    metrics: Metrics,
}

impl Bench {
    fn new() -> Self {
        Self {
            log: ListLog::new(),
            metrics: Metrics::new(),
        }
    }

    fn intake(&self) -> Intake {
        let name = SourceName::new("press-line").expect("valid");
        Intake {
            metrics: self.metrics.source(&name),
            name,
        }
    }

    fn rejected(&self, reason: &str) -> u64 {
        let label = SourceReason {
            source: "press-line".to_owned(),
            reason: reason.to_owned(),
        };
        self.metrics.frames_rejected.get_or_create(&label).get()
    }

    fn dropped(&self, reason: &str) -> u64 {
        let label = SourceReason {
            source: "press-line".to_owned(),
            reason: reason.to_owned(),
        };
        self.metrics.dropped.get_or_create(&label).get()
    }

    fn shim(&self) -> ShimLine {
        ShimLine::new(self.intake(), 1024, &BTreeMap::new())
    }

    fn lines(&self) -> Framed {
        self.framed(Framing::Lines, 8)
    }

    fn framed(&self, framing: Framing, frame_bytes_max: usize) -> Framed {
        let format = Format {
            framing,
            checksum: None,
            frame_bytes_max,
            baud_rate: 115_200,
        };
        Framed::new(self.intake(), &format)
    }

    fn feed_shim(&self, shim: &mut ShimLine, bytes: &[u8]) {
        with_sink(&self.log, |sink| shim.feed(bytes, sink)).expect("the log takes records");
    }

    fn feed_lines(&self, lines: &mut Framed, bytes: &[u8]) {
        with_sink(&self.log, |sink| lines.feed(bytes, sink)).expect("the log takes records");
    }
}

fn data(kind: Kind, session: u16, sequence: u32, backlog: u8, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind,
        address: 5,
        session,
        sequence,
        backlog,
    };
    let mut bytes = vec![0; frame::FRAME_BYTES_MAX];
    let used = frame::encode(header, payload, &mut bytes).expect("fits");
    bytes.truncate(used);
    bytes
}

fn opaque(sequence: u32, payload: &[u8]) -> Vec<u8> {
    data(Kind::Opaque, 1, sequence, 0, payload)
}

fn look(now_ms: u64) -> Look {
    Look {
        now_ms,
        unix_ms: None,
        stepped: false,
    }
}

/// What the line says to its devices.
fn answers(shim: &mut ShimLine, look: &Look) -> Vec<(Header, Option<u64>)> {
    let mut bytes = Vec::new();
    shim.answer(look, &mut bytes);
    let mut decoder: Decoder = Decoder::new();
    let mut answers = Vec::new();
    for byte in bytes {
        match decoder.push(byte) {
            Outcome::Pending => {}
            Outcome::Frame(frame) => answers.push((frame.header, frame.unix_ms())),
            Outcome::Rejected(rejection) => panic!("{rejection:?}"),
        }
    }
    answers
}

fn ack(session: u16, sequence: u32) -> (Header, Option<u64>) {
    (Header::ack(5, session, sequence), None)
}

#[test]
fn a_link_ack_is_sent_only_after_the_commit() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    bench.feed_shim(&mut shim, &opaque(0, b"a"));
    bench.feed_shim(&mut shim, &opaque(1, b"b"));
    let before = Progress {
        synced: Offset::ZERO,
        condition: Condition::Running,
    };
    shim.resolve(&before).expect("running");
    assert_eq!(answers(&mut shim, &look(0)), []);

    let half = Progress {
        synced: Offset::new(1),
        ..before
    };
    shim.resolve(&half).expect("running");
    assert_eq!(answers(&mut shim, &look(0)), [ack(1, 1)]);
    assert!(shim.uncommitted() > 0);
    shim.resolve(&bench.log.synced()).expect("running");
    assert_eq!(answers(&mut shim, &look(0)), [ack(1, 2)]);
    assert_eq!(shim.uncommitted(), 0);
    assert_eq!(bench.intake().metrics.received.get(), 2);
    assert_eq!(bench.intake().metrics.committed.get(), 2);
}

#[test]
fn a_log_that_fails_before_the_commit_gets_no_ack() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    bench.feed_shim(&mut shim, &opaque(0, b"a"));
    let poisoned = Progress {
        synced: Offset::ZERO,
        condition: Condition::Poisoned,
    };
    assert_eq!(shim.resolve(&poisoned), Err(NotCommitted));
    assert_eq!(answers(&mut shim, &look(0)), []);
}

#[test]
fn a_closed_log_ends_the_source() {
    let bench = Bench::new();
    let closed: &Sink<'_> = &|_| Err(AppendError::Closed);
    assert!(matches!(
        bench.shim().feed(&opaque(0, b"a"), closed),
        Err(LogFailed)
    ));
    assert!(matches!(bench.lines().feed(b"a\n", closed), Err(LogFailed)));
}

#[test]
fn a_full_log_takes_no_frame_and_the_device_may_send_it_again() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    bench.feed_shim(&mut shim, &opaque(0, b"a"));
    bench.log.room.set(0);
    bench.feed_shim(&mut shim, &opaque(1, b"b"));
    // Behind it in the window: ahead of what is expected.
    bench.feed_shim(&mut shim, &data(Kind::Opaque, 1, 2, 1, b"c"));
    shim.resolve(&bench.log.synced()).expect("running");
    assert_eq!(answers(&mut shim, &look(0)), [ack(1, 1)]);

    bench.log.room.set(2);
    bench.feed_shim(&mut shim, &opaque(1, b"b"));
    bench.feed_shim(&mut shim, &data(Kind::Opaque, 1, 2, 1, b"c"));
    assert_eq!(bench.log.payloads(), [b"a", b"b", b"c"]);
}

#[test]
fn a_gap_is_marked_once_before_the_message_behind_it_even_if_the_log_fills_between_them() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    bench.feed_shim(&mut shim, &opaque(0, b"a"));
    bench.log.room.set(1);
    for _ in 0..3 {
        bench.feed_shim(&mut shim, &opaque(4, b"e"));
    }
    bench.log.room.set(9);
    bench.feed_shim(&mut shim, &opaque(4, b"e"));
    bench.feed_shim(&mut shim, &opaque(5, b"f"));

    let stored = bench.log.stored.borrow();
    let kinds: Vec<PayloadKind> = stored.iter().map(|record| record.kind).collect();
    assert_eq!(
        kinds,
        [
            PayloadKind::Opaque,
            PayloadKind::Gap,
            PayloadKind::Opaque,
            PayloadKind::Opaque
        ]
    );
    let note: GapNote = serde_cbor::from_slice(&stored[1].payload).expect("CBOR");
    assert_eq!(
        note,
        GapNote {
            reason: "link_gap".to_owned(),
            records: Some(3)
        }
    );
    assert_eq!(stored[1].origin, Origin::Line, "no place in the session");
    assert_eq!(bench.intake().metrics.link_gaps.get(), 3);
    assert_eq!(bench.intake().metrics.received.get(), 3);
}

#[test]
fn a_duplicate_is_counted_and_acknowledged_and_not_stored() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    bench.feed_shim(&mut shim, &opaque(0, b"a"));
    shim.resolve(&bench.log.synced()).expect("running");
    answers(&mut shim, &look(0));
    bench.feed_shim(&mut shim, &opaque(0, b"a"));
    assert_eq!(shim.answer_due_ms(&look(10)), Some(50));
    assert_eq!(answers(&mut shim, &look(50)), [ack(1, 1)]);
    assert_eq!(shim.answer_due_ms(&look(50)), None);
    assert_eq!(bench.intake().metrics.duplicates.get(), 1);
    assert_eq!(bench.log.payloads().len(), 1);
}

#[test]
fn a_restarted_gateway_knows_what_it_has_stored() {
    let bench = Bench::new();
    let mut state = LinkState::default();
    for sequence in 0..3 {
        let bytes = opaque(sequence, b"x");
        let mut decoder: Decoder = Decoder::new();
        let crc = bytes.iter().find_map(|&byte| match decoder.push(byte) {
            Outcome::Frame(frame) => Some(frame.message_crc()),
            Outcome::Pending | Outcome::Rejected(_) => None,
        });
        state.accept(1, sequence, crc.expect("a whole frame"));
    }
    let mut shim = ShimLine::new(bench.intake(), 1024, &BTreeMap::from([(5, state)]));
    bench.feed_shim(&mut shim, &opaque(2, b"x"));
    bench.feed_shim(&mut shim, &opaque(3, b"y"));
    assert_eq!(bench.log.payloads(), [b"y"]);
    assert_eq!(answers(&mut shim, &look(0)), [ack(1, 3)]);
}

#[test]
fn a_device_is_named_by_its_base_name_and_else_by_its_address() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    let mut pack = [0; 64];
    let record = senml::Record {
        base_name: Some("urn:dev:ow:1/"),
        ..senml::Record::default()
    };
    let used = senml::encode(&[record], &mut pack).expect("fits");
    bench.feed_shim(&mut shim, &data(Kind::Senml, 1, 0, 0, &pack[..used]));
    bench.feed_shim(&mut shim, &data(Kind::Senml, 1, 1, 0, b"no pack"));
    bench.feed_shim(&mut shim, &opaque(2, &pack[..used]));
    let stored = bench.log.stored.borrow();
    let seen: Vec<(&str, PayloadKind)> = stored
        .iter()
        .map(|record| (record.subject.as_str(), record.kind))
        .collect();
    assert_eq!(
        seen,
        [
            ("press-line/urn:dev:ow:1%2F", PayloadKind::SenmlCbor),
            ("press-line/5", PayloadKind::SenmlCbor),
            ("press-line/5", PayloadKind::Opaque),
        ]
    );
}

#[test]
fn noise_is_rejected_by_reason_and_the_next_frame_is_taken() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    let mut damaged = opaque(0, b"hello");
    let last = damaged.len() - 2;
    damaged[last] ^= 0x80;
    bench.feed_shim(&mut shim, &damaged);
    bench.feed_shim(&mut shim, &[0x10, 0x01, 0]);
    bench.feed_shim(&mut shim, &[7; 5000]);
    bench.feed_shim(&mut shim, &[0]);
    bench.feed_shim(&mut shim, &opaque(0, b"good"));
    assert_eq!(bench.log.payloads(), [b"good"]);
    for reason in ["crc", "cobs", "too_long"] {
        assert_eq!(bench.rejected(reason), 1, "{reason}");
    }
}

#[test]
fn the_time_is_told_once_the_clock_is_set_and_the_device_was_heard() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    let set = Look {
        unix_ms: Some(1_800_000_000_000),
        ..look(0)
    };
    assert_eq!(answers(&mut shim, &set), []);
    bench.feed_shim(&mut shim, &opaque(0, b"a"));
    assert_eq!(answers(&mut shim, &look(0)), []);
    assert_eq!(shim.answer_due_ms(&look(0)), None, "no clock, no hurry");
    assert_eq!(shim.answer_due_ms(&set), Some(0));
    let time = (Header::time(5, 1), Some(1_800_000_000_000));
    assert_eq!(answers(&mut shim, &set), [time]);
    bench.feed_shim(&mut shim, &opaque(1, b"b"));
    assert_eq!(answers(&mut shim, &set), []);
    shim.clock_stepped();
    assert_eq!(answers(&mut shim, &set), [time]);
}

#[test]
fn lines_end_in_lf_or_crlf_and_keep_their_bytes() {
    let bench = Bench::new();
    let mut lines = bench.lines();
    bench.feed_lines(&mut lines, b"one\ntwo\r\n\n\r\n\xff\xfe\rx\nend");
    assert_eq!(
        bench.log.payloads(),
        [&b"one"[..], b"two", b"\xff\xfe\rx"].map(<[u8]>::to_vec)
    );
    let stored = bench.log.stored.borrow();
    assert_eq!(stored[0].subject, "press-line/press-line");
    assert_eq!(stored[0].origin, Origin::Line);
}

#[test]
fn a_line_over_the_limit_is_rejected_once_and_the_next_one_taken() {
    let bench = Bench::new();
    let mut lines = bench.lines();
    bench.feed_lines(
        &mut lines,
        b"12345678\r\n123456789\r\n12345678\n123456789\nok\n",
    );
    assert_eq!(
        bench.log.payloads(),
        [&b"12345678"[..], b"12345678", b"ok"].map(<[u8]>::to_vec)
    );
    assert_eq!(bench.rejected("too_long"), 2);
}

#[test]
fn a_line_without_an_end_is_rejected_once_and_takes_no_memory() {
    let bench = Bench::new();
    let mut lines = bench.lines();
    for _ in 0..1_000 {
        bench.feed_lines(&mut lines, &[b'x'; 1_000]);
    }
    bench.feed_lines(&mut lines, b"\nok\n");
    assert_eq!(bench.rejected("too_long"), 1);
    assert_eq!(bench.log.payloads(), [b"ok"]);
}

#[test]
fn lines_wait_for_room_and_read_no_further() {
    let bench = Bench::new();
    let mut lines = bench.lines();
    bench.log.room.set(1);
    bench.feed_lines(&mut lines, b"a\nb\nc\nd");
    assert!(!lines.wants_bytes());
    assert_eq!(bench.log.payloads(), [b"a"]);
    with_sink(&bench.log, |sink| lines.go_on(sink)).expect("the log takes records");
    assert!(!lines.wants_bytes());
    bench.log.room.set(9);
    with_sink(&bench.log, |sink| lines.go_on(sink)).expect("the log takes records");
    assert!(lines.wants_bytes());
    bench.feed_lines(&mut lines, b"\n");
    assert_eq!(bench.log.payloads(), [b"a", b"b", b"c", b"d"]);
    lines.resolve(&bench.log.synced()).expect("running");
    assert_eq!(lines.uncommitted(), 0);
    assert_eq!(bench.intake().metrics.committed.get(), 4);
}

#[test]
fn a_frame_that_ends_in_a_silence_waits_for_room_and_is_no_longer_listened_for() {
    let bench = Bench::new();
    let silence = Duration::from_millis(5);
    let mut bus = bench.framed(Framing::Idle(silence), 16);
    assert_eq!(bus.silence(), None);
    bench.feed_lines(&mut bus, b"ab");
    assert_eq!(bus.silence(), Some(silence));
    bench.log.room.set(0);
    with_sink(&bench.log, |sink| bus.silent(sink)).expect("the log takes records");
    assert_eq!((bus.silence(), bus.wants_bytes()), (None, false));
    bench.log.room.set(9);
    with_sink(&bench.log, |sink| bus.go_on(sink)).expect("the log takes records");
    assert!(bus.wants_bytes());
    assert_eq!(bench.log.payloads(), [b"ab"]);
}

#[test]
fn lines_read_and_not_stored_when_the_source_stops_are_counted() {
    let bench = Bench::new();
    let mut lines = bench.lines();
    bench.log.room.set(1);
    bench.feed_lines(&mut lines, b"a\nb\nc\nd");
    lines.give_up();
    assert_eq!(bench.dropped("shutdown"), 2);
}

#[test]
fn a_line_cut_by_a_lost_port_is_counted_and_not_joined_to_the_next() {
    let bench = Bench::new();
    let mut lines = bench.lines();
    bench.feed_lines(&mut lines, b"half");
    lines.line_lost();
    bench.feed_lines(&mut lines, b"whole\n");
    assert_eq!(bench.log.payloads(), [b"whole"]);
    assert_eq!(bench.rejected("truncated"), 1);

    let mut shim = bench.shim();
    let bytes = opaque(0, b"a");
    bench.feed_shim(&mut shim, &bytes[..5]);
    shim.line_lost();
    bench.feed_shim(&mut shim, &bytes);
    assert_eq!(bench.log.payloads().len(), 2);
}

#[test]
fn every_node_of_a_shared_line_has_a_session_and_an_ack_of_its_own() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    let frame = |address: u8, sequence| {
        let header = Header {
            kind: Kind::Opaque,
            address,
            session: 1000 + u16::from(address),
            sequence,
            backlog: 0,
        };
        let mut bytes = vec![0; frame::FRAME_BYTES_MAX];
        let used = frame::encode(header, &[address], &mut bytes).expect("fits");
        bytes.truncate(used);
        bytes
    };
    for round in 0..3 {
        // Nodes with a higher address say less.
        for address in (1..=254).filter(|address| address / 100 <= 2 - round) {
            bench.feed_shim(&mut shim, &frame(address, u32::from(round)));
        }
    }
    shim.resolve(&bench.log.synced()).expect("running");
    let mut heard = answers(&mut shim, &look(0));
    heard.sort_by_key(|(header, _)| header.address);
    let expected = (1..=254_u8).map(|address| {
        let count = 3 - u32::from(address / 100);
        let session = 1000 + u16::from(address);
        (Header::ack(address, session, count), None)
    });
    assert!(heard.into_iter().eq(expected));
    assert_eq!(bench.intake().metrics.link_gaps.get(), 0);
}

#[test]
fn an_echo_of_the_gateways_own_frames_is_ignored() {
    let bench = Bench::new();
    let mut shim = bench.shim();
    bench.feed_shim(&mut shim, &data(Kind::Ack, 1, 9, 0, b""));
    bench.feed_shim(&mut shim, &data(Kind::Time, 1, 0, 0, &[0; 8]));
    assert_eq!(bench.log.payloads().len(), 0);
    assert_eq!(answers(&mut shim, &look(0)), []);
}

proptest! {
    #[test]
    fn any_bytes_in_any_portions_are_taken_without_a_panic(
        portions in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..200), 0_usize..4), 0..20),
    ) {
        let bench = Bench::new();
        let (mut shim, mut lines) = (bench.shim(), bench.lines());
        for (bytes, room) in portions {
            bench.log.room.set(room);
            bench.feed_shim(&mut shim, &bytes);
            if lines.wants_bytes() {
                bench.feed_lines(&mut lines, &bytes);
            } else {
                with_sink(&bench.log, |sink| lines.go_on(sink)).expect("the log takes records");
            }
            answers(&mut shim, &look(0));
        }
    }

    #[test]
    fn every_line_comes_out_once_in_order_however_the_stream_is_cut_and_the_log_fills(
        texts in proptest::collection::vec("[a-z]{1,8}", 0..30),
        cuts in proptest::collection::vec((1_usize..40, 0_usize..3), 1..200),
    ) {
        let bench = Bench::new();
        let mut lines = bench.lines();
        let stream: Vec<u8> = texts.iter().flat_map(|t| [t.as_bytes(), b"\n"].concat()).collect();
        let mut at = 0;
        for (bytes, room) in cuts {
            bench.log.room.set(room);
            with_sink(&bench.log, |sink| lines.go_on(sink)).expect("the log takes records");
            if lines.wants_bytes() {
                let end = (at + bytes).min(stream.len());
                bench.feed_lines(&mut lines, &stream[at..end]);
                at = end;
            }
        }
        bench.log.room.set(usize::MAX);
        with_sink(&bench.log, |sink| lines.go_on(sink)).expect("the log takes records");
        bench.feed_lines(&mut lines, &stream[at..]);
        let expected: Vec<Vec<u8>> = texts.iter().map(|t| t.clone().into_bytes()).collect();
        prop_assert_eq!(bench.log.payloads(), expected);
    }
}
