//! The gateway's end of a shim link: one decoder for the line, one receiver for each address.
//!
//! A frame is taken only if the log has room for it; if not, nothing moves, and the device, having
//! no ACK, sends it again. ACKs are made when the line has room for them, from what is durable
//! then: a newer one supersedes an older by itself, and there is at most one of each device in
//! memory, however slow the line.
//!
//! A gap is marked by a record of its own before the message behind it (G7). If the log has room
//! for the mark and not for the message, the mark is remembered; if the gateway dies between the
//! two, it is made twice.

use std::collections::{BTreeMap, VecDeque};

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{self, Frame, Header, Kind, time_payload};
use firmware_shim::link::LinkState;
use firmware_shim::link::receiver::{Receiver, Take, Verdict};
use firmware_shim::senml;

use super::line::{Intake, LogFailed, Sink};
use super::wall::Look;
use crate::clock;
use crate::commit_log::{AppendError, Progress};
use crate::ingest::{Committed, NotCommitted, Ticket};
use crate::record::{GapNote, NewRecord, Origin, PayloadKind, SourceName, Stamp, serial_subject};

/// A line with shim devices on it.
#[derive(Debug)]
pub(super) struct ShimLine {
    decoder: Decoder,
    devices: Devices,
}

/// Everything but the decoder, whose frames are borrowed while the devices change.
#[derive(Debug)]
struct Devices {
    intake: Intake,
    by_address: BTreeMap<u8, Device>,
    /// Appended and not known to be durable, in order. As many as the log's own buffer holds.
    uncommitted: VecDeque<Uncommitted>,
}

#[derive(Debug)]
struct Device {
    receiver: Receiver,
    /// How much of the gap before the next message is marked in the log.
    gap_marked: u64,
    subject: Subject,
}

/// The subject of a device's records, which changes as seldom as its name.
#[derive(Debug, Default)]
struct Subject {
    /// By which it was made; `None` for a device without a name, which has its address.
    name: Option<String>,
    text: String,
}

#[derive(Debug)]
struct Uncommitted {
    ticket: Ticket,
    address: u8,
    take: Take,
}

impl ShimLine {
    /// A line whose devices go on where `recovered` says.
    pub(super) fn new(
        intake: Intake,
        frame_bytes_max: usize,
        recovered: &BTreeMap<u8, LinkState>,
    ) -> Self {
        let device = |(&address, &state)| (address, Device::new(address, Some(state)));
        Self {
            decoder: Decoder::with_payload_max(frame_bytes_max),
            devices: Devices {
                intake,
                by_address: recovered.iter().map(device).collect(),
                uncommitted: VecDeque::new(),
            },
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], sink: &Sink<'_>) -> Result<(), LogFailed> {
        let received = clock::now();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (taken, outcome) = self.decoder.take(rest);
            rest = &rest[taken..];
            match outcome {
                Outcome::Pending => {}
                Outcome::Frame(frame) => self.devices.receive(&frame, received, sink)?,
                Outcome::Rejected(rejection) => {
                    self.devices
                        .intake
                        .metrics
                        .frame_rejected(rejection.reason());
                }
            }
        }
        Ok(())
    }

    /// Whether more bytes are sure to come, as long as the line is well.
    pub(super) fn is_within_frame(&self) -> bool {
        self.decoder.is_within_frame()
    }

    /// Tells the receivers what has become durable.
    pub(super) fn resolve(&mut self, progress: &Progress) -> Result<(), NotCommitted> {
        let devices = &mut self.devices;
        while let Some(next) = devices.uncommitted.front() {
            let Some(outcome) = next.ticket.outcome(progress) else {
                return Ok(());
            };
            let proof = outcome?;
            let next = devices.uncommitted.pop_front();
            devices.commit(next.expect("it was at the front"), proof);
        }
        Ok(())
    }

    pub(super) fn uncommitted(&self) -> usize {
        self.devices.uncommitted.len()
    }

    pub(super) fn unacknowledged(&self) -> Option<(usize, Ticket)> {
        let last = self.devices.uncommitted.back()?;
        Some((self.uncommitted(), last.ticket))
    }

    /// Devices are told the time again.
    pub(super) fn clock_stepped(&mut self) {
        for device in self.devices.by_address.values_mut() {
            device.receiver.clock_stepped();
        }
    }

    /// Adds the ACKs and times that are due to `out`.
    pub(super) fn answer(&mut self, look: &Look, out: &mut Vec<u8>) {
        for device in self.devices.by_address.values_mut() {
            if let Some(ack) = device.receiver.ack(look.now_ms) {
                put(ack, &[], out);
            }
            if let Some(unix_ms) = look.unix_ms
                && let Some(header) = device.receiver.time(look.now_ms)
            {
                put(header, &time_payload(unix_ms), out);
            }
        }
    }

    /// When [`answer`](Self::answer) has something to add; `None` if nothing waits for time to
    /// pass.
    pub(super) fn answer_due_ms(&self, look: &Look) -> Option<u64> {
        let due = |device: &Device| {
            let time = look.unix_ms.and_then(|_| device.receiver.time_due_ms());
            [device.receiver.ack_due_ms(), time]
                .into_iter()
                .flatten()
                .min()
        };
        self.devices.by_address.values().filter_map(due).min()
    }

    /// The port is gone: what comes from the next one begins a new frame.
    pub(super) fn line_lost(&mut self) {
        self.decoder.reset();
    }
}

