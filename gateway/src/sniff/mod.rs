//! `edge-gateway sniff`: what comes over a serial line, for the person with a laptop at the cabinet.
//!
//! ```text
//!  port ──▶ (guess: listen, try every framing) ──▶ view: frame by frame, as text
//! ```
//!
//! Nothing is acknowledged, stored or sent: a device that waits for ACKs sends its messages again,
//! and a gateway gets them later. The port is opened as a gateway opens it, so that one that is in
//! use is refused. All of it runs on the calling thread, until Ctrl-C, the port's end or the last
//! frame asked for.

mod guess;
mod text;
mod view;

use std::io::{self, Write};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::clock;
use crate::config::Serial;
use crate::source::serial::port::{OpenError, Port, PortLost, Reader};
use guess::Recording;
use view::{Line, View};

/// Bytes taken off the line at once.
const READ_BYTES: usize = 2048;
/// How long a guess listens, from the first byte on: a meter speaks every ten seconds at least.
const LISTEN: Duration = Duration::from_secs(10);
/// A silence that a guess takes note of: longer than a USB adapter holds bytes back.
const PORTION_GAP: Duration = Duration::from_millis(20);
/// Wait where no silence matters.
const LONG: Duration = Duration::from_secs(3600);

/// What to listen to.
#[derive(Clone, Debug)]
pub struct Request {
    /// Port, line and framing.
    pub serial: Serial,
    /// Find the framing out; the one given counts for nothing.
    pub guess: bool,
    /// End after so many frames.
    pub count: Option<u64>,
}

/// Why nothing more is shown.
#[derive(Debug, thiserror::Error)]
pub enum SniffError {
    /// The port cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The port is gone.
    #[error("nothing more can be read")]
    Lost(#[from] PortLost),
    /// No framing goes with what was heard.
    #[error(
        "no framing goes with the {bytes} bytes heard; are baud rate, data bits and parity right?"
    )]
    NoGuess {
        /// How much was heard.
        bytes: usize,
    },
    /// There is nobody to show it to.
    #[error("cannot write")]
    Write(#[source] io::Error),
    /// No event loop.
    #[error("cannot begin to listen")]
    Runtime(#[source] io::Error),
}

/// Shows frames until Ctrl-C, or `count` of them.
///
/// # Errors
/// [`SniffError`].
pub fn run(request: &Request, out: &mut dyn Write) -> Result<(), SniffError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SniffError::Runtime)?;
    runtime.block_on(async {
        let mut port = Port::open(&request.serial).map_err(OpenError::with_holders)?;
        let (reader, _writer) = port.halves();
        let mut session = Session {
            reader,
            out,
            frames_left: request.count.unwrap_or(u64::MAX),
        };
        tokio::select! {
            shown = session.show(request) => shown,
            // Where no signal can be heard, Ctrl-C ends the process by itself.
            Ok(()) = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

/// An open port, and where its frames are shown.
struct Session<'a> {
    reader: Reader<'a>,
    out: &'a mut dyn Write,
    frames_left: u64,
}

impl Session<'_> {
    async fn show(&mut self, request: &Request) -> Result<(), SniffError> {
        if !request.guess {
            return self.watch(View::new(&request.serial.format())).await;
        }
        self.say("listening\n")?;
        let recording = self.listen().await?;
        let guesses = guess::rank(&recording, &request.serial.format());
        self.say(&guess::report(&guesses, &recording))?;
        let best = guesses.first().ok_or(SniffError::NoGuess {
            bytes: recording.bytes(),
        })?;
        let mut view = View::new(&best.format);
        for portion in recording.portions() {
            let mut lines = view.feed(portion, clock::wall_ms());
            lines.extend(view.silent(clock::wall_ms()));
            self.print(&lines)?;
        }
        self.watch(view).await
    }

    async fn watch(&mut self, mut view: View) -> Result<(), SniffError> {
        let mut buffer = [0; READ_BYTES];
        while self.frames_left > 0 {
            let wait = view.silence().unwrap_or(LONG);
            let lines = match self.hear(&mut buffer, wait).await? {
                Some(bytes) => view.feed(&buffer[..bytes], clock::wall_ms()),
                None => Vec::from_iter(view.silent(clock::wall_ms())),
            };
            self.print(&lines)?;
        }
        Ok(())
    }

    /// Listens until there is enough to guess from.
    async fn listen(&mut self) -> Result<Recording, SniffError> {
        let mut buffer = [0; READ_BYTES];
        let mut recording = Recording::default();
        let mut until = None;
        while !recording.is_full() && until.is_none_or(|until| Instant::now() < until) {
            match self.hear(&mut buffer, PORTION_GAP).await? {
                Some(bytes) => {
                    until = until.or_else(|| Some(Instant::now() + LISTEN));
                    recording.push(&buffer[..bytes]);
                }
                None => recording.silence(),
            }
        }
        Ok(recording)
    }

    /// Waits for bytes; `None` if there are none for so long.
    async fn hear(&mut self, buffer: &mut [u8], wait: Duration) -> Result<Option<usize>, PortLost> {
        match timeout(wait, self.reader.read(buffer)).await {
            Ok(read) => read.map(Some),
            Err(_elapsed) => Ok(None),
        }
    }

    /// Prints lines up to the last frame asked for.
    fn print(&mut self, lines: &[Line]) -> Result<(), SniffError> {
        let mut text = String::new();
        for line in lines {
            if self.frames_left == 0 {
                break;
            }
            self.frames_left -= u64::from(line.is_frame);
            text.push_str(&line.text);
            text.push('\n');
        }
        self.say(&text)
    }

    fn say(&mut self, text: &str) -> Result<(), SniffError> {
        let written = self.out.write_all(text.as_bytes());
        written
            .and_then(|()| self.out.flush())
            .map_err(SniffError::Write)
    }
}
