//! What is recognised as a second delivery, and what is not: each rule on a broken connection, and
//! after a crash and a restart on what the log has brought back.

use edge_gateway::config::MqttProtocol::{V5, V311};
use edge_gateway::config::{Mqtt, Subscription};

use crate::fixture::{Gateway, Source, config, until};
use crate::peer::{Broker, Peer, Sent};

const TOPIC: &[u8] = b"city/a";

/// What comes between two connections.
#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    Crash,
}

const BOTH: [Between; 2] = [Between::Nothing, Between::Crash];

/// A gateway and its broker.
struct Scene {
    gateway: Gateway,
    broker: Broker,
    source: Option<Source>,
    config: Mqtt,
}

impl Scene {
    async fn new() -> (Self, Peer) {
        Self::with(|_| {}).await
    }

    async fn with(adjust: impl FnOnce(&mut Mqtt)) -> (Self, Peer) {
        let gateway = Gateway::new();
        let broker = Broker::new(V5).await;
        let mut config = config(V5, broker.port());
        adjust(&mut config);
        let source = Some(gateway.start_again(config.clone()));
        let peer = broker.session(false).await;
        let scene = Self {
            gateway,
            broker,
            source,
            config,
        };
        (scene, peer)
    }

    /// Publishes what becomes durable, and is not acknowledged: the connection breaks before.
    async fn store_unacknowledged(&self, mut peer: Peer, publishes: &[(u8, u16, &[u8])]) {
        let received = self.gateway.figures.received.get() + publishes.len() as u64;
        let committed = self.gateway.figures.committed.get() + publishes.len() as u64;
        self.gateway.gate.close();
        for (qos, id, payload) in publishes {
            peer.publish(*qos, *id, TOPIC, payload).await;
        }
        until("received", || {
            self.gateway.figures.received.get() == received
        })
        .await;
        drop(peer);
        until("disconnected", || self.gateway.figures.connected.get() == 0).await;
        self.gateway.gate.open();
        until("committed", || {
            self.gateway.figures.committed.get() == committed
        })
        .await;
    }

    async fn crash(&mut self) {
        self.source.take().expect("it runs").crash().await;
        self.gateway.reopen();
    }

    /// The next connection.
    async fn session(&mut self, between: Between, session_present: bool) -> Peer {
        match between {
            Between::Nothing => {}
            Between::Crash => {
                self.crash().await;
                self.source = Some(self.gateway.start_again(self.config.clone()));
            }
        }
        self.broker.session(session_present).await
    }

    fn duplicates(&self) -> u64 {
        self.gateway.figures.duplicates.get()
    }
}

