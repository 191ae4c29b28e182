//! The redelivery window of an MQTT source: what its broker may send a second time (G5).
//!
//! A publish that is sent again carries the DUP flag and its old packet identifier. But once a
//! PUBACK was sent, the same identifier belongs to a new message, whatever its DUP flag (MQTT 5,
//! section 4.3.2): that message too may have been sent before, on a connection that broke. So a
//! publish counts as a second delivery only if all of this holds, and is stored otherwise:
//!
//! - **W1** it carries DUP (the source checks that);
//! - **W2** a record of this session has its packet identifier, quality of service, topic and
//!   payload;
//! - **W3** no later record of the session used that identifier;
//! - **W4** the record's PUBACK was not handed to the socket; at `QoS` 2: its PUBREL has not come.
//!
//! The window is part of the log's state ([`super::GatewayState`]), derived from the records alone,
//! and so is the same after a crash but for what the last batch did not know yet. At `QoS` 2 that
//! makes no difference: a broker that has released a publish never sends it again. At `QoS` 1 a
//! PUBACK that got lost with its connection lets the publish be stored twice: nobody can tell it
//! from a new one, and in doubt a record is stored. When the log is told of a PUBACK, says
//! `source::mqtt::redelivery`.
//!
//! Topic and payload are compared by a checksum and their lengths: they only have to tell apart what
//! used one identifier in one session.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::record::{Offset, Settled};

/// How many forgotten ones may lie among few others.
const SPARE_PLACES: usize = 64;
/// Entries of a window whose bound nobody has set.
pub(super) const ENTRIES_DEFAULT: usize = 1000;

/// What a publish is told by, beside its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its packet identifier, never 0.
    pub packet_id: u16,
    /// 1 or 2.
    pub qos: u8,
    /// Of topic and payload.
    pub content: Content,
}

/// Topic and payload, told by 64 bits: CRC-32C of both, and their lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(u64);

impl Content {
    /// Of a publish whose payload is whole.
    #[must_use]
    pub fn of(topic: &[u8], payload: &[u8]) -> Self {
        let crc = crc32c::crc32c_append(crc32c::crc32c(topic), payload);
        // A topic is below 64 KiB. With the lengths the border between the two counts.
        let lengths = (topic.len() as u64) << 16 ^ payload.len() as u64;
        Self(u64::from(crc) << 32 ^ lengths)
    }
}

/// See the module. Every record comes by here twice, so that nothing is allocated for one.
#[derive(Clone, Debug)]
pub struct Window {
    /// In the order of their offsets; `None` where one was forgotten among others.
    stored: VecDeque<(Offset, Option<Identity>)>,
    /// Those of `stored` that are not forgotten.
    by_packet_id: HashMap<u16, Offset, BuildHasherDefault<PacketIdHasher>>,
    entries_max: usize,
}

/// A multiplicative hash: there are no more packet identifiers than a table of them can hold.
#[derive(Clone, Copy, Debug, Default)]
struct PacketIdHasher(u64);

