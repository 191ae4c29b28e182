//! The serial source: a port, a framing, and the loop between them and the log.
//!
//! ```text
//!  port ──bytes──▶ line ──records──▶ ingest ──▶ log
//!    ◀──outbox──── (shim: ACK, TIME) ◀──progress──┘
//! ```
//!
//! `shim` and `framed`, both a `line`, hold all decisions and do no I/O; this loop reads, writes, and
//! waits for whichever comes first. Reading never waits for writing: what is to be written sits in an
//! outbox that is filled again only when it is empty.
//!
//! - The port is opened when its device appears, and again when it returns, within a quarter of a
//!   second; `device` should be a stable path (`/dev/serial/by-id/…`), or `usb` say what to look for.
//!   Link sessions are kept meanwhile.
//! - A port that fails (EIO, ENXIO) or reads nothing at once is gone: closed and opened again. One
//!   that does so for ever is said once, and tried on.
//! - A frame that trickles in is let gather in the kernel: of sixteen full lines at 115,200 baud, each
//!   of which brings bytes a thousand times a second, waking up was what cost most.
//! - A burst that has ended is committed without waiting for more: its devices may wait for the ACK.
//! - A full log: `shim` takes no frames, so that devices hold and resend; others stop reading.
//! - A failed log ends the source. What it took and could not commit was never acknowledged.

mod framed;
mod holder;
mod line;
pub mod port;
#[cfg(test)]
mod pty_tests;
mod shim;
#[cfg(test)]
mod tests;
mod usb;
mod wall;

use std::collections::BTreeMap;
use std::time::Duration;

use firmware_shim::link::LinkState;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::line::{Intake, Line, LogFailed};
use self::port::{OpenError, Port, PortLost, Reader};
use self::wall::{LOOK_INTERVAL_MS, Look, WallClock};
use super::{SourceContext, SourceError};
use crate::clock;
use crate::commit_log::Progress;
use crate::config::Serial;
use crate::ingest::Ingest;
use crate::metrics::SourceMetrics;
use crate::record::SourceName;

/// First wait before a port is opened again; it doubles to [`REOPEN_MAX`].
const REOPEN_MIN: Duration = Duration::from_millis(50);
/// Longest wait before a port is opened again: an operator who plugs it in sees it come up at once,
/// and four looks a second at a path that isn't there cost nothing that could be measured.
const REOPEN_MAX: Duration = Duration::from_millis(250);
const _: () = assert!(REOPEN_MAX.as_millis() < 1000, "a port is opened within 1 s");
/// How long a stopping source waits for the commit of what it took. A log that is slower than that
/// is full; devices still hold what was not acknowledged.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// How long the last ACKs may take to be written.
const FLUSH_MAX: Duration = Duration::from_millis(500);
/// Bytes taken off the line at once: at 3 Mbit/s what comes in 7 ms.
const READ_BYTES: usize = 4096;

/// A read of fewer bytes than this has caught up with the line. No less than a UART's or a USB
/// adapter's FIFO holds.
const TRICKLE_BYTES: usize = 64;
/// How long bytes then gather before they are read, while a frame is under way: what an ACK may come
/// later. Chosen by eye: a sixth of the time that a frame of 200 bytes takes at 115,200 baud, and far
/// less than fills the kernel's buffer at 4 Mbaud.
const GATHER: Duration = Duration::from_millis(3);

/// Devices whose window is full send no more until they are acknowledged, so a burst of this many records
/// that has ended is committed at once. It is the window of a shim device; fewer are a trickle.
const BURST_MIN: usize = 8;
/// The line has paused, and its burst has ended, if nothing has come for this long.
const PAUSE: Duration = Duration::from_millis(2);

/// Runs a serial source until it is stopped.
///
/// When stopped it takes no more, waits up to 5 s for the commit of what it took, acknowledges
/// that, and closes the port.
///
/// # Errors
/// [`SourceError::LogFailed`].
pub async fn run(config: Serial, context: SourceContext) -> Result<(), SourceError> {
    let source_name = context.name.clone();
    let wiring = Wiring {
        name: context.name,
        ingest: context.ingest,
        metrics: context.metrics,
        ready: context.ready,
        stop: context.stop,
    };
    SerialSource::new(config, wiring, &context.recovered.links)
        .run()
        .await
        .map_err(|LogFailed| SourceError::LogFailed { source_name })
}

/// What a serial source needs of its [`SourceContext`]; it makes no dead letters.
#[derive(Debug)]
struct Wiring {
    name: SourceName,
    ingest: Ingest,
    metrics: SourceMetrics,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
}

/// Bytes on their way out.
#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn advance(&mut self, written: usize) {
        self.written += written;
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }
}

