//! The device's end of the link: keeps messages until the gateway has them on disk.
//!
//! A ring of the newest messages; the oldest `window` of them may be on their way. When the timer
//! runs out, everything from the oldest unacknowledged message on is sent again (go-back-N): a
//! device then needs no memory of what arrived out of order, and the gateway none either.
//!
//! ```text
//!   base                     base + held
//!    ├── sent ──┼── to send ──┤            sent ≤ window, held ≤ SLOTS
//!    ▲ ACK moves base up                   a full ring drops its oldest: base + 1
//!    ◀ timer: sent = 0, timer doubles
//! ```
//!
//! The driver's duty: give [`Sender::poll`] a buffer and write what comes back; call
//! [`Sender::transmitted`] when the last byte has left; pass what the decoder yields to
//! [`Sender::hear`]; call `poll` again when a message was pushed, something was heard, or the time
//! it named has come. Milliseconds come from any clock that doesn't go back.

use crate::frame::{self, EncodeError, Frame, Header, Kind, PAYLOAD_BYTES_MAX};

/// Messages in flight unless the device says otherwise.
pub const WINDOW_DEFAULT: u8 = 8;
/// Shortest wait for an ACK: well above a group commit on slow flash.
const RESEND_MS_MIN: u64 = 500;
/// The wait doubles this many times, to 16 times the first.
const BACKOFF_MAX: u32 = 4;
/// Start bit, eight data bits, stop bit.
const BITS_PER_BYTE: u64 = 10;

/// What a sender is told about itself and its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// 0 point to point, 1–254 a node on a shared bus.
    pub address: u8,
    /// This boot: a stored boot counter or hardware randomness.
    pub session: u16,
    /// Most messages in flight; 1 to the number of slots.
    pub window: u8,
    /// Speed of the line; 0 if it has none that matters.
    pub bits_per_second: u32,
    /// Nobody answers: each message is sent once, with backlog 0.
    pub one_way: bool,
}

impl Config {
    /// A device that hears ACKs, with the usual window, on a line of unknown speed.
    #[must_use]
    pub const fn new(address: u8, session: u16) -> Self {
        Self {
            address,
            session,
            window: WINDOW_DEFAULT,
            bits_per_second: 0,
            one_way: false,
        }
    }
}

/// What became of a message that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its number in the session.
    pub sequence: u32,
    /// The ring was full: its oldest message, with this number, is lost.
    pub overwritten: Option<u32>,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The payload is larger than a slot.
    PayloadTooLong {
        /// Its size.
        payload_bytes: usize,
        /// Size of a slot.
        payload_bytes_max: usize,
    },
    /// The kind does not carry telemetry.
    NotData {
        /// The kind.
        kind: Kind,
    },
}

impl core::fmt::Display for PushError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::PayloadTooLong {
                payload_bytes,
                payload_bytes_max,
            } => write!(
                f,
                "a payload of {payload_bytes} bytes is over the sender's limit of {payload_bytes_max}"
            ),
            Self::NotData { kind } => write!(f, "a device does not send {kind:?} frames"),
        }
    }
}

impl core::error::Error for PushError {}

/// What the driver is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this many bytes of the buffer to the line, then call [`Sender::transmitted`].
    Send(usize),
    /// Nothing before this time, in milliseconds.
    Wait(u64),
    /// Nothing before something is pushed, transmitted or heard.
    Idle,
}

/// What a frame from the gateway meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// So many messages are durable at the gateway and gone from the ring.
    Acknowledged(u8),
    /// The time, as Unix milliseconds.
    Time(u64),
    /// The gateway has messages of this session that this boot has not sent: an earlier boot had
    /// the same session. The device should [`restart`](Sender::restart) with another.
    SessionClash,
    /// Nothing: an old ACK, for another device or session, or one's own echo.
    Ignored,
}

#[derive(Clone, Copy, Debug)]
struct Slot<const PAYLOAD_MAX: usize> {
    kind: Kind,
    len: u16,
    payload: [u8; PAYLOAD_MAX],
}

impl<const PAYLOAD_MAX: usize> Slot<PAYLOAD_MAX> {
    const EMPTY: Self = Self {
        kind: Kind::Opaque,
        len: 0,
        payload: [0; PAYLOAD_MAX],
    };

    fn payload(&self) -> &[u8] {
        &self.payload[..usize::from(self.len)]
    }
}

