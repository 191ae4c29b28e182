//! What the source does at which moment.

use std::time::Duration;

use edge_gateway::config::MqttProtocol::{self, V5, V311};
use edge_gateway::record::Offset;
use edge_gateway::source::SourceError;

use crate::fixture::{Gateway, Source, config, soon, until};
use crate::peer::{Broker, Peer, Sent};

/// A gateway, a broker, and the source's first session between them, each filter granted.
async fn connected(protocol: MqttProtocol) -> (Gateway, Broker, Source, Peer) {
    connected_to(Gateway::new(), protocol).await
}

async fn connected_to(gateway: Gateway, protocol: MqttProtocol) -> (Gateway, Broker, Source, Peer) {
    let broker = Broker::new(protocol).await;
    let source = gateway.start(config(protocol, broker.port()), false);
    let peer = broker.session(false).await;
    (gateway, broker, source, peer)
}

const TOPIC: &[u8] = b"city/a";

#[tokio::test]
async fn nothing_is_acknowledged_until_the_log_has_synced() {
    for (protocol, qos) in [(V5, 1), (V5, 2), (V311, 1), (V311, 2)] {
        let (gateway, _broker, mut source, mut peer) = connected(protocol).await;
        source.is_ready().await;
        gateway.gate.close();
        for id in 1..=3 {
            peer.publish(qos, id, TOPIC, b"x").await;
        }
        until("all appended", || gateway.figures.received.get() == 3).await;
        peer.is_quiet().await;
        assert_eq!(gateway.figures.committed.get(), 0);
        gateway.gate.open();
        for id in 1..=3 {
            let ack = if qos == 1 {
                Sent::Puback(id)
            } else {
                Sent::Pubrec(id)
            };
            assert_eq!(peer.sent().await, ack);
        }
        assert_eq!(gateway.records().len(), 3);
        assert_eq!(gateway.figures.committed.get(), 3);
    }
}

