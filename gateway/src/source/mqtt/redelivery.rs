//! Tells publishes that the broker sends again from new ones, and keeps account of what it has no
//! reason to send again.
//!
//! The rules are those of the [`window`](crate::state::window). Here is the window as it is now,
//! unsynced records included; the log has another, as of its last synced record. What makes the two
//! agree after a crash travels with the next record: how far publishes were acknowledged and released
//! ([`Settled`]). A source without a next record says it in a note of its own once [`NEWS_AGE_MAX`]
//! is over, and when it stops.
//!
//! - **R1** As long as the gateway runs, a PUBACK counts once it is handed to the socket, with its
//!   first byte: what comes with its identifier afterwards is stored.
//! - **R2** The log is told of it when the broker has answered a PINGREQ sent behind it, or when the
//!   connection has ended otherwise than by a crash. For what a crash leaves in the socket dies with
//!   it as often as not (unread input makes the kernel reset the connection), and all that the broker
//!   had not read yet would be stored twice. In exchange a crash within the broker's time to answer
//!   may take for a repetition what repeats a message's identifier, topic and payload and never
//!   reached us before.
//!
//! Sans-IO. Positions count the bytes of one connection.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::record::{Offset, Settled};
use crate::state::window::{Identity, Window};

/// How long the log may not know of acknowledgements while no record follows; one small write each.
/// Chosen by eye.
pub(super) const NEWS_AGE_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Redelivery {
    window: Window,
    /// PUBACKs that were written for the socket: the first byte of each, and its record.
    on_their_way: VecDeque<(u64, Offset)>,
    connection: Connection,
    /// R1: publishes below have their PUBACK handed to the socket.
    handed_below: Offset,
    /// What the log is to know.
    settled: Settled,
    /// What it has been told.
    told: Settled,
    /// When there first was something to tell.
    news_since: Option<Instant>,
}

/// What is counted anew on each connection.
#[derive(Debug, Default)]
struct Connection {
    /// Bytes that the socket has taken.
    handed_bytes: u64,
    /// Publishes below have their PUBACK written for the socket.
    written_below: Offset,
    pings: u64,
    pongs: u64,
    /// The answer to that ping says that PUBACKs below have arrived.
    awaited: Option<(u64, Offset)>,
}

impl Redelivery {
    /// Goes on with the window that the log has brought back.
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            on_their_way: VecDeque::new(),
            connection: Connection::default(),
            handed_below: Offset::ZERO,
            settled: Settled::default(),
            told: Settled::default(),
            news_since: None,
        }
    }

    /// The record of which a publish with DUP is a second delivery.
    pub(super) fn find(&self, publish: &Identity) -> Option<Offset> {
        self.window.find(publish)
    }

    /// A publish has its place in the log.
    pub(super) fn store(&mut self, offset: Offset, publish: Identity) {
        self.window.store(offset, publish);
    }

    /// A PUBACK is about to be written behind `unsent_bytes` of others.
    pub(super) fn acknowledge(&mut self, unsent_bytes: usize, record: Offset) {
        let connection = &mut self.connection;
        let first_byte = connection.handed_bytes + unsent_bytes as u64;
        self.on_their_way.push_back((first_byte, record));
        connection.written_below = connection.written_below.max(record.plus(1));
    }

    /// The socket has taken so many more bytes.
    pub(super) fn handed(&mut self, bytes: usize) {
        self.connection.handed_bytes += bytes as u64;
        let handed_before = self.handed_below;
        while let Some((first_byte, record)) = self.on_their_way.front()
            && *first_byte < self.connection.handed_bytes
        {
            self.handed_below = self.handed_below.max(record.plus(1));
            self.on_their_way.pop_front();
        }
        if self.handed_below > handed_before {
            self.window.settle(acknowledged(self.handed_below));
        }
    }

    /// There are PUBACKs of which a PINGREQ behind them would tell that they have arrived, and none
    /// is on its way.
    pub(super) fn wants_ping(&self) -> bool {
        self.connection.awaited.is_none()
            && self.connection.written_below > self.settled.acknowledged_below
    }

    /// A PINGREQ was written behind all PUBACKs, for whatever reason.
    pub(super) fn pinged(&mut self) {
        let connection = &mut self.connection;
        connection.pings += 1;
        let this = (connection.pings, connection.written_below);
        connection.awaited.get_or_insert(this);
    }

    /// PINGRESP came.
    pub(super) fn ponged(&mut self) {
        let connection = &mut self.connection;
        connection.pongs += 1;
        if let Some((ping, below)) = connection.awaited
            && connection.pongs >= ping
        {
            connection.awaited = None;
            self.tell(acknowledged(below));
        }
    }

    /// PUBREL came.
    pub(super) fn release(&mut self, packet_id: u16) {
        if let Some(record) = self.window.unreleased(packet_id) {
            let released = Settled {
                released_below: record.plus(1),
                ..Settled::default()
            };
            self.window.settle(released);
            self.tell(released);
        }
    }

    fn tell(&mut self, more: Settled) {
        self.settled = self.settled.joined(more);
        if self.settled != self.told && self.news_since.is_none() {
            self.news_since = Some(Instant::now());
        }
    }

    /// What the next record is to tell the log.
    pub(super) fn news(&self) -> Settled {
        let news = |now: Offset, told| if now == told { Offset::ZERO } else { now };
        let (now, told) = (self.settled, self.told);
        Settled {
            acknowledged_below: news(now.acknowledged_below, told.acknowledged_below),
            released_below: news(now.released_below, told.released_below),
        }
    }

    /// A record with [`Redelivery::news`] was appended.
    pub(super) fn told(&mut self) {
        self.told = self.settled;
        self.news_since = None;
    }

    /// There are news that no record has taken along for too long.
    pub(super) fn has_old_news(&self, now: Instant) -> bool {
        self.news_since
            .is_some_and(|since| now.duration_since(since) >= NEWS_AGE_MAX)
    }

    /// There is something to tell.
    pub(super) fn has_news(&self) -> bool {
        self.news_since.is_some()
    }

    /// The connection has ended: what the socket had not taken will never be sent.
    pub(super) fn disconnected(&mut self) {
        self.on_their_way.clear();
        self.connection = Connection::default();
        self.tell(acknowledged(self.handed_below));
    }

    /// The broker's session is a new one.
    pub(super) fn begin_anew(&mut self) {
        self.window.clear();
    }
}

