//! Units that do as the test says, on a pseudo-terminal or on TCP, and a source with a commit log in a
//! directory of its own.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firmware_shim::senml::{self, Number};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::commit_log::fs::RealFs;
use crate::commit_log::{
    CommitLog, CommitReport, Compression, Item, Observer, Options, SEGMENT_BYTES_MIN,
};
use crate::config::{
    self, BusKind, Device, Parity, Register, RegisterKind, RtuLine, TcpAddress, ValueType,
    WordOrder,
};
use crate::dead_letters::DeadLetters;
use crate::ingest::Ingest;
use crate::metrics::{Metrics, SourceReason, UnitCode, UnitResult};
use crate::record::{Offset, SourceName};
use crate::state::RecoveredSource;

use super::super::*;
use super::units::{self, Reply, Request};

/// Longest wait for anything here; reached only when something is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What units were asked, in order.
pub(super) type Asked = Arc<Mutex<Vec<Request>>>;

pub(super) fn script(
    mut reply: impl FnMut(Request) -> Reply + Send + 'static,
) -> (Asked, units::Script) {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let script = move |request| {
        noted.lock().unwrap().push(request);
        reply(request)
    };
    (asked, Box::new(script))
}

pub(super) fn count(asked: &Asked, unit: u8) -> usize {
    let asked = asked.lock().unwrap();
    asked.iter().filter(|request| request.unit == unit).count()
}

/// A pseudo-terminal in raw mode: the units' end, and the gateway's, kept open.
pub(super) struct Line {
    pub(super) far: File,
    pub(super) near: File,
    pub(super) path: PathBuf,
}

impl Line {
    pub(super) fn new() -> Self {
        let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&far).unwrap();
        unlockpt(&far).unwrap();
        let name = ptsname(&far, Vec::new()).unwrap();
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let near = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let mut attributes = tcgetattr(&near).unwrap();
        attributes.make_raw();
        tcsetattr(&near, OptionalActions::Now, &attributes).unwrap();
        Self {
            far: File::from(far),
            near: File::from(near),
            path,
        }
    }

    pub(super) fn serve(&self, script: units::Script) {
        units::serve_rtu(self.far.try_clone().unwrap(), script);
    }

    pub(super) fn bus(&self) -> Arc<Bus> {
        bus(BusKind::Rtu(self.settings()))
    }

    pub(super) fn settings(&self) -> RtuLine {
        RtuLine {
            device: Device::Path(self.path.clone()),
            baud_rate: 115_200,
            parity: Parity::None,
            stop_bits: 1,
            rs485: None,
        }
    }
}

pub(super) fn bus(kind: BusKind) -> Arc<Bus> {
    let name = "hall".to_owned();
    Arc::new(Bus::new(config::Bus { name, kind }))
}

pub(super) fn tcp(script: units::Script) -> Arc<Bus> {
    let address = units::serve_tcp(script);
    bus(BusKind::Tcp(TcpAddress {
        host: address.ip().to_string(),
        port: address.port(),
    }))
}

pub(in crate::source::modbus) fn register(
    name: &str,
    kind: RegisterKind,
    address: u16,
    value: ValueType,
) -> Register {
    Register {
        name: name.to_owned(),
        kind,
        address,
        value,
        order: WordOrder::Abcd,
        scale: None,
        unit: None,
    }
}

pub(super) fn word_at(address: u16) -> Register {
    let name = format!("w{address}");
    register(&name, RegisterKind::Holding, address, ValueType::U16)
}

/// A unit that is polled often, and given all the time that a busy machine may take.
pub(super) fn unit(id: u8, registers: Vec<Register>) -> ModbusUnit {
    ModbusUnit {
        id,
        device: format!("unit-{id}"),
        interval: Duration::from_millis(100),
        phase: Duration::ZERO,
        timeout: PATIENCE,
        retries: 2,
        backoff_max: Duration::from_secs(60),
        registers,
    }
}

#[derive(Debug)]
pub(super) struct Announcer(watch::Sender<Progress>);

impl Observer for Announcer {
    fn progress(&self, progress: Progress) {
        self.0.send_replace(progress);
    }

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

pub(super) struct Bench {
    pub(super) log: CommitLog,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) dead_letters: DeadLetters,
    pub(super) stop: CancellationToken,
    pub(super) ready: watch::Sender<bool>,
    pub(super) _dir: tempfile::TempDir,
}

/// A record: subject, and names and values as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) subject: String,
    pub(super) values: Vec<(String, String)>,
}