/// Encodes a frame behind `out`.
fn put(header: Header, payload: &[u8], out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + frame::frame_bytes_max(payload.len()), 0);
    let used = frame::encode(header, payload, &mut out[at..])
        .expect("the buffer was sized for the payload, which is at most 8 bytes");
    out.truncate(at + used);
}

impl Device {
    fn new(address: u8, stored: Option<LinkState>) -> Self {
        Self {
            receiver: Receiver::new(address, stored),
            gap_marked: 0,
            subject: Subject::default(),
        }
    }

    /// Puts a message into the log, behind a mark of what is missing before it.
    fn append(
        &mut self,
        source: &SourceName,
        frame: &Frame<'_>,
        take: &Take,
        received: Stamp,
        sink: &Sink<'_>,
    ) -> Result<Ticket, AppendError> {
        let (kind, name) = content(frame);
        let record = NewRecord {
            source,
            subject: self.subject.of(source, frame.header.address, name),
            kind,
            origin: Origin::Link {
                address: frame.header.address,
                session: take.session,
                sequence: take.sequence,
                crc: take.crc,
            },
            received,
            payload: frame.payload,
        };
        let unmarked = take.gap.saturating_sub(self.gap_marked);
        if unmarked > 0 {
            mark_gap(&record, unmarked, sink)?;
            self.gap_marked = take.gap;
        }
        sink(&record)
    }
}

impl Subject {
    fn of(&mut self, source: &SourceName, address: u8, name: Option<&str>) -> &str {
        if self.text.is_empty() || self.name.as_deref() != name {
            self.text = match name {
                Some(name) => serial_subject(source, name),
                None => serial_subject(source, &address.to_string()),
            };
            self.name = name.map(str::to_owned);
        }
        &self.text
    }
}

impl Devices {
    fn receive(
        &mut self,
        frame: &Frame<'_>,
        received: Stamp,
        sink: &Sink<'_>,
    ) -> Result<(), LogFailed> {
        if !frame.header.kind.is_data() {
            return Ok(());
        }
        let Self {
            intake,
            by_address,
            uncommitted,
        } = self;
        let address = frame.header.address;
        let device = by_address
            .entry(address)
            .or_insert_with(|| Device::new(address, None));
        let take = match device.receiver.receive(frame) {
            Verdict::Take(take) => take,
            Verdict::Duplicate => {
                intake.metrics.duplicates.inc();
                return Ok(());
            }
            Verdict::Ahead | Verdict::Ignored => return Ok(()),
        };
        match device.append(&intake.name, frame, &take, received, sink) {
            Ok(ticket) => {
                device.receiver.taken(&take);
                device.gap_marked = 0;
                intake.metrics.received.inc();
                intake.metrics.link_gaps.inc_by(take.gap);
                uncommitted.push_back(Uncommitted {
                    ticket,
                    address,
                    take,
                });
                Ok(())
            }
            // The device holds it and sends it again.
            Err(AppendError::Full) => Ok(()),
            // No segment holds 1 KiB: a budget that only a person can mend.
            Err(AppendError::TooLarge { .. }) => {
                intake.metrics.frame_rejected("too_long");
                Ok(())
            }
            Err(AppendError::Closed) => Err(LogFailed),
        }
    }

    /// Only here does a receiver learn that a message is durable, and only with the log's word.
    fn commit(&mut self, next: Uncommitted, _proof: Committed) {
        self.intake.metrics.committed.inc();
        if let Some(device) = self.by_address.get_mut(&next.address) {
            device.receiver.committed(&next.take);
        }
    }
}

/// How to read a frame's payload, and whose it is, if it says so.
fn content<'a>(frame: &Frame<'a>) -> (PayloadKind, Option<&'a str>) {
    match frame.header.kind {
        Kind::Senml => (PayloadKind::SenmlCbor, senml::base_name(frame.payload)),
        Kind::Opaque | Kind::Ack | Kind::Time => (PayloadKind::Opaque, None),
    }
}

/// Stores a note of `records` messages that are missing before `next`.
fn mark_gap(next: &NewRecord<'_>, records: u64, sink: &Sink<'_>) -> Result<(), AppendError> {
    let note = GapNote {
        reason: "link_gap".to_owned(),
        records: Some(records),
    };
    let payload = serde_cbor::to_vec(&note).expect("a note is plain data");
    let marked = sink(&NewRecord {
        kind: PayloadKind::Gap,
        origin: Origin::Line,
        payload: &payload,
        ..*next
    });
    // The ticket of the message behind it speaks for the mark as well (I1).
    marked.map(|_ticket| ())
}
