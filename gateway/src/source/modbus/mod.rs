//! The Modbus source: asks the units of a bus for their registers, on a schedule, and appends one
//! SenML record a poll.
//!
//! ```text
//!  schedule ──unit──▶ bus (a turn) ──▶ wire ──▶ RTU line or TCP connection
//!                        │ contents
//!                        ▼
//!               plan: one SenML pack ──▶ ingest ──▶ log
//! ```
//!
//! [`schedule`] decides when, [`plan`] what and [`value`] what it means; none of them does I/O.
//! [`bus`] is shared by the sources that name it. The protocol itself is `tokio-modbus`; [`wire`]
//! stands below it.
//!
//! - Nothing acknowledges a poll: a unit gives its values anew, not again. So while the log is full
//!   polls are dropped and counted (`buffer_full`), after a moment's wait without the bus.
//! - A unit that does not answer is asked less and less often, so that others are not held up; a
//!   bus that is lost is opened again, and no unit blamed for it.
//! - An exception is an answer: what it refused is left out of the record. Two kinds are not: "busy,
//!   later", which is asked again, and a gateway that says that the unit does not answer.
//! - A failed log ends the source.

mod bus;
mod plan;
mod schedule;
#[cfg(test)]
mod tests;
mod value;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_modbus::ExceptionCode;

pub use self::bus::Bus;
use self::bus::Fault;
use self::plan::{Content, Plan};
use self::schedule::{Answer, Next, Schedule, State, Timing};
use super::{SourceContext, SourceError};
use crate::clock;
use crate::commit_log::{AppendError, Condition, Progress};
use crate::config::{Modbus, ModbusUnit};
use crate::ingest::{Committed, NotCommitted, Ticket};
use crate::metrics::UnitMetrics;
use crate::record::{NewRecord, Origin, PayloadKind, Stamp, serial_subject};

/// How long a record waits for room while the log moves on: group commits under load take
/// milliseconds, so a longer wait means a disk in trouble.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a stopping source waits for the commit of what it took.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Longer than any source runs without looking at its schedule.
const FAR: Duration = Duration::from_secs(86_400);

/// The log takes no more.
#[derive(Debug)]
struct LogFailed;

/// Runs a Modbus source on its bus until it is stopped.
///
/// When stopped it gives up the poll that is under way, waits up to 5 s for the commit of what was
/// read, and returns.
///
/// # Errors
/// [`SourceError::LogFailed`].
pub async fn run(config: Modbus, bus: Arc<Bus>, context: SourceContext) -> Result<(), SourceError> {
    let source_name = context.name.clone();
    Poller::new(&config, bus, context)
        .run()
        .await
        .map_err(|LogFailed| SourceError::LogFailed { source_name })
}

/// A unit as it is polled.
struct Unit {
    id: u8,
    device: String,
    timeout: Duration,
    subject: String,
    plan: Plan,
    metrics: UnitMetrics,
}

/// What came of one try to poll a unit.
enum Try {
    /// The contents of its blocks, `None` for those it refused, and when the last one came.
    Read(Vec<Option<Content>>, Stamp),
    Unanswered,
    /// The bus is not open, which is none of the unit's doing.
    NoBus {
        until: Instant,
    },
}

struct Poller {
    context: SourceContext,
    bus: Arc<Bus>,
    units: Vec<Unit>,
    schedule: Schedule,
    started: Instant,
    progress: watch::Receiver<Progress>,
    /// Appended and not known to be durable. As many as the log's own buffer holds.
    uncommitted: VecDeque<Ticket>,
}

impl Poller {
    fn new(config: &Modbus, bus: Arc<Bus>, context: SourceContext) -> Self {
        let unit = |unit: &ModbusUnit| Unit {
            id: unit.id,
            device: unit.device.clone(),
            timeout: unit.timeout,
            subject: serial_subject(&context.name, &unit.device),
            plan: Plan::new(unit),
            metrics: context.metrics.modbus_unit(unit.id),
        };
        let timing = |unit: &ModbusUnit| Timing {
            interval: unit.interval,
            phase: unit.phase,
            retries: unit.retries,
            backoff_max: unit.backoff_max,
        };
        Self {
            units: config.units.iter().map(unit).collect(),
            schedule: Schedule::new(config.units.iter().map(timing)),
            progress: context.ingest.progress(),
            started: Instant::now(),
            uncommitted: VecDeque::new(),
            bus,
            context,
        }
    }

