//! The control socket: what it does, who may ask, and what bad input and bad places do to it.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use edge_gateway::clock::timeline::Boots;
use edge_gateway::commit_log::{CommitLog, Item};
use edge_gateway::dead_letters::DeadLetters;
use edge_gateway::dead_letters::control::Control;
use edge_gateway::metrics::{Metrics, ReasonLabel};
use edge_gateway::record::Offset;
use tokio_util::sync::CancellationToken;

use crate::fixture::{four_letters, listed, main_log, open, run, stderr, stdout};

const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < give_up, "{what} was not reached");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The parts of a gateway that serve the socket.
struct Served {
    dir: tempfile::TempDir,
    letters: DeadLetters,
    main: CommitLog,
    metrics: Metrics,
    stop: CancellationToken,
    runtime: tokio::runtime::Runtime,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    fn on(dir: tempfile::TempDir) -> Self {
        let metrics = Metrics::new();
        let letters = open(dir.path(), &metrics);
        let main = main_log(dir.path());
        let control = Control {
            letters: letters.clone(),
            main: main.clone(),
            boots: Boots::default(),
        };
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let task = runtime.spawn(control.serve(dir.path().to_owned(), stop.clone()));
        Self {
            dir,
            letters,
            main,
            metrics,
            stop,
            runtime,
            task,
        }
    }

    fn ready(dir: tempfile::TempDir) -> Self {
        let served = Self::on(dir);
        until("the socket", || served.mode() == Some(0o600));
        served
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn socket(&self) -> std::path::PathBuf {
        self.path().join("control.sock")
    }

    /// It gets its mode before its name.
    fn mode(&self) -> Option<u32> {
        let metadata = std::fs::metadata(self.socket()).ok()?;
        Some(metadata.permissions().mode() & 0o777)
    }

    /// What a line that is sent by hand is answered with.
    fn answer(&self, line: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("it listens");
        // What is too long is not read to its end, so that writing may fail.
        let _ = stream.write_all(line);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn errors(&self, reason: &str) -> u64 {
        let reason = reason.to_owned();
        let errors = &self.metrics.letters.control_errors;
        errors.get_or_create(&ReasonLabel { reason }).get()
    }

    fn end(self) -> tempfile::TempDir {
        self.stop.cancel();
        self.runtime.block_on(self.task).expect("it does not panic");
        self.letters.close();
        self.main.close();
        self.dir
    }
}

#[test]
fn a_running_gateway_deletes_and_sends_again() {
    let served = Served::ready(four_letters());
    let output = run(served.path(), &["delete", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("1 dead letter deleted ("));
    let output = run(served.path(), &["retry", "--all"]);
    assert_eq!(output.status.code(), Some(1), "one has only its head");
    assert!(stdout(&output).starts_with("2 dead letters sent again ("));
    let said = stderr(&output);
    assert_eq!(
        said,
        "3 stays: only the first 3 of its 70000 bytes were kept\n"
    );
    assert_eq!(listed(served.path()), [3]);
    let mut cursor = served.main.cursor(Offset::ZERO);
    let mut sent = Vec::new();
    while let Some(item) = cursor.next().expect("readable") {
        let Item::Batch(batch) = item else {
            panic!("a hole")
        };
        sent.extend(batch.records().map(|record| record.subject.to_owned()));
    }
    assert_eq!(sent, ["city/a\u{1b}[2J", "press/7"]);
    let dir = served.end();
    assert_eq!(listed(dir.path()), [3], "after a restart too");
}

#[test]
fn only_its_owner_may_write_to_the_socket_and_it_goes_with_the_gateway() {
    let served = Served::ready(four_letters());
    assert_eq!(served.mode(), Some(0o600));
    let dir = served.end();
    assert!(!dir.path().join("control.sock").exists());
}

#[test]
fn a_socket_that_a_killed_gateway_left_is_replaced() {
    let dir = four_letters();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    assert!(UnixStream::connect(&path).is_err(), "nobody listens");
    let served = Served::ready(dir);
    let output = run(served.path(), &["delete", "--all"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    served.end();
}

#[test]
fn without_a_socket_the_gateway_runs_and_it_is_counted() {
    let dir = four_letters();
    std::fs::create_dir(dir.path().join("control.sock")).expect("made");
    let served = Served::on(dir);
    until("the error", || served.errors("listen") == 1);
    let output = run(served.path(), &["retry", "--all"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    served.end();
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_is_served() {
    let served = Served::ready(four_letters());
    let long = vec![b' '; 200 * 1024];
    let lines: [&[u8]; 6] = [
        b"\n",
        b"{}\n",
        b"{\"command\":\"format\"}\n",
        b"{\"command\":\"delete\",\"selection\":{\"offset\":1}}\n",
        b"\xff\xfe\n",
        &long,
    ];
    for line in lines {
        let answer = served.answer(line);
        let said = answer.starts_with("{\"error\":\"") || answer.is_empty();
        assert!(said, "{answer}");
    }
    assert_eq!(served.errors("request"), 6);
    assert_eq!(listed(served.path()).len(), 4);
    let answer = served.answer(b"{\"command\":\"delete\",\"selection\":{\"offsets\":[[1,2]]}}\n");
    assert!(answer.starts_with("{\"done\":{\"letters\":2,"), "{answer}");
    served.end();
}

#[test]
fn one_who_says_nothing_does_not_keep_others_or_the_end_waiting_for_ever() {
    let served = Served::ready(four_letters());
    let silent = UnixStream::connect(served.socket()).expect("it listens");
    let output = run(served.path(), &["delete", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    drop(silent);
    let _silent = UnixStream::connect(served.socket()).expect("it listens");
    served.end();
}
