//! The store in a process of its own: this program once more, for as long as it takes to read or
//! write.
//!
//! sled's threads, seven of them, cannot be ended, and each wakes once a second: only a process takes
//! them along. It also takes along what else sled may do: a panic within a panic, memory that is never
//! given back, a call that hangs.
//!
//! ```text
//! gateway, keeper thread                     edge-gateway registry-store DIR
//! spawn ────────────────────────────────────▶ waits for the lock of DIR, opens
//!       ◀──────────────────────────────────── Done | Failed
//! Load | Write ─────────────────────────────▶
//!       ◀──────────────────────────────────── Devices …, Done | Failed
//! Close ────────────────────────────────────▶ flushes, seals
//!       ◀──────────────────────────────────── Done | Failed, and ends
//! ```
//!
//! - A gateway that is killed closes the pipe: the process then closes the store as it is and ends.
//!   The next gateway's process waits for it, by the lock.
//! - A process that ends, for whatever reason, is an error of the store like others (D4).
//! - Signals of a terminal don't reach it, and the systemd unit stops the gateway alone: what the
//!   gateway writes at its end needs this process.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::devices::Change;
use super::store::{Place, SledPlace, SledStore, Store, StoreError, StoredDevice};
use super::wire::{Answer, Request, receive, send};
use crate::cli::chain;

/// This very program, also where another has taken its place on disk.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// The hidden command, of the program's command line.
pub(crate) const COMMAND: &str = "registry-store";
/// What the process may say; anything else is `ended`.
const REASONS: [&str; 7] = [
    "unclean",
    "damaged",
    "content",
    "too_large",
    "io",
    "sled",
    "no_space",
];

/// A directory for a sled database, opened by a process of its own.
#[derive(Debug)]
pub(super) struct ProcessPlace {
    local: SledPlace,
    program: &'static Path,
}

impl ProcessPlace {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self::with_program(dir, Path::new(OWN_PROGRAM))
    }

    pub(super) fn with_program(dir: PathBuf, program: &'static Path) -> Self {
        let local = SledPlace::new(dir);
        Self { local, program }
    }
}

impl Place for ProcessPlace {
    fn open(&mut self) -> Result<Box<dyn Store>, StoreError> {
        self.local.prepare()?;
        let mut store = ProcessStore::start(self.program, &self.local.dir)?;
        store.done()?;
        Ok(Box::new(store))
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.local.clear()
    }

    fn has_space(&self) -> Result<(), StoreError> {
        self.local.has_space()
    }
}

/// The process. Dropping it kills it.
struct ProcessStore {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl ProcessStore {
    fn start(program: &Path, dir: &Path) -> Result<Self, StoreError> {
        let failed = StoreError::io("start", program);
        let mut child = Command::new(program)
            .arg0("edge-gateway")
            .arg(COMMAND)
            .arg(dir)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let requests = child.stdin.take().expect("it is piped");
        let answers = child.stdout.take().expect("it is piped");
        Ok(Self {
            child,
            requests,
            answers: BufReader::new(answers),
        })
    }

    fn ask(&mut self, request: &Request) -> Result<(), StoreError> {
        send(&mut self.requests, request).map_err(|error| self.ended(error))
    }

    fn answer(&mut self) -> Result<Answer, StoreError> {
        match receive(&mut self.answers) {
            Ok(Answer::Failed { reason, text }) => Err(StoreError::Process {
                reason: known(&reason),
                text,
            }),
            Ok(answer @ (Answer::Done | Answer::Devices(_))) => Ok(answer),
            Err(error) => Err(self.ended(error)),
        }
    }

    fn done(&mut self) -> Result<(), StoreError> {
        match self.answer()? {
            Answer::Done => Ok(()),
            Answer::Devices(_) | Answer::Failed { .. } => {
                Err(self.ended(io::ErrorKind::InvalidData.into()))
            }
        }
    }

    /// What is known of a process that said nothing, or nothing that makes sense.
    fn ended(&mut self, source: io::Error) -> StoreError {
        // It may still run, or never have: then killing it changes nothing.
        let _ = self.child.kill();
        let how = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        StoreError::Ended { how, source }
    }
}

impl Drop for ProcessStore {
    fn drop(&mut self) {
        // It has ended by itself where all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Store for ProcessStore {
    fn load(&mut self, take: &mut dyn FnMut(&mut Vec<StoredDevice>)) -> Result<(), StoreError> {
        self.ask(&Request::Load)?;
        loop {
            match self.answer()? {
                Answer::Devices(mut devices) => take(&mut devices),
                Answer::Done | Answer::Failed { .. } => return Ok(()),
            }
        }
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let changes = changes
            .iter()
            .map(|(key, device)| (key.to_string(), *device));
        self.ask(&Request::Write(changes.collect()))?;
        self.done()
    }

    fn close(mut self: Box<Self>, sync: bool) -> Result<(), StoreError> {
        self.ask(&Request::Close { sync })?;
        self.done()?;
        // Its end is waited for: the next one needs the lock, and nobody else would.
        match self.child.wait() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.ended(error)),
        }
    }
}

fn known(reason: &str) -> &'static str {
    let found = REASONS.iter().find(|known| **known == reason);
    found.copied().unwrap_or("ended")
}

/// The process's life: does what is asked for until it is told to close, or its asker is gone.
///
/// # Errors
/// The asker is gone, or the directory can't be locked.
pub(crate) fn serve(
    dir: &Path,
    mut requests: impl Read,
    mut answers: impl Write,
) -> io::Result<()> {
    let lock = File::open(dir)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let mut store = match SledPlace::new(dir.to_path_buf()).open_prepared() {
        Ok(store) => Box::new(store),
        Err(error) => return tell(&mut answers, Err(error)).map(drop),
    };
    let ended = tell(&mut answers, Ok(()))
        .and_then(|_is_told| obey(&mut store, &mut requests, &mut answers));
    match ended {
        Ok(Some(sync)) => tell(&mut answers, store.close(sync)).map(drop),
        Ok(None) => Ok(()),
        Err(error) => {
            // Nobody is left to be told how that goes.
            let _ = store.close(false);
            Err(error)
        }
    }
}

/// Returns whether the store is to be synced when it is closed, or none if it failed, which was told:
/// then it is left without a seal.
fn obey(
    store: &mut SledStore,
    requests: &mut impl Read,
    answers: &mut impl Write,
) -> io::Result<Option<bool>> {
    loop {
        let done = match receive(requests)? {
            Request::Load => load(store, answers)?,
            Request::Write(changes) => {
                let changes = changes.into_iter();
                let changes: Vec<Change> = changes.map(|(k, device)| (k.into(), device)).collect();
                store.write(&changes)
            }
            Request::Close { sync } => return Ok(Some(sync)),
        };
        if !tell(answers, done)? {
            return Ok(None);
        }
    }
}

fn load(store: &mut SledStore, answers: &mut impl Write) -> io::Result<Result<(), StoreError>> {
    let mut sent = Ok(());
    let loaded = store.load(&mut |devices| {
        if sent.is_ok() {
            sent = send(answers, &Answer::Devices(std::mem::take(devices)));
        }
        devices.clear();
    });
    sent.map(|()| loaded)
}

/// Answers; returns whether all went well.
fn tell(answers: &mut impl Write, done: Result<(), StoreError>) -> io::Result<bool> {
    let answer = match &done {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed {
            reason: error.reason().to_owned(),
            text: chain(error),
        },
    };
    send(answers, &answer)?;
    Ok(done.is_ok())
}
