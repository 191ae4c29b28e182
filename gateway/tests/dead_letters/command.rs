//! `edge-gateway dead-letters …` on letters on disk, without a gateway.

use std::fs;
use std::path::Path;

use edge_gateway::metrics::Metrics;
use serde_json::Value;

use crate::fixture::{four_letters, listed, open, run, stderr, stdout};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("dead-letters")).expect("listed");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry.expect("readable")))
        .collect();
    names.sort();
    names
}

/// If this fails, the output has changed for people who read it every day.
#[test]
fn a_list_for_people_is_as_it_was() {
    let dir = four_letters();
    let output = run(dir.path(), &["list"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), include_str!("golden_list.txt"));
}

#[test]
fn filters_and_a_limit_choose_letters() {
    let dir = four_letters();
    let count = |arguments: &[&str]| {
        let output = run(dir.path(), &[&["list", "--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).lines().count()
    };
    assert_eq!(count(&["--reason", "too_large"]), 2);
    assert_eq!(count(&["--source", "city"]), 2);
    assert_eq!(count(&["--topic", "telemetry", "--limit", "1"]), 1);
    assert_eq!(count(&["--reason", "too_large", "--source", "city"]), 0);
    assert_eq!(count(&["1-2", "3"]), 3);
}

#[test]
fn an_export_has_everything_and_is_the_same_while_a_gateway_has_the_letters_open() {
    let dir = four_letters();
    let closed = run(dir.path(), &["export"]);
    let letters = open(dir.path(), &Metrics::new());
    let files = names(dir.path());
    let output = run(dir.path(), &["export"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), stdout(&closed));
    assert_eq!(names(dir.path()), files, "nothing is left behind");
    letters.close();
    let lines: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 4);
    let expected = [
        ("offset", Value::from(2)),
        ("source", "press".into()),
        ("subject", "press/7".into()),
        ("reason", "too_large".into()),
        ("code", "MessageSizeTooLarge".into()),
        ("detail", "refused".into()),
        ("topic", "telemetry".into()),
        ("kind", "opaque".into()),
        ("log", "00000000000000aa".into()),
        ("log_offset", 102.into()),
        ("received", "2023-11-14T22:13:20.002Z".into()),
        ("received_mono_ms", 2.into()),
        ("payload_bytes", 10.into()),
        ("payload_bytes_kept", 10.into()),
        ("payload", "{\"v\":21.5}".into()),
    ];
    for (name, value) in expected {
        assert_eq!(lines[2][name], value, "{name}");
    }
    assert!(
        lines[2]["time"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
    assert_eq!(lines[3]["payload_base64"], "/wAB");
    assert_eq!(lines[3]["topic"], Value::Null);
    assert_eq!(lines[3]["payload_bytes"], 70_000);
}

#[test]
fn an_export_to_a_file_never_goes_over_another() {
    let dir = four_letters();
    let file = dir.path().join("letters.jsonl");
    let arguments = ["export", "--output", file.to_str().expect("UTF-8")];
    let output = run(dir.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("4 dead letters written to "));
    let written = fs::read_to_string(&file).expect("written");
    assert_eq!(written.lines().count(), 4);
    assert_eq!(run(dir.path(), &arguments).status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).expect("there"), written);
}

#[test]
fn without_a_gateway_letters_are_deleted_here_and_stay_gone() {
    let dir = four_letters();
    let output = run(dir.path(), &["delete", "1", "--reason", "invalid_senml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("1 dead letter deleted ("));
    assert_eq!(listed(dir.path()), [0, 2, 3]);
    let output = run(dir.path(), &["delete", "1", "2", "--json"]);
    assert_eq!(output.status.code(), Some(1), "one of them is not there");
    let answer: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(answer["letters"], 1);
    assert_eq!(answer["left"][0]["offset"], 1);
    assert_eq!(listed(dir.path()), [0, 3]);
    let letters = open(dir.path(), &Metrics::new());
    assert_eq!(letters.kept().letters, 2);
    letters.close();
    let output = run(dir.path(), &["delete", "--all"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(listed(dir.path()), [0; 0]);
    let output = run(dir.path(), &["list"]);
    assert_eq!(stdout(&output), "0 dead letters, payloads of 0 B\n");
}

#[test]
fn all_letters_are_meant_only_if_that_is_said() {
    let dir = four_letters();
    for command in ["delete", "retry"] {
        let output = run(dir.path(), &[command]);
        assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
        assert!(stderr(&output).contains("--all"), "{}", stderr(&output));
    }
    for arguments in [&["delete", "x"][..], &["delete", "4-2"], &["list", "--all"]] {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
    assert_eq!(listed(dir.path()).len(), 4);
}

#[test]
fn without_a_gateway_nothing_is_sent_again() {
    let dir = four_letters();
    let output = run(dir.path(), &["retry", "--all"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("a gateway must run"),
        "{}",
        stderr(&output)
    );
    assert_eq!(listed(dir.path()).len(), 4);
}

#[test]
fn letters_that_somebody_has_open_and_who_cannot_be_asked_are_left_alone() {
    let dir = four_letters();
    let letters = open(dir.path(), &Metrics::new());
    let output = run(dir.path(), &["delete", "--all"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("test-gw"), "{}", stderr(&output));
    assert_eq!(listed(dir.path()).len(), 4);
    letters.close();
}

#[test]
fn where_there_are_no_letters_that_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    for command in [&["list"][..], &["export"], &["delete", "--all"]] {
        let output = run(dir.path(), command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(
            stderr(&output).contains("no commit log at"),
            "{}",
            stderr(&output)
        );
    }
    assert!(!dir.path().join("dead-letters").exists(), "none is made");
}