impl Hasher for PacketIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u16(u16::from(*byte));
        }
    }

    fn write_u16(&mut self, id: u16) {
        // 2^64 by the golden ratio: neighbours are far apart, in the upper bits as in the lower ones.
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A window's entry in a checkpoint: offset, packet identifier, quality of service, content.
pub(super) type EntryCheckpoint = (u64, u16, u8, u64);

impl Default for Window {
    fn default() -> Self {
        Self::new(ENTRIES_DEFAULT)
    }
}

impl Window {
    /// An empty window. Beyond `entries_max` it forgets the oldest, which are stored again if they
    /// come again.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self {
            stored: VecDeque::new(),
            by_packet_id: HashMap::default(),
            entries_max,
        }
    }

    /// Where the record is of which a publish with DUP is the second delivery (W2 to W4).
    #[must_use]
    pub fn find(&self, publish: &Identity) -> Option<Offset> {
        let offset = *self.by_packet_id.get(&publish.packet_id)?;
        (self.get(offset) == Some(publish)).then_some(offset)
    }

    /// A publish has its place in the log, behind all others.
    pub fn store(&mut self, offset: Offset, publish: Identity) {
        debug_assert!(self.stored.back().is_none_or(|(last, _)| *last < offset));
        if let Some(earlier) = self.by_packet_id.insert(publish.packet_id, offset)
            && let Ok(index) = self.index(earlier)
        {
            self.stored[index].1 = None;
        }
        self.stored.push_back((offset, Some(publish)));
        while self.len() > self.entries_max {
            if let Some((_, Some(oldest))) = self.stored.pop_front() {
                self.by_packet_id.remove(&oldest.packet_id);
            }
        }
        self.tidy();
    }

    /// Forgets what the broker has no reason to send again.
    pub fn settle(&mut self, settled: Settled) {
        self.forget_below(settled.acknowledged_below, 1);
        self.forget_below(settled.released_below, 2);
    }

    fn forget_below(&mut self, below: Offset, qos: u8) {
        let older = self.stored.iter_mut();
        for (_, publish) in older.take_while(|(offset, _)| *offset < below) {
            if let Some(known) = publish
                && known.qos == qos
            {
                self.by_packet_id.remove(&known.packet_id);
                *publish = None;
            }
        }
        self.tidy();
    }

    /// Removes what was forgotten: at the front at once, behind one that stays once there is as much of
    /// it as of the others.
    fn tidy(&mut self) {
        while let Some((_, None)) = self.stored.front() {
            self.stored.pop_front();
        }
        if self.stored.len() > 2 * self.len() + SPARE_PLACES {
            self.stored.retain(|(_, publish)| publish.is_some());
        }
    }

    fn index(&self, offset: Offset) -> Result<usize, usize> {
        self.stored.binary_search_by_key(&offset, |entry| entry.0)
    }

    fn get(&self, offset: Offset) -> Option<&Identity> {
        let index = self.index(offset).ok()?;
        self.stored[index].1.as_ref()
    }

    /// Where the record of an unreleased publish at `QoS` 2 is.
    #[must_use]
    pub fn unreleased(&self, packet_id: u16) -> Option<Offset> {
        let offset = *self.by_packet_id.get(&packet_id)?;
        (self.get(offset)?.qos == 2).then_some(offset)
    }

    /// The session is gone, and its identifiers mean nothing any more.
    pub fn clear(&mut self) {
        self.stored.clear();
        self.by_packet_id.clear();
    }

    /// What it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_packet_id.len()
    }

    /// It holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_packet_id.is_empty()
    }

    pub(super) fn checkpoint(&self) -> Vec<EntryCheckpoint> {
        let entry = |(offset, publish): &(Offset, Option<Identity>)| {
            let Identity {
                packet_id,
                qos,
                content: Content(content),
            } = (*publish)?;
            Some((offset.get(), packet_id, qos, content))
        };
        self.stored.iter().filter_map(entry).collect()
    }

    pub(super) fn restore(&mut self, entries: Vec<EntryCheckpoint>) {
        self.clear();
        for (offset, packet_id, qos, content) in entries {
            let publish = Identity {
                packet_id,
                qos,
                content: Content(content),
            };
            self.store(Offset::new(offset), publish);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn publish(packet_id: u16, qos: u8, payload: &[u8]) -> Identity {
        Identity {
            packet_id,
            qos,
            content: Content::of(b"t", payload),
        }
    }

    const fn at(offset: u64) -> Offset {
        Offset::new(offset)
    }

    fn acknowledged(below: u64) -> Settled {
        Settled {
            acknowledged_below: at(below),
            ..Settled::default()
        }
    }

    fn released(below: u64) -> Settled {
        Settled {
            released_below: at(below),
            ..Settled::default()
        }
    }

    #[test]
    fn a_publish_is_found_by_identifier_quality_topic_and_payload_alone() {
        let mut window = Window::default();
        let first = publish(7, 1, b"x");
        window.store(at(3), first);
        assert_eq!(window.find(&first), Some(at(3)));
        let other_topic = Content::of(b"u", b"x");
        for other in [
            publish(8, 1, b"x"),
            publish(7, 2, b"x"),
            publish(7, 1, b"y"),
            Identity {
                content: other_topic,
                ..first
            },
        ] {
            assert_eq!(window.find(&other), None, "{other:?}");
        }
    }

    #[test]
    fn the_border_between_topic_and_payload_counts() {
        assert_ne!(Content::of(b"ab", b"c"), Content::of(b"a", b"bc"));
        assert_ne!(Content::of(b"ab", b""), Content::of(b"", b"ab"));
    }

    #[test]
    fn an_identifier_that_was_used_again_stands_for_the_later_record() {
        let mut window = Window::default();
        window.store(at(1), publish(7, 1, b"x"));
        window.store(at(2), publish(7, 1, b"y"));
        assert_eq!(window.find(&publish(7, 1, b"x")), None);
        assert_eq!(window.find(&publish(7, 1, b"y")), Some(at(2)));
        assert_eq!(window.len(), 1);
    }

    #[test]
    fn an_acknowledgement_settles_quality_1_and_a_release_quality_2() {
        let (one, two) = (publish(1, 1, b"x"), publish(2, 2, b"x"));
        for (settled, left) in [
            (acknowledged(9), [None, Some(at(6))]),
            (released(9), [Some(at(5)), None]),
            (acknowledged(5), [Some(at(5)), Some(at(6))]),
            (released(6), [Some(at(5)), Some(at(6))]),
        ] {
            let mut window = Window::default();
            window.store(at(5), one);
            window.store(at(6), two);
            window.settle(settled);
            assert_eq!([window.find(&one), window.find(&two)], left, "{settled:?}");
        }
    }

    fn live(window: &Window) -> Vec<(Offset, Identity)> {
        let live = |(offset, publish): &(Offset, Option<Identity>)| Some((*offset, (*publish)?));
        window.stored.iter().filter_map(live).collect()
    }

    #[test]
    fn one_that_is_never_released_does_not_keep_the_room_of_those_behind_it() {
        let mut window = Window::default();
        window.store(at(0), publish(1, 2, b"x"));
        for offset in 1..10_000 {
            window.store(at(offset), publish(2, 1, b"x"));
            window.settle(acknowledged(offset));
            assert!(window.stored.len() <= 2 * 2 + SPARE_PLACES);
        }
        assert_eq!(window.unreleased(1), Some(at(0)));
        assert_eq!(window.find(&publish(2, 1, b"x")), Some(at(9999)));
    }

    proptest! {
        #[test]
        fn a_window_stays_within_its_bound_and_keeps_the_newest(
            ids in proptest::collection::vec((1u16..60, 1u8..3), 1..200),
            settle in 0u64..200,
        ) {
            let mut window = Window::new(20);
            for (offset, (packet_id, qos)) in ids.iter().enumerate() {
                window.store(at(offset as u64), publish(*packet_id, *qos, b"x"));
                prop_assert!(window.len() <= 20);
                prop_assert_eq!(live(&window).len(), window.len());
                prop_assert!(window.stored.len() <= 2 * window.len() + SPARE_PLACES);
                let newest = window.find(&publish(*packet_id, *qos, b"x"));
                prop_assert_eq!(newest, Some(at(offset as u64)));
            }
            window.settle(acknowledged(settle).joined(released(settle)));
            prop_assert_eq!(live(&window).len(), window.len());
            prop_assert!(live(&window).iter().all(|(offset, _)| *offset >= at(settle)));
            let mut restored = Window::new(20);
            restored.restore(window.checkpoint());
            prop_assert_eq!(live(&restored), live(&window));
            prop_assert_eq!(restored.by_packet_id, window.by_packet_id);
        }
    }
}