/// A sender with room for `SLOTS` (1 to 255) messages of up to `PAYLOAD_MAX` bytes.
#[derive(Clone, Debug)]
pub struct Sender<const SLOTS: usize, const PAYLOAD_MAX: usize> {
    config: Config,
    slots: [Slot<PAYLOAD_MAX>; SLOTS],
    /// Slot of the oldest message.
    oldest: usize,
    /// Number of the oldest message; of the next one if none is held.
    base: u32,
    /// Messages held.
    held: u8,
    /// How many of them, from the oldest, are in flight.
    sent: u8,
    /// How many of them were ever sent: an ACK beyond is not for this boot.
    sent_ever: u8,
    /// When to go back; `None` before the last byte has left.
    deadline_ms: Option<u64>,
    /// How often the wait has doubled.
    backoff: u32,
    resent: u64,
}

impl<const SLOTS: usize, const PAYLOAD_MAX: usize> Sender<SLOTS, PAYLOAD_MAX> {
    /// A sender at the start of a session.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        const {
            assert!(SLOTS >= 1 && SLOTS <= 255 && PAYLOAD_MAX <= PAYLOAD_BYTES_MAX);
        }
        Self {
            config,
            slots: [Slot::EMPTY; SLOTS],
            oldest: 0,
            base: 0,
            held: 0,
            sent: 0,
            sent_ever: 0,
            deadline_ms: None,
            backoff: 0,
            resent: 0,
        }
    }

    /// Gives it another configuration; nothing has been pushed yet.
    #[cfg(feature = "c-api")]
    pub(crate) const fn configure(&mut self, config: Config) {
        self.config = config;
    }

    /// Keeps a message to be sent. If the ring is full, its oldest message is given up.
    ///
    /// # Errors
    /// [`PushError`]; nothing was changed.
    pub fn push(&mut self, kind: Kind, payload: &[u8]) -> Result<Pushed, PushError> {
        if !kind.is_data() {
            return Err(PushError::NotData { kind });
        }
        if payload.len() > PAYLOAD_MAX {
            return Err(PushError::PayloadTooLong {
                payload_bytes: payload.len(),
                payload_bytes_max: PAYLOAD_MAX,
            });
        }
        let overwritten = self.is_full().then_some(self.base);
        if overwritten.is_some() {
            self.drop_oldest(1);
        }
        let sequence = self.next_sequence();
        let slot = self.slot_mut(self.held);
        slot.kind = kind;
        slot.len = u16::try_from(payload.len()).expect("at most 1024");
        slot.payload[..payload.len()].copy_from_slice(payload);
        self.held += 1;
        Ok(Pushed {
            sequence,
            overwritten,
        })
    }

    /// What to do at `now_ms`. A frame to send is written to `out`, for which
    /// [`frame::frame_bytes_max`]`(PAYLOAD_MAX)` bytes suffice.
    ///
    /// # Errors
    /// [`EncodeError::BufferTooSmall`]; nothing was changed.
    pub fn poll(&mut self, now_ms: u64, out: &mut [u8]) -> Result<Action, EncodeError> {
        if self.deadline_ms.is_some_and(|at| at <= now_ms) {
            self.go_back();
        }
        if self.sent < self.held.min(self.window()) {
            return self.send_next(out).map(Action::Send);
        }
        Ok(self.deadline_ms.map_or(Action::Idle, Action::Wait))
    }

    /// The last byte of the frame that [`poll`](Self::poll) gave has left: the wait for an ACK
    /// begins, if none is waited for. One that has begun goes on: a full ring frees a place in the
    /// window with each message that it gives up, and what is then sent would put off for ever
    /// that the oldest is sent again.
    pub fn transmitted(&mut self, now_ms: u64) {
        if self.sent > 0 && self.deadline_ms.is_none() {
            self.deadline_ms = Some(now_ms.saturating_add(self.wait_ms()));
        }
    }

    /// Takes a frame that came down the line.
    pub fn hear(&mut self, frame: &Frame<'_>, now_ms: u64) -> Heard {
        let header = &frame.header;
        if header.address != self.config.address || header.session != self.config.session {
            return Heard::Ignored;
        }
        match header.kind {
            Kind::Ack if frame.payload.is_empty() => self.acknowledge(header.sequence, now_ms),
            Kind::Time => frame.unix_ms().map_or(Heard::Ignored, Heard::Time),
            Kind::Ack | Kind::Senml | Kind::Opaque => Heard::Ignored,
        }
    }

    /// Begins another session. What the ring holds is numbered anew from 0 and sent again.
    pub fn restart(&mut self, session: u16) {
        self.config.session = session;
        self.base = 0;
        self.sent = 0;
        self.sent_ever = 0;
        self.deadline_ms = None;
        self.backoff = 0;
    }

    /// The session now running.
    #[must_use]
    pub fn session(&self) -> u16 {
        self.config.session
    }

    /// Messages held: not acknowledged, or in a one-way sender not sent.
    #[must_use]
    pub fn held(&self) -> usize {
        usize::from(self.held)
    }

    /// Whether the next push gives up the oldest message.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held() == SLOTS
    }

    /// The number that the next message gets.
    #[must_use]
    pub fn next_sequence(&self) -> u32 {
        self.base.wrapping_add(u32::from(self.held))
    }

    /// Frames sent again so far.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// A sender whose first message has the number `sequence`.
    #[cfg(test)]
    pub(super) fn starting_at(config: Config, sequence: u32) -> Self {
        let mut sender = Self::new(config);
        sender.base = sequence;
        sender
    }

    fn send_next(&mut self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let slot = self.slot(self.sent);
        let header = Header {
            kind: slot.kind,
            address: self.config.address,
            session: self.config.session,
            sequence: self.base.wrapping_add(u32::from(self.sent)),
            backlog: self.sent,
        };
        let used = frame::encode(header, slot.payload(), out)?;
        if self.config.one_way {
            self.drop_oldest(1);
            return Ok(used);
        }
        self.sent += 1;
        if self.sent > self.sent_ever {
            self.sent_ever = self.sent;
        } else {
            self.resent += 1;
        }
        Ok(used)
    }

    fn acknowledge(&mut self, next: u32, now_ms: u64) -> Heard {
        let beyond = next.wrapping_sub(self.base);
        if beyond == 0 || beyond > u32::MAX / 2 {
            return Heard::Ignored;
        }
        match u8::try_from(beyond) {
            Ok(count) if count <= self.sent_ever => {
                self.drop_oldest(count);
                self.backoff = 0;
                self.deadline_ms = (self.sent > 0).then(|| now_ms.saturating_add(self.wait_ms()));
                Heard::Acknowledged(count)
            }
            Ok(_) | Err(_) => Heard::SessionClash,
        }
    }

    fn go_back(&mut self) {
        self.sent = 0;
        self.deadline_ms = None;
        self.backoff = (self.backoff + 1).min(BACKOFF_MAX);
    }

    fn drop_oldest(&mut self, count: u8) {
        self.oldest = (self.oldest + usize::from(count)) % SLOTS;
        self.base = self.base.wrapping_add(u32::from(count));
        self.held -= count;
        self.sent = self.sent.saturating_sub(count);
        self.sent_ever = self.sent_ever.saturating_sub(count);
        if self.sent == 0 {
            self.deadline_ms = None;
        }
    }

    fn window(&self) -> u8 {
        self.config.window.max(1)
    }

    fn slot(&self, from_oldest: u8) -> &Slot<PAYLOAD_MAX> {
        &self.slots[(self.oldest + usize::from(from_oldest)) % SLOTS]
    }

    fn slot_mut(&mut self, from_oldest: u8) -> &mut Slot<PAYLOAD_MAX> {
        &mut self.slots[(self.oldest + usize::from(from_oldest)) % SLOTS]
    }

    /// How long to wait for an ACK now, in milliseconds.
    fn wait_ms(&self) -> u64 {
        let first_ms = RESEND_MS_MIN.max(2 * self.window_ms());
        let percent = 75 + u64::from(mix(self.config.address, self.backoff)) % 51;
        (first_ms << self.backoff) * percent / 100
    }

    /// Time that the messages of the window take on the line.
    fn window_ms(&self) -> u64 {
        if self.config.bits_per_second == 0 {
            return 0;
        }
        let bytes: usize = (0..self.held.min(self.window()))
            .map(|at| frame::frame_bytes_max(usize::from(self.slot(at).len)))
            .sum();
        let bits = bytes as u64 * BITS_PER_BYTE;
        (bits * 1000).div_ceil(u64::from(self.config.bits_per_second))
    }
}

