//! The acknowledgements that are owed to the broker, in the order in which its publishes came.
//!
//! A queue of places in the log, each with the PUBACK or PUBREC that is due once it is durable.
//! When the log moves on, everything below `synced` is settled in one go, so that the answers to a
//! whole group commit leave in one write.
//!
//! Invariants
//! - **A1** An acknowledgement needs a [`Durable`]: the log's proof or the dead letters' (G1).
//! - **A2** They leave in the order of their publishes (MQTT 5, section 4.6).
//! - **A3** One that belongs to an earlier connection never leaves: its packet identifier may mean
//!   another message by now. [`Acks::forget`] strips them when a connection ends; the places stay,
//!   for the count of committed records.
//!
//! Its length is bounded by what the log takes before it says that it is full.

use std::collections::VecDeque;

use crate::commit_log::Progress;
use crate::dead_letters::{DeadLetter, DeadLetters, NotStored};
use crate::ingest::{Committed, NotCommitted, Ticket};
use crate::record::Offset;

/// What the broker waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    /// At quality of service 1.
    Puback {
        /// Of the publish.
        packet_id: u16,
    },
    /// At quality of service 2.
    Pubrec {
        /// Of the publish.
        packet_id: u16,
    },
}

impl Ack {
    /// The acknowledgement of a publish, `None` at quality of service 0.
    pub(super) fn of(qos: u8, packet_id: u16) -> Option<Self> {
        match qos {
            0 => None,
            1 => Some(Self::Puback { packet_id }),
            _ => Some(Self::Pubrec { packet_id }),
        }
    }
}

/// Proof that a publish is on disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Durable {
    /// As a record.
    Committed(Committed),
    /// As a dead letter.
    SetAside(SetAside),
}

/// Proof that a dead letter is synced.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetAside(());

impl SetAside {
    /// Stores a dead letter.
    ///
    /// # Errors
    /// [`NotStored`]: the publish must not be acknowledged.
    pub(super) async fn store(
        dead_letters: &DeadLetters,
        letter: &DeadLetter<'_>,
    ) -> Result<Self, NotStored> {
        dead_letters.store(letter).await.map(|()| Self(()))
    }
}

#[derive(Debug)]
enum Due {
    Ticket(Ticket),
    /// Of a record that an earlier publish made.
    Again(Ticket),
    Now(SetAside),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Acks {
    queue: VecDeque<(Due, Option<Ack>)>,
}

impl Acks {
    /// A record was appended; `ack` is due once it is synced.
    pub(super) fn push(&mut self, ticket: Ticket, ack: Option<Ack>) {
        self.queue.push_back((Due::Ticket(ticket), ack));
    }

    /// A publish came again; `ack` is due once its record is synced, and all before it are settled.
    pub(super) fn push_again(&mut self, ticket: Ticket, ack: Option<Ack>) {
        self.queue.push_back((Due::Again(ticket), ack));
    }

    /// A publish was set aside; `ack` is due once all before it are settled.
    pub(super) fn push_set_aside(&mut self, proof: SetAside, ack: Option<Ack>) {
        self.queue.push_back((Due::Now(proof), ack));
    }

    /// Settles all that is durable, in order, and returns how many of them are new records. What
    /// is acknowledged comes with its record's place, if it has one.
    ///
    /// # Errors
    /// [`NotCommitted`] if the log has failed and records wait that it did not sync.
    pub(super) fn settle(
        &mut self,
        progress: &Progress,
        mut acknowledge: impl FnMut(Ack, Durable, Option<Offset>),
    ) -> Result<u64, NotCommitted> {
        let mut committed = 0;
        while let Some((due, ack)) = self.queue.front() {
            let (proof, offset) = match due {
                Due::Now(proof) => (Durable::SetAside(*proof), None),
                Due::Ticket(ticket) | Due::Again(ticket) => match ticket.outcome(progress) {
                    None => break,
                    Some(proof) => (Durable::Committed(proof?), Some(ticket.offset())),
                },
            };
            committed += u64::from(matches!(due, Due::Ticket(_)));
            if let Some(ack) = *ack {
                acknowledge(ack, proof, offset);
            }
            self.queue.pop_front();
        }
        Ok(committed)
    }

