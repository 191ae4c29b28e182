//! A bus: one line or connection, on which one request is under way at a time.
//!
//! Sources that share a bus take turns in the order in which they ask; a turn lasts for one try of
//! one poll. The bus is opened in a turn, and again in a later one after it was lost, at least once
//! a second.
//!
//! - **B1** Only the answer to a request is taken for it: of the unit, function and length asked for.
//!   RTU answers carry no number, so nothing can tell the late answer to an earlier request of the
//!   same shape from this one's. After an answer that makes no sense the bus is left alone until
//!   the request's time is up, and what came meanwhile is read away (W1). Over TCP the connection
//!   is given up, as after every timeout: what comes late, comes to nobody.
//! - **B2** A request over RTU begins after a silence of 3.5 characters, and its time is counted from
//!   when its last byte and the answer's could have been on the line.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_modbus::client::{Client as _, Context, rtu, tcp};
use tokio_modbus::slave::SlaveContext as _;
use tokio_modbus::{Error, ExceptionCode, Response, Slave};

use super::plan::{Block, Content};
use super::wire::{Lost, Stream, Wire};
use crate::config::{self, BusKind, Parity, RtuLine, TcpAddress};
use crate::source::serial::port;

/// First wait before a bus is opened again; it doubles to [`REOPEN_MAX`].
const REOPEN_MIN: Duration = Duration::from_millis(50);
/// Longest wait before a bus is opened again: an operator who plugs it in sees it come up.
const REOPEN_MAX: Duration = Duration::from_secs(1);
/// How long a connection may take to come about. Chosen by eye: a factory's network answers in
/// milliseconds, and whoever shares the bus waits meanwhile.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Silence between frames where 3.5 characters would be shorter (serial line guide, 2.5.1.1).
const SILENCE_MIN: Duration = Duration::from_micros(1750);
/// Bytes of a request to read.
const REQUEST_BYTES: u32 = 8;

/// Why a bus could not be opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Port(#[from] port::OpenError),
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
}

/// Why a request brought nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// No answer in time.
    Timeout,
    /// Bytes that are no frame.
    Garbage,
    /// A frame, but no answer to this request: another unit, function, length or number.
    Mismatch,
    /// The unit, or a gateway before it, says why not.
    Exception(ExceptionCode),
    /// The bus was lost meanwhile.
    Lost {
        /// The bus has carried an answer since it was opened. (If it hasn't, the request may be why
        /// the other end hung up.)
        after_answers: bool,
    },
}

/// The bus is not open; it is tried again at `until`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Down {
    pub(super) until: Instant,
}

/// A bus, shared by the sources that poll on it.
#[derive(Debug)]
pub struct Bus {
    config: config::Bus,
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    open: Option<Open>,
    /// When it may be opened again.
    again: Instant,
    pause: Duration,
    /// Why it could not be opened; said once for each reason.
    failure: String,
    /// Whether it was said that it is open.
    announced: bool,
}

struct Open {
    client: Context,
    wire: Wire,
    answered: bool,
    quiet_until: Instant,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("wire", &self.wire)
            .field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// A bus that is opened when it is first used.
    #[must_use]
    pub fn new(config: config::Bus) -> Self {
        Self {
            config,
            line: Mutex::new(Line {
                open: None,
                again: Instant::now(),
                pause: REOPEN_MIN,
                failure: String::new(),
                announced: false,
            }),
        }
    }

    /// Waits for a turn; the bus belongs to the caller until it is dropped.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn {
            config: &self.config,
            line: self.line.lock().await,
        }
    }
}

/// The right to use a bus.
#[derive(Debug)]
pub(super) struct Turn<'b> {
    config: &'b config::Bus,
    line: MutexGuard<'b, Line>,
}

