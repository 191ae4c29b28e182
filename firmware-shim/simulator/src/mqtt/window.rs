//! What has been published and not yet acknowledged, as a state machine without I/O.
//!
//! The client library's own event loop sends what is unacknowledged again in an order that its
//! last PUBACK decides (wrong at `QoS` 2, and after a second loss of the connection), and forgets
//! it where the broker forgot the session. Here nothing leaves the window before its
//! acknowledgement, and its order is the order of the first sending, always.
//!
//! Invariants:
//! - W1 packet ids in the window are consecutive, in the order of the first sending.
//! - W2 everything before `unsent` has been sent on the present connection, nothing behind it.
//! - W3 at most `limit` messages are sent and unacknowledged on a connection (receive maximum).
//!
//! ```text
//!   QoS 1   Receipt ──PUBACK──▶ Done
//!   QoS 2   Receipt ──PUBREC──▶ Completion ──PUBCOMP──▶ Done
//!              ▲ session lost ──────┘           leaves the window once all before it are Done
//! ```

use std::collections::VecDeque;

use crate::message::Message;

/// Packet ids go from 1 to this, then begin again.
const PACKET_ID_MAX: u16 = u16::MAX;

/// Messages in flight on one connection.
#[derive(Debug)]
pub struct Window {
    entries: VecDeque<Entry>,
    /// Packet id of the first entry.
    front: u16,
    /// First entry that the present connection has not carried.
    unsent: usize,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    awaiting: Awaiting,
    sent_before: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    /// PUBACK, or PUBREC at `QoS` 2.
    Receipt,
    /// PUBCOMP.
    Completion,
    /// Nothing more.
    Done,
}

/// What is to be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A PUBLISH, whose first sending it is not if `again`.
    Publish {
        /// Packet id.
        packet_id: u16,
        /// What it carries.
        message: Message,
        /// It may have reached the broker before (the DUP flag).
        again: bool,
    },
    /// A PUBREL.
    Release {
        /// Packet id.
        packet_id: u16,
    },
}

impl Window {
    /// An empty window that holds at most `limit` messages.
    #[must_use]
    pub fn new(limit: u16) -> Self {
        let entries = VecDeque::with_capacity(usize::from(limit));
        Self {
            entries,
            front: 1,
            unsent: 0,
            limit: usize::from(limit.max(1)),
        }
    }

