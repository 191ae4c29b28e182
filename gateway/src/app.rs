//! Start, run and drain: the one place that spawns tasks and threads.
//!
//! ```text
//! start   log, dead letters, parked topics opened and locked → device registry, not waited for → HTTP
//!         → forwarder thread → sources → control socket → supervisor
//! drain   control socket and sources stop, wait for the commit of what they took, acknowledge
//!         → forwarder delivers for `shutdown_grace` → copies of dead letters end → logs closed
//!         → device registry closed
//! ```
//!
//! The log is opened before any source connects: a second gateway on the same directory must not
//! take over the first one's MQTT sessions. A failed log ends the process with exit code 74, so
//! that its supervisor acts; nothing falls back to memory.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cli::{EXIT_CONFIG, EXIT_FAILURE, EXIT_STORAGE};
use crate::clock::SystemClock;
use crate::commit_log::fs::RealFs;
use crate::commit_log::{
    CommitLog, CommitReport, Condition, Observer, OpenError, Opened, Options, Progress, Recovery,
    StorageError,
};
use crate::config::{Config, Source, SourceKind, WhenFull};
use crate::dead_letters::DeadLetters;
use crate::dead_letters::control::Control;
use crate::dead_letters::copies::{self, Copier};
use crate::forwarder::parking::Parking;
use crate::forwarder::route::Router;
use crate::forwarder::{self, ForwarderContext, ForwarderError};
use crate::http::{self, Status};
use crate::ingest::Ingest;
use crate::metrics::{Metrics, SourceReason};
use crate::pulse::Pulse;
use crate::record::Offset;
use crate::registry::Registry;
use crate::signals::{Ended, Signals};
use crate::source::{self, Buses, SourceContext, SourceError};
use crate::state::GatewayState;
use crate::supervisor::{Notifier, Pipeline, Readiness, Supervisor};

/// What the forwarder may take beyond its grace period.
const FORWARDER_PATIENCE: Duration = Duration::from_secs(5);

