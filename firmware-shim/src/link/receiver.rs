//! The gateway's end of the link, for one device: each message once, in order, acknowledged when
//! it is durable and not before.
//!
//! ```text
//!            durable            next
//!   ────────────┼────────────────┼──────────────▶ sequence
//!     synced    │ taken, not yet │ expected; what is ahead of it and still
//!     (ACKed)   │ synced         │ held by the device is left to be sent again
//! ```
//!
//! A message is handed out in two steps: [`Receiver::receive`] says that a frame is the next one,
//! and [`Receiver::taken`] that it has found a place in the log. If there was none, nothing moves,
//! and the device, unacknowledged, sends it again. Once it is synced, [`Receiver::committed`] moves
//! `durable`, which is all that an ACK ever carries (L4).
//!
//! What was lost before it got here is counted with the next message taken ([`Take::gap`]), so that
//! the caller can put the mark where the messages are missing. When the log loses what was taken
//! ([`Receiver::rolled_back`]), or the gateway is restarted from [`LinkState`], the same frames
//! lead to the same counts.

use super::LinkState;
use crate::frame::{Frame, Header};

/// A frame further than this behind `next` is a reboot: a device's ring holds no more messages.
const RING_MAX: u32 = 255;
/// Shortest time between ACKs where nothing was committed.
pub const ACK_INTERVAL_MS_MIN: u64 = 50;
/// First wait before TIME is repeated; it doubles to [`TIME_INTERVAL_MS_MAX`]. Chosen by eye.
const TIME_INTERVAL_MS_MIN: u64 = 1_000;
/// Longest wait before TIME is repeated to a device that is silent.
const TIME_INTERVAL_MS_MAX: u64 = 64_000;

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next message. Store it, then say [`Receiver::taken`].
    Take(Take),
    /// It has been taken before; an ACK will say how far that is durable.
    Duplicate,
    /// Older ones are missing and the device still holds them: they will come, and it again.
    Ahead,
    /// Not telemetry: an echo of what a gateway sends.
    Ignored,
}

/// The next message, and what is missing before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the frame is sent again for ever if it is never taken"]
pub struct Take {
    /// Its session.
    pub session: u16,
    /// Its number.
    pub sequence: u32,
    /// [`Frame::message_crc`].
    pub crc: u32,
    /// Messages lost for good before it, since the one taken last.
    pub gap: u64,
    /// Which of the receiver's sessions: a reboot may choose the same number again.
    epoch: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeState {
    /// The device has not been heard since the gateway started.
    Unheard,
    /// To be sent.
    Due,
    /// Sent, and nothing heard since.
    Sent { again_ms: u64, interval_ms: u64 },
    /// The device has it.
    Done,
}

/// The receiver for one device.
#[derive(Clone, Debug)]
pub struct Receiver {
    address: u8,
    /// What the log holds of the device; `None` if it was never seen.
    stored: Option<LinkState>,
    /// What has been taken; `None` if it was never heard.
    accepted: Option<LinkState>,
    /// Everything of the current session below this is durable, or lost for good.
    durable: u32,
    /// Messages lost since the last one taken.
    gap: u64,
    /// Counts the sessions begun.
    epoch: u32,
    /// Something was committed since the last ACK.
    commit_to_ack: bool,
    /// A duplicate, or a frame ahead, wants an answer.
    answer_wanted: bool,
    last_ack_ms: Option<u64>,
    time: TimeState,
}

impl Receiver {
    /// The receiver for the device at `address`, from what is stored of it.
    #[must_use]
    pub fn new(address: u8, stored: Option<LinkState>) -> Self {
        Self {
            address,
            stored,
            accepted: stored,
            durable: stored.map_or(0, |state| state.next),
            gap: 0,
            epoch: 0,
            commit_to_ack: false,
            answer_wanted: false,
            last_ack_ms: None,
            time: TimeState::Unheard,
        }
    }

