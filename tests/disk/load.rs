//! Sensors on MQTT and on a serial line at once, and where their records are to arrive.

use std::path::PathBuf;

use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::{self, Kafka};
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::process;
use system_tests::sim::Sim;
use tempfile::TempDir;

use crate::SOON;

/// Brokers and topics. The line is there once [`Load::start`] has started its devices.
pub(crate) struct Site {
    pub(crate) kafka: &'static Kafka,
    broker: Mosquitto,
    city_topic: String,
    press_topic: String,
    dir: TempDir,
}

/// What is being sent.
pub(crate) struct Load {
    city: Sim,
    press: Sim,
}

/// Kafka, which answers nobody until this is dropped.
pub(crate) struct Away(&'static Kafka);

impl Site {
    pub(crate) fn start() -> Self {
        let kafka = kafka::shared();
        Self {
            kafka,
            broker: Mosquitto::start(),
            city_topic: kafka.new_topic(3),
            press_topic: kafka.new_topic(3),
            dir: process::temp_dir(),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::new(&self.kafka.bootstrap(), &self.city_topic)
            .mqtt("city", &self.broker.url(), ("city/#", 1), "")
            .serial("press", &self.line(), "shim")
            .route("press/{device}", &self.press_topic, "{device}")
    }

    /// Starts the sensors of the serial line; those of MQTT once the gateway has subscribed.
    pub(crate) fn press(&self) -> Sim {
        Sim::start(&format!(
            "serial --pty {} --devices 4 --rate 100 --seed 5",
            self.line().display()
        ))
    }

    /// Starts the sensors of MQTT, beside those of the serial line. The gateway has subscribed.
    pub(crate) fn load(&self, press: Sim, rate: u32) -> Load {
        let city = Sim::start(&format!(
            "mqtt --url {} --topic city/{{district}}/{{device}} --qos 1 --devices 20 --rate {rate} \
             --payload-bytes 200",
            self.broker.url()
        ));
        Load { city, press }
    }

    pub(crate) fn kafka_away(&self) -> Away {
        self.kafka.pause();
        Away(self.kafka)
    }

    /// Ends the load and checks that all of it is in Kafka, in order; then drains the gateway.
    pub(crate) fn expect_all(&self, load: Load, mut gateway: Gateway) {
        gateway.wait_ready();
        load.city.stop_sending();
        load.press.stop_sending();
        let (city, press) = (load.city.finish(SOON), load.press.finish(SOON));
        assert_eq!(press.acknowledged, Some(press.sent));
        let topics = [self.city_topic.as_str(), self.press_topic.as_str()];
        let mut oracle = Oracle::new(&self.kafka.bootstrap(), &topics);
        let counts = [
            oracle.expect_all(&self.city_topic, city.sent, SOON),
            oracle.expect_all(&self.press_topic, press.sent, SOON),
        ];
        println!("{counts:?}");
        assert_eq!(gateway.drain().code(), Some(0));
    }

    fn line(&self) -> PathBuf {
        self.dir.path().join("line")
    }
}

impl Load {
    pub(crate) fn assert_runs(&mut self) {
        assert!(self.city.runs() && self.press.runs(), "there is load");
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.0.resume();
    }
}
