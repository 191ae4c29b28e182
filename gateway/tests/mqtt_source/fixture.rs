//! A running MQTT source over a real log in a directory of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edge_gateway::clock::SystemClock;
use edge_gateway::commit_log::{
    CommitLog, CommitReport, Compression, Condition, Item, Observer, Options, Progress,
};
use edge_gateway::config::{Mqtt, MqttProtocol, Subscription};
use edge_gateway::dead_letters::DeadLetters;
use edge_gateway::ingest::Ingest;
use edge_gateway::metrics::{Metrics, ReasonLabel, SourceMetrics, SourceReason};
use edge_gateway::record::{Offset, PayloadKind, SourceName};
use edge_gateway::source::{SourceContext, SourceError, mqtt};
use edge_gateway::state::{GatewayState, RecoveredSource};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::held_fs::{Gate, HeldFs};

/// Long enough for a machine under load; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits what must happen.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// An MQTT source of the tests' own: one filter at quality of service 2, small payloads.
pub(crate) fn config(protocol: MqttProtocol, port: u16) -> Mqtt {
    Mqtt {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        protocol,
        subscriptions: vec![Subscription {
            filter: "city/#".to_owned(),
            qos: 2,
        }],
        client_id: "gw-city".to_owned(),
        username: None,
        password_file: None,
        session_expiry: Duration::from_secs(3600),
        payload_bytes_max: 256 * 1024,
        receive_maximum: 1000,
        keep_alive: Duration::from_secs(30),
        dedupe: true,
    }
}

#[derive(Debug)]
struct Announcer(watch::Sender<Progress>);

impl Observer for Announcer {
    fn progress(&self, progress: Progress) {
        self.0.send_replace(progress);
    }

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, source: &str, reason: &'static str, records: u64) {
        panic!("the log dropped {records} records of {source}: {reason}");
    }
}

fn open(
    dir: &Path,
    gate: &Arc<Gate>,
    name: &SourceName,
    commit_interval: Duration,
) -> (CommitLog, watch::Receiver<Progress>, RecoveredSource) {
    let start = Progress {
        synced: Offset::ZERO,
        condition: Condition::Running,
    };
    let (announcer, progress) = watch::channel(start);
    let options = Options {
        dir: dir.join("log"),
        bytes_max: 256 << 20,
        segment_bytes: 4 << 20,
        commit_interval,
        drop_oldest: false,
        reserve: false,
        age_max: None,
        compression: Compression::None,
        clock: Arc::new(SystemClock::default()),
        owner: "test".to_owned(),
    };
    let fs = Arc::new(HeldFs(Arc::clone(gate)));
    let observer = Announcer(announcer.clone());
    let opened = CommitLog::open(fs, options, Box::new(observer), GatewayState::default())
        .expect("the log opens");
    announcer.send_replace(opened.log.progress());
    (opened.log, progress, opened.state.source(name))
}

/// A log, and what belongs to a gateway around it.
pub(crate) struct Gateway {
    pub(crate) gate: Arc<Gate>,
    pub(crate) log: CommitLog,
    pub(crate) figures: SourceMetrics,
    metrics: Metrics,
    name: SourceName,
    progress: watch::Receiver<Progress>,
    recovered: RecoveredSource,
    // Last, so that the log is closed when its directory goes.
    _dir: tempfile::TempDir,
}

impl Gateway {
    pub(crate) fn new() -> Self {
        Self::committing_every(Duration::ZERO)
    }

    pub(crate) fn committing_every(commit_interval: Duration) -> Self {
        let name = SourceName::new("city").expect("a valid name");
        let metrics = Metrics::new();
        let dir = tempfile::tempdir().expect("a directory for the log");
        let gate = Gate::new();
        let (log, progress, recovered) = open(dir.path(), &gate, &name, commit_interval);
        Self {
            gate,
            log,
            figures: metrics.source(&name),
            metrics,
            name,
            progress,
            recovered,
            _dir: dir,
        }
    }