    /// The connection has ended: what was due on it will never be sent (A3).
    pub(super) fn forget(&mut self) {
        for (_, ack) in &mut self.queue {
            *ack = None;
        }
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The newest record that waits.
    pub(super) fn newest(&self) -> Option<Ticket> {
        self.queue.iter().rev().find_map(|(due, _)| match due {
            Due::Ticket(ticket) => Some(*ticket),
            Due::Again(_) | Due::Now(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit_log::Condition;
    use proptest::prelude::*;

    fn ticket(offset: u64) -> Ticket {
        Ticket::at(Offset::new(offset))
    }

    fn progress(synced: u64, condition: Condition) -> Progress {
        Progress {
            synced: Offset::new(synced),
            condition,
        }
    }

    fn settled(acks: &mut Acks, synced: u64) -> (Vec<Ack>, u64) {
        let mut sent = Vec::new();
        let committed = acks
            .settle(&progress(synced, Condition::Running), |ack, _, _| {
                sent.push(ack)
            })
            .unwrap();
        (sent, committed)
    }

    #[test]
    fn nothing_is_acknowledged_at_or_above_the_synced_offset() {
        let mut acks = Acks::default();
        acks.push(ticket(5), Ack::of(1, 50));
        acks.push(ticket(6), Ack::of(2, 60));
        assert_eq!(settled(&mut acks, 5), (vec![], 0));
        assert_eq!(
            settled(&mut acks, 6),
            (vec![Ack::Puback { packet_id: 50 }], 1)
        );
        assert_eq!(
            settled(&mut acks, 9),
            (vec![Ack::Pubrec { packet_id: 60 }], 1)
        );
        assert!(acks.is_empty());
    }

    #[test]
    fn a_dead_letter_waits_for_the_records_before_it() {
        let mut acks = Acks::default();
        acks.push(ticket(0), Ack::of(1, 1));
        acks.push_set_aside(SetAside(()), Ack::of(1, 2));
        assert_eq!(settled(&mut acks, 0), (vec![], 0));
        let both = vec![Ack::Puback { packet_id: 1 }, Ack::Puback { packet_id: 2 }];
        assert_eq!(settled(&mut acks, 1), (both, 1));
    }

    #[test]
    fn what_came_again_is_acknowledged_in_its_turn_and_counts_as_one_record() {
        let mut acks = Acks::default();
        acks.push(ticket(4), Ack::of(1, 1));
        acks.push_again(ticket(4), Ack::of(1, 1));
        assert_eq!(settled(&mut acks, 4), (vec![], 0));
        let both = vec![Ack::Puback { packet_id: 1 }, Ack::Puback { packet_id: 1 }];
        assert_eq!(settled(&mut acks, 5), (both, 1));
    }

    #[test]
    fn an_acknowledgement_of_an_earlier_connection_is_never_sent_but_its_record_counts() {
        let mut acks = Acks::default();
        acks.push(ticket(0), Ack::of(1, 1));
        acks.forget();
        acks.push(ticket(1), Ack::of(1, 1));
        assert_eq!(
            settled(&mut acks, 2),
            (vec![Ack::Puback { packet_id: 1 }], 2)
        );
    }

    #[test]
    fn a_failed_log_acknowledges_what_it_synced_and_nothing_more() {
        for condition in [Condition::Poisoned, Condition::Closed] {
            let mut acks = Acks::default();
            acks.push(ticket(0), Ack::of(1, 1));
            acks.push(ticket(1), Ack::of(1, 2));
            let mut sent = Vec::new();
            let outcome = acks.settle(&progress(1, condition), |ack, _, _| sent.push(ack));
            assert_eq!(outcome, Err(NotCommitted));
            assert_eq!(sent, [Ack::Puback { packet_id: 1 }]);
        }
    }

    proptest! {
        #[test]
        fn acknowledgements_leave_in_the_order_of_the_publishes(
            qualities in proptest::collection::vec(0u8..3, 1..60),
            steps in proptest::collection::vec(0u64..10, 1..20),
        ) {
            let mut acks = Acks::default();
            let mut expected = Vec::new();
            for (offset, qos) in qualities.iter().enumerate() {
                let ack = Ack::of(*qos, u16::try_from(offset).unwrap() + 1);
                expected.extend(ack.map(|ack| (offset as u64, ack)));
                acks.push(ticket(offset as u64), ack);
            }
            let (mut synced, mut sent, mut committed) = (0, Vec::new(), 0);
            for step in steps {
                synced += step;
                let (now, count) = settled(&mut acks, synced);
                sent.extend(now);
                committed += count;
            }
            let due: Vec<Ack> =
                expected.iter().filter(|(o, _)| *o < synced).map(|(_, ack)| *ack).collect();
            prop_assert_eq!(sent, due);
            prop_assert_eq!(committed, synced.min(qualities.len() as u64));
        }
    }
}
