//! The device registry: seen in the status, kept over a restart, and never in the way.

use std::path::Path;

use serde_json::Value;
use system_tests::gateway::{Gateway, Settings};
use system_tests::oracle::Oracle;
use system_tests::pty::Pty;
use system_tests::{frame, kafka, process, turn, wait};

use crate::SOON;

const RESETS: &str = "edge_gateway_registry_resets_total";

fn send(line: &mut Pty, sequences: std::ops::Range<u32>) {
    for sequence in sequences {
        let payload = format!(r#"{{"source":"t","device":"d","sequence":{sequence}}}"#);
        line.send(&frame::opaque(7, sequence, payload.as_bytes()));
    }
}

/// `devices` of the status once the registry's copy on disk is ready.
fn devices(gateway: &Gateway) -> Value {
    wait::until_some("the registry's store to be ready", SOON, || {
        let (_, body) = gateway.get("/api/status?devices=10")?;
        let devices = serde_json::from_str::<Value>(&body).ok()?["devices"].take();
        (devices["store"] == "ready").then_some(devices)
    })
}

/// What sled would make of it, it never learns.
fn fill_with_garbage(dir: &Path) {
    let store = dir.join("registry/devices.sled");
    std::fs::create_dir_all(&store).unwrap();
    for name in ["db", "conf", "blobs", "snap.0000000000000001.generating"] {
        std::fs::write(store.join(name), vec![0xa5; 70_000]).unwrap();
    }
    std::fs::write(dir.join("registry/sealed"), "garbage").unwrap();
}

#[test]
fn a_registry_full_of_garbage_begins_anew_while_records_are_delivered() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let dir = process::temp_dir();
    fill_with_garbage(dir.path());
    let mut line = Pty::open();
    let settings = Settings::new(&kafka.bootstrap(), &topic)
        .serial("press", line.path(), "shim")
        .data_dir(dir.path());
    let mut gateway = Gateway::start_ready(&settings);
    send(&mut line, 0..10);
    let mut oracle = Oracle::new(&kafka.bootstrap(), &[&topic]);
    oracle.expect_all(&topic, 10, SOON);
    let seen = devices(&gateway);
    assert_eq!(seen["count"], 1);
    assert_eq!(
        (&seen["newest"][0]["source"], &seen["newest"][0]["records"]),
        (&"press".into(), &10.into())
    );
    assert_eq!(seen["newest"][0]["link"]["sequence"], 9);
    assert_eq!(
        gateway.metric("edge_gateway_registry_devices", &[]),
        Some(1.0)
    );
    assert_eq!(gateway.metric(RESETS, &[("reason", "damaged")]), Some(1.0));
    the_status_page_finds_what_it_shows(&gateway);
    assert_eq!(gateway.drain().code(), Some(0));

    gateway.kill_and_restart();
    gateway.wait_ready();
    send(&mut line, 10..12);
    oracle.expect_all(&topic, 12, SOON);
    let seen = devices(&gateway);
    assert_eq!(seen["newest"][0]["records"], 12, "kept over the restart");
    assert_eq!(gateway.metric(RESETS, &[]), None);
}

/// Every name that the page's script takes from the status is there.
fn the_status_page_finds_what_it_shows(gateway: &Gateway) {
    let (code, page) = gateway.get("/").unwrap();
    assert_eq!(code, 200);
    let (_, body) = gateway.get("/api/status?devices=20").unwrap();
    let status: Value = serde_json::from_str(&body).unwrap();
    let names: Vec<&str> = page
        .split("status.")
        .skip(1)
        .map(|rest| {
            rest.split(|c: char| !(c.is_alphanumeric() || "._".contains(c)))
                .next()
                .unwrap()
        })
        .map(|name| name.split(".map").next().unwrap())
        .collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        let found = status.pointer(&format!("/{}", name.replace('.', "/")));
        assert!(found.is_some(), "the page wants {name}, which {body} lacks");
    }
    assert_eq!(status["sources"][0]["connected"], true);
    assert_eq!(status["sources"][0]["received"], 10);
}