    async fn run(mut self) -> Result<(), LogFailed> {
        self.connect().await?;
        while !self.context.stop.is_cancelled() {
            self.resolve()?;
            match self.schedule.next(self.started.elapsed()) {
                Next::Poll(number) => self.poll(number).await?,
                Next::Wait(until) => {
                    let now = Instant::now();
                    let until = self.started.checked_add(until).unwrap_or(now + FAR);
                    self.wait(until).await?;
                }
            }
        }
        self.context.metrics.connected.set(0);
        self.settle().await
    }

    /// Opens the bus before the first poll is due, so that the gateway gets ready.
    async fn connect(&mut self) -> Result<(), LogFailed> {
        let stop = self.context.stop.clone();
        while !stop.is_cancelled() {
            let bus = Arc::clone(&self.bus);
            let opening = async { bus.turn().await.open().await };
            let opened = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                opened = opening => opened,
            };
            match opened {
                Ok(()) => {
                    self.opened();
                    return Ok(());
                }
                Err(down) => self.wait(down.until).await?,
            }
        }
        Ok(())
    }

    fn opened(&self) {
        self.context.metrics.connected.set(1);
        self.context.ready.send_replace(true);
    }

    async fn poll(&mut self, number: usize) -> Result<(), LogFailed> {
        let stop = self.context.stop.clone();
        let tried = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            tried = self.try_unit(number) => tried,
        };
        let answer = match tried {
            Try::Read(contents, received) => {
                self.store(number, &contents, received).await?;
                Answer::Given
            }
            Try::Unanswered => Answer::None,
            Try::NoBus { until } => return self.wait(until).await,
        };
        self.account(number, answer);
        Ok(())
    }

    /// Reads all blocks of a unit in one turn.
    async fn try_unit(&self, number: usize) -> Try {
        let unit = &self.units[number];
        let mut turn = self.bus.turn().await;
        if let Err(down) = turn.open().await {
            self.context.metrics.connected.set(0);
            return Try::NoBus { until: down.until };
        }
        self.opened();
        let mut contents = Vec::new();
        for block in unit.plan.blocks() {
            let read = turn.read(unit.id, block, unit.timeout).await;
            if turn.late_bytes() > 0 {
                self.context.metrics.frame_rejected("late");
            }
            match read {
                Ok(content) => {
                    unit.metrics.request("answered");
                    contents.push(Some(content));
                }
                Err(fault) => match self.fault(unit, fault) {
                    None => contents.push(None),
                    Some(end) => return end,
                },
            }
        }
        Try::Read(contents, clock::now())
    }

    /// Counts a fault; returns how it ends the try, if it does.
    fn fault(&self, unit: &Unit, fault: Fault) -> Option<Try> {
        let result = match fault {
            Fault::Exception(code) => {
                unit.metrics.request("exception");
                unit.metrics.exception(word(code));
                return ends_try(code).then_some(Try::Unanswered);
            }
            Fault::Timeout => "timeout",
            Fault::Garbage => "garbage",
            Fault::Mismatch => "mismatch",
            Fault::Lost { .. } => "bus_lost",
        };
        unit.metrics.request(result);
        match fault {
            Fault::Lost { after_answers } => {
                self.context.metrics.connected.set(0);
                let now = Instant::now();
                Some(if after_answers {
                    Try::NoBus { until: now }
                } else {
                    Try::Unanswered
                })
            }
            Fault::Timeout | Fault::Garbage | Fault::Mismatch | Fault::Exception(_) => {
                Some(Try::Unanswered)
            }
        }
    }

    /// Tells the schedule, the figures and the people what came of a try.
    fn account(&mut self, number: usize, answer: Answer) {
        let now = self.started.elapsed();
        let verdict = self.schedule.done(number, answer, now);
        let unit = &self.units[number];
        unit.metrics.polls_skipped(verdict.skipped);
        let up = match verdict.state {
            State::Up | State::Back => Some(1),
            State::Lost | State::Down => Some(0),
            State::Retrying => None,
        };
        if let Some(up) = up {
            unit.metrics.up.set(up);
        }
        let source_name = &self.context.name;
        let Unit { id, device, .. } = unit;
        match verdict.state {
            State::Back => {
                tracing::info!(%source_name, unit = id, device, "the unit answers again")
            }
            State::Lost => tracing::warn!(
                %source_name, unit = id, device,
                "the unit does not answer; asking it less and less often"
            ),
            State::Up | State::Retrying | State::Down => {}
        }
    }

    /// Appends a record of what was read.
    async fn store(
        &mut self,
        number: usize,
        contents: &[Option<Content>],
        received: Stamp,
    ) -> Result<(), LogFailed> {
        let unit = &self.units[number];
        let pack = unit.plan.pack(contents);
        for unfit in &pack.unfit {
            unit.metrics.value_omitted(unfit.reason());
        }
        if pack.payload.is_empty() {
            return Ok(());
        }
        self.context.metrics.received.inc();
        let record = NewRecord {
            source: &self.context.name,
            subject: &unit.subject,
            kind: PayloadKind::SenmlCbor,
            origin: Origin::Line,
            received,
            payload: &pack.payload,
        };
        let ticket = self.append(&record).await?;
        self.uncommitted.extend(ticket);
        Ok(())
    }

    /// Appends a record, or counts why not.
    async fn append(&self, record: &NewRecord<'_>) -> Result<Option<Ticket>, LogFailed> {
        let metrics = &self.context.metrics;
        let first = self.context.ingest.try_append(record);
        let full = self.progress.borrow().condition == Condition::Full;
        let appended = match first {
            Err(AppendError::Full) if !full => {
                let room = timeout(ROOM_WAIT_MAX, self.context.ingest.append(record));
                tokio::select! {
                    () = self.context.stop.cancelled() => {
                        metrics.dropped("shutdown", 1);
                        return Ok(None);
                    }
                    appended = room => appended.unwrap_or(Err(AppendError::Full)),
                }
            }
            other => other,
        };
        match appended {
            Ok(ticket) => return Ok(Some(ticket)),
            Err(AppendError::Full) => metrics.dropped("buffer_full", 1),
            Err(AppendError::TooLarge { .. }) => metrics.dropped("too_large", 1),
            Err(AppendError::Closed) => return Err(LogFailed),
        }
        Ok(None)
    }

    /// Waits until a time, or until the source is stopped, while the log goes on.
    async fn wait(&mut self, until: Instant) -> Result<(), LogFailed> {
        let stop = self.context.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep_until(until) => return Ok(()),
                changed = self.progress.changed() => changed.map_err(|_| LogFailed)?,
            }
            self.resolve()?;
        }
    }

    /// Counts what has become durable.
    fn resolve(&mut self) -> Result<(), LogFailed> {
        let progress = *self.progress.borrow_and_update();
        while let Some(outcome) = self.uncommitted.front().and_then(|t| t.outcome(&progress)) {
            let _proof: Committed = outcome.map_err(|NotCommitted| LogFailed)?;
            self.uncommitted.pop_front();
            self.context.metrics.committed.inc();
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), LogFailed> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            self.resolve()?;
            if self.uncommitted.is_empty() {
                return Ok(());
            }
            match timeout_at(deadline, self.progress.changed()).await {
                Ok(changed) => changed.map_err(|_| LogFailed)?,
                Err(_elapsed) => return Ok(()),
            }
        }
    }
}