/// Why a session at an open port ended.
enum SessionEnd {
    Stopped,
    Lost(PortLost),
}

struct SerialSource {
    config: Serial,
    wiring: Wiring,
    progress: watch::Receiver<Progress>,
    line: Line,
    outbox: Outbox,
    wall: WallClock,
    reopen: Duration,
    /// When the last bytes came.
    heard: Instant,
    /// Until then bytes gather unread.
    gather: Option<Instant>,
    /// Something was heard since the log was last told of a pause.
    may_pause: bool,
    /// The port was lost and nothing has been read since.
    dead: bool,
}

impl SerialSource {
    fn new(config: Serial, wiring: Wiring, links: &BTreeMap<u8, LinkState>) -> Self {
        let intake = Intake {
            name: wiring.name.clone(),
            metrics: wiring.metrics.clone(),
        };
        Self {
            line: Line::new(&config, intake, links),
            progress: wiring.ingest.progress(),
            outbox: Outbox::default(),
            wall: WallClock::default(),
            reopen: REOPEN_MIN,
            heard: Instant::now(),
            gather: None,
            may_pause: false,
            dead: false,
            config,
            wiring,
        }
    }

    async fn run(mut self) -> Result<(), LogFailed> {
        let mut failure = String::new();
        while !self.wiring.stop.is_cancelled() {
            match Port::open(&self.config) {
                Ok(mut port) => {
                    failure.clear();
                    self.opened();
                    let end = self.session(&mut port).await;
                    self.wiring.metrics.connected.set(0);
                    match end? {
                        SessionEnd::Stopped => return self.finish(port).await,
                        SessionEnd::Lost(lost) => self.lost(&lost, port).await,
                    }
                }
                Err(error) => self.report(error, &mut failure),
            }
            self.pause().await?;
        }
        self.line.give_up();
        self.settle().await
    }

    fn opened(&mut self) {
        let (source_name, device) = (&self.wiring.name, &self.config.device);
        if self.dead {
            tracing::debug!(%source_name, %device, "serial port open");
        } else {
            tracing::info!(%source_name, %device, "serial port open");
        }
        self.wiring.metrics.connected.set(1);
        self.wiring.ready.send_replace(true);
    }

    /// Says that the port is gone: once, not each time that one is opened which reads nothing.
    async fn lost(&mut self, lost: &PortLost, port: Port) {
        if !self.dead {
            tracing::warn!(
                source_name = %self.wiring.name,
                device = %self.config.device,
                error = lost as &dyn std::error::Error,
                "serial port lost; opening it again as soon as it returns"
            );
        }
        self.dead = true;
        self.line.line_lost();
        self.outbox.clear();
        port.close().await;
    }

    /// Says why there is no port: once for each reason, not with every look.
    fn report(&mut self, error: OpenError, failure: &mut String) {
        self.dead = false;
        let cause = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
        let reason = format!("{error}: {cause}");
        if *failure != reason {
            let error = error.with_holders();
            tracing::warn!(
                source_name = %self.wiring.name,
                error = &error as &dyn std::error::Error,
                "no serial port; looking for it four times a second"
            );
            *failure = reason;
        }
    }

    /// Reads, writes and acknowledges until the port is lost or the source is stopped.
    async fn session(&mut self, port: &mut Port) -> Result<SessionEnd, LogFailed> {
        let (mut reader, mut writer) = port.halves();
        let mut buffer = [0; READ_BYTES];
        loop {
            let wait = self.turn()?;
            tokio::select! {
                () = self.wiring.stop.cancelled() => return Ok(SessionEnd::Stopped),
                read = reader.read(&mut buffer), if self.gather.is_none() && self.line.wants_bytes() => match read {
                    Ok(bytes) => self.feed(&buffer[..bytes])?,
                    Err(lost) => return Ok(SessionEnd::Lost(lost)),
                },
                written = writer.write(self.outbox.rest()), if !self.outbox.is_empty() => {
                    match written {
                        Ok(bytes) => self.outbox.advance(bytes),
                        Err(lost) => return Ok(SessionEnd::Lost(lost)),
                    }
                }
                changed = self.progress.changed(), if self.line.waits_for_log() => {
                    changed.map_err(|_| LogFailed)?;
                }
                () = sleep(wait) => {
                    if let Some(lost) = self.silence(&mut reader, &mut buffer).await? {
                        return Ok(SessionEnd::Lost(lost));
                    }
                }
            }
        }
    }

