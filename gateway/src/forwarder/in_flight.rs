//! What is in flight: sent to Kafka, or settled ahead of its turn, and above the floor.
//!
//! Reports come out of order, since partitions answer when they like; the committed offset may
//! only move over an unbroken run of them (G2). One slot is kept for every record in the order of
//! their offsets, in a ring numbered densely, so that a report finds its slot by subtraction. A
//! hole in the log is one slot for each source that lost something, however wide.
//!
//! - **F1** Every offset below [`InFlight::floor`] is settled: reported delivered, or a dead
//!   letter on disk. The floor never goes back.
//! - **F2** After [`InFlight::rewind`] the records from the floor on are read again; those that
//!   were settled are recognised and not sent twice.
//!
//! Pure state; nothing here waits, reads or sends.
//!
//! ```text
//!  log   … 40 41 │ 42  43  44  45  46 │ 47 …
//!                │ …   ok  ok  …   ok │
//!              floor                 next to be read
//! ```

use std::collections::VecDeque;

use crate::record::Offset;

/// Offsets `first..=last`: a record, or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: Offset,
    pub(super) last: Offset,
    /// One more message for the same offsets follows: settling this one moves the floor by nothing.
    pub(super) more_follow: bool,
}

impl Span {
    pub(super) fn one(offset: Offset) -> Self {
        Self {
            first: offset,
            last: offset,
            more_follow: false,
        }
    }
}

/// What a report is booked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) span: Span,
    /// Memory it holds in the producer.
    pub(super) bytes: usize,
    /// Number of its topic.
    pub(super) topic: u16,
    /// When it was received, on the monotonic clock, if that was in this run.
    pub(super) received_mono_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Waiting(Sent),
    Settled(Span),
}