fn acknowledged(below: Offset) -> Settled {
    Settled {
        acknowledged_below: below,
        ..Settled::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::window::Content;

    fn publish(packet_id: u16, qos: u8) -> Identity {
        Identity {
            packet_id,
            qos,
            content: Content::of(b"t", b"x"),
        }
    }

    const fn at(offset: u64) -> Offset {
        Offset::new(offset)
    }

    fn with_records(publishes: &[(u64, Identity)]) -> Redelivery {
        let mut redelivery = Redelivery::new(Window::default());
        for (offset, publish) in publishes {
            redelivery.store(at(*offset), *publish);
        }
        redelivery
    }

    #[test]
    fn a_puback_counts_as_handed_with_its_first_byte_and_not_before() {
        let (one, two) = (publish(1, 1), publish(2, 1));
        let mut redelivery = with_records(&[(5, one), (6, two)]);
        redelivery.acknowledge(10, at(5));
        redelivery.acknowledge(14, at(6));
        redelivery.handed(10);
        assert_eq!(redelivery.find(&one), Some(at(5)));
        assert_eq!(redelivery.news(), Settled::default());
        redelivery.handed(4);
        assert_eq!(redelivery.find(&one), None);
        assert_eq!(redelivery.find(&two), Some(at(6)));
        redelivery.handed(1);
        assert_eq!(redelivery.find(&two), None);
    }

    #[test]
    fn the_log_is_told_of_a_puback_once_a_ping_behind_it_is_answered() {
        let mut redelivery = with_records(&[(5, publish(1, 1)), (6, publish(2, 1))]);
        assert!(!redelivery.wants_ping());
        // The ping of a keep-alive, before any PUBACK.
        redelivery.pinged();
        redelivery.acknowledge(2, at(5));
        assert!(!redelivery.wants_ping(), "one is on its way");
        redelivery.handed(6);
        redelivery.ponged();
        assert_eq!(redelivery.news(), Settled::default());
        assert!(redelivery.wants_ping());
        redelivery.pinged();
        redelivery.acknowledge(0, at(6));
        redelivery.ponged();
        assert_eq!(redelivery.news().acknowledged_below, at(6));
        assert!(redelivery.wants_ping());
    }

    #[test]
    fn the_log_is_told_of_all_that_was_handed_to_a_connection_that_has_ended() {
        let mut redelivery = with_records(&[(5, publish(1, 1)), (6, publish(2, 1))]);
        redelivery.acknowledge(0, at(5));
        redelivery.acknowledge(4, at(6));
        redelivery.pinged();
        redelivery.handed(4);
        redelivery.disconnected();
        assert_eq!(redelivery.news().acknowledged_below, at(6));
        redelivery.ponged();
        assert_eq!(redelivery.news().acknowledged_below, at(6));
    }

    #[test]
    fn a_puback_that_the_socket_never_took_leaves_its_publish_expected() {
        let one = publish(1, 1);
        let mut redelivery = with_records(&[(5, one)]);
        redelivery.acknowledge(0, at(5));
        redelivery.disconnected();
        redelivery.handed(100);
        assert_eq!(redelivery.find(&one), Some(at(5)));
    }

    #[test]
    fn positions_of_a_new_connection_begin_anew() {
        let (one, two) = (publish(1, 1), publish(2, 1));
        let mut redelivery = with_records(&[(5, one), (6, two)]);
        redelivery.handed(1000);
        redelivery.disconnected();
        redelivery.acknowledge(0, at(5));
        redelivery.acknowledge(4, at(6));
        redelivery.handed(4);
        assert_eq!(redelivery.find(&one), None);
        assert_eq!(redelivery.find(&two), Some(at(6)));
    }

    #[test]
    fn quality_2_is_expected_until_its_pubrel() {
        let two = publish(2, 2);
        let mut redelivery = with_records(&[(6, two)]);
        redelivery.release(7);
        assert_eq!(redelivery.find(&two), Some(at(6)));
        redelivery.release(2);
        assert_eq!(redelivery.find(&two), None);
        assert_eq!(redelivery.news().released_below, at(7));
    }

    #[test]
    fn news_are_told_once_and_grow_old_if_they_are_not() {
        let mut redelivery = with_records(&[(6, publish(2, 2))]);
        redelivery.release(2);
        let now = Instant::now();
        assert!(redelivery.has_news() && !redelivery.has_old_news(now));
        assert!(redelivery.has_old_news(now + NEWS_AGE_MAX));
        redelivery.told();
        assert_eq!(redelivery.news(), Settled::default());
        assert!(!redelivery.has_news() && !redelivery.has_old_news(now + NEWS_AGE_MAX));
    }
}