    /// Closes the log and opens it again, as after a restart of the gateway.
    pub(crate) fn reopen(&mut self) {
        self.log.close();
        (self.log, self.progress, self.recovered) =
            open(self._dir.path(), &self.gate, &self.name, Duration::ZERO);
    }

    /// Starts the source on what the log has brought back of it.
    pub(crate) fn start_again(&self, config: Mqtt) -> Source {
        self.start_with(config, self.recovered.clone())
    }

    /// Starts the source; `session_expected` as if the log held records of an earlier run.
    pub(crate) fn start(&self, config: Mqtt, session_expected: bool) -> Source {
        let recovered = RecoveredSource {
            mqtt_session_expected: session_expected,
            ..RecoveredSource::default()
        };
        self.start_with(config, recovered)
    }

    fn start_with(&self, config: Mqtt, recovered: RecoveredSource) -> Source {
        let stop = CancellationToken::new();
        let (ready, ready_seen) = watch::channel(false);
        let context = SourceContext {
            name: self.name.clone(),
            ingest: Ingest::new(self.log.clone(), self.progress.clone()),
            dead_letters: DeadLetters::open(self._dir.path(), "test", &self.metrics)
                .expect("the dead letters open"),
            metrics: self.figures.clone(),
            recovered,
            ready,
            stop: stop.clone(),
        };
        Source {
            task: tokio::spawn(mqtt::run(config, context)),
            stop,
            ready: ready_seen,
        }
    }

    /// All synced records but notes: topic and payload, in the order of the log.
    pub(crate) fn records(&self) -> Vec<(String, Vec<u8>)> {
        let mut records = Vec::new();
        let mut cursor = self.log.cursor(Offset::ZERO);
        while let Some(item) = cursor.next().expect("readable") {
            match item {
                Item::Batch(batch) => records.extend(batch.records().filter_map(|record| {
                    let subject = match record.kind {
                        PayloadKind::Opaque => record.subject.to_owned(),
                        PayloadKind::Gap => format!("gap of {}", record.subject),
                        PayloadKind::Note => return None,
                        PayloadKind::SenmlCbor => panic!("MQTT payloads are opaque"),
                    };
                    Some((subject, record.payload.to_vec()))
                })),
                Item::Hole(hole) => panic!("{hole:?}"),
            }
        }
        records
    }

    /// The payloads of [`Gateway::records`] as text.
    pub(crate) fn payloads(&self) -> Vec<String> {
        let text = |payload| String::from_utf8(payload).expect("text");
        self.records().into_iter().map(|(_, p)| text(p)).collect()
    }

    /// How many records the source has dropped for `reason`.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let label = SourceReason {
            source: self.name.to_string(),
            reason: reason.to_owned(),
        };
        self.metrics.dropped.get_or_create(&label).get()
    }
}

impl Gateway {
    /// How many dead letters were stored for `reason`.
    pub(crate) fn dead_letters(&self, reason: &str) -> u64 {
        let label = ReasonLabel {
            reason: reason.to_owned(),
        };
        self.metrics.dead_letters.get_or_create(&label).get()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The log's writer must not wait for ever.
        self.gate.open();
    }
}

/// A running source.
pub(crate) struct Source {
    task: JoinHandle<Result<(), SourceError>>,
    stop: CancellationToken,
    pub(crate) ready: watch::Receiver<bool>,
}

impl Source {
    pub(crate) async fn is_ready(&mut self) {
        let ready = soon("ready", self.ready.wait_for(|ready| *ready)).await;
        ready.expect("the source runs");
    }

    /// Tells it to stop.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until it has stopped.
    pub(crate) async fn ended(self) -> Result<(), SourceError> {
        soon("end of the source", self.task)
            .await
            .expect("no panic")
    }

    /// Ends it at once, as a crash would.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let outcome = soon("end of the source", self.task).await;
        assert!(outcome.expect_err("aborted").is_cancelled());
    }
}
