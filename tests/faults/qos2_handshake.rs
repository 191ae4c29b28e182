//! SIGKILL of the gateway between PUBREC and PUBCOMP. MQTT's broker sends PUBREL again to a client
//! that has forgotten the message; the session must go on, without a loss.

use system_tests::gateway::{Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::packet_gate::{Held, PacketGate};
use system_tests::sim::Sim;
use system_tests::{kafka, turn, wait};

use crate::SOON;

/// Kills the gateway once some handshakes have stopped at `held`.
fn the_session_goes_on_after_a_kill_at(held: Held, protocol: &str) {
    let kafka = kafka::shared();
    let topic = kafka.new_topic(3);
    let broker = Mosquitto::start();
    let gate = PacketGate::before(broker.port(), held);
    let more = format!("protocol = \"{protocol}\"");
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &gate.url(), ("city/#", 2), &more);
    let mut gateway = Gateway::start_ready(&settings);
    let sim = Sim::start(&format!(
        "mqtt --url {} --qos 2 --devices 5 --rate 200 --count 2000",
        broker.url()
    ));
    wait::until("handshakes withheld", SOON, || gate.held() >= 5);
    gateway.kill();
    gate.open();
    gateway.kill_and_restart();
    gateway.wait_ready();
    let sent = sim.finish(SOON).sent;
    // Delivery is at least once: what was under way to Kafka at the kill may come twice. `expect_all`
    // fails on a loss and on a changed order.
    let counts = Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
    println!("{held:?}, MQTT {protocol}: {counts:?}");
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn the_session_goes_on_when_pubrel_never_came() {
    let _turn = turn();
    for protocol in ["5", "3.1.1"] {
        the_session_goes_on_after_a_kill_at(Held::Pubrel, protocol);
    }
}

#[test]
fn the_session_goes_on_when_pubcomp_was_lost() {
    let _turn = turn();
    for protocol in ["5", "3.1.1"] {
        the_session_goes_on_after_a_kill_at(Held::Pubcomp, protocol);
    }
}
