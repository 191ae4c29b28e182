//! What happens to publishes when the log is full (DESIGN §10, "block and full").
//!
//! ```text
//!            log full                    more than HELD_BYTES_MAX held
//!  Flowing ───────────▶ Holding ───────────────────────────────────────▶ Discarding
//!     ▲                    │                                                  │
//!     └── all appended ────┘◀──────────── next connection ────────────────────┘
//! ```
//!
//! A publish that the log has no room for is held in memory, and then every later one, so that
//! order stays. What is held is bounded in bytes. Beyond that bound a publish is discarded without
//! an acknowledgement, *and so is every later one* of the connection: were a later one taken, the
//! broker's redelivery would put the discarded one behind it. When space has returned, the source
//! reconnects and the broker sends all of them again, in order. Publishes at quality of service 0
//! come no second time: they are dropped, and counted.
//!
//! Not reading from the socket would be simpler, but would leave PINGRESP unread behind the
//! publishes, so that a dead connection looked like a full log.
//!
//! Pure: the caller appends, counts and connects.

use std::collections::VecDeque;

use super::acks::Ack;
use crate::commit_log::AppendError;
use crate::record::{NewRecord, Origin, PayloadKind, Settled, SourceName, Stamp};
use crate::state::window::{Content, Identity};

/// Most that is held, in bytes. Covers some 50 ms at 100,000 records of 200 bytes a second, several
/// group commits, and is small beside a board's 512 MB.
pub(super) const HELD_BYTES_MAX: usize = 4 << 20;

/// What a held publish costs beside its topic and payload: the queue's slot and two allocations.
const HELD_OVERHEAD_BYTES: usize = size_of::<Held>() + 32;

/// A publish on its way into the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inbound<'a> {
    /// Telemetry, or a gap that the source found.
    pub(super) kind: PayloadKind,
    /// Quality of service, 0 to 2.
    pub(super) qos: u8,
    /// DUP flag.
    pub(super) dup: bool,
    /// 0 at quality of service 0.
    pub(super) packet_id: u16,
    /// Topic.
    pub(super) subject: &'a str,
    /// Payload.
    pub(super) payload: &'a [u8],
    /// Time of receipt.
    pub(super) received: Stamp,
}

impl<'a> Inbound<'a> {
    /// As the log takes it, with what is `settled` of earlier ones.
    pub(super) fn record(&self, source: &'a SourceName, settled: Settled) -> NewRecord<'a> {
        NewRecord {
            source,
            subject: self.subject,
            kind: self.kind,
            origin: Origin::Mqtt {
                qos: self.qos,
                packet_id: self.packet_id,
                dup: self.dup,
                settled,
            },
            received: self.received,
            payload: self.payload,
        }
    }

    /// What the broker would send again; `None` if it would not, or if it is no message.
    pub(super) fn identity(&self) -> Option<Identity> {
        (self.packet_id != 0).then(|| Identity {
            packet_id: self.packet_id,
            qos: self.qos,
            content: Content::of(self.subject.as_bytes(), self.payload),
        })
    }

    fn held_bytes(&self) -> usize {
        self.subject.len() + self.payload.len() + HELD_OVERHEAD_BYTES
    }
}

/// A publish that waits for room in the log.
#[derive(Debug)]
pub(super) struct Held {
    kind: PayloadKind,
    qos: u8,
    dup: bool,
    packet_id: u16,
    subject: Box<str>,
    payload: Box<[u8]>,
    received: Stamp,
    ack: Option<Ack>,
}

impl Held {
    fn new(inbound: &Inbound<'_>) -> Self {
        Self {
            kind: inbound.kind,
            qos: inbound.qos,
            dup: inbound.dup,
            packet_id: inbound.packet_id,
            subject: inbound.subject.into(),
            payload: inbound.payload.into(),
            received: inbound.received,
            ack: Ack::of(inbound.qos, inbound.packet_id),
        }
    }

    /// The publish as it came.
    pub(super) fn inbound(&self) -> Inbound<'_> {
        Inbound {
            kind: self.kind,
            qos: self.qos,
            dup: self.dup,
            packet_id: self.packet_id,
            subject: &self.subject,
            payload: &self.payload,
            received: self.received,
        }
    }