    /// Judges a frame from the device's address.
    pub fn receive(&mut self, frame: &Frame<'_>) -> Verdict {
        let header = &frame.header;
        if !header.kind.is_data() {
            return Verdict::Ignored;
        }
        self.heard();
        let crc = frame.message_crc();
        let mut state = match self.accepted {
            Some(state) if !is_new_session(&state, header, crc) => state,
            Some(_) | None => self.begin_session(header),
        };
        let ahead = header.sequence.wrapping_sub(state.next);
        if ahead > u32::MAX / 2 {
            self.answer_wanted = true;
            return Verdict::Duplicate;
        }
        let backlog = u32::from(header.backlog);
        if ahead > backlog {
            state = self.skip(state, ahead - backlog);
        }
        self.accepted = Some(state);
        if header.sequence != state.next {
            self.answer_wanted = true;
            return Verdict::Ahead;
        }
        Verdict::Take(Take {
            session: header.session,
            sequence: header.sequence,
            crc,
            gap: self.gap,
            epoch: self.epoch,
        })
    }

    /// The message has a place in the log; it is not durable yet.
    pub fn taken(&mut self, take: &Take) {
        let state = self.accepted.get_or_insert_default();
        state.accept(take.session, take.sequence, take.crc);
        self.gap = 0;
    }

    /// The message is durable, and so is everything taken before it.
    pub fn committed(&mut self, take: &Take) {
        let stored = self.stored.get_or_insert_default();
        stored.accept(take.session, take.sequence, take.crc);
        if self.epoch == take.epoch {
            self.durable = take.sequence.wrapping_add(1);
            self.commit_to_ack = true;
        }
    }

    /// What was taken and not committed is lost: it is expected again.
    pub fn rolled_back(&mut self) {
        self.accepted = self.stored;
        self.durable = self.stored.map_or(0, |state| state.next);
        self.epoch = self.epoch.wrapping_add(1);
        self.gap = 0;
    }

    /// The ACK that is due at `now_ms`, if one is. The caller sends it.
    #[must_use]
    pub fn ack(&mut self, now_ms: u64) -> Option<Header> {
        let state = self.accepted?;
        if self.ack_due_ms()? > now_ms {
            return None;
        }
        self.commit_to_ack = false;
        self.answer_wanted = false;
        self.last_ack_ms = Some(now_ms);
        Some(Header::ack(self.address, state.session, self.durable))
    }

    /// When [`ack`](Self::ack) has one to send; `None` if nothing wants one.
    #[must_use]
    pub fn ack_due_ms(&self) -> Option<u64> {
        if self.commit_to_ack {
            return Some(0);
        }
        let interval_over = |last: u64| last.saturating_add(ACK_INTERVAL_MS_MIN);
        self.answer_wanted
            .then(|| self.last_ack_ms.map_or(0, interval_over))
    }

    /// The header of the TIME frame that is due at `now_ms`, if one is. The caller asks only while
    /// its clock is synced, and sends it with [`time_payload`](crate::frame::time_payload).
    #[must_use]
    pub fn time(&mut self, now_ms: u64) -> Option<Header> {
        let session = self.accepted?.session;
        if self.time_due_ms()? > now_ms {
            return None;
        }
        let interval_ms = match self.time {
            TimeState::Sent { interval_ms, .. } => (2 * interval_ms).min(TIME_INTERVAL_MS_MAX),
            TimeState::Unheard | TimeState::Due | TimeState::Done => TIME_INTERVAL_MS_MIN,
        };
        self.time = TimeState::Sent {
            again_ms: now_ms.saturating_add(interval_ms),
            interval_ms,
        };
        Some(Header::time(self.address, session))
    }

    /// When [`time`](Self::time) has one to send; `None` if the device has the time, or was not
    /// heard yet.
    #[must_use]
    pub fn time_due_ms(&self) -> Option<u64> {
        match self.time {
            TimeState::Unheard | TimeState::Done => None,
            TimeState::Due => Some(0),
            TimeState::Sent { again_ms, .. } => Some(again_ms),
        }
    }

    /// The wall clock has stepped: a device that was heard is told the time again.
    pub fn clock_stepped(&mut self) {
        if self.time != TimeState::Unheard {
            self.time = TimeState::Due;
        }
    }

    fn heard(&mut self) {
        self.time = match self.time {
            TimeState::Unheard | TimeState::Due => TimeState::Due,
            TimeState::Sent { .. } | TimeState::Done => TimeState::Done,
        };
    }