    /// Whether a new message may be added: there is room, and none waits to be sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unsent == self.entries.len() && self.entries.len() < self.limit
    }

    /// Whether nothing waits for an acknowledgement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a message; [`Window::next_outgoing`] hands it out.
    pub fn push(&mut self, message: Message) {
        debug_assert!(self.has_room(), "push needs room");
        let awaiting = Awaiting::Receipt;
        self.entries.push_back(Entry {
            message,
            awaiting,
            sent_before: false,
        });
    }

    /// The next packet that the present connection has to carry.
    pub fn next_outgoing(&mut self) -> Option<Outgoing> {
        while self.unsent < self.entries.len().min(self.limit) {
            let position = self.unsent;
            self.unsent += 1;
            let packet_id = self.packet_id(position);
            let entry = &mut self.entries[position];
            match entry.awaiting {
                Awaiting::Receipt => {
                    let again = std::mem::replace(&mut entry.sent_before, true);
                    return Some(Outgoing::Publish {
                        packet_id,
                        message: entry.message,
                        again,
                    });
                }
                Awaiting::Completion => return Some(Outgoing::Release { packet_id }),
                Awaiting::Done => {}
            }
        }
        None
    }

    /// A new connection begins: all is to be sent on it, within its `limit`.
    ///
    /// A broker that has forgotten the session has forgotten what it had received of it too: those
    /// messages are published anew, since doubled is better than lost.
    pub fn reconnected(&mut self, session_present: bool, limit: u16) {
        self.unsent = 0;
        self.limit = usize::from(limit.max(1));
        if !session_present {
            for entry in &mut self.entries {
                if entry.awaiting == Awaiting::Completion {
                    entry.awaiting = Awaiting::Receipt;
                }
            }
        }
    }

    /// PUBACK, or a PUBREC that refuses: the message is done. False if it was not awaited.
    pub fn finish(&mut self, packet_id: u16) -> bool {
        self.advance(packet_id, Awaiting::Receipt, Awaiting::Done)
    }

    /// PUBREC: the broker owns the message. True if it did not before.
    pub fn received(&mut self, packet_id: u16) -> bool {
        self.advance(packet_id, Awaiting::Receipt, Awaiting::Completion)
    }

    /// PUBCOMP: the message is done. False if it was not awaited.
    pub fn complete(&mut self, packet_id: u16) -> bool {
        self.advance(packet_id, Awaiting::Completion, Awaiting::Done)
    }

    fn advance(&mut self, packet_id: u16, from: Awaiting, to: Awaiting) -> bool {
        let Some(position) = self.position(packet_id) else {
            return false;
        };
        let awaiting = &mut self.entries[position].awaiting;
        if *awaiting != from {
            return false;
        }
        *awaiting = to;
        self.drop_done();
        true
    }

    fn drop_done(&mut self) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.awaiting == Awaiting::Done)
        {
            self.entries.pop_front();
            self.front = self.front % PACKET_ID_MAX + 1;
            self.unsent = self.unsent.saturating_sub(1);
        }
    }

    /// Place of a packet id among those sent on this connection (W1, W2).
    fn position(&self, packet_id: u16) -> Option<usize> {
        if packet_id == 0 {
            return None;
        }
        let span = u32::from(PACKET_ID_MAX);
        let distance = (u32::from(packet_id) + span - u32::from(self.front)) % span;
        let position = distance as usize;
        (position < self.unsent).then_some(position)
    }

    fn packet_id(&self, position: usize) -> u16 {
        let span = usize::from(PACKET_ID_MAX);
        let index = (usize::from(self.front) - 1 + position) % span;
        u16::try_from(index + 1).expect("below 65,536 by the modulus")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(sequence: u64) -> Message {
        Message {
            slot: 0,
            sequence,
            sent_ms: 0,
        }
    }

    fn drain(window: &mut Window) -> Vec<Outgoing> {
        std::iter::from_fn(|| window.next_outgoing()).collect()
    }

    #[test]
    fn unacknowledged_messages_are_sent_again_in_order_after_a_reconnect() {
        let mut window = Window::new(4);
        (0..4).for_each(|sequence| window.push_and_send(sequence));
        assert!(!window.has_room());
        assert!(window.finish(1) && window.finish(3));
        window.reconnected(true, 4);
        let again = |packet_id, sequence| Outgoing::Publish {
            packet_id,
            message: message(sequence),
            again: true,
        };
        assert_eq!(drain(&mut window), [again(2, 1), again(4, 3)]);
    }

    #[test]
    fn a_received_message_is_released_again_and_published_again_if_the_session_is_gone() {
        let mut window = Window::new(4);
        (0..2).for_each(|sequence| window.push_and_send(sequence));
        assert!(window.received(1));
        window.reconnected(true, 4);
        let sent = drain(&mut window);
        assert_eq!(sent[0], Outgoing::Release { packet_id: 1 });
        assert!(matches!(
            sent[1],
            Outgoing::Publish {
                packet_id: 2,
                again: true,
                ..
            }
        ));
        window.reconnected(false, 4);
        assert!(matches!(
            window.next_outgoing(),
            Some(Outgoing::Publish { packet_id: 1, .. })
        ));
    }

    #[test]
    fn a_smaller_receive_maximum_after_a_reconnect_is_kept() {
        let mut window = Window::new(8);
        (0..8).for_each(|sequence| window.push_and_send(sequence));
        window.reconnected(true, 2);
        assert_eq!(drain(&mut window).len(), 2);
        assert!(!window.finish(3), "not sent on this connection");
        assert!(window.finish(1));
        assert_eq!(drain(&mut window).len(), 1);
    }

    #[test]
    fn packet_ids_go_round_without_zero() {
        let mut window = Window::new(3);
        for sequence in 0..200_000 {
            window.push(message(sequence));
            let Some(Outgoing::Publish { packet_id, .. }) = window.next_outgoing() else {
                panic!("nothing to send");
            };
            assert_eq!(u64::from(packet_id), sequence % 65_535 + 1);
            assert!(window.finish(packet_id));
            assert!(!window.finish(packet_id) && !window.finish(0));
        }
    }

    impl Window {
        fn push_and_send(&mut self, sequence: u64) {
            self.push(message(sequence));
            assert!(self.next_outgoing().is_some());
        }
    }

    /// What may happen to a window.
    #[derive(Clone, Debug)]
    enum Step {
        Fill,
        Answer(prop::sample::Index),
        Lose { session_present: bool, limit: u16 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Fill),
            6 => any::<prop::sample::Index>().prop_map(Step::Answer),
            1 => (any::<bool>(), 1..6_u16)
                .prop_map(|(session_present, limit)| Step::Lose { session_present, limit }),
        ]
    }

    /// A broker that answers what it was sent in any order.
    #[derive(Default)]
    struct Broker {
        open: Vec<Outgoing>,
        seen: Vec<u64>,
        limit: usize,
    }

    impl Broker {
        fn take(&mut self, window: &mut Window) {
            while let Some(outgoing) = window.next_outgoing() {
                if let Outgoing::Publish { message, .. } = outgoing {
                    self.seen.push(message.sequence);
                }
                self.open.push(outgoing);
            }
            assert!(self.open.len() <= self.limit, "receive maximum");
        }

        fn answer(&mut self, window: &mut Window, index: prop::sample::Index) {
            if !self.open.is_empty() {
                let outgoing = self.open.remove(index.index(self.open.len()));
                self.answer_one(window, outgoing);
            }
        }

        fn answer_oldest(&mut self, window: &mut Window) {
            if !self.open.is_empty() {
                let outgoing = self.open.remove(0);
                self.answer_one(window, outgoing);
            }
        }

        fn answer_one(&mut self, window: &mut Window, outgoing: Outgoing) {
            match outgoing {
                Outgoing::Publish { packet_id, .. } => {
                    assert!(window.received(packet_id));
                    self.open.push(Outgoing::Release { packet_id });
                }
                Outgoing::Release { packet_id } => assert!(window.complete(packet_id)),
            }
        }
    }

    proptest! {
        #[test]
        fn first_sendings_are_in_order_and_nothing_is_lost(
            steps in prop::collection::vec(step(), 1..200)
        ) {
            let mut window = Window::new(5);
            let mut broker = Broker { limit: 5, ..Broker::default() };
            let mut made = 0;
            for step in steps {
                match step {
                    Step::Fill => while window.has_room() {
                        window.push(message(made));
                        made += 1;
                        broker.take(&mut window);
                    },
                    Step::Answer(index) => broker.answer(&mut window, index),
                    Step::Lose { session_present, limit } => {
                        window.reconnected(session_present, limit);
                        broker.open.clear();
                        broker.limit = usize::from(limit);
                    }
                }
                broker.take(&mut window);
            }
            for _ in 0..100 {
                broker.answer_oldest(&mut window);
                broker.take(&mut window);
            }
            prop_assert!(window.is_empty(), "{window:?}");
            let first = broker.seen.first().copied();
            let mut highest = None;
            let mut firsts = Vec::new();
            for &sequence in &broker.seen {
                if highest.is_none_or(|highest| sequence > highest) {
                    highest = Some(sequence);
                    firsts.push(sequence);
                }
            }
            prop_assert!(first.is_none_or(|first| first == 0));
            prop_assert_eq!(firsts, (0..made).collect::<Vec<_>>());
        }
    }
}
