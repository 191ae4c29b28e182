//! What the gateway refuses to start with, and how it says so.

use std::process::Output;

use system_tests::gateway::{self, Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::{kafka, process, turn};

fn edge_gateway(arguments: &[&str], config: &str) -> Output {
    let dir = process::temp_dir();
    let path = dir.path().join("gateway.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = gateway::under_test();
    command.args(arguments).arg("--config").arg(path);
    command.output().unwrap()
}

#[test]
fn every_mistake_in_a_configuration_is_reported_and_the_exit_code_is_78() {
    let config = "[gateway]\nid = \"a b\"\ndata_dir = \"/tmp\"\n\n\
        [sources.city]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1\"\n\
        subscriptions = [{ filter = \"a/#/b\", qos = 1 }]\n\n\
        [buffer]\nbytes_max = \"much\"\n\n\
        [kafka]\nbrokers = []\ntopci = \"telemetry\"\n\n\
        [[routes]]\nsource = \"nowhere\"\nmatch = \"x\"\ntopic = \"t\"\n";
    for command in ["check", "run"] {
        let output = edge_gateway(&[command], config);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        for place in ["a b", "a/#/b", "much", "brokers", "topci", "nowhere"] {
            assert!(said.contains(place), "{place}: {said}");
        }
    }
}

#[test]
fn a_command_that_does_not_exist_exits_with_64() {
    let output = edge_gateway(&["fly"], "");
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let _turn = turn();
    // Root may write to any directory, but not make one here.
    let dir = std::path::Path::new("/proc/edge-gateway");
    let settings = Settings::new("127.0.0.1:1", "t").data_dir(dir).mqtt(
        "city",
        "mqtt://127.0.0.1:1",
        ("#", 1),
        "",
    );
    let mut gateway = Gateway::start(&settings);
    let code = gateway.wait_end().code();
    assert!(matches!(code, Some(74 | 78)), "{code:?}: {}", gateway.log());
    assert!(
        gateway.log().contains("/proc/edge-gateway"),
        "{}",
        gateway.log()
    );
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[test]
fn a_data_directory_of_a_running_gateway_is_refused_and_its_owner_named() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &broker.url(), ("#", 1), "");
    let mut owner = Gateway::start_ready(&settings);
    let mut second = Gateway::start(&settings.clone().data_dir(&owner.data_dir()));
    let code = second.wait_end().code();
    let said = second.log();
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {said}");
    assert!(said.contains(&owner.id().to_string()), "{said}");
    assert!(said.contains(owner.data_dir().to_str().unwrap()), "{said}");
    assert_eq!(owner.drain().code(), Some(0), "the owner is not disturbed");
}