    /// Tells the line of a silence that has lasted long enough. Bytes that came while this task was
    /// kept from running were no silence.
    async fn silence(
        &mut self,
        reader: &mut Reader<'_>,
        buffer: &mut [u8],
    ) -> Result<Option<PortLost>, LogFailed> {
        let Some(silence) = self.line.silence() else {
            return Ok(None);
        };
        if self.heard.elapsed() < silence {
            return Ok(None);
        }
        match timeout(Duration::ZERO, reader.read(buffer)).await {
            Ok(Ok(bytes)) => self.feed(&buffer[..bytes])?,
            Ok(Err(lost)) => return Ok(Some(lost)),
            Err(_elapsed) => {
                let ingest = &self.wiring.ingest;
                self.line.silent(&|record| ingest.try_append(record))?;
            }
        }
        Ok(None)
    }

    /// Learns how far the log is.
    fn advance(&mut self) -> Result<(), LogFailed> {
        let progress = *self.progress.borrow_and_update();
        let ingest = &self.wiring.ingest;
        self.line
            .advance(&progress, &|record| ingest.try_append(record))
    }

    /// Everything that needs no waiting. Returns how long it is until there is more of it.
    fn turn(&mut self) -> Result<Duration, LogFailed> {
        self.advance()?;
        let look = self.wall.look(clock::now());
        if look.stepped {
            self.line.clock_stepped();
        }
        if self.outbox.is_empty() {
            self.line.answer(&look, &mut self.outbox.bytes);
        }
        let silence = self.line.silence();
        let silence = silence.map(|silence| silence.saturating_sub(self.heard.elapsed()));
        let now = Instant::now();
        self.gather = self.gather.filter(|&until| now < until);
        let gather = self.gather.map(|until| until - now);
        let waits = [silence, gather, self.pause_wait()].into_iter().flatten();
        Ok(waits.fold(self.answer_wait(&look), Duration::min))
    }

    /// Has a burst that has ended committed; else says how long it is until it may have ended.
    fn pause_wait(&mut self) -> Option<Duration> {
        let (burst, last) = self.line.unacknowledged()?;
        if !self.may_pause || burst < BURST_MIN {
            return None;
        }
        let left = PAUSE.saturating_sub(self.heard.elapsed());
        if left.is_zero() {
            self.may_pause = false;
            self.wiring.ingest.hasten(last);
            return None;
        }
        Some(left)
    }

    /// How long it is until the line has something to say and room to say it.
    fn answer_wait(&self, look: &Look) -> Duration {
        let due_ms = self.line.answer_due_ms(look);
        let due_ms = due_ms.filter(|_| self.outbox.is_empty());
        let wait_ms = due_ms.map_or(LOOK_INTERVAL_MS, |at| at.saturating_sub(look.now_ms));
        Duration::from_millis(wait_ms.clamp(1, LOOK_INTERVAL_MS))
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), LogFailed> {
        self.reopen = REOPEN_MIN;
        self.heard = Instant::now();
        self.may_pause = true;
        self.dead = false;
        let ingest = &self.wiring.ingest;
        self.line.feed(bytes, &|record| ingest.try_append(record))?;
        let trickles = bytes.len() < TRICKLE_BYTES && self.line.is_within_frame();
        self.gather = trickles.then(|| self.heard + GATHER);
        Ok(())
    }

    /// Waits before the port is opened again, while the log goes on.
    async fn pause(&mut self) -> Result<(), LogFailed> {
        let until = Instant::now() + self.reopen;
        self.reopen = (2 * self.reopen).min(REOPEN_MAX);
        loop {
            self.advance()?;
            tokio::select! {
                () = self.wiring.stop.cancelled() => return Ok(()),
                changed = self.progress.changed() => changed.map_err(|_| LogFailed)?,
                () = tokio::time::sleep_until(until) => return Ok(()),
            }
        }
    }

    /// Waits for the commit of what was taken, acknowledges it, and closes the port.
    async fn finish(&mut self, mut port: Port) -> Result<(), LogFailed> {
        self.line.give_up();
        self.settle().await?;
        let look = self.wall.look(clock::now());
        self.line.answer(&look, &mut self.outbox.bytes);
        let deadline = Instant::now() + FLUSH_MAX;
        let (_, mut writer) = port.halves();
        while !self.outbox.is_empty() {
            match timeout_at(deadline, writer.write(self.outbox.rest())).await {
                Ok(Ok(bytes)) => self.outbox.advance(bytes),
                // Gone, or too slow: the devices will ask again.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        port.close().await;
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), LogFailed> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let progress = *self.progress.borrow_and_update();
            self.line.settle(&progress)?;
            if self.line.all_committed() {
                return Ok(());
            }
            match timeout_at(deadline, self.progress.changed()).await {
                Ok(changed) => changed.map_err(|_| LogFailed)?,
                Err(_elapsed) => return Ok(()),
            }
        }
    }
}