#[tokio::test]
async fn a_broker_that_waits_after_a_burst_does_not_wait_out_the_commit_interval() {
    let never = Duration::from_secs(3600);
    for protocol in [V5, V311] {
        let gateway = Gateway::committing_every(never);
        let log = gateway.log.clone();
        let connecting = async {
            let mut connected = connected_to(gateway, protocol).await;
            connected.2.is_ready().await;
            connected
        };
        // Before it subscribes the source notes that it has a session: a commit that has no burst.
        let hastening = async {
            loop {
                // The newest record.
                let stats = log.stats();
                let next = stats.progress.synced.plus(stats.unsynced);
                log.hasten(Offset::new(next.get().saturating_sub(1)));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let (_gateway, _broker, _source, mut peer) = tokio::select! {
            connected = connecting => connected,
            () = hastening => unreachable!("it has no end"),
        };
        // Mosquitto's own limit of what may be unacknowledged; twice, so that a second burst does too.
        for id in (1..=20).chain(1..=20) {
            peer.publish(1, id, TOPIC, b"x").await;
            if id == 20 {
                for id in 1..=20 {
                    assert_eq!(peer.sent().await, Sent::Puback(id));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_session_goes_on_after_a_crash_between_pubrec_and_pubcomp() {
    for protocol in [V5, V311] {
        let (gateway, broker, source, mut peer) = connected(protocol).await;
        peer.publish(2, 7, TOPIC, b"first").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(7));
        source.crash().await;

        let _source = gateway.start(config(protocol, broker.port()), true);
        let mut peer = broker.session(true).await;
        peer.release(7).await;
        assert_eq!(peer.sent().await, Sent::Pubcomp(7));
        peer.publish(2, 7, TOPIC, b"second").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(7));
        assert_eq!(gateway.payloads(), ["first", "second"]);
    }
}

#[tokio::test]
async fn what_came_on_one_connection_is_not_acknowledged_on_the_next() {
    let (gateway, broker, _source, mut peer) = connected(V5).await;
    gateway.gate.close();
    peer.publish(1, 1, TOPIC, b"first").await;
    until("appended", || gateway.figures.received.get() == 1).await;
    drop(peer);
    let mut peer = broker.session(true).await;
    peer.is_quiet().await;
    gateway.gate.open();
    until("committed", || gateway.figures.committed.get() == 1).await;
    peer.is_quiet().await;
    peer.publish(1, 1, TOPIC, b"second").await;
    assert_eq!(peer.sent().await, Sent::Puback(1));
    assert_eq!(gateway.payloads(), ["first", "second"]);
}

#[tokio::test]
async fn a_full_log_leaves_publishes_to_the_broker_and_fetches_them_in_order_when_it_has_room() {
    for protocol in [V5, V311] {
        full_log(protocol).await;
    }
}

/// 24 MiB at a log that takes some 2 MiB and a source that holds 4 MiB.
async fn full_log(protocol: MqttProtocol) {
    const COUNT: u16 = 96;
    let payload = |id: u16| {
        let mut payload = id.to_be_bytes().to_vec();
        payload.resize(250 * 1024, 0);
        payload
    };
    let (gateway, broker, _source, mut peer) = connected(protocol).await;
    gateway.gate.close();
    for id in 1..=COUNT {
        peer.publish(1, id, TOPIC, &payload(id)).await;
    }
    peer.publish(0, 0, TOPIC, b"lost").await;
    peer.is_quiet().await;
    assert_eq!(gateway.dropped("buffer_full"), 1);
    let taken = gateway.figures.received.get() - 1;
    assert!((16..40).contains(&taken), "{taken} held or in the log");

    gateway.gate.open();
    let mut acknowledged = 0;
    loop {
        match peer.sent().await {
            Sent::Puback(id) => {
                assert_eq!(id, acknowledged + 1, "in order");
                acknowledged = id;
            }
            Sent::Disconnect => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        u64::from(acknowledged),
        taken,
        "all that was taken, nothing else"
    );
    drop(peer);

    // The rest comes again, at most so much at a time that nothing is discarded once more.
    let mut peer = broker.session(true).await;
    for id in acknowledged + 1..=COUNT {
        peer.publish_again(1, id, TOPIC, &payload(id)).await;
        assert_eq!(peer.sent().await, Sent::Puback(id));
    }
    let stored: Vec<u16> = gateway
        .records()
        .iter()
        .map(|(_, payload)| u16::from_be_bytes([payload[0], payload[1]]))
        .collect();
    assert_eq!(stored, (1..=COUNT).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_held_when_the_connection_broke_is_stored_once_if_the_broker_sends_it_again() {
    const COUNT: u16 = 12;
    let payload = vec![0; 250 * 1024];
    let (gateway, broker, _source, mut peer) = connected(V5).await;
    gateway.gate.close();
    for id in 1..=COUNT {
        peer.publish(1, id, TOPIC, &payload).await;
    }
    until("all taken", || {
        gateway.figures.received.get() == u64::from(COUNT)
    })
    .await;
    drop(peer);
    let mut peer = broker.accept().await;
    gateway.gate.open();
    // What was in the log is committed; what was held still is.
    until("committed", || gateway.figures.committed.get() > 0).await;
    assert_eq!(peer.sent().await, Sent::Connect);
    peer.accept(true).await;
    assert_eq!(peer.sent().await, Sent::Subscribe);
    let committed = gateway.figures.committed.get();
    for id in 1..=COUNT {
        peer.publish_again(1, id, TOPIC, &payload).await;
        assert_eq!(peer.sent().await, Sent::Puback(id));
    }
    assert!(committed < u64::from(COUNT), "{committed} were in the log");
    assert!(gateway.records().len() < 2 * usize::from(COUNT));
}

#[tokio::test]
async fn an_expected_session_that_is_gone_is_a_gap_of_unknown_size() {
    for (expected, present, gaps) in [(true, false, 1), (true, true, 0), (false, false, 0)] {
        let gateway = Gateway::new();
        let broker = Broker::new(V5).await;
        let _source = gateway.start(config(V5, broker.port()), expected);
        let mut peer = broker.session(present).await;
        peer.publish(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        let records = gateway.records();
        assert_eq!(records.len(), gaps + 1);
        if gaps == 1 {
            assert_eq!(records[0].0, "gap of city");
            let note: edge_gateway::record::GapNote =
                serde_cbor::from_slice(&records[0].1).expect("a note");
            assert_eq!(note.reason, "mqtt_session_lost");
            assert_eq!(note.records, None);
        }
    }
}

#[tokio::test]
async fn a_session_lost_while_running_is_a_gap_too() {
    let (gateway, broker, _source, peer) = connected(V311).await;
    drop(peer);
    let mut peer = broker.session(false).await;
    peer.publish(1, 1, TOPIC, b"x").await;
    assert_eq!(peer.sent().await, Sent::Puback(1));
    assert_eq!(gateway.records()[0].0, "gap of city");
}

#[tokio::test]
async fn a_publish_repeated_before_its_pubrel_is_answered_and_not_stored_again() {
    let (gateway, _broker, _source, mut peer) = connected(V5).await;
    peer.publish(2, 9, TOPIC, b"once").await;
    assert_eq!(peer.sent().await, Sent::Pubrec(9));
    peer.publish_again(2, 9, TOPIC, b"once").await;
    assert_eq!(peer.sent().await, Sent::Pubrec(9));
    peer.release(9).await;
    assert_eq!(peer.sent().await, Sent::Pubcomp(9));
    peer.publish_again(2, 9, TOPIC, b"twice").await;
    assert_eq!(peer.sent().await, Sent::Pubrec(9));
    assert_eq!(gateway.payloads(), ["once", "twice"]);
    assert_eq!(gateway.figures.duplicates.get(), 1);
}

#[tokio::test]
async fn a_source_whose_filter_was_refused_takes_publishes_but_is_not_ready() {
    for (protocol, refusal) in [(V5, 0x87), (V311, 0x80)] {
        let gateway = Gateway::new();
        let broker = Broker::new(protocol).await;
        let source = gateway.start(config(protocol, broker.port()), false);
        let mut peer = broker.accept().await;
        assert_eq!(peer.sent().await, Sent::Connect);
        peer.accept(false).await;
        assert_eq!(peer.sent().await, Sent::Subscribe);
        peer.grant(refusal).await;
        peer.publish(1, 1, TOPIC, b"of another subscription").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        assert!(!*source.ready.borrow());
    }
}

#[tokio::test]
async fn a_broker_that_refuses_or_talks_nonsense_is_tried_again() {
    let nonsense: [&[u8]; 6] = [
        &[0x20, 3, 0, 0x87, 0],
        &[0x20, 2, 0],
        &[0xFF; 40],
        &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0x32, 3, 0, 9, b'x'],
        &[0xD0, 0],
    ];
    for answer in nonsense {
        let gateway = Gateway::new();
        let broker = Broker::new(V5).await;
        let _source = gateway.start(config(V5, broker.port()), false);
        let mut peer = broker.accept().await;
        assert_eq!(peer.sent().await, Sent::Connect);
        peer.write(answer).await;
        // The broker closes what it does not understand either.
        drop(peer);
        let mut peer = broker.session(false).await;
        peer.publish(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
    }
}

#[tokio::test]
async fn a_publish_that_cannot_be_read_ends_the_connection_and_nothing_else() {
    let (_gateway, broker, _source, mut peer) = connected(V5).await;
    // Quality of service 3.
    peer.write(&[0x36, 5, 0, 1, b'a', 0, 1]).await;
    peer.closed().await;
    let mut peer = broker.session(true).await;
    peer.publish(1, 1, TOPIC, b"x").await;
    assert_eq!(peer.sent().await, Sent::Puback(1));
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_left() {
    let gateway = Gateway::new();
    let broker = Broker::new(V5).await;
    let mut config = config(V5, broker.port());
    config.keep_alive = Duration::from_millis(100);
    let _source = gateway.start(config, false);
    let mut peer = broker.session(false).await;
    peer.closed().await;
    broker.session(true).await;
}

#[tokio::test]
async fn a_broker_that_takes_no_answers_is_left_without_growing_memory() {
    let gateway = Gateway::new();
    let broker = Broker::new(V5).await;
    let mut config = config(V5, broker.port());
    config.keep_alive = Duration::from_millis(400);
    let _source = gateway.start(config, false);
    let mut peer = broker.session(false).await;
    // Each PUBREL wants a PUBCOMP that is never read. The source stops reading, so that the
    // writing here gets stuck until it leaves.
    let flood = async {
        let releases: Vec<u8> = [0x62, 2, 0, 1].repeat(16 * 1024);
        loop {
            if peer.try_write(&releases).await.is_err() {
                break;
            }
        }
    };
    soon("the source leaves", flood).await;
    broker.session(true).await;
}

#[tokio::test]
async fn a_stop_acknowledges_what_was_taken_and_leaves_the_session() {
    let (gateway, _broker, source, mut peer) = connected(V5).await;
    gateway.gate.close();
    peer.publish(1, 1, TOPIC, b"x").await;
    until("appended", || gateway.figures.received.get() == 1).await;
    source.stop();
    gateway.gate.open();
    assert_eq!(peer.sent().await, Sent::Puback(1));
    assert_eq!(peer.sent().await, Sent::Disconnect);
    peer.closed().await;
    drop(peer);
    source.ended().await.expect("an orderly end");
    assert_eq!(gateway.figures.connected.get(), 0);
}

#[tokio::test]
async fn a_source_without_a_broker_stops_at_once() {
    let gateway = Gateway::new();
    let broker = Broker::new(V5).await;
    let port = broker.port();
    drop(broker);
    let source = gateway.start(config(V5, port), false);
    source.stop();
    source.ended().await.expect("an orderly end");
}

#[tokio::test]
async fn a_log_that_takes_no_more_ends_the_source_and_nothing_is_acknowledged() {
    let (gateway, _broker, source, mut peer) = connected(V5).await;
    gateway.log.close();
    peer.publish(1, 1, TOPIC, b"x").await;
    peer.closed().await;
    let ended = source.ended().await;
    assert!(
        matches!(ended, Err(SourceError::LogFailed { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_publish_over_the_limit_is_set_aside_and_acknowledged_however_large_it_is() {
    for (protocol, qos) in [(V5, 0), (V5, 1), (V5, 2), (V311, 0), (V311, 1), (V311, 2)] {
        let (gateway, _broker, _source, mut peer) = connected(protocol).await;
        // Just over payload_bytes_max, and so large that it is not even kept in memory.
        for (id, bytes) in [(1, 256 * 1024 + 1), (2, 20 << 20)] {
            peer.publish(qos, id, TOPIC, &vec![b'x'; bytes]).await;
            match qos {
                0 => {}
                1 => assert_eq!(peer.sent().await, Sent::Puback(id)),
                _ => assert_eq!(peer.sent().await, Sent::Pubrec(id)),
            }
        }
        peer.publish(1, 3, TOPIC, b"small").await;
        assert_eq!(peer.sent().await, Sent::Puback(3));
        assert_eq!(gateway.payloads(), ["small"]);
        assert_eq!(gateway.dead_letters("too_large"), 2);
    }
}

#[tokio::test]
async fn a_payload_of_just_the_limit_and_an_empty_one_are_records() {
    let (gateway, _broker, _source, mut peer) = connected(V311).await;
    let largest = vec![b'x'; 256 * 1024];
    for (id, payload) in [(1, &largest[..]), (2, b"")] {
        peer.publish(1, id, TOPIC, payload).await;
        assert_eq!(peer.sent().await, Sent::Puback(id));
    }
    let stored: Vec<usize> = gateway.records().iter().map(|(_, p)| p.len()).collect();
    assert_eq!(stored, [largest.len(), 0]);
}

#[tokio::test]
async fn a_topic_that_no_record_can_have_is_set_aside_and_the_session_goes_on() {
    for protocol in [V5, V311] {
        let (gateway, _broker, _source, mut peer) = connected(protocol).await;
        peer.publish(1, 1, b"city/\xFF", b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        peer.publish(2, 2, b"", b"x").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(2));
        assert_eq!(gateway.dead_letters("topic_not_utf8"), 1);
        assert_eq!(gateway.dead_letters("topic_missing"), 1);
        assert_eq!(gateway.payloads(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_dead_letter_is_acknowledged_after_the_records_before_it() {
    let (gateway, _broker, _source, mut peer) = connected(V5).await;
    gateway.gate.close();
    peer.publish(1, 1, TOPIC, b"small").await;
    until("appended", || gateway.figures.received.get() == 1).await;
    peer.publish(1, 2, b"city/\xFF", b"x").await;
    until("set aside", || gateway.dead_letters("topic_not_utf8") == 1).await;
    peer.is_quiet().await;
    gateway.gate.open();
    assert_eq!(peer.sent().await, Sent::Puback(1));
    assert_eq!(peer.sent().await, Sent::Puback(2));
}