    /// What it is to be acknowledged with, `None` if its connection has ended.
    pub(super) fn ack(&self) -> Option<Ack> {
        self.ack
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The log takes what comes.
    Flowing,
    /// What comes is held.
    Holding,
    /// What comes at quality of service 1 and 2 is left to the broker.
    Discarding,
}

/// What became of a publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered<T> {
    /// It is in the log's buffer.
    Appended(T),
    /// It is held.
    Held,
    /// It is gone: quality of service 0.
    Dropped,
    /// The broker will send it again.
    Discarded,
    /// No segment can hold it; it must be set aside.
    TooLarge,
}

/// What became of the oldest held publish.
#[derive(Debug)]
pub(super) enum Retried<T> {
    /// It is in the log's buffer.
    Appended(T, Held),
    /// No segment can hold it; it must be set aside.
    TooLarge(Held),
    /// Still no room.
    Full,
    /// Nothing is held.
    Empty,
}

/// The log takes no more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogClosed;

/// See the module.
#[derive(Debug)]
pub(super) struct Intake {
    mode: Mode,
    held: VecDeque<Held>,
    held_bytes: usize,
    held_bytes_max: usize,
}

impl Intake {
    /// Holds at most `held_bytes_max`.
    pub(super) fn new(held_bytes_max: usize) -> Self {
        Self {
            mode: Mode::Flowing,
            held: VecDeque::new(),
            held_bytes: 0,
            held_bytes_max,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes a publish, in whatever way the mode allows.
    pub(super) fn offer<T>(
        &mut self,
        inbound: &Inbound<'_>,
        append: impl FnOnce(&Inbound<'_>) -> Result<T, AppendError>,
    ) -> Result<Offered<T>, LogClosed> {
        match self.mode {
            Mode::Flowing => match append(inbound) {
                Ok(ticket) => Ok(Offered::Appended(ticket)),
                Err(AppendError::Full) => {
                    self.mode = Mode::Holding;
                    Ok(self.hold(inbound))
                }
                Err(AppendError::TooLarge { .. }) => Ok(Offered::TooLarge),
                Err(AppendError::Closed) => Err(LogClosed),
            },
            Mode::Holding => Ok(self.hold(inbound)),
            Mode::Discarding => Ok(match inbound.qos {
                0 => Offered::Dropped,
                _ => Offered::Discarded,
            }),
        }
    }

    fn hold<T>(&mut self, inbound: &Inbound<'_>) -> Offered<T> {
        let bytes = inbound.held_bytes();
        if self.held_bytes + bytes <= self.held_bytes_max {
            self.push(inbound);
            return Offered::Held;
        }
        if inbound.qos == 0 {
            return Offered::Dropped;
        }
        self.mode = Mode::Discarding;
        Offered::Discarded
    }

    /// Whether a publish that cannot become a record may be set aside now. If not, it is discarded
    /// like any other: set aside and acknowledged, it would overtake what is held.
    pub(super) fn may_set_aside(&mut self, qos: u8) -> bool {
        match (qos, self.mode) {
            (0, _) | (_, Mode::Flowing) => true,
            (_, Mode::Holding | Mode::Discarding) => {
                self.mode = Mode::Discarding;
                false
            }
        }
    }

    /// Holds what must not be lost and is small: the note of a gap. Whatever the bound; but two in a
    /// row are one gap of unknown size.
    pub(super) fn hold_note(&mut self, note: &Inbound<'_>) {
        if self
            .held
            .back()
            .is_some_and(|last| last.kind == PayloadKind::Gap)
        {
            return;
        }
        self.push(note);
        if self.mode == Mode::Flowing {
            self.mode = Mode::Holding;
        }
    }

    fn push(&mut self, inbound: &Inbound<'_>) {
        self.held_bytes += inbound.held_bytes();
        self.held.push_back(Held::new(inbound));
    }

    /// Tries the oldest held publish once more.
    pub(super) fn retry<T>(
        &mut self,
        append: impl FnOnce(&Inbound<'_>) -> Result<T, AppendError>,
    ) -> Result<Retried<T>, LogClosed> {
        let Some(oldest) = self.held.front() else {
            return Ok(Retried::Empty);
        };
        let outcome = append(&oldest.inbound());
        if matches!(outcome, Err(AppendError::Full)) {
            return Ok(Retried::Full);
        }
        let oldest = self.pop();
        match outcome {
            Ok(ticket) => Ok(Retried::Appended(ticket, oldest)),
            Err(AppendError::TooLarge { .. }) => Ok(Retried::TooLarge(oldest)),
            Err(AppendError::Full) => Ok(Retried::Full),
            Err(AppendError::Closed) => Err(LogClosed),
        }
    }

    fn pop(&mut self) -> Held {
        let oldest = self.held.pop_front().expect("the queue was not empty");
        self.held_bytes -= oldest.inbound().held_bytes();
        if self.held.is_empty() && self.mode == Mode::Holding {
            self.mode = Mode::Flowing;
        }
        oldest
    }

    /// The same publish is held, of this connection.
    pub(super) fn holds(&self, publish: &Inbound<'_>) -> bool {
        let same = |held: &Held| {
            held.ack.is_some()
                && (held.packet_id, held.qos) == (publish.packet_id, publish.qos)
                && (&*held.subject, &*held.payload) == (publish.subject, publish.payload)
        };
        self.held.iter().any(same)
    }

    /// Nothing is held, and the mode is one that only a new connection ends.
    pub(super) fn wants_reconnect(&self) -> bool {
        self.mode == Mode::Discarding && self.held.is_empty()
    }

    /// A new connection: if the broker kept the session, it sends what is held at quality of
    /// service 1 and 2 again; otherwise that exists nowhere else, and its packet identifiers mean
    /// nothing any more.
    pub(super) fn reconnected(&mut self, session_present: bool) {
        if session_present {
            self.leave_to_broker();
        }
        for held in &mut self.held {
            held.ack = None;
            if !session_present {
                held.packet_id = 0;
            }
        }
        self.mode = match self.held.is_empty() {
            true => Mode::Flowing,
            false => Mode::Holding,
        };
    }

    /// Forgets what is held and will come again.
    pub(super) fn leave_to_broker(&mut self) {
        self.held.retain(|held| held.qos == 0);
        self.held_bytes = self.held.iter().map(|h| h.inbound().held_bytes()).sum();
    }

    /// The source stops: forgets what is held, and returns how much of it will not come again.
    pub(super) fn abandon(&mut self) -> u64 {
        let lost = self.held.iter().filter(|held| held.qos == 0).count();
        self.held.clear();
        self.held_bytes = 0;
        lost as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inbound(qos: u8, packet_id: u16, payload: &[u8]) -> Inbound<'_> {
        Inbound {
            kind: PayloadKind::Opaque,
            qos,
            dup: false,
            packet_id,
            subject: "t",
            payload,
            received: Stamp::default(),
        }
    }

    /// A log with room for so many records; takes the packet identifiers down.
    struct Room {
        left: usize,
        appended: Vec<u16>,
    }

    impl Room {
        fn append(&mut self, inbound: &Inbound<'_>) -> Result<(), AppendError> {
            if self.left == 0 {
                return Err(AppendError::Full);
            }
            self.left -= 1;
            self.appended.push(inbound.packet_id);
            Ok(())
        }
    }

    fn drain(intake: &mut Intake, room: &mut Room) {
        while let Retried::Appended(..) = intake.retry(|i| room.append(i)).unwrap() {}
    }

    #[test]
    fn a_full_log_holds_then_discards_and_asks_for_a_reconnect_once_it_has_room() {
        let mut intake = Intake::new(2 * inbound(1, 1, b"x").held_bytes());
        let mut room = Room {
            left: 1,
            appended: vec![],
        };
        let offer = |intake: &mut Intake, room: &mut Room, id| {
            intake
                .offer(&inbound(1, id, b"x"), |i| room.append(i))
                .unwrap()
        };
        assert_eq!(offer(&mut intake, &mut room, 1), Offered::Appended(()));
        assert_eq!(offer(&mut intake, &mut room, 2), Offered::Held);
        assert_eq!(offer(&mut intake, &mut room, 3), Offered::Held);
        assert_eq!(offer(&mut intake, &mut room, 4), Offered::Discarded);
        room.left = 10;
        drain(&mut intake, &mut room);
        assert!(intake.wants_reconnect());
        assert_eq!(offer(&mut intake, &mut room, 5), Offered::Discarded);
        intake.reconnected(true);
        assert_eq!(offer(&mut intake, &mut room, 4), Offered::Appended(()));
        assert_eq!(room.appended, [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_held_survives_a_reconnect_only_if_the_broker_will_not_send_it_again() {
        for (session_present, kept) in [(true, vec![0]), (false, vec![1, 0])] {
            let mut intake = Intake::new(HELD_BYTES_MAX);
            let mut room = Room {
                left: 0,
                appended: vec![],
            };
            for (qos, id) in [(1, 7), (0, 0)] {
                intake
                    .offer(&inbound(qos, id, b""), |i| room.append(i))
                    .unwrap();
            }
            intake.reconnected(session_present);
            room.left = 10;
            let mut appended = Vec::new();
            while let Retried::Appended((), held) = intake.retry(|i| room.append(i)).unwrap() {
                assert_eq!((held.ack, held.packet_id), (None, 0));
                appended.push(held.qos);
            }
            assert_eq!(appended, kept);
            assert_eq!(intake.mode(), Mode::Flowing);
        }
    }

    #[test]
    fn nothing_is_set_aside_ahead_of_what_is_held() {
        let mut intake = Intake::new(HELD_BYTES_MAX);
        assert!(intake.may_set_aside(1));
        intake
            .offer(&inbound(1, 1, b""), |_| Err::<(), _>(AppendError::Full))
            .unwrap();
        assert!(intake.may_set_aside(0));
        assert!(!intake.may_set_aside(2));
        assert_eq!(intake.mode(), Mode::Discarding);
    }

    #[test]
    fn a_broker_that_loses_session_after_session_does_not_grow_memory() {
        let mut intake = Intake::new(HELD_BYTES_MAX);
        let mut note = inbound(0, 0, b"note");
        note.kind = PayloadKind::Gap;
        for _ in 0..3 {
            intake.hold_note(&note);
        }
        assert_eq!(intake.held.len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish { qos: u8, bytes: usize },
        Room(usize),
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u8..3, 0usize..400).prop_map(|(qos, bytes)| Step::Publish { qos, bytes }),
            2 => (0usize..8).prop_map(Step::Room),
            1 => Just(Step::Reconnect),
        ]
    }

    /// A broker that keeps what is not acknowledged and sends it again, in order.
    #[derive(Default)]
    struct Broker {
        unacknowledged: Vec<(u16, u8, usize)>,
        next_id: u16,
        sent: Vec<u16>,
        dropped: Vec<u16>,
        /// Those at quality of service 0.
        zeros: Vec<u16>,
    }

    proptest! {
        #[test]
        fn each_publish_is_appended_once_in_order_or_dropped_and_counted(
            steps in proptest::collection::vec(step(), 1..120),
        ) {
            let held_bytes_max = 2000;
            let mut intake = Intake::new(held_bytes_max);
            let mut room = Room { left: 0, appended: vec![] };
            let mut broker = Broker::default();
            for step in steps.into_iter().chain([Step::Room(usize::MAX), Step::Reconnect]) {
                match step {
                    Step::Publish { qos, bytes } => {
                        broker.next_id += 1;
                        let id = broker.next_id;
                        broker.sent.push(id);
                        publish(&mut intake, &mut room, &mut broker, (id, qos, bytes));
                    }
                    Step::Room(more) => {
                        room.left = room.left.saturating_add(more);
                        drain(&mut intake, &mut room);
                    }
                    Step::Reconnect => {
                        intake.reconnected(true);
                        drain(&mut intake, &mut room);
                        let appended = room.appended.clone();
                        let again = std::mem::take(&mut broker.unacknowledged);
                        for publication in again {
                            // What was appended before the connection ended counts as acknowledged.
                            if !appended.contains(&publication.0) {
                                publish(&mut intake, &mut room, &mut broker, publication);
                            }
                        }
                    }
                }
                prop_assert!(intake.held_bytes <= held_bytes_max);
            }
            // The last steps gave room for everything.
            let expected: Vec<u16> =
                broker.sent.iter().copied().filter(|id| !broker.dropped.contains(id)).collect();
            let mut appended = room.appended.clone();
            appended.sort_unstable();
            prop_assert_eq!(&appended, &expected);
            // Quality of service 1 and 2 in order among themselves, whatever happened.
            let ordered: Vec<u16> =
                room.appended.iter().copied().filter(|id| !broker.zeros.contains(id)).collect();
            prop_assert!(ordered.is_sorted(), "{:?}", ordered);
        }
    }

    fn publish(
        intake: &mut Intake,
        room: &mut Room,
        broker: &mut Broker,
        (id, qos, bytes): (u16, u8, usize),
    ) {
        let payload = vec![0; bytes];
        let offered = intake.offer(&inbound(qos, id, &payload), |i| room.append(i));
        match offered.unwrap() {
            Offered::Dropped => {
                assert_eq!(qos, 0);
                broker.dropped.push(id);
            }
            Offered::Appended(()) | Offered::Held | Offered::Discarded => {}
            Offered::TooLarge => unreachable!("the log never says so here"),
        }
        if qos > 0 {
            broker.unacknowledged.push((id, qos, bytes));
        } else {
            broker.zeros.push(id);
        }
    }
}
