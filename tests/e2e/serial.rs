//! Serial line → gateway → Kafka.

use std::path::PathBuf;

use system_tests::gateway::{Gateway, Settings};
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::{kafka, process, turn};

use crate::SOON;

struct Line {
    link: PathBuf,
    _dir: tempfile::TempDir,
}

impl Line {
    fn new() -> Self {
        let dir = process::temp_dir();
        Self {
            link: dir.path().join("line"),
            _dir: dir,
        }
    }

    fn sim(&self, arguments: &str) -> Sim {
        Sim::start(&format!("serial --pty {} {arguments}", self.link.display()))
    }
}

#[test]
fn acknowledged_frames_of_many_devices_arrive_over_a_noisy_line() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(3);
    let line = Line::new();
    let sim = line.sim("--devices 5 --rate 400 --count 3000 --noise 0.02 --seed 3");
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("press", &line.link, "shim");
    let mut gateway = Gateway::start_ready(&settings);
    let report = sim.finish(SOON);
    assert_eq!((report.sent, report.acknowledged), (3000, Some(3000)));
    let counts = Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, report.sent, SOON);
    assert_eq!((counts.devices, counts.duplicates), (5, 0));
    let rejected = gateway.metric("edge_gateway_frames_rejected_total", &[("source", "press")]);
    assert!(rejected > Some(0.0), "{rejected:?}: the noise was real");
    assert_eq!(gateway.drain().code(), Some(0));
}

/// Eight messages take 1.8 s at 9600 baud, the shortest timer 0.5 s.
#[test]
fn a_window_that_a_slow_line_takes_longer_for_than_the_timer_is_sent_once() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let line = Line::new();
    let sim = line.sim("--rate 0 --count 40 --payload-bytes 200 --baud 9600");
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("press", &line.link, "shim");
    let mut gateway = Gateway::start_ready(&settings);
    let report = sim.finish(SOON);
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, report.sent, SOON);
    assert_eq!((report.acknowledged, report.resent), (Some(40), 0));
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn lines_arrive_and_senml_becomes_json_where_asked() {
    let _turn = turn();
    let kafka = kafka::shared();
    let (plain, json) = (kafka.new_topic(1), kafka.new_topic(1));
    let (text_line, shim_line) = (Line::new(), Line::new());
    let text = text_line.sim("--framing lines --devices 3 --rate 300 --count 900");
    let shim = shim_line.sim("--devices 2 --rate 300 --count 900");
    let settings = Settings::new(&kafka.bootstrap(), &plain)
        .kafka("value = \"json\"")
        .serial("text", &text_line.link, "lines")
        .serial("shim", &shim_line.link, "shim")
        .route("shim/{device}", &json, "{device}");
    let _gateway = Gateway::start_ready(&settings);
    let (text, shim) = (text.finish(SOON), shim.finish(SOON));
    let mut oracle = Oracle::new(&kafka.bootstrap(), &[&plain, &json]);
    oracle.expect_all(&plain, text.sent, SOON);
    oracle.expect_all(&json, shim.sent, SOON);
    let record = Oracle::new(&kafka.bootstrap(), &[&json])
        .take(1, SOON)
        .remove(0);
    let value: serde_json::Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
    assert!(value[0]["bn"].is_string(), "{value}");
}
