//! The store's process: what it does for its gateway, and what becomes of either without the other.

use std::io::{PipeReader, PipeWriter, pipe};
use std::path::Path;
use std::thread::{self, JoinHandle};

use super::super::devices::Device;
use super::super::process::{ProcessPlace, serve};
use super::super::store::Store as _;
use super::super::wire::{Answer, Request, receive, send};
use super::*;

/// A gateway's end of the pipes to a store's process, which here is a thread.
struct Asker {
    requests: PipeWriter,
    answers: PipeReader,
    process: JoinHandle<std::io::Result<()>>,
}

impl Asker {
    fn start(dir: &Path) -> Self {
        let (asked, requests) = pipe().expect("a pipe");
        let (answers, answered) = pipe().expect("a pipe");
        let dir = dir.to_path_buf();
        Self {
            requests,
            answers,
            process: thread::spawn(move || serve(&dir, asked, answered)),
        }
    }

    fn ask(&mut self, request: &Request) -> Answer {
        send(&mut self.requests, request).expect("it listens");
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        receive(&mut self.answers).expect("an answer")
    }

    fn load(&mut self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut answer = self.ask(&Request::Load);
        while let Answer::Devices(devices) = answer {
            keys.extend(devices.into_iter().map(|(key, _)| key));
            answer = self.answer();
        }
        assert_eq!(answer, Answer::Done);
        keys
    }
}

fn device() -> Device {
    let mut devices = Devices::new(RegistryFigures::default());
    let seen = super::super::seen::Seen {
        first_ms: 1,
        last_ms: 2,
        records: 3,
        bytes: 4,
        origin: Origin::Line,
    };
    devices.note("s", "d", &seen);
    let change = devices.take_unwritten(1).remove(0);
    change.1.expect("not forgotten")
}

#[test]
fn what_is_written_is_loaded_by_the_next_process_also_if_the_gateway_is_gone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut asker = Asker::start(dir.path());
    assert_eq!(asker.answer(), Answer::Done);
    assert_eq!(asker.load(), Vec::<String>::new());
    let changes = (0..600).map(|n| (format!("s\0{n:03}"), Some(device())));
    assert_eq!(asker.ask(&Request::Write(changes.collect())), Answer::Done);
    // The gateway is killed.
    let mut next = Asker::start(dir.path());
    drop((asker.requests, asker.answers));
    let ended = asker.process.join().expect("no panic");
    assert!(ended.is_err(), "nobody said that it should close");
    assert_eq!(next.answer(), Answer::Done);
    let keys = next.load();
    assert_eq!((keys.len(), keys[599].as_str()), (600, "s\x00599"));
    let removed = vec![("s\x00000".to_owned(), None)];
    assert_eq!(next.ask(&Request::Write(removed)), Answer::Done);
    assert_eq!(next.ask(&Request::Close { sync: true }), Answer::Done);
    assert!(next.process.join().expect("no panic").is_ok());
    let store = SledPlace::new(dir.path().to_path_buf()).open_prepared();
    let mut count = 0;
    let loaded = store.expect("it was left whole").load(&mut |devices| {
        count += devices.drain(..).len();
    });
    loaded.expect("readable");
    assert_eq!(count, 599);
}

#[test]
fn a_store_that_cannot_be_opened_is_told_with_its_reason() {
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::write(dir.path().join("sealed"), "garbage").expect("writable");
    std::fs::create_dir(dir.path().join("devices.sled")).expect("writable");
    let mut asker = Asker::start(dir.path());
    let Answer::Failed { reason, text } = asker.answer() else {
        panic!("it must not open that");
    };
    assert_eq!(reason, "damaged");
    assert_eq!(text, "the files are not as they were left");
}

#[test]
fn a_process_that_ends_says_nothing_or_nonsense_does_not_stop_the_registry_in_memory() {
    // The last one prints its arguments, which are no answer.
    for program in ["/bin/false", "/bin/echo", "/nowhere/at/all"] {
        let dir = tempfile::tempdir().expect("temp dir");
        let place = ProcessPlace::with_program(dir.path().to_path_buf(), Path::new(program));
        let fixture = Fixture::start(place);
        fixture.hear("1");
        fixture.wait_for(Condition::Waiting);
        assert_eq!(fixture.records_of("1"), 1);
        let resets = fixture.resets("ended") + fixture.resets("io");
        assert!(resets > 0, "{program}");
        let error = fixture.snapshot().store.last_error.expect("why it waits");
        assert!(
            error.contains("process") || error.contains("start"),
            "{error}"
        );
    }
}