impl Slot {
    fn span(&self) -> Span {
        match self {
            Self::Waiting(sent) => sent.span,
            Self::Settled(span) => *span,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct InFlight {
    floor: Offset,
    slots: VecDeque<Slot>,
    /// Number of the first slot. Numbers wrap: a pointer carries them, and it has 32 bits on some
    /// boards.
    front: usize,
    outstanding: usize,
    outstanding_bytes: usize,
    /// Settled before the last rewind and not yet come by again, ascending.
    settled_before: VecDeque<Span>,
}

impl InFlight {
    /// Nothing in flight, everything below `floor` settled.
    pub(super) fn new(floor: Offset) -> Self {
        Self {
            floor,
            slots: VecDeque::new(),
            front: 0,
            outstanding: 0,
            outstanding_bytes: 0,
            settled_before: VecDeque::new(),
        }
    }

    /// Every offset below is settled (F1).
    pub(super) fn floor(&self) -> Offset {
        self.floor
    }

    /// Messages without a report.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// What they hold in the producer.
    pub(super) fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes
    }

    /// Slots, those included that are settled above the floor.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The number that the next slot will have.
    pub(super) fn next_number(&self) -> usize {
        self.front.wrapping_add(self.slots.len())
    }

    /// Takes a message that was sent as [`InFlight::next_number`].
    pub(super) fn push_sent(&mut self, sent: Sent) {
        self.debug_assert_ascends(sent.span);
        self.outstanding += 1;
        self.outstanding_bytes += sent.bytes;
        self.slots.push_back(Slot::Waiting(sent));
    }

    /// Takes a record that needs no report: a dead letter on disk, or one settled before.
    pub(super) fn push_settled(&mut self, span: Span) {
        self.debug_assert_ascends(span);
        self.slots.push_back(Slot::Settled(span));
        self.advance();
    }

    /// What waits for a report under `number`.
    pub(super) fn waiting(&self, number: usize) -> Option<&Sent> {
        match self.slots.get(number.wrapping_sub(self.front))? {
            Slot::Waiting(sent) => Some(sent),
            Slot::Settled(_) => None,
        }
    }

    /// Settles what waits under `number` and returns it; `None` if nothing does.
    pub(super) fn settle(&mut self, number: usize) -> Option<Sent> {
        let slot = self.slots.get_mut(number.wrapping_sub(self.front))?;
        let Slot::Waiting(sent) = *slot else {
            return None;
        };
        *slot = Slot::Settled(sent.span);
        self.outstanding -= 1;
        self.outstanding_bytes -= sent.bytes;
        self.advance();
        Some(sent)
    }

    /// Forgets what waits: it will be sent again. What is settled above the floor is remembered
    /// (F2). Numbers begin anew, so no report of the old producer may be booked afterwards.
    pub(super) fn rewind(&mut self) {
        // What was not come by again since the rewind before lies above all slots.
        let mut settled: VecDeque<Span> = self
            .slots
            .drain(..)
            .filter_map(|slot| match slot {
                Slot::Waiting(_) => None,
                // Without the rest of its message it says too little to be left out.
                Slot::Settled(span) => (!span.more_follow).then_some(span),
            })
            .collect();
        settled.append(&mut self.settled_before);
        self.settled_before = settled;
        self.front = 0;
        self.outstanding = 0;
        self.outstanding_bytes = 0;
    }

    /// Whether all of `span`, which is the next to be sent, was settled before the last rewind.
    pub(super) fn was_settled(&mut self, span: Span) -> bool {
        if span.more_follow {
            return false;
        }
        while let Some(settled) = self.settled_before.front() {
            if settled.last < span.first {
                self.settled_before.pop_front();
            } else {
                return settled.first <= span.first && span.last <= settled.last;
            }
        }
        false
    }

    fn advance(&mut self) {
        while let Some(Slot::Settled(span)) = self.slots.front() {
            if !span.more_follow {
                self.floor = self.floor.max(span.last.plus(1));
            }
            self.slots.pop_front();
            self.front = self.front.wrapping_add(1);
        }
    }

    fn debug_assert_ascends(&self, span: Span) {
        debug_assert!(span.first <= span.last, "{span:?} ends before it begins");
        debug_assert!(span.first >= self.floor, "{span:?} lies below the floor");
        if let Some(newest) = self.slots.back() {
            let newest = newest.span();
            let again = newest.more_follow && newest.first == span.first;
            debug_assert!(again || newest.last < span.first, "{span:?} out of order");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn sent(first: u64, last: u64) -> Sent {
        Sent {
            span: Span {
                first: Offset::new(first),
                last: Offset::new(last),
                more_follow: false,
            },
            bytes: 10,
            topic: 0,
            received_mono_ms: None,
        }
    }

    #[test]
    fn the_floor_moves_only_over_an_unbroken_run_of_reports() {
        let mut in_flight = InFlight::new(Offset::new(5));
        let numbers: Vec<usize> = (5..9)
            .map(|offset| {
                let number = in_flight.next_number();
                in_flight.push_sent(sent(offset, offset));
                number
            })
            .collect();
        in_flight.settle(numbers[1]);
        in_flight.settle(numbers[3]);
        assert_eq!(in_flight.floor(), Offset::new(5));
        in_flight.settle(numbers[0]);
        assert_eq!(in_flight.floor(), Offset::new(7));
        in_flight.settle(numbers[2]);
        assert_eq!(in_flight.floor(), Offset::new(9));
        assert_eq!(in_flight.outstanding(), 0);
        assert_eq!(in_flight.outstanding_bytes(), 0);
    }

    #[test]
    fn a_second_report_of_a_message_changes_nothing() {
        let mut in_flight = InFlight::new(Offset::ZERO);
        in_flight.push_sent(sent(0, 0));
        in_flight.push_sent(sent(1, 1));
        assert!(in_flight.settle(1).is_some());
        assert!(in_flight.settle(1).is_none());
        assert!(in_flight.settle(7).is_none());
        assert_eq!(in_flight.outstanding(), 1);
        assert_eq!(in_flight.floor(), Offset::ZERO);
    }

    #[test]
    fn of_several_messages_for_one_hole_all_must_be_settled_before_the_floor_moves() {
        let mut in_flight = InFlight::new(Offset::ZERO);
        let first = Sent {
            span: Span {
                more_follow: true,
                ..sent(0, 9).span
            },
            ..sent(0, 9)
        };
        in_flight.push_sent(first);
        in_flight.push_sent(first);
        in_flight.push_sent(sent(0, 9));
        in_flight.push_sent(sent(10, 10));
        for number in [2, 3, 0] {
            in_flight.settle(number);
            assert_eq!(in_flight.floor(), Offset::ZERO);
        }
        in_flight.settle(1);
        assert_eq!(in_flight.floor(), Offset::new(11));
    }

    #[test]
    fn a_hole_is_one_slot_and_the_floor_moves_over_all_of_it() {
        let mut in_flight = InFlight::new(Offset::ZERO);
        in_flight.push_sent(sent(0, 999_999));
        assert_eq!(in_flight.len(), 1);
        in_flight.settle(0);
        assert_eq!(in_flight.floor(), Offset::new(1_000_000));
    }

    /// What the ring must do, as plainly as can be: every offset with its state.
    #[derive(Default)]
    struct Model {
        settled: BTreeSet<u64>,
        /// Offsets by the number they were sent with in this run.
        waiting: BTreeMap<usize, (u64, u64)>,
    }

    impl Model {
        fn floor(&self) -> u64 {
            (0..)
                .find(|offset| !self.settled.contains(offset))
                .expect("finite")
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Send { width: u64 },
        SettleAtOnce,
        Report { pick: usize },
        Rewind,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1..4_u64).prop_map(|width| Op::Send { width }),
            1 => Just(Op::SettleAtOnce),
            4 => any::<usize>().prop_map(|pick| Op::Report { pick }),
            1 => Just(Op::Rewind),
        ]
    }

    /// Applies one step to both; `log` is where each record or hole ends.
    fn step(op: &Op, ring: &mut InFlight, model: &mut Model, next: &mut u64, log: &mut Vec<u64>) {
        match op {
            Op::Send { .. } | Op::SettleAtOnce => {
                let wanted = match op {
                    Op::Send { width } => *width,
                    Op::SettleAtOnce | Op::Report { .. } | Op::Rewind => 1,
                };
                // What was read once has the same shape when it is read again.
                let last = match log.iter().find(|last| **last >= *next) {
                    Some(last) => *last,
                    None => {
                        log.push(*next + wanted - 1);
                        *next + wanted - 1
                    }
                };
                let message = sent(*next, last);
                let known = (*next..=last).all(|offset| model.settled.contains(&offset));
                assert_eq!(ring.was_settled(message.span), known);
                if known || matches!(op, Op::SettleAtOnce) {
                    ring.push_settled(message.span);
                    model.settled.extend(*next..=last);
                } else {
                    model.waiting.insert(ring.next_number(), (*next, last));
                    ring.push_sent(message);
                }
                *next = last + 1;
            }
            Op::Report { pick } => {
                let Some(number) = model.waiting.keys().nth(pick % model.waiting.len().max(1))
                else {
                    return;
                };
                let number = *number;
                let (first, last) = model.waiting.remove(&number).expect("picked");
                assert_eq!(ring.settle(number), Some(sent(first, last)));
                model.settled.extend(first..=last);
            }
            Op::Rewind => {
                ring.rewind();
                model.waiting.clear();
                *next = ring.floor().get();
            }
        }
    }

    proptest! {
        #[test]
        fn the_ring_agrees_with_a_plain_set_of_offsets(ops in prop::collection::vec(op(), 1..200)) {
            let mut ring = InFlight::new(Offset::ZERO);
            let mut model = Model::default();
            let (mut next, mut log) = (0, Vec::new());
            for op in &ops {
                step(op, &mut ring, &mut model, &mut next, &mut log);
                // What was settled before a rewind counts once it has come by again.
                prop_assert_eq!(ring.floor().get(), model.floor().min(next));
                prop_assert_eq!(ring.outstanding(), model.waiting.len());
                prop_assert_eq!(ring.outstanding_bytes(), model.waiting.len() * 10);
            }
        }
    }
}