#[tokio::test]
async fn a_publish_that_comes_again_before_its_puback_is_stored_once_and_acknowledged() {
    for between in BOTH {
        let (mut scene, peer) = Scene::new().await;
        scene.store_unacknowledged(peer, &[(1, 1, b"x")]).await;
        let mut peer = scene.session(between, true).await;
        peer.publish_again(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        assert_eq!(scene.gateway.payloads(), ["x"], "{between:?}");
        assert_eq!(scene.duplicates(), 1);
        assert_eq!(scene.gateway.figures.committed.get(), 1);
    }
}

#[tokio::test]
async fn a_publish_that_comes_again_before_the_commit_is_acknowledged_after_it() {
    let (mut scene, mut peer) = Scene::new().await;
    scene.gateway.gate.close();
    peer.publish(1, 1, TOPIC, b"x").await;
    until("received", || scene.gateway.figures.received.get() == 1).await;
    drop(peer);
    let mut peer = scene.session(Between::Nothing, true).await;
    peer.publish_again(1, 1, TOPIC, b"x").await;
    peer.is_quiet().await;
    scene.gateway.gate.open();
    assert_eq!(peer.sent().await, Sent::Puback(1));
    assert_eq!(scene.gateway.payloads(), ["x"]);
    assert_eq!(scene.duplicates(), 1);
}

#[tokio::test]
async fn a_publish_that_is_recognised_twice_is_acknowledged_twice() {
    for between in BOTH {
        let (mut scene, peer) = Scene::new().await;
        scene.store_unacknowledged(peer, &[(2, 1, b"x")]).await;
        for _ in 0..2 {
            let mut peer = scene.session(between, true).await;
            peer.publish_again(2, 1, TOPIC, b"x").await;
            assert_eq!(peer.sent().await, Sent::Pubrec(1));
        }
        assert_eq!(scene.gateway.payloads(), ["x"]);
        assert_eq!(scene.duplicates(), 2);
    }
}

#[tokio::test]
async fn a_publish_that_comes_with_dup_after_its_puback_was_handed_to_the_socket_is_stored() {
    for between in BOTH {
        let (mut scene, mut peer) = Scene::new().await;
        peer.publish(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        // The broker's answer to the ping behind it; the next record takes the note along.
        peer.is_quiet().await;
        peer.publish(1, 2, TOPIC, b"y").await;
        assert_eq!(peer.sent().await, Sent::Puback(2));
        drop(peer);
        let mut peer = scene.session(between, true).await;
        peer.publish_again(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        assert_eq!(scene.gateway.payloads(), ["x", "y", "x"], "{between:?}");
        assert_eq!(scene.duplicates(), 0);
    }
}

#[tokio::test]
async fn a_puback_that_a_crash_may_have_taken_along_leaves_its_publish_expected() {
    let (mut scene, mut peer) = Scene::new().await;
    peer.publish(1, 1, TOPIC, b"x").await;
    assert_eq!(peer.sent().await, Sent::Puback(1));
    // The ping behind it is not answered before the next record is stored.
    peer.publish(1, 2, TOPIC, b"y").await;
    until("committed", || scene.gateway.figures.committed.get() == 2).await;
    let mut next = scene.session(Between::Crash, true).await;
    drop(peer);
    for (id, payload) in [(1, b"x"), (2, b"y")] {
        next.publish_again(1, id, TOPIC, payload).await;
        assert_eq!(next.sent().await, Sent::Puback(id));
    }
    assert_eq!(scene.gateway.payloads(), ["x", "y"]);
    assert_eq!(scene.duplicates(), 2);
}

#[tokio::test]
async fn what_was_acknowledged_last_before_a_stop_is_a_new_message_after_it() {
    let (mut scene, mut peer) = Scene::new().await;
    peer.publish(1, 1, TOPIC, b"x").await;
    assert_eq!(peer.sent().await, Sent::Puback(1));
    let source = scene.source.take().expect("it runs");
    source.stop();
    assert_eq!(peer.sent().await, Sent::Disconnect);
    drop(peer);
    source.ended().await.expect("an orderly end");
    scene.gateway.reopen();
    scene.source = Some(scene.gateway.start_again(scene.config.clone()));
    let mut peer = scene.broker.session(true).await;
    peer.publish_again(1, 1, TOPIC, b"x").await;
    assert_eq!(peer.sent().await, Sent::Puback(1));
    assert_eq!(scene.gateway.payloads(), ["x", "x"]);
}

#[tokio::test]
async fn another_payload_or_topic_is_another_message() {
    for between in BOTH {
        let (mut scene, peer) = Scene::new().await;
        let publishes: [(u8, u16, &[u8]); 2] = [(1, 1, b"x"), (2, 2, b"y")];
        scene.store_unacknowledged(peer, &publishes).await;
        let mut peer = scene.session(between, true).await;
        peer.publish_again(1, 1, TOPIC, b"z").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        peer.publish_again(2, 2, b"city/b", b"y").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(2));
        assert_eq!(scene.gateway.payloads(), ["x", "y", "z", "y"]);
        assert_eq!(scene.duplicates(), 0);
    }
}

#[tokio::test]
async fn an_identifier_that_a_later_record_used_no_longer_stands_for_the_earlier_one() {
    for between in BOTH {
        let (mut scene, peer) = Scene::new().await;
        let publishes: [(u8, u16, &[u8]); 2] = [(1, 1, b"x"), (1, 1, b"y")];
        scene.store_unacknowledged(peer, &publishes).await;
        let mut peer = scene.session(between, true).await;
        peer.publish_again(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        assert_eq!(scene.gateway.payloads(), ["x", "y", "x"], "{between:?}");
        assert_eq!(scene.duplicates(), 0);
    }
}

#[tokio::test]
async fn a_publish_without_dup_is_a_new_message() {
    for between in BOTH {
        let (mut scene, peer) = Scene::new().await;
        let publishes: [(u8, u16, &[u8]); 2] = [(1, 1, b"x"), (2, 2, b"y")];
        scene.store_unacknowledged(peer, &publishes).await;
        let mut peer = scene.session(between, true).await;
        peer.publish(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        peer.publish(2, 2, TOPIC, b"y").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(2));
        assert_eq!(scene.gateway.payloads(), ["x", "y", "x", "y"]);
        assert_eq!(scene.duplicates(), 0);
    }
}

#[tokio::test]
async fn quality_2_belongs_to_its_identifier_until_the_pubrel() {
    for between in BOTH {
        let (mut scene, mut peer) = Scene::new().await;
        peer.publish(2, 7, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(7));
        // The PUBREC gets lost, whatever is stored meanwhile.
        peer.publish(1, 8, TOPIC, b"y").await;
        assert_eq!(peer.sent().await, Sent::Puback(8));
        drop(peer);
        let mut peer = scene.session(between, true).await;
        peer.publish_again(2, 7, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(7));
        assert_eq!(scene.duplicates(), 1);
        peer.release(7).await;
        assert_eq!(peer.sent().await, Sent::Pubcomp(7));
        // Takes the release along.
        peer.publish(1, 9, TOPIC, b"z").await;
        assert_eq!(peer.sent().await, Sent::Puback(9));
        drop(peer);
        let mut peer = scene.session(between, true).await;
        peer.publish_again(2, 7, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(7));
        assert_eq!(scene.gateway.payloads(), ["x", "y", "z", "x"]);
        assert_eq!(scene.duplicates(), 1);
    }
}

#[tokio::test]
async fn what_the_broker_sends_in_a_new_session_is_compared_with_nothing_before_it() {
    for between in BOTH {
        let (mut scene, peer) = Scene::new().await;
        let publishes: [(u8, u16, &[u8]); 2] = [(1, 1, b"x"), (2, 2, b"y")];
        scene.store_unacknowledged(peer, &publishes).await;
        drop(scene.session(between, false).await);
        let mut peer = scene.session(between, true).await;
        peer.publish_again(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        peer.publish_again(2, 2, TOPIC, b"y").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(2));
        assert_eq!(scene.duplicates(), 0);
        let gaps = |(subject, _): &(String, Vec<u8>)| subject == "gap of city";
        let records = scene.gateway.records();
        assert_eq!(records.len(), 5, "{between:?}");
        assert_eq!(records.iter().filter(|record| gaps(record)).count(), 1);
    }
}

#[tokio::test]
async fn another_client_id_is_another_session() {
    let (mut scene, peer) = Scene::new().await;
    scene.store_unacknowledged(peer, &[(1, 1, b"x")]).await;
    scene.config.client_id = "another".to_owned();
    let mut peer = scene.session(Between::Crash, true).await;
    peer.publish_again(1, 1, TOPIC, b"x").await;
    assert_eq!(peer.sent().await, Sent::Puback(1));
    assert_eq!(scene.gateway.payloads(), ["x", "x"]);
    // Nor was there anything to lose in it.
    drop(peer);
    scene.config.client_id = "a third".to_owned();
    let mut peer = scene.session(Between::Crash, false).await;
    peer.publish(1, 2, TOPIC, b"y").await;
    assert_eq!(peer.sent().await, Sent::Puback(2));
    assert_eq!(scene.gateway.payloads(), ["x", "x", "y"], "no gap");
}

#[tokio::test]
async fn nothing_is_recognised_where_dedupe_is_off() {
    for between in BOTH {
        let (mut scene, peer) = Scene::with(|config| config.dedupe = false).await;
        let publishes: [(u8, u16, &[u8]); 2] = [(1, 1, b"x"), (2, 2, b"y")];
        scene.store_unacknowledged(peer, &publishes).await;
        let mut peer = scene.session(between, true).await;
        peer.publish_again(1, 1, TOPIC, b"x").await;
        assert_eq!(peer.sent().await, Sent::Puback(1));
        peer.publish_again(2, 2, TOPIC, b"y").await;
        assert_eq!(peer.sent().await, Sent::Pubrec(2));
        assert_eq!(scene.gateway.payloads(), ["x", "y", "x", "y"]);
        assert_eq!(scene.duplicates(), 0);
    }
}

#[tokio::test]
async fn subscribe_waits_for_the_log_to_know_of_the_session_and_its_filters() {
    let gateway = Gateway::new();
    let broker = Broker::new(V5).await;
    gateway.gate.close();
    let _source = gateway.start_again(config(V5, broker.port()));
    let mut peer = broker.accept().await;
    assert_eq!(peer.sent().await, Sent::Connect);
    peer.accept(false).await;
    // The first may be answered before the source looks what else there is to do.
    peer.is_quiet().await;
    peer.is_quiet().await;
    gateway.gate.open();
    assert_eq!(peer.sent().await, Sent::Subscribe);
}

#[tokio::test]
async fn filters_that_the_configuration_no_longer_has_are_unsubscribed_from_once() {
    for protocol in [V5, V311] {
        let mut gateway = Gateway::new();
        let broker = Broker::new(protocol).await;
        let mut config = config(protocol, broker.port());
        config.subscriptions.push(Subscription {
            filter: "old/#".to_owned(),
            qos: 1,
        });
        let source = gateway.start_again(config.clone());
        let peer = broker.session(false).await;
        drop(peer);
        source.crash().await;
        gateway.reopen();

        config.subscriptions.pop();
        let source = gateway.start_again(config.clone());
        // Until the broker has answered, the filter may be there.
        for _ in 0..2 {
            let mut peer = broker.accept().await;
            assert_eq!(peer.sent().await, Sent::Connect);
            peer.accept(true).await;
            let unsubscribe = Sent::Unsubscribe(vec!["old/#".to_owned()]);
            assert_eq!(peer.sent().await, unsubscribe);
            assert_eq!(peer.sent().await, Sent::Subscribe);
        }
        let mut peer = broker.accept().await;
        assert_eq!(peer.sent().await, Sent::Connect);
        peer.accept(true).await;
        assert!(matches!(peer.sent().await, Sent::Unsubscribe(_)));
        assert_eq!(peer.sent().await, Sent::Subscribe);
        peer.unsubscribed().await;
        peer.is_quiet().await;
        drop(peer);
        source.crash().await;
        gateway.reopen();
        let _source = gateway.start_again(config);
        broker.session(true).await;
    }
}