/// Why the gateway ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A log could not be opened.
    #[error("cannot open the commit log")]
    Open(#[source] OpenError),
    /// The log failed while running.
    #[error("the commit log failed; nothing unsynced was acknowledged")]
    Log(#[source] Option<Arc<StorageError>>),
    /// A source ended by itself.
    #[error("a source failed")]
    Source(#[from] SourceError),
    /// The forwarder ended by itself.
    #[error("the forwarder failed")]
    Forwarder(#[from] ForwarderError),
    /// A task or thread panicked.
    #[error("{0} panicked; this is a bug of the gateway")]
    Panicked(&'static str),
    /// The HTTP address can't be had.
    #[error("cannot listen on {address} ([http].listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system has no thread, timer or signal for us.
    #[error("cannot start")]
    Start(#[source] io::Error),
}

impl AppError {
    /// The process's exit code (DESIGN §5).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Open(_) | Self::Log(_) | Self::Source(SourceError::LogFailed { .. }) => {
                EXIT_STORAGE
            }
            Self::Forwarder(
                ForwarderError::DeadLetters(_) | ForwarderError::Read(_) | ForwarderError::Identity,
            ) => EXIT_STORAGE,
            // Two gateways share an id: nothing that a restart would mend.
            Self::Forwarder(ForwarderError::Rival { .. }) => EXIT_CONFIG,
            Self::Forwarder(ForwarderError::Producer(_) | ForwarderError::Thread(_))
            | Self::Panicked(_)
            | Self::Listen { .. }
            | Self::Start(_) => EXIT_FAILURE,
        }
    }
}

/// Tells metrics and sources what the log tells.
#[derive(Debug)]
struct LogObserver {
    progress: watch::Sender<Progress>,
    /// Cancelled when the log has failed; also when its thread is gone without a word. Whoever cares
    /// for nothing else is not woken by every commit.
    failed: DropGuard,
    metrics: Arc<Metrics>,
}

impl Observer for LogObserver {
    fn progress(&self, progress: Progress) {
        let before = self.progress.send_replace(progress);
        if before.condition != progress.condition {
            match progress.condition {
                Condition::Full => tracing::warn!("the buffer is full: sources wait"),
                Condition::Running => tracing::info!("the buffer takes records again"),
                Condition::Poisoned => {
                    tracing::error!("the commit log failed");
                    self.failed.token().cancel();
                }
                Condition::Closed => {}
            }
        }
    }

    fn committed(&self, report: &CommitReport) {
        self.metrics
            .commit_duration
            .observe(report.duration.as_secs_f64());
    }

    fn dropped(&self, source: &str, reason: &'static str, records: u64) {
        tracing::error!(source, reason, records, "undelivered records were dropped");
        let label = SourceReason {
            source: source.to_owned(),
            reason: reason.to_owned(),
        };
        self.metrics.dropped.get_or_create(&label).inc_by(records);
    }
}

/// How long a drain may take beside `shutdown_grace`: the last commits, and the registry.
const CLOSING: Duration = Duration::from_secs(60);

/// Runs the gateway until a signal ends it, then drains it. `file` is where its configuration is
/// from.
///
/// # Errors
/// [`AppError`]
pub fn run(config: Config, file: &Path) -> Result<Ended, AppError> {
    let notifier = Arc::new(Notifier::from_environment().map_err(AppError::Start)?);
    let workers = workers(&config);
    let gateway = Gateway::open(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(AppError::Start)?;
    let ended = runtime.block_on(gateway.run(file, notifier));
    runtime.shutdown_background();
    ended
}

/// One worker: a second is woken for nearly each group commit and finds little left to do (at 2,000 records
/// a second 7 % more work, with 32 sources at 20,000 a second 9 %). Beside serial lines there is one, since
/// the driver of an adapter that hangs may hold up whoever opens or closes it for seconds.
fn workers(config: &Config) -> usize {
    let is_serial = |source: &Source| matches!(source.kind, SourceKind::Serial(_));
    if config.sources.iter().any(is_serial) {
        2
    } else {
        1
    }
}

struct Gateway {
    config: Arc<Config>,
    log: CommitLog,
    state: GatewayState,
    progress: watch::Receiver<Progress>,
    log_failed: CancellationToken,
    dead_letters: DeadLetters,
    parking: Parking,
    copier: Option<Copier>,
    metrics: Arc<Metrics>,
    devices: Registry,
}

impl Gateway {
    fn open(config: Config) -> Result<Self, AppError> {
        let mut metrics = Metrics::new();
        let log_failed = CancellationToken::new();
        let opening = Arc::new(watch::channel(Progress {
            synced: Offset::ZERO,
            condition: Condition::Running,
        }));
        let log_slot = metrics.observe_log(config.buffer.bytes_max);
        let metrics = Arc::new(metrics);
        let observer = LogObserver {
            progress: opening.0.clone(),
            failed: log_failed.clone().drop_guard(),
            metrics: Arc::clone(&metrics),
        };
        let owner = format!(
            "gateway {}, process {}",
            config.gateway.id,
            std::process::id()
        );
        let options = Options {
            dir: log_dir(&config),
            bytes_max: config.buffer.bytes_max,
            segment_bytes: config.buffer.segment_bytes,
            commit_interval: config.buffer.commit_interval,
            drop_oldest: match config.buffer.when_full {
                WhenFull::Block => false,
                WhenFull::DropOldest => true,
            },
            reserve: true,
            age_max: config.buffer.age_max,
            compression: config.buffer.compression,
            clock: Arc::new(SystemClock::default()),
            owner: owner.clone(),
        };
        let state = GatewayState::new(&config);
        let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(observer), state);
        let Opened {
            log,
            state,
            recovery,
        } = opened.map_err(AppError::Open)?;
        report(&recovery, &log, &metrics);
        log_slot.set(&log);
        opening.0.send_replace(log.progress());
        let (dead_letters, copier) = open_dead_letters(&config, &log, &owner, &metrics)?;
        let parking = Parking::open(&config, &owner, Arc::clone(&metrics));
        let progress = opening.1.clone();
        let devices = open_registry(&config, &metrics);
        Ok(Self {
            config: Arc::new(config),
            log,
            state,
            progress,
            log_failed,
            dead_letters,
            parking,
            copier,
            metrics,
            devices,
        })
    }

    async fn run(mut self, file: &Path, notifier: Arc<Notifier>) -> Result<Ended, AppError> {
        let mut signals = Signals::listen().map_err(AppError::Start)?;
        let mut running = self.start(&notifier).await?;
        let ended = tokio::select! {
            ended = signals.next(file) => Ok(ended),
            Some(ended) = running.sources.join_next() => {
                source_ended(ended).map(|()| Ended::Stopped)
            }
            // The forwarder's result is taken from its thread below.
            _ = &mut running.forwarder_ended => Ok(Ended::Stopped),
            () = self.log_failed.cancelled() => Err(AppError::Log(self.log.failure())),
        };
        match &ended {
            Ok(Ended::Reload) => notifier.reloading(),
            Ok(Ended::Stopped) | Err(_) => {
                notifier.stopping(self.config.gateway.shutdown_grace + CLOSING);
            }
        }
        tracing::info!("draining");
        self.drain(running, ended).await
    }

    async fn start(&mut self, notifier: &Arc<Notifier>) -> Result<Running, AppError> {
        let address = self.config.http.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| AppError::Listen { address, source })?;
        let stop_sources = CancellationToken::new();
        let stop_http = CancellationToken::new();
        let stop_forwarder = Arc::new(AtomicBool::new(false));
        let pulse = Pulse::default();
        let (forwarder, forwarder_ended) = self.spawn_forwarder(&stop_forwarder, &pulse)?;
        let copier = self.spawn_copier()?;
        let mut sources = JoinSet::new();
        let ready = self.spawn_sources(&mut sources, &stop_sources);
        let pipeline = Pipeline {
            log: self.log.clone(),
            forwarder: pulse,
            readiness: ready.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let (supervisor, stalled) = Supervisor::new(pipeline, Arc::clone(notifier));
        let status = Arc::new(Status {
            gateway_id: self.config.gateway.id.clone(),
            log: self.log.clone(),
            dead_letters: self.dead_letters.clone(),
            bytes_max: self.config.buffer.bytes_max,
            parking: self.parking.clone(),
            metrics: Arc::clone(&self.metrics),
            devices: self.devices.view(),
            ready,
            stalled,
            started: Instant::now(),
        });
        tokio::spawn(http::serve(listener, status, stop_http.clone()));
        tokio::spawn(supervisor.run());
        let control = self.spawn_control(&stop_sources);
        tracing::info!(gateway = self.config.gateway.id, %address, "running");
        Ok(Running {
            sources,
            control,
            stop_sources,
            forwarder,
            forwarder_ended,
            copier,
            stop_forwarder,
            stop_http,
        })
    }

    async fn drain(
        self,
        mut running: Running,
        ended: Result<Ended, AppError>,
    ) -> Result<Ended, AppError> {
        running.stop_sources.cancel();
        let mut outcome = ended;
        while let Some(ended) = running.sources.join_next().await {
            outcome = outcome.and_then(|how| source_ended(ended).map(|()| how));
        }
        running
            .control
            .await
            .map_err(|_| AppError::Panicked("the control socket"))?;
        running.stop_forwarder.store(true, Ordering::Relaxed);
        // It may be waiting for records.
        self.log.rouse();
        let forwarded = self.join_forwarder(running.forwarder).await;
        let (log, dead_letters) = (self.log.clone(), self.dead_letters.clone());
        let (copier, stop_http) = (running.copier, running.stop_http);
        let (parking, mut devices) = (self.parking, self.devices);
        let closed = tokio::task::spawn_blocking(move || {
            copier.end();
            log.close();
            dead_letters.close();
            parking.close();
            devices.close();
        });
        closed
            .await
            .map_err(|_| AppError::Panicked("closing the log"))?;
        stop_http.cancel();
        let stats = self.log.stats();
        tracing::info!(undelivered = stats.undelivered, "stopped");
        if self.log.failure().is_some() {
            return Err(AppError::Log(self.log.failure()));
        }
        let ended = outcome?;
        forwarded?;
        Ok(ended)
    }

    fn spawn_forwarder(
        &self,
        stop: &Arc<AtomicBool>,
        pulse: &Pulse,
    ) -> Result<ForwarderThread, AppError> {
        let context = ForwarderContext {
            log: self.log.clone(),
            dead_letters: self.dead_letters.clone().beating(pulse.clone()),
            parking: self.parking.clone(),
            metrics: Arc::clone(&self.metrics),
            boots: self.state.boots().clone(),
            stop: Arc::clone(stop),
            pulse: pulse.clone(),
            // No source has begun yet.
            received_here_from: self.log.progress().synced,
        };
        let config = Arc::clone(&self.config);
        let (ended, forwarder_ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("forwarder".to_owned())
            .spawn(move || {
                // Dropped at the end, and by a panic too.
                let _ended: tokio::sync::oneshot::Sender<()> = ended;
                forwarder::run(&config, context, config.gateway.shutdown_grace)
            });
        Ok((thread.map_err(AppError::Start)?, forwarder_ended))
    }

    /// Waits for the forwarder to end, which has been told to. One that waits for a full disk to take
    /// a dead letter is not waited for beyond its grace period; its record stays in the log.
    async fn join_forwarder(
        &self,
        forwarder: JoinHandle<Result<(), ForwarderError>>,
    ) -> Result<(), AppError> {
        let mut joined = tokio::task::spawn_blocking(move || forwarder.join());
        let grace = self.config.gateway.shutdown_grace + FORWARDER_PATIENCE;
        let ended = match tokio::time::timeout(grace, &mut joined).await {
            Ok(ended) => ended,
            Err(_) => {
                if self.dead_letters.condition() == Condition::Full {
                    let dead_letters = self.dead_letters.clone();
                    tokio::task::spawn_blocking(move || dead_letters.close());
                }
                joined.await
            }
        };
        match ended {
            Ok(Ok(result)) => result.map_err(AppError::from),
            Ok(Err(_)) | Err(_) => Err(AppError::Panicked("the forwarder")),
        }
    }

    fn spawn_copier(&mut self) -> Result<CopierThread, AppError> {
        let stop = Arc::new(AtomicBool::new(false));
        let Some(copier) = self.copier.take() else {
            return Ok(CopierThread { stop, handle: None });
        };
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("letter-copies".to_owned())
            .spawn(move || copier.run(&flag));
        let handle = Some(thread.map_err(AppError::Start)?);
        Ok(CopierThread { stop, handle })
    }

    fn spawn_control(&self, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let control = Control {
            letters: self.dead_letters.clone(),
            main: self.log.clone(),
            boots: self.state.boots().clone(),
        };
        tokio::spawn(control.serve(self.config.gateway.data_dir.clone(), stop.clone()))
    }

    fn spawn_sources(
        &self,
        tasks: &mut JoinSet<Result<(), SourceError>>,
        stop: &CancellationToken,
    ) -> Readiness {
        let mut readiness = Vec::new();
        let buses = Buses::new(&self.config.buses);
        for Source { name, kind } in self.config.sources.clone() {
            let (ready, ready_seen) = watch::channel(false);
            readiness.push((name.to_string(), ready_seen));
            let context = SourceContext {
                ingest: Ingest::new(self.log.clone(), self.progress.clone())
                    .watched_by(self.devices.watch(&name)),
                dead_letters: self.dead_letters.clone(),
                metrics: self.metrics.source(&name),
                recovered: self.state.source(&name),
                name,
                ready,
                stop: stop.clone(),
            };
            tasks.spawn(source::life(kind, context, &buses));
        }
        readiness
    }
}

/// What a drain has to end.
struct Running {
    sources: JoinSet<Result<(), SourceError>>,
    control: tokio::task::JoinHandle<()>,
    stop_sources: CancellationToken,
    forwarder: JoinHandle<Result<(), ForwarderError>>,
    forwarder_ended: tokio::sync::oneshot::Receiver<()>,
    copier: CopierThread,
    stop_forwarder: Arc<AtomicBool>,
    stop_http: CancellationToken,
}

type ForwarderThread = (
    JoinHandle<Result<(), ForwarderError>>,
    tokio::sync::oneshot::Receiver<()>,
);

/// The thread that copies dead letters, if they are copied.
struct CopierThread {
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl CopierThread {
    /// Ends it, and waits for that: some two seconds at most.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.handle.is_some_and(|handle| handle.join().is_err()) {
            tracing::error!("the thread that copies dead letters panicked");
        }
    }
}

fn open_dead_letters(
    config: &Config,
    log: &CommitLog,
    owner: &str,
    metrics: &Metrics,
) -> Result<(DeadLetters, Option<Copier>), AppError> {
    let data_dir = &config.gateway.data_dir;
    let budget = config.dead_letters.budget;
    let opened = DeadLetters::with_budget(data_dir, owner, metrics, budget);
    let dead_letters = opened.map_err(AppError::Open)?;
    if let Err(error) = dead_letters.reclaim(log) {
        tracing::warn!(%error, "dead letters can't be read; those that are gone keep their space");
    }
    let Some(topic) = &config.dead_letters.topic else {
        return Ok((dead_letters, None));
    };
    let (copies, copier) = copies::copies(config, topic, &metrics.letters)
        .map_err(|error| AppError::Forwarder(ForwarderError::Producer(error)))?;
    Ok((dead_letters.copied_to(copies), Some(copier)))
}

/// Never fails, and is not waited for: a registry that can't be read begins anew.
fn open_registry(config: &Config, metrics: &Metrics) -> Registry {
    let (routes, kafka) = (config.routes.clone(), &config.kafka);
    let router = Router::new(routes, &kafka.topic, kafka.key.clone());
    let dir = config.gateway.data_dir.join("registry");
    Registry::start(dir, router, metrics.devices.clone())
}

fn log_dir(config: &Config) -> PathBuf {
    config.gateway.data_dir.join("log")
}

fn report(recovery: &Recovery, log: &CommitLog, metrics: &Metrics) {
    tracing::info!(
        identity = log.identity(),
        undelivered = recovery.undelivered,
        cut_bytes = recovery.cut_bytes,
        "commit log open"
    );
    for finding in &recovery.findings {
        metrics.report(finding);
    }
}

fn source_ended(
    ended: Result<Result<(), SourceError>, tokio::task::JoinError>,
) -> Result<(), AppError> {
    match ended {
        Ok(result) => result.map_err(AppError::from),
        Err(_) => Err(AppError::Panicked("a source")),
    }
}