/// Whether an exception means "not now" or "nobody there", not "I don't have that".
fn ends_try(code: ExceptionCode) -> bool {
    match code {
        ExceptionCode::Acknowledge
        | ExceptionCode::ServerDeviceBusy
        | ExceptionCode::GatewayPathUnavailable
        | ExceptionCode::GatewayTargetDevice => true,
        ExceptionCode::IllegalFunction
        | ExceptionCode::IllegalDataAddress
        | ExceptionCode::IllegalDataValue
        | ExceptionCode::ServerDeviceFailure
        | ExceptionCode::MemoryParityError
        | ExceptionCode::Custom(_) => false,
    }
}

/// An exception's word in the metrics (application protocol, 7).
fn word(code: ExceptionCode) -> &'static str {
    match code {
        ExceptionCode::IllegalFunction => "illegal_function",
        ExceptionCode::IllegalDataAddress => "illegal_data_address",
        ExceptionCode::IllegalDataValue => "illegal_data_value",
        ExceptionCode::ServerDeviceFailure => "server_device_failure",
        ExceptionCode::Acknowledge => "acknowledge",
        ExceptionCode::ServerDeviceBusy => "server_device_busy",
        ExceptionCode::MemoryParityError => "memory_parity_error",
        ExceptionCode::GatewayPathUnavailable => "gateway_path_unavailable",
        ExceptionCode::GatewayTargetDevice => "gateway_target_device",
        ExceptionCode::Custom(_) => "other",
    }
}