impl Seen {
    pub(super) fn new(subject: &str, values: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            subject: subject.to_owned(),
            values: values.iter().map(owned).collect(),
        }
    }
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (announcer, progress) = watch::channel(Progress {
            synced: Offset::ZERO,
            condition: Condition::Running,
        });
        let options = Options {
            dir: dir.path().join("log"),
            bytes_max: 16 * SEGMENT_BYTES_MIN,
            segment_bytes: SEGMENT_BYTES_MIN,
            commit_interval: Duration::ZERO,
            drop_oldest: false,
            reserve: false,
            age_max: None,
            compression: Compression::None,
            clock: Arc::new(crate::clock::SystemClock::default()),
            owner: "test".to_owned(),
        };
        let observer = Box::new(Announcer(announcer));
        let opened = CommitLog::open(Arc::new(RealFs), options, observer, ()).unwrap();
        let metrics = Arc::new(Metrics::new());
        Self {
            log: opened.log,
            progress,
            dead_letters: DeadLetters::open(dir.path(), "test", &metrics).unwrap(),
            metrics,
            stop: CancellationToken::new(),
            ready: watch::channel(false).0,
            _dir: dir,
        }
    }

    pub(super) fn start(
        &self,
        source: &str,
        bus: &Arc<Bus>,
        units: Vec<ModbusUnit>,
    ) -> JoinHandle<Result<(), SourceError>> {
        let name = SourceName::new(source).unwrap();
        let context = SourceContext {
            ingest: Ingest::new(self.log.clone(), self.progress.clone()),
            dead_letters: self.dead_letters.clone(),
            metrics: self.metrics.source(&name),
            recovered: RecoveredSource::default(),
            ready: self.ready.clone(),
            stop: self.stop.clone(),
            name,
        };
        let bus_name = "hall".to_owned();
        let config = Modbus {
            bus: bus_name,
            units,
        };
        tokio::spawn(run(config, Arc::clone(bus), context))
    }

    /// All records of the log.
    pub(super) fn records(&self) -> Vec<Seen> {
        let mut cursor = self.log.cursor(Offset::ZERO);
        let mut seen = Vec::new();
        while let Some(item) = cursor.next().unwrap() {
            let Item::Batch(batch) = item else {
                panic!("no hole was made");
            };
            for record in batch.records() {
                assert_eq!(record.kind, PayloadKind::SenmlCbor);
                let subject = record.subject.to_owned();
                let values = values(record.payload);
                seen.push(Seen { subject, values });
            }
        }
        seen
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let holds = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, holds).await.expect(what);
    }

    pub(super) async fn until_records(&self, least: usize) -> Vec<Seen> {
        self.until("enough records", |bench| bench.records().len() >= least)
            .await;
        self.records()
    }

    pub(super) async fn end(&self, source: JoinHandle<Result<(), SourceError>>) {
        self.stop.cancel();
        timeout(PATIENCE, source).await.unwrap().unwrap().unwrap();
        let metrics = self.source();
        assert_eq!(metrics.received.get(), metrics.committed.get(), "drained");
    }

    pub(super) fn source(&self) -> crate::metrics::SourceMetrics {
        self.metrics.source(&SourceName::new("m").unwrap())
    }

    pub(super) fn requests(&self, unit: u8, result: &str) -> u64 {
        let label = UnitResult {
            source: "m".to_owned(),
            unit,
            result: result.to_owned(),
        };
        self.metrics.modbus.requests.get_or_create(&label).get()
    }

    pub(super) fn exceptions(&self, unit: u8, code: &str) -> u64 {
        let label = UnitCode {
            source: "m".to_owned(),
            unit,
            code: code.to_owned(),
        };
        self.metrics.modbus.exceptions.get_or_create(&label).get()
    }

    pub(super) fn up(&self, unit: u8) -> i64 {
        self.source().modbus_unit(unit).up.get()
    }

    pub(super) fn dropped(&self, reason: &str) -> u64 {
        let label = SourceReason {
            source: "m".to_owned(),
            reason: reason.to_owned(),
        };
        self.metrics.dropped.get_or_create(&label).get()
    }
}

pub(super) fn values(payload: &[u8]) -> Vec<(String, String)> {
    let mut values = Vec::new();
    senml::for_each(payload, |record| {
        let value = match (record.value, record.bool_value, record.string_value) {
            (Some(Number::Unsigned(n)), _, _) => n.to_string(),
            (Some(Number::Negative(n)), _, _) => n.to_string(),
            (Some(Number::Float(n)), _, _) => format!("{n:?}"),
            (_, Some(truth), _) => truth.to_string(),
            (_, _, text) => text.unwrap_or_default().to_owned(),
        };
        let name = record.base_name.unwrap_or_default().to_owned();
        values.push((name + record.name.unwrap_or_default(), value));
    })
    .unwrap();
    values
}
