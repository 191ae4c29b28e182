//! The MQTT broker goes away and returns with its sessions.

use system_tests::gateway::{Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::{kafka, turn, wait};

use crate::{COMMITTED, SOON, city};

#[test]
fn nothing_is_lost_when_mosquitto_restarts() {
    let _turn = turn();
    for protocol in ["5", "3.1.1"] {
        let kafka = kafka::shared();
        let topic = kafka.new_topic(3);
        let mut broker = Mosquitto::start();
        let more = format!("protocol = \"{protocol}\"");
        let settings = Settings::new(&kafka.bootstrap(), &topic).mqtt(
            "city",
            &broker.url(),
            ("city/#", 1),
            &more,
        );
        let mut gateway = Gateway::start_ready(&settings);
        let mut sim = city(&broker, 1000);
        let committed = || gateway.metric(COMMITTED, &[]).unwrap_or(0.0);
        wait::until("a load", SOON, || committed() >= 1000.0);
        broker.stop();
        let before = committed();
        broker.start_again();
        wait::until("the load again", SOON, || committed() >= before + 1000.0);
        assert!(sim.runs());
        sim.stop_sending();
        let sent = sim.finish(SOON).sent;
        Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
        assert_eq!(gateway.drain().code(), Some(0));
    }
}
