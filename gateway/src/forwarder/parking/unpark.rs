//! What an item of a parking log stands for, once it is to be returned; the same for both ways of
//! delivery.

use std::collections::BTreeSet;

use super::super::aside::{self, Reason};
use super::super::encode::Outgoing;
use super::super::in_flight::Span;
use super::super::{Flow, ForwarderError};
use super::Parking;
use super::entry::{self, Entry, Item};
use crate::commit_log::{self, Hole};
use crate::dead_letters::DeadLetters;
use crate::record::Offset;

/// Where an item was found.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Found<'a> {
    /// The topic that it waits for.
    pub(in super::super) topic: &'a str,
    /// Identity of the parking log.
    pub(in super::super) log: &'a str,
}

/// Hands what `item` of a parking log stands for to `forward`: a record, or the markers of a hole, until
/// it says [`Flow::Break`]. Damage of the parking log itself is a hole too.
pub(in super::super) fn unpark<E>(
    item: &Outgoing<'_>,
    found: Found<'_>,
    forward: &mut impl FnMut(&Outgoing<'_>) -> Result<Flow, E>,
) -> Result<Flow, E> {
    let topic = found.topic;
    let record = match item {
        Outgoing::Record(record) => record,
        Outgoing::Hole { .. } => return forward(&parked(topic, found.log, (item.span(), item))),
        Outgoing::Parked { .. } => return forward(item),
    };
    let place = Span::one(record.offset);
    let (log, hole) = match entry::read(record) {
        Some(Entry {
            log,
            item: Item::Record(original),
        }) => return forward(&parked(topic, log, (place, &Outgoing::Record(&original)))),
        Some(Entry {
            log,
            item: Item::Hole(hole),
        }) => (log, hole),
        None => {
            tracing::error!(topic = found.topic, offset = %record.offset,
                "a parked record cannot be read: another version of the gateway wrote it");
            (found.log, unreadable(record.offset))
        }
    };
    for marker in Outgoing::markers(&hole) {
        let span = Span {
            more_follow: marker.span().more_follow,
            ..place
        };
        if forward(&parked(topic, log, (span, &marker)))? == Flow::Break {
            return Ok(Flow::Break);
        }
    }
    Ok(Flow::Continue)
}

fn parked<'a>(
    topic: &'a str,
    log: &'a str,
    (span, item): (Span, &'a Outgoing<'a>),
) -> Outgoing<'a> {
    Outgoing::Parked {
        span,
        log,
        topic,
        item,
    }
}

fn unreadable(offset: Offset) -> Hole {
    Hole {
        first: offset,
        last: offset,
        reason: "corrupt",
        losses: Vec::new(),
    }
}

impl Parking {
    /// Makes dead letters of all that is parked for a topic and durable, in order. One that is a dead
    /// letter already, since a crash came between, is not made one again.
    ///
    /// # Errors
    /// [`ForwarderError::DeadLetters`], [`ForwarderError::Read`]
    pub(in super::super) fn give_up(
        &self,
        topic: &str,
        dead_letters: &DeadLetters,
        detail: &str,
    ) -> Result<(), ForwarderError> {
        let Some(log) = self.log(topic) else {
            return Ok(());
        };
        let identity = log.identity();
        let found = Found {
            topic,
            log: &identity,
        };
        let reason = Reason {
            reason: "topic_refused",
            code: None,
            detail,
            topic: Some(topic),
        };
        let mut known = Known::default();
        let mut set_aside = |outgoing: &Outgoing<'_>| {
            if let Outgoing::Parked { log, item, .. } = outgoing
                && !known.holds(dead_letters, log, item.span().first)?
            {
                aside::set_aside(dead_letters, log, item, reason)?;
            }
            Ok(Flow::Continue)
        };
        let mut cursor = log.cursor(log.committed());
        while let Some(item) = cursor.next().map_err(ForwarderError::Read)? {
            each(item, |outgoing| unpark(outgoing, found, &mut set_aside))?;
            log.commit(cursor.position());
        }
        Ok(())
    }
}

/// Offsets of one main log that are dead letters.
#[derive(Debug, Default)]
pub(in super::super) struct Known {
    log: String,
    offsets: BTreeSet<Offset>,
}

impl Known {
    /// Whether the record at `offset` of the log `log` is a dead letter; they are read once a log.
    ///
    /// # Errors
    /// [`ForwarderError::Read`]
    pub(in super::super) fn holds(
        &mut self,
        dead_letters: &DeadLetters,
        log: &str,
        offset: Offset,
    ) -> Result<bool, ForwarderError> {
        if self.log != log {
            let offsets = dead_letters.offsets_of(log, Offset::ZERO);
            self.offsets = offsets.map_err(ForwarderError::Read)?;
            log.clone_into(&mut self.log);
        }
        Ok(self.offsets.contains(&offset))
    }

    /// A record has become one.
    pub(in super::super) fn note(&mut self, log: &str, offset: Offset) {
        if self.log == log {
            self.offsets.insert(offset);
        }
    }
}

/// Hands what is in `item` to `forward`.
fn each(
    item: commit_log::Item<'_>,
    mut forward: impl FnMut(&Outgoing<'_>) -> Result<Flow, ForwarderError>,
) -> Result<(), ForwarderError> {
    match item {
        commit_log::Item::Hole(hole) => {
            for marker in Outgoing::markers(&hole) {
                forward(&marker)?;
            }
        }
        commit_log::Item::Batch(batch) => {
            for record in batch.records() {
                forward(&Outgoing::Record(&record))?;
            }
        }
    }
    Ok(())
}