impl Turn<'_> {
    /// Opens the bus if it isn't open.
    pub(super) async fn open(&mut self) -> Result<(), Down> {
        if self.line.open.is_some() {
            return Ok(());
        }
        if Instant::now() < self.line.again {
            return Err(Down {
                until: self.line.again,
            });
        }
        let opened = match &self.config.kind {
            BusKind::Rtu(line) => port::open(line.into())
                .map(Stream::Serial)
                .map_err(OpenError::from),
            BusKind::Tcp(address) => connect(address).await.map(Stream::Tcp),
        };
        match opened {
            Ok(stream) => {
                self.opened(Wire::new(stream));
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn opened(&mut self, wire: Wire) {
        self.line.failure.clear();
        if !self.line.announced {
            tracing::info!(bus = self.config.name, "Modbus bus open");
            self.line.announced = true;
        }
        self.line.open = Some(Open {
            client: attach(&self.config.kind, wire.clone()),
            wire,
            answered: false,
            quiet_until: Instant::now(),
        });
    }

    /// Says why: once for each reason, and only then by whom a port is in use.
    fn failed(&mut self, error: OpenError) -> Down {
        let reason = crate::cli::chain(&error);
        if self.line.failure != reason {
            let error = match error {
                OpenError::Port(error) => OpenError::Port(error.with_holders()),
                other @ OpenError::Connect { .. } => other,
            };
            tracing::warn!(
                bus = self.config.name,
                error = &error as &dyn std::error::Error,
                "no Modbus bus; trying again at least once a second"
            );
            self.line.failure = reason;
        }
        self.line.announced = false;
        self.postpone()
    }

    fn postpone(&mut self) -> Down {
        let line = &mut *self.line;
        line.again = Instant::now() + line.pause;
        line.pause = (2 * line.pause).min(REOPEN_MAX);
        Down { until: line.again }
    }

    /// Reads a block of a unit.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the answer may come in a later turn, which then
    /// discards it.
    pub(super) async fn read(
        &mut self,
        unit: u8,
        block: &Block,
        answer_max: Duration,
    ) -> Result<Content, Fault> {
        let on_line = self.config.kind.on_line(block);
        let silence = self.config.kind.silence();
        let Some(open) = &mut self.line.open else {
            return Err(Fault::Lost {
                after_answers: false,
            });
        };
        sleep_until(open.quiet_until).await;
        let deadline = Instant::now() + answer_max + on_line;
        open.wire.begin();
        open.client.set_slave(Slave(unit));
        let answer = timeout_at(deadline, open.client.call(block.request())).await;
        open.quiet_until = Instant::now() + silence;
        let lost = match &answer {
            Err(_elapsed) if !open.wire.sent() => Some(Lost::Stuck),
            Err(_) | Ok(_) => open.wire.lost(),
        };
        if let Some(lost) = lost {
            return Err(self.lost(&lost));
        }
        let content = match answer {
            Err(_elapsed) => Err(Fault::Timeout),
            Ok(answer) => judge(answer, block),
        };
        self.afterwards(content.as_ref().err(), deadline).await;
        content
    }

    /// Bytes that came too late for the request before the last one.
    pub(super) fn late_bytes(&self) -> usize {
        let open = self.line.open.as_ref();
        open.map_or(0, |open| open.wire.late_bytes())
    }

    /// B1. A client that has met garbage, or was dropped at work, would fail the next request too.
    async fn afterwards(&mut self, fault: Option<&Fault>, deadline: Instant) {
        match (fault, &self.config.kind) {
            (None | Some(Fault::Exception(_)), _) => {
                self.line.pause = REOPEN_MIN;
                if let Some(open) = &mut self.line.open {
                    open.answered = true;
                }
            }
            (Some(Fault::Timeout | Fault::Garbage | Fault::Mismatch), BusKind::Rtu(_)) => {
                if let Some(open) = &mut self.line.open {
                    open.client = attach(&self.config.kind, open.wire.clone());
                }
                sleep_until(deadline).await;
            }
            (Some(Fault::Lost { .. }), _) => {}
            (Some(Fault::Timeout | Fault::Garbage | Fault::Mismatch), BusKind::Tcp(_)) => {
                self.line.open = None;
            }
        }
    }

    fn lost(&mut self, lost: &Lost) -> Fault {
        let open = self.line.open.take();
        let after_answers = open.is_some_and(|open| open.answered);
        let over_tcp = match self.config.kind {
            BusKind::Rtu(_) => false,
            BusKind::Tcp(_) => true,
        };
        match lost {
            // Many servers hang up on a client that has been silent for a while.
            Lost::HungUp if over_tcp && after_answers => {
                tracing::debug!(bus = self.config.name, "the Modbus server hung up");
            }
            Lost::HungUp | Lost::Failed(_) | Lost::Stuck => {
                tracing::warn!(
                    bus = self.config.name,
                    error = lost as &dyn std::error::Error,
                    "Modbus bus lost; opening it again"
                );
                self.line.announced = false;
            }
        }
        if !after_answers {
            self.postpone();
        }
        Fault::Lost { after_answers }
    }
}

fn judge(
    answer: Result<Result<Response, ExceptionCode>, Error>,
    block: &Block,
) -> Result<Content, Fault> {
    match answer {
        Ok(Ok(response)) => block.content(response).ok_or(Fault::Mismatch),
        Ok(Err(code)) => Err(Fault::Exception(code)),
        Err(Error::Protocol(_)) => Err(Fault::Mismatch),
        Err(Error::Transport(_)) => Err(Fault::Garbage),
    }
}

fn attach(kind: &BusKind, wire: Wire) -> Context {
    match kind {
        BusKind::Rtu(_) => rtu::attach(wire),
        BusKind::Tcp(_) => tcp::attach(wire),
    }
}

impl BusKind {
    /// How long a request for a block and its answer are on the line, switched to sending first.
    fn on_line(&self, block: &Block) -> Duration {
        match self {
            Self::Rtu(line) => {
                let switching = line.rs485.map_or(Duration::ZERO, |mode| mode.delay_before);
                switching + character(line) * (REQUEST_BYTES + block.answer_bytes())
            }
            Self::Tcp(_) => Duration::ZERO,
        }
    }

    fn silence(&self) -> Duration {
        match self {
            Self::Rtu(line) => (character(line) * 7 / 2).max(SILENCE_MIN),
            Self::Tcp(_) => Duration::ZERO,
        }
    }
}

/// Start bit, 8 data bits, parity and stop bits.
fn character(line: &RtuLine) -> Duration {
    let parity = match line.parity {
        Parity::None => 0,
        Parity::Even | Parity::Odd | Parity::Mark | Parity::Space => 1,
    };
    let bits = 9 + parity + u32::from(line.stop_bits);
    Duration::from_secs(1) * bits / line.baud_rate
}

async fn connect(address: &TcpAddress) -> Result<TcpStream, OpenError> {
    let connecting = TcpStream::connect((address.host.as_str(), address.port));
    let connected = match timeout(CONNECT_MAX, connecting).await {
        Ok(connected) => connected.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        }),
        Err(_elapsed) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    connected.map_err(|source| OpenError::Connect {
        address: format!("{}:{}", address.host, address.port),
        source,
    })
}
