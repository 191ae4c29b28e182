//! `edge-gateway buffer …` with the real binary, on real logs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edge_gateway::clock::SystemClock;
use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::commit_log::{
    CommitLog, CommitReport, Compression, Observer, Options, Progress, SEGMENT_BYTES_MIN,
};
use edge_gateway::record::{NewRecord, Offset, Origin, PayloadKind, SourceName, Stamp};
use serde_json::Value;

/// Longest wait for a commit; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Deaf;

impl Observer for Deaf {
    fn progress(&self, _progress: Progress) {}
    fn committed(&self, _report: &CommitReport) {}
    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

fn open(data_dir: &Path) -> CommitLog {
    let options = Options {
        dir: data_dir.join("log"),
        bytes_max: 64 * SEGMENT_BYTES_MIN,
        segment_bytes: SEGMENT_BYTES_MIN,
        commit_interval: Duration::ZERO,
        drop_oldest: false,
        reserve: false,
        age_max: None,
        compression: Compression::None,
        clock: Arc::new(SystemClock::default()),
        owner: "gateway test-gw, process 1".to_owned(),
    };
    CommitLog::open(Arc::new(RealFs), options, Box::new(Deaf), ())
        .expect("the log opens")
        .log
}

fn payload(number: u64) -> Vec<u8> {
    match number % 3 {
        0 => format!("{{\"number\":{number},\"pad\":\"{}\"}}", "x".repeat(8000)).into_bytes(),
        1 => vec![0xff, 0x00, number as u8],
        _ => Vec::new(),
    }
}

fn append(log: &CommitLog, number: u64) {
    let source = SourceName::new(if number.is_multiple_of(2) {
        "press"
    } else {
        "city"
    });
    let source = source.expect("valid");
    let payload = payload(number);
    let record = NewRecord {
        source: &source,
        subject: "city/north/air\u{1b}[2J",
        kind: PayloadKind::Opaque,
        origin: Origin::Mqtt {
            qos: 1,
            packet_id: 7,
            dup: true,
            settled: edge_gateway::record::Settled::default(),
        },
        received: Stamp {
            wall_ms: 1_700_000_000_000 + number as i64,
            mono_ms: number,
        },
        payload: &payload,
    };
    let offset = log.append(&record).expect("there is room");
    assert_eq!(offset, Offset::new(number));
    assert!(log.wait(offset, PATIENCE).synced > offset, "synced in time");
}

/// A closed log of 200 records in several segments, of which 40 are delivered.
fn closed_log() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path());
    (0..200).for_each(|number| append(&log, number));
    log.commit(Offset::new(40));
    log.close();
    dir
}

fn buffer(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
        .arg("buffer")
        .args(arguments)
        .arg("--data-dir")
        .arg(data_dir)
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(data_dir: &Path, arguments: &[&str]) -> Value {
    let output = buffer(data_dir, &[arguments, &["--json"]].concat());
    serde_json::from_str(&stdout(&output)).expect("JSON")
}

fn files(dir: &Path) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
    let entries = fs::read_dir(dir.join("log")).expect("listed");
    let read = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        let changed = entry.metadata().expect("metadata").modified();
        let content = fs::read(entry.path()).expect("read");
        (name, (content, changed.expect("a time")))
    });
    read.collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let names = files(dir).into_keys();
    let names = names.filter(|name| name.ends_with(".seg"));
    names.map(|name| dir.join("log").join(name)).collect()
}

fn flip_in(path: &Path, position: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[position] ^= 0x10;
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_healthy_log_is_told_read_and_exported_and_no_byte_of_it_changes() {
    let dir = closed_log();
    let before = files(dir.path());
    let stat = buffer(dir.path(), &["stat", "--by-source"]);
    assert_eq!(stat.status.code(), Some(0), "{}", stderr(&stat));
    for part in [
        "in use by    nobody",
        "160 records, offsets 40 to 199",
        "format version 1, opened 1 time",
        "offset 40, received 2023-11-14T22:13:20.04Z",
        "press: 80 records",
        "city: 80 records",
    ] {
        assert!(stdout(&stat).contains(part), "{part}\n{}", stdout(&stat));
    }
    let verify = buffer(dir.path(), &["verify"]);
    assert_eq!(verify.status.code(), Some(0), "{}", stdout(&verify));
    assert!(
        stdout(&verify).starts_with("whole: "),
        "{}",
        stdout(&verify)
    );
    for arguments in [
        &["peek"][..],
        &["export"],
        &["repair"],
        &["repair", "--yes"],
    ] {
        let output = buffer(dir.path(), arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?} {}",
            stderr(&output)
        );
    }
    assert_eq!(before, files(dir.path()));
}