    /// A device that was seen before has lost what is below its oldest message; one that is new
    /// may have sent that to somebody else.
    fn begin_session(&mut self, header: &Header) -> LinkState {
        let oldest = header.sequence.wrapping_sub(u32::from(header.backlog));
        if self.accepted.is_some() {
            self.gap = self.gap.saturating_add(u64::from(oldest));
        }
        self.durable = oldest;
        self.epoch = self.epoch.wrapping_add(1);
        self.commit_to_ack = false;
        self.time = TimeState::Due;
        LinkState {
            session: header.session,
            next: oldest,
            ..LinkState::default()
        }
    }

    /// The next `lost` messages will never come.
    fn skip(&mut self, state: LinkState, lost: u32) -> LinkState {
        self.gap = self.gap.saturating_add(u64::from(lost));
        LinkState {
            next: state.next.wrapping_add(lost),
            crcs_len: 0,
            ..state
        }
    }
}

/// Whether the device has booted since `state`: another session, or the same one by chance, which
/// shows in a sequence that no ring reaches back to or in another message of the same number.
fn is_new_session(state: &LinkState, header: &Header, crc: u32) -> bool {
    if header.session != state.session {
        return true;
    }
    let behind = state.next.wrapping_sub(header.sequence);
    if behind == 0 || behind > u32::MAX / 2 {
        return false;
    }
    behind > RING_MAX
        || state
            .crc_of(header.sequence)
            .is_some_and(|kept| kept != crc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;

    fn frame(session: u16, sequence: u32, backlog: u8) -> Frame<'static> {
        Frame {
            header: Header {
                kind: Kind::Opaque,
                address: 3,
                session,
                sequence,
                backlog,
            },
            payload: b"x",
        }
    }

    fn receiver() -> Receiver {
        Receiver::new(3, None)
    }

    fn take(receiver: &mut Receiver, frame: &Frame<'_>) -> Take {
        match receiver.receive(frame) {
            Verdict::Take(take) => {
                receiver.taken(&take);
                take
            }
            other => panic!("{frame:?} is {other:?}"),
        }
    }

    /// Takes and commits `sequences` of session 1, sent one by one.
    fn stored(sequences: core::ops::Range<u32>) -> Receiver {
        let mut receiver = receiver();
        for sequence in sequences {
            let take = take(&mut receiver, &frame(1, sequence, 0));
            receiver.committed(&take);
        }
        let _ = receiver.ack(0);
        receiver
    }

    fn restarted(receiver: &Receiver) -> Receiver {
        Receiver::new(3, receiver.stored)
    }

    #[test]
    fn an_ack_carries_what_is_durable_and_never_what_is_only_taken() {
        let mut receiver = receiver();
        let first = take(&mut receiver, &frame(1, 0, 0));
        let second = take(&mut receiver, &frame(1, 1, 1));
        assert_eq!(receiver.ack(1_000), None);
        assert_eq!(receiver.receive(&frame(1, 0, 0)), Verdict::Duplicate);
        assert_eq!(receiver.ack(1_000), Some(Header::ack(3, 1, 0)));
        receiver.committed(&first);
        assert_eq!(receiver.ack(1_001), Some(Header::ack(3, 1, 1)));
        receiver.committed(&second);
        assert_eq!(receiver.ack(1_002), Some(Header::ack(3, 1, 2)));
        assert_eq!(receiver.ack(9_999), None);
    }

    #[test]
    fn one_commit_of_many_messages_is_one_ack() {
        let mut receiver = receiver();
        let takes: Vec<Take> = (0..5)
            .map(|n| take(&mut receiver, &frame(1, n, 0)))
            .collect();
        takes.iter().for_each(|take| receiver.committed(take));
        assert_eq!(receiver.ack(0), Some(Header::ack(3, 1, 5)));
        assert_eq!(receiver.ack(0), None);
    }

    #[test]
    fn duplicates_are_answered_at_most_every_50_ms() {
        let mut receiver = stored(0..3);
        assert_eq!(receiver.receive(&frame(1, 2, 0)), Verdict::Duplicate);
        assert_eq!(receiver.ack(49), None);
        assert_eq!(receiver.ack_due_ms(), Some(50));
        assert_eq!(receiver.receive(&frame(1, 2, 0)), Verdict::Duplicate);
        assert_eq!(receiver.ack(50), Some(Header::ack(3, 1, 3)));
        assert_eq!(receiver.ack(1_000), None);
    }

    #[test]
    fn a_frame_ahead_of_one_that_the_device_still_holds_waits_for_it() {
        let mut receiver = stored(0..3);
        assert_eq!(receiver.receive(&frame(1, 4, 1)), Verdict::Ahead);
        assert_eq!(receiver.ack(100), Some(Header::ack(3, 1, 3)));
        assert_eq!(take(&mut receiver, &frame(1, 3, 0)).gap, 0);
        assert_eq!(take(&mut receiver, &frame(1, 4, 1)).gap, 0);
    }

    #[test]
    fn what_a_full_ring_gave_up_is_a_gap_before_the_next_message() {
        let mut receiver = stored(0..3);
        assert_eq!(take(&mut receiver, &frame(1, 10, 0)).gap, 7);
        assert_eq!(take(&mut receiver, &frame(1, 11, 0)).gap, 0);
    }

    #[test]
    fn what_the_device_still_holds_is_never_part_of_a_gap() {
        let mut receiver = stored(0..3);
        // 3–7 are overwritten; 8 and 9 are held, and were lost on the line.
        assert_eq!(receiver.receive(&frame(1, 10, 2)), Verdict::Ahead);
        assert_eq!(take(&mut receiver, &frame(1, 8, 0)).gap, 5);
        assert_eq!(take(&mut receiver, &frame(1, 9, 1)).gap, 0);
        assert_eq!(take(&mut receiver, &frame(1, 10, 2)).gap, 0);
    }

    #[test]
    fn a_device_never_seen_begins_at_its_oldest_message_without_a_gap() {
        let mut receiver = receiver();
        assert_eq!(receiver.receive(&frame(9, 1_000, 2)), Verdict::Ahead);
        assert_eq!(receiver.ack(0), Some(Header::ack(3, 9, 998)));
        assert_eq!(take(&mut receiver, &frame(9, 998, 0)).gap, 0);
    }

    #[test]
    fn a_reboot_begins_at_the_oldest_message_and_counts_what_is_below_it() {
        let mut receiver = stored(0..3);
        assert_eq!(receiver.receive(&frame(2, 6, 1)), Verdict::Ahead);
        assert_eq!(receiver.ack(100), Some(Header::ack(3, 2, 5)));
        assert_eq!(take(&mut receiver, &frame(2, 5, 0)).gap, 5);
    }

    #[test]
    fn a_reboot_into_the_same_session_shows_in_a_sequence_far_behind() {
        let mut receiver = stored(0..300);
        assert_eq!(receiver.receive(&frame(1, 45, 0)), Verdict::Duplicate);
        assert_eq!(take(&mut receiver, &frame(1, 44, 0)).gap, 44);
        assert_eq!(take(&mut receiver, &frame(1, 45, 0)).gap, 0);
    }

    #[test]
    fn a_reboot_into_the_same_session_shows_in_another_message_of_the_same_number() {
        let mut receiver = stored(0..3);
        let other = Frame {
            payload: b"y",
            ..frame(1, 0, 0)
        };
        for mut receiver in [restarted(&receiver), receiver.clone()] {
            assert_eq!(take(&mut receiver, &other).sequence, 0);
        }
        assert_eq!(receiver.receive(&frame(1, 0, 0)), Verdict::Duplicate);
    }

    #[test]
    fn a_message_sent_again_with_a_smaller_backlog_is_still_a_duplicate() {
        let mut receiver = receiver();
        let _ = take(&mut receiver, &frame(1, 0, 0));
        let _ = take(&mut receiver, &frame(1, 1, 1));
        assert_eq!(receiver.receive(&frame(1, 1, 0)), Verdict::Duplicate);
    }

    #[test]
    fn a_message_that_found_no_room_is_expected_again_with_its_gap() {
        let mut receiver = stored(0..3);
        for _ in 0..3 {
            let Verdict::Take(take) = receiver.receive(&frame(1, 5, 0)) else {
                panic!("it is the next one");
            };
            assert_eq!(take.gap, 2);
        }
        assert_eq!(take(&mut receiver, &frame(1, 5, 0)).gap, 2);
        assert_eq!(receiver.receive(&frame(1, 5, 0)), Verdict::Duplicate);
    }

    #[test]
    fn a_failed_commit_and_a_restart_expect_the_same_messages_again() {
        let mut receiver = stored(0..3);
        let _ = take(&mut receiver, &frame(1, 5, 0));
        let _ = take(&mut receiver, &frame(2, 7, 0));
        let mut restarted = restarted(&receiver);
        receiver.rolled_back();
        for receiver in [&mut receiver, &mut restarted] {
            assert_eq!(receiver.receive(&frame(1, 2, 0)), Verdict::Duplicate);
            assert_eq!(receiver.ack(1_000), Some(Header::ack(3, 1, 3)));
            assert_eq!(take(receiver, &frame(1, 5, 0)).gap, 2);
            assert_eq!(take(receiver, &frame(2, 7, 0)).gap, 7);
        }
    }

    #[test]
    fn a_commit_of_the_session_before_is_not_acknowledged_in_the_new_one() {
        let mut receiver = stored(0..3);
        let old = take(&mut receiver, &frame(1, 3, 0));
        let new = take(&mut receiver, &frame(2, 0, 0));
        // Booted again at once, and into the same session.
        let other = Frame {
            payload: b"y",
            ..frame(2, 0, 0)
        };
        let newer = take(&mut receiver, &other);
        receiver.committed(&old);
        receiver.committed(&new);
        assert_eq!(receiver.ack(1_000), None);
        receiver.committed(&newer);
        assert_eq!(receiver.ack(1_000), Some(Header::ack(3, 2, 1)));
    }

    #[test]
    fn sequences_go_on_over_the_wrap() {
        let mut receiver = Receiver::new(
            3,
            Some(LinkState {
                session: 1,
                next: u32::MAX,
                ..LinkState::default()
            }),
        );
        let last = take(&mut receiver, &frame(1, u32::MAX, 0));
        let first = take(&mut receiver, &frame(1, 0, 1));
        receiver.committed(&last);
        receiver.committed(&first);
        assert_eq!(receiver.ack(0), Some(Header::ack(3, 1, 1)));
        assert_eq!(receiver.receive(&frame(1, u32::MAX, 0)), Verdict::Duplicate);
        assert_eq!(take(&mut receiver, &frame(1, 3, 0)).gap, 2);
    }

    #[test]
    fn time_is_sent_once_a_session_repeated_until_data_and_again_after_a_step() {
        let mut receiver = stored(0..1);
        let mut restarted = restarted(&receiver);
        assert_eq!(restarted.time(0), None, "a silent device is not addressed");

        assert_eq!(receiver.time(0), Some(Header::time(3, 1)));
        assert_eq!(receiver.time(999), None);
        assert_eq!(receiver.time(1_000), Some(Header::time(3, 1)));
        assert_eq!(receiver.time_due_ms(), Some(3_000));
        let _ = receiver.receive(&frame(1, 1, 0));
        assert_eq!(receiver.time_due_ms(), None);

        receiver.clock_stepped();
        assert_eq!(receiver.time(5_000), Some(Header::time(3, 1)));
        let _ = receiver.receive(&frame(1, 1, 0));
        assert_eq!(receiver.time(9_000), None);

        let _ = receiver.receive(&frame(2, 0, 0));
        assert_eq!(receiver.time(9_000), Some(Header::time(3, 2)));
    }

    #[test]
    fn ones_own_echo_is_ignored() {
        let mut receiver = stored(0..3);
        for header in [Header::ack(3, 1, 3), Header::time(3, 1)] {
            let echo = Frame {
                header,
                payload: &[],
            };
            assert_eq!(receiver.receive(&echo), Verdict::Ignored);
        }
        assert_eq!(receiver.ack(1_000), None);
    }
}
