//! The control socket of a running gateway, `<data_dir>/control.sock`: how a command asks it for
//! what only it can do, since it has the logs open.
//!
//! One line of JSON each way, then the connection ends. Only the gateway's own user and root may
//! connect: the socket has mode 0600, and the peer's user is looked at.
//!
//! ```text
//! ─▶ {"command":"delete","selection":{"offsets":[[3,3]],"reason":null,"source":null,"topic":null}}
//! ◀─ {"done":{"letters":1,"bytes":412,"left":[],"left_more":0}}      or {"error":"…"}
//! ```
//!
//! - **Bounded**: a line has 64 KiB at most, reading and writing five seconds, and one connection is
//!   served at a time; others wait in the kernel's queue. What is done is done on a thread for
//!   blocking work, and shares nothing with the way of a record but the logs.
//! - **Not there**: if the socket can't be made the gateway runs without it, which is told and counted
//!   (`control_errors_total`). One that a gateway left which was killed is replaced: the logs' locks
//!   say that nobody else uses it.
//! - **Stopping**: a command under way ends with what it has finished; the socket is removed.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ChangeError, Changed, DeadLetters, Retry, Selection};
use crate::clock::timeline::Boots;
use crate::commit_log::CommitLog;

const NAME: &str = "control.sock";
/// Where it is made before it has its mode and its name.
const NAME_NEW: &str = "control.sock.new";
/// A thousand runs of offsets take less than this.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Longest wait for a peer to write or read a line.
const PEER_PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for room in a full buffer.
const ROOM_PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait of a command for its answer: many letters are many commits.
const ANSWER_PATIENCE: Duration = Duration::from_secs(300);
/// Pause after a connection could not be accepted: descriptors have run out, say.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Delete dead letters.
    Delete {
        /// Which.
        selection: Selection,
    },
    /// Send dead letters again.
    Retry {
        /// Which.
        selection: Selection,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done, but for what is left.
    Done(Changed),
    /// It was not, or not to its end; for a person.
    Error(String),
}

/// What the socket's requests are done with.
#[derive(Clone, Debug)]
pub struct Control {
    /// The letters.
    pub letters: DeadLetters,
    /// The main log.
    pub main: CommitLog,
    /// When earlier boots of the board began.
    pub boots: Boots,
}

impl Control {
    /// Serves the socket below `data_dir` until `stop` is cancelled. Without one it returns.
    pub async fn serve(self, data_dir: PathBuf, stop: CancellationToken) {
        let listener = match listen(&data_dir) {
            Ok(listener) => listener,
            Err(error) => {
                self.letters.figures.control_error("listen");
                let path = data_dir.join(NAME);
                tracing::warn!(path = %path.display(), %error, "no control socket: dead letters \
                    can be deleted while the gateway is stopped, and not sent again");
                return;
            }
        };
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.converse(stream, &stop).await,
                Err(error) => {
                    self.letters.figures.control_error("accept");
                    tracing::warn!(%error, "a connection to the control socket was lost");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
        // A later start replaces one that stays.
        let _ = std::fs::remove_file(data_dir.join(NAME));
    }

    async fn converse(&self, mut stream: UnixStream, stop: &CancellationToken) {
        let answer = match request(&mut stream, stop).await {
            Ok(request) => self.perform(request, stop).await,
            Err(what) => {
                self.letters.figures.control_error("request");
                Answer::Error(what.to_owned())
            }
        };
        let mut line = serde_json::to_vec(&answer).expect("texts and numbers are always JSON");
        line.push(b'\n');
        // What was done stays done; who has left need not know.
        let _ = timeout(PEER_PATIENCE, stream.write_all(&line)).await;
    }

    async fn perform(&self, request: Request, stop: &CancellationToken) -> Answer {
        let (control, stop) = (self.clone(), stop.clone());
        let done = tokio::task::spawn_blocking(move || control.perform_blocking(&request, &stop));
        match done.await {
            Ok(Ok(changed)) => Answer::Done(changed),
            Ok(Err(error)) => Answer::Error(crate::cli::chain(&error)),
            Err(_) => Answer::Error("the command failed; this is a bug of the gateway".to_owned()),
        }
    }

    fn perform_blocking(
        &self,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Changed, ChangeError> {
        let changed = match request {
            Request::Delete { selection } => self.letters.delete(selection)?,
            Request::Retry { selection } => {
                let retry = Retry {
                    main: &self.main,
                    boots: &self.boots,
                    patience: ROOM_PATIENCE,
                    stop,
                };
                self.letters.retry(selection, &retry)?
            }
        };
        self.letters.reclaim(&self.main)?;
        Ok(changed)
    }
}

/// Makes the socket, in place of one that is there.
fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let (path, new) = (data_dir.join(NAME), data_dir.join(NAME_NEW));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, &path)?;
    Ok(listener)
}

/// Reads what is asked for; an error is for a person.
async fn request(
    stream: &mut UnixStream,
    stop: &CancellationToken,
) -> Result<Request, &'static str> {
    let user = stream.peer_cred().map(|peer| peer.uid()).ok();
    let own = rustix::process::geteuid().as_raw();
    if user != Some(0) && user != Some(own) {
        return Err("only the gateway's own user and root may ask");
    }
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(LINE_BYTES_MAX));
    let read = timeout(PEER_PATIENCE, reader.read_until(b'\n', &mut line));
    let read = tokio::select! {
        () = stop.cancelled() => return Err("the gateway is stopping"),
        read = read => read,
    };
    match read {
        Ok(Ok(_)) if line.ends_with(b"\n") => {
            serde_json::from_slice(&line).map_err(|_| "this gateway does not know the request")
        }
        Ok(Ok(_) | Err(_)) => Err("the request is no line of at most 64 KiB"),
        Err(_) => Err("the request did not come in time"),
    }
}

/// Why a running gateway was not asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no gateway answers at {}", path.display())]
    NoGateway {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The gateway went away, or did not answer in time.
    #[error("the gateway has not answered at {}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Asks the gateway that runs on `data_dir`. Blocks until it has answered.
///
/// # Errors
/// [`AskError`]
pub fn ask(data_dir: &Path, request: &Request) -> Result<Answer, AskError> {
    let path = data_dir.join(NAME);
    let stream = std::os::unix::net::UnixStream::connect(&path).map_err(|source| {
        let path = path.clone();
        AskError::NoGateway { path, source }
    })?;
    converse(stream, request).map_err(|source| AskError::NoAnswer { path, source })
}

fn converse(mut stream: std::os::unix::net::UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_write_timeout(Some(PEER_PATIENCE))?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    let mut line = serde_json::to_vec(request).expect("texts and numbers are always JSON");
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    io::BufReader::new(stream.take(LINE_BYTES_MAX)).read_until(b'\n', &mut answer)?;
    serde_json::from_slice(&answer).map_err(io::Error::from)
}