#[test]
fn stat_and_verify_have_stable_names_for_machines() {
    let dir = closed_log();
    let stat = json(dir.path(), &["stat"]);
    for (name, expected) in [
        ("in_use", Value::from(false)),
        ("format_version", 1.into()),
        ("open_counter", 1.into()),
        ("committed_offset", 40.into()),
        ("synced_offset", 200.into()),
        ("end_offset", 200.into()),
        ("undelivered", 160.into()),
    ] {
        assert_eq!(stat[name], expected, "{name}\n{stat}");
    }
    assert_eq!(stat["identity"].as_str().map(str::len), Some(16));
    assert_eq!(stat["oldest"]["offset"], 40);
    let verify = json(dir.path(), &["verify"]);
    assert_eq!(verify["whole"], true);
    let first = verify["first_offset"].as_u64().expect("a number");
    assert_eq!(verify["records"], 200 - first);
    assert_eq!(verify["findings"], Value::Array(Vec::new()));
}

/// Three bytes of base64.
fn decoded(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = text.chars().fold(0, |bits, character| {
        bits << 6 | ALPHABET.find(character).expect("base64") as u32
    });
    bits.to_be_bytes()[1..].to_vec()
}

#[test]
fn export_is_lossless_undelivered_first_and_bounded_as_asked() {
    let dir = closed_log();
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let output = buffer(dir.path(), &[&["export"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        lines.collect()
    };
    let all = lines(&[]);
    assert_eq!(all.len(), 160);
    for (number, line) in (40..).zip(&all) {
        assert_eq!(line["offset"], number);
        assert_eq!(line["received_wall_ms"], 1_700_000_000_000_u64 + number);
        assert_eq!(line["received_mono_ms"], number);
        assert_eq!(line["subject"], "city/north/air\u{1b}[2J");
        assert_eq!(line["kind"], "opaque");
        assert_eq!(line["boot_id"].as_str().map(str::len), Some(16));
        let origin = serde_json::json!({"type": "mqtt", "qos": 1, "packet_id": 7, "dup": true});
        assert_eq!(line["origin"], origin);
        match number % 3 {
            1 => {
                let encoded = line["payload_base64"].as_str().expect("not UTF-8");
                assert_eq!(decoded(encoded), payload(number));
                assert!(line.get("payload").is_none());
            }
            _ => {
                let text = String::from_utf8(payload(number)).expect("UTF-8");
                assert_eq!(line["payload"], text);
            }
        }
    }
    let some = lines(&["--from", "50", "--to", "59", "--source", "press"]);
    let offsets: Vec<_> = some
        .iter()
        .filter_map(|line| line["offset"].as_u64())
        .collect();
    assert_eq!(offsets, [50, 52, 54, 56, 58]);
    assert_eq!(
        lines(&["--all"])[0]["offset"],
        json(dir.path(), &["stat"])["first_offset"]
    );
}

#[test]
fn export_to_a_file_never_writes_over_one() {
    let dir = closed_log();
    let to = dir.path().join("records.jsonl");
    let path = to.display().to_string();
    let output = buffer(dir.path(), &["export", "--output", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&to).expect("read").lines().count(), 160);
    let again = buffer(dir.path(), &["export", "--output", &path]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr(&again).contains("records.jsonl"),
        "{}",
        stderr(&again)
    );
}

#[test]
fn a_reader_who_has_enough_is_no_error() {
    let dir = closed_log();
    let mut export = Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
        .args(["buffer", "export", "--data-dir"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut out = BufReader::new(export.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    drop(out);
    let output = export.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn peek_shows_the_oldest_undelivered_the_newest_or_from_an_offset_safe_for_a_terminal() {
    let dir = closed_log();
    let offsets = |arguments: &[&str]| -> Vec<u64> {
        let output = buffer(dir.path(), &[&["peek"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(!text.contains('\u{1b}'), "escaped");
        let first = |line: &str| line.split(' ').next().and_then(|word| word.parse().ok());
        text.lines()
            .map(|line| first(line).expect("an offset"))
            .collect()
    };
    assert_eq!(offsets(&["--count", "3"]), [40, 41, 42]);
    assert_eq!(offsets(&["--count", "3", "--last"]), [197, 198, 199]);
    assert_eq!(
        offsets(&["--count", "2", "--last", "--source", "press"]),
        [196, 198]
    );
    assert_eq!(offsets(&["--count", "2", "--from", "100"]), [100, 101]);
    let output = buffer(dir.path(), &["peek", "--from", "100", "--count", "1"]);
    assert!(
        stdout(&output).contains("hex ff 00 64"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_flipped_bit_is_named_by_file_and_byte_and_repaired_without_deleting_anything() {
    let dir = closed_log();
    let segment = segments(dir.path())[1].clone();
    let name = segment
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let batch = fs::read(&segment).expect("read");
    // The batch behind the checkpoint, which is empty here.
    let position = 80;
    assert_eq!(&batch[position..position + 4], b"EGLB");
    flip_in(&segment, position + 90);
    let before = files(dir.path());
    let verify = buffer(dir.path(), &["verify"]);
    assert_eq!(verify.status.code(), Some(1));
    let text = stdout(&verify);
    assert!(text.contains(&format!("{name}: byte 80 to ")), "{text}");
    assert!(text.contains("bad batch, offset "), "{text}");
    let export = buffer(dir.path(), &["export"]);
    assert_eq!(export.status.code(), Some(1), "what lacks is said");
    assert_eq!(stdout(&export).lines().count(), 159);
    assert!(stderr(&export).contains(&name), "{}", stderr(&export));

    let dry = buffer(dir.path(), &["repair"]);
    assert_eq!(dry.status.code(), Some(0), "{}", stderr(&dry));
    assert!(
        stdout(&dry).contains("nothing was changed"),
        "{}",
        stdout(&dry)
    );
    assert_eq!(before, files(dir.path()));
    let repair = json(dir.path(), &["repair", "--yes"]);
    assert_eq!(repair["done"], true, "{repair}");
    let aside = repair["files"][0]["set_aside_as"].as_str().expect("a name");
    assert_eq!(files(dir.path())[aside].0, before[&name].0);
    assert_eq!(buffer(dir.path(), &["verify"]).status.code(), Some(0));
    let stat = json(dir.path(), &["stat", "--by-source"]);
    assert_eq!(stat["quarantined_files"][0]["name"], aside);
    assert_eq!(stat["findings"][0]["what"], "missing");
    let log = open(dir.path());
    append(&log, 200);
    log.close();
    assert_eq!(buffer(dir.path(), &["verify"]).status.code(), Some(0));
}

#[test]
fn a_truncated_segment_is_named_where_it_ends() {
    let dir = closed_log();
    let segment = segments(dir.path())[1].clone();
    let file = fs::OpenOptions::new().write(true).open(&segment);
    file.expect("opened").set_len(100).expect("cut");
    let verify = json(dir.path(), &["verify"]);
    assert_eq!(
        (&verify["whole"], &verify["damaged"]),
        (&false.into(), &1.into())
    );
    let finding = &verify["findings"][0];
    assert_eq!(
        (&finding["position"], &finding["bytes"]),
        (&80.into(), &20.into())
    );
    let file = segment.file_name().expect("a name").to_string_lossy();
    assert_eq!(finding["file"], file.into_owned());
}

#[test]
fn an_empty_log_is_whole_and_a_missing_one_a_clear_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let verify = buffer(dir.path(), &["verify"]);
    assert_eq!(verify.status.code(), Some(1));
    assert!(
        stderr(&verify).contains("there is no commit log at"),
        "{}",
        stderr(&verify)
    );
    fs::create_dir(dir.path().join("log")).expect("made");
    for command in ["stat", "verify", "peek", "export", "repair"] {
        let output = buffer(dir.path(), &[command]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command} {}",
            stderr(&output)
        );
    }
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = closed_log();
    let newest = segments(dir.path()).pop().expect("a segment");
    let mut bytes = fs::read(&newest).expect("read");
    bytes[12] = 9;
    let crc = crc32c::crc32c(&bytes[8..80]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    fs::write(&newest, bytes).expect("written");
    for command in ["verify", "repair", "export"] {
        let output = buffer(dir.path(), &[command]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let text = stderr(&output);
        assert!(text.contains("format version 9"), "{command} {text}");
    }
}

#[test]
fn a_log_in_use_under_load_is_whole_every_time_and_repair_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path());
    (0..60).for_each(|number| append(&log, number));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut number = 60;
            while !done.load(Ordering::Relaxed) {
                append(&log, number);
                number += 1;
                log.commit(Offset::new(number - 60));
            }
        });
        let looked = std::panic::catch_unwind(|| look_many_times(dir.path()));
        done.store(true, Ordering::Relaxed);
        load.join().expect("the load goes on");
        looked.expect("whole every time");
    });
}

fn look_many_times(data_dir: &Path) {
    for _ in 0..20 {
        let verify = buffer(data_dir, &["verify"]);
        assert_eq!(verify.status.code(), Some(0), "{}", stdout(&verify));
        let stat = json(data_dir, &["stat"]);
        assert_eq!(stat["owner"], "gateway test-gw, process 1");
        let export = buffer(data_dir, &["export"]);
        assert_eq!(export.status.code(), Some(0), "{}", stderr(&export));
    }
    let repair = buffer(data_dir, &["repair", "--yes"]);
    assert_eq!(repair.status.code(), Some(1));
    let text = stderr(&repair);
    assert!(text.contains("in use by gateway test-gw"), "{text}");
}

#[test]
fn the_configuration_names_the_data_directory_also_with_mistakes_elsewhere() {
    let dir = closed_log();
    let file = dir.path().join("gateway.toml");
    let data_dir = dir.path().display();
    let text = format!("[gateway]\ndata_dir = \"{data_dir}\"\n[kafka]\nbroker = 7\n");
    fs::write(&file, text).expect("written");
    let run = |file: &Path| {
        Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
            .args(["buffer", "verify", "--config"])
            .arg(file)
            .output()
            .expect("the binary runs")
    };
    let output = run(&file);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = run(Path::new("/nonexistent/gateway.toml"));
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
}

#[test]
fn the_log_of_dead_letters_is_chosen_by_name() {
    let dir = closed_log();
    fs::rename(dir.path().join("log"), dir.path().join("dead-letters")).expect("moved");
    let output = buffer(dir.path(), &["verify", "--log", "dead-letters"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("dead-letters"));
}