/// Spreads addresses, and the attempts of one address, so that two nodes that collided once do not
/// collide again. (Multiplication by a constant near 2³² / φ.)
fn mix(address: u8, attempt: u32) -> u32 {
    (u32::from(address) << 8 | attempt)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9)
        >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::{Decoder, Outcome};

    type Small = Sender<4, 16>;

    fn sender(window: u8) -> Small {
        Small::new(Config {
            window,
            ..Config::new(0, 7)
        })
    }

    /// Everything that may be sent at `now_ms`, as (sequence, backlog).
    fn sent(sender: &mut Small, now_ms: u64) -> Vec<(u32, u8)> {
        let mut headers = Vec::new();
        let mut out = [0; 64];
        while let Action::Send(used) = sender.poll(now_ms, &mut out).expect("fits") {
            let mut decoder: Decoder = Decoder::new();
            let frame = out[..used]
                .iter()
                .find_map(|&byte| match decoder.push(byte) {
                    Outcome::Frame(frame) => Some(frame.header),
                    Outcome::Pending | Outcome::Rejected(_) => None,
                });
            let header = frame.expect("a whole frame");
            headers.push((header.sequence, header.backlog));
            sender.transmitted(now_ms);
        }
        headers
    }

    fn ack(sender: &mut Small, next: u32, now_ms: u64) -> Heard {
        let frame = Frame {
            header: Header::ack(0, 7, next),
            payload: &[],
        };
        sender.hear(&frame, now_ms)
    }

    fn deadline(sender: &mut Small, now_ms: u64) -> u64 {
        match sender.poll(now_ms, &mut [0; 64]).expect("fits") {
            Action::Wait(at) => at,
            other => panic!("expected a wait, got {other:?}"),
        }
    }

    fn push(sender: &mut Small, count: usize) {
        for _ in 0..count {
            sender.push(Kind::Opaque, b"x").expect("fits");
        }
    }

    #[test]
    fn no_more_than_the_window_is_in_flight_and_an_ack_lets_the_rest_go() {
        let mut sender = sender(2);
        push(&mut sender, 4);
        assert_eq!(sent(&mut sender, 0), [(0, 0), (1, 1)]);
        assert_eq!(ack(&mut sender, 1, 10), Heard::Acknowledged(1));
        assert_eq!(sent(&mut sender, 10), [(2, 1)]);
        assert_eq!(ack(&mut sender, 3, 20), Heard::Acknowledged(2));
        assert_eq!(sent(&mut sender, 20), [(3, 0)]);
        assert_eq!(ack(&mut sender, 4, 30), Heard::Acknowledged(1));
        assert_eq!(sender.held(), 0);
        assert_eq!(sender.poll(30, &mut [0; 64]), Ok(Action::Idle));
    }

    #[test]
    fn without_an_ack_everything_from_the_oldest_on_is_sent_again_ever_more_slowly() {
        let mut sender = sender(3);
        push(&mut sender, 3);
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            assert_eq!(sent(&mut sender, now), [(0, 0), (1, 1), (2, 2)]);
            let at = deadline(&mut sender, now);
            waits.push(at - now);
            now = at;
        }
        for (wait, first) in waits.iter().zip([500, 1000, 2000, 4000, 8000, 8000, 8000]) {
            assert!((first * 3 / 4..=first * 5 / 4).contains(wait), "{waits:?}");
        }
        assert_eq!(sender.resent(), 18);
        sent(&mut sender, now);
        ack(&mut sender, 1, now);
        assert!(
            deadline(&mut sender, now) - now <= 625,
            "an ACK ends the backoff"
        );
    }

    #[test]
    fn the_wait_begins_when_the_last_byte_has_left() {
        let mut sender = sender(1);
        push(&mut sender, 1);
        assert!(matches!(sender.poll(0, &mut [0; 64]), Ok(Action::Send(_))));
        assert_eq!(sender.poll(5_000, &mut [0; 64]), Ok(Action::Idle));
        sender.transmitted(5_000);
        assert!(deadline(&mut sender, 5_000) >= 5_375);
    }

    #[test]
    fn a_slow_line_waits_for_twice_the_windows_time_on_it() {
        let mut sender = Small::new(Config {
            bits_per_second: 300,
            ..Config::new(0, 7)
        });
        push(&mut sender, 4);
        sent(&mut sender, 0);
        // 4 frames of at most 16 bytes and 10 bits at 300 bit/s: 2,134 ms.
        assert!(deadline(&mut sender, 0) >= 2 * 2_134 * 3 / 4);
    }

    #[test]
    fn a_full_ring_gives_up_its_oldest_message_and_says_so() {
        let mut sender = sender(8);
        push(&mut sender, 4);
        sent(&mut sender, 0);
        let pushed = sender.push(Kind::Opaque, b"new").expect("fits");
        assert_eq!(
            pushed,
            Pushed {
                sequence: 4,
                overwritten: Some(0)
            }
        );
        assert_eq!(sent(&mut sender, 1), [(4, 3)]);
        let at = deadline(&mut sender, 1);
        assert_eq!(sent(&mut sender, at), [(1, 0), (2, 1), (3, 2), (4, 3)]);
    }

    #[test]
    fn a_ring_that_overflows_faster_than_the_timer_runs_still_sends_its_oldest_again() {
        let mut sender = sender(2);
        push(&mut sender, 4);
        sent(&mut sender, 0);
        for now in (100..2_000).step_by(100) {
            push(&mut sender, 1);
            if sent(&mut sender, now).contains(&(now as u32 / 100, 0)) {
                return;
            }
        }
        panic!("the oldest was sent once and never again");
    }

    #[test]
    fn an_ack_that_is_old_foreign_or_malformed_changes_nothing() {
        let mut sender = sender(2);
        push(&mut sender, 4);
        sent(&mut sender, 0);
        ack(&mut sender, 1, 0);
        assert_eq!(ack(&mut sender, 1, 0), Heard::Ignored);
        assert_eq!(ack(&mut sender, 0, 0), Heard::Ignored);
        for header in [
            Header::ack(1, 7, 2),
            Header::ack(0, 8, 2),
            Header {
                kind: Kind::Opaque,
                ..Header::ack(0, 7, 2)
            },
        ] {
            let frame = Frame {
                header,
                payload: &[],
            };
            assert_eq!(sender.hear(&frame, 0), Heard::Ignored);
        }
        let padded = Frame {
            header: Header::ack(0, 7, 2),
            payload: b"?",
        };
        assert_eq!(sender.hear(&padded, 0), Heard::Ignored);
        assert_eq!(sender.held(), 3);
    }

    #[test]
    fn an_ack_for_what_was_never_sent_is_a_session_clash_and_a_restart_sends_all_again() {
        let mut sender = sender(2);
        push(&mut sender, 3);
        sent(&mut sender, 0);
        assert_eq!(ack(&mut sender, 3, 0), Heard::SessionClash);
        assert_eq!(ack(&mut sender, 1000, 0), Heard::SessionClash);
        assert_eq!(ack(&mut sender, 1, 0), Heard::Acknowledged(1));
        sender.restart(8);
        assert_eq!(sender.session(), 8);
        assert_eq!(sent(&mut sender, 0), [(0, 0), (1, 1)]);
    }

    #[test]
    fn an_ack_that_comes_after_going_back_still_counts() {
        let mut sender = sender(4);
        push(&mut sender, 4);
        sent(&mut sender, 0);
        let at = deadline(&mut sender, 0);
        assert!(matches!(sender.poll(at, &mut [0; 64]), Ok(Action::Send(_))));
        assert_eq!(ack(&mut sender, 3, at), Heard::Acknowledged(3));
        assert_eq!(sent(&mut sender, at), [(3, 0)]);
    }

    #[test]
    fn a_one_way_sender_sends_each_message_once_with_no_backlog() {
        let mut sender = Small::new(Config {
            one_way: true,
            ..Config::new(0, 7)
        });
        push(&mut sender, 3);
        assert_eq!(sent(&mut sender, 0), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(sender.held(), 0);
        assert_eq!(sender.poll(99_999, &mut [0; 64]), Ok(Action::Idle));
    }

    #[test]
    fn what_no_slot_holds_and_what_no_device_sends_is_refused() {
        let mut sender = sender(2);
        assert_eq!(
            sender.push(Kind::Opaque, &[0; 17]),
            Err(PushError::PayloadTooLong {
                payload_bytes: 17,
                payload_bytes_max: 16
            })
        );
        assert_eq!(
            sender.push(Kind::Ack, b""),
            Err(PushError::NotData { kind: Kind::Ack })
        );
    }

    #[test]
    fn the_jitter_of_every_address_and_attempt_is_within_a_quarter_and_spread() {
        let waits: std::collections::BTreeSet<u64> = (0..=254)
            .map(|address| Small::new(Config::new(address, 1)).wait_ms())
            .collect();
        assert!(waits.first().is_some_and(|&ms| ms >= 375));
        assert!(waits.last().is_some_and(|&ms| ms <= 625));
        assert!(waits.len() > 40);
    }

    #[test]
    fn a_frame_that_does_not_fit_the_buffer_is_not_lost() {
        let mut sender = sender(2);
        push(&mut sender, 1);
        assert!(sender.poll(0, &mut [0; 8]).is_err());
        assert_eq!(sent(&mut sender, 0), [(0, 0)]);
    }
}
