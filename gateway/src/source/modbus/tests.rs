//! The source on a pseudo-terminal and on TCP, with units that do as the test says and a commit log
//! in a directory of its own.

#[allow(
    unreachable_pub,
    reason = "it is public in the harness of the system tests"
)]
#[path = "../../../../tests/harness/modbus.rs"]
mod units;

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

use self::units::{Reply, Request};
use super::*;
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
use crate::source::serial::port;
use crate::state::RecoveredSource;

/// Longest wait for anything here; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What units were asked, in order.
type Asked = Arc<Mutex<Vec<Request>>>;

fn script(mut reply: impl FnMut(Request) -> Reply + Send + 'static) -> (Asked, units::Script) {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let script = move |request| {
        noted.lock().unwrap().push(request);
        reply(request)
    };
    (asked, Box::new(script))
}

fn count(asked: &Asked, unit: u8) -> usize {
    let asked = asked.lock().unwrap();
    asked.iter().filter(|request| request.unit == unit).count()
}

/// A pseudo-terminal in raw mode: the units' end, and the gateway's, kept open.
struct Line {
    far: File,
    near: File,
    path: PathBuf,
}

impl Line {
    fn new() -> Self {
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

    fn serve(&self, script: units::Script) {
        units::serve_rtu(self.far.try_clone().unwrap(), script);
    }

    fn bus(&self) -> Arc<Bus> {
        bus(BusKind::Rtu(self.settings()))
    }

    fn settings(&self) -> RtuLine {
        RtuLine {
            device: Device::Path(self.path.clone()),
            baud_rate: 115_200,
            parity: Parity::None,
            stop_bits: 1,
            rs485: None,
        }
    }
}

fn bus(kind: BusKind) -> Arc<Bus> {
    let name = "hall".to_owned();
    Arc::new(Bus::new(config::Bus { name, kind }))
}

fn tcp(script: units::Script) -> Arc<Bus> {
    let address = units::serve_tcp(script);
    bus(BusKind::Tcp(TcpAddress {
        host: address.ip().to_string(),
        port: address.port(),
    }))
}

fn register(name: &str, kind: RegisterKind, address: u16, value: ValueType) -> Register {
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

fn word(address: u16) -> Register {
    let name = format!("w{address}");
    register(&name, RegisterKind::Holding, address, ValueType::U16)
}

/// A unit that is polled often, and given all the time that a busy machine may take.
fn unit(id: u8, registers: Vec<Register>) -> ModbusUnit {
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
struct Announcer(watch::Sender<Progress>);

impl Observer for Announcer {
    fn progress(&self, progress: Progress) {
        self.0.send_replace(progress);
    }

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

struct Bench {
    log: CommitLog,
    progress: watch::Receiver<Progress>,
    metrics: Arc<Metrics>,
    dead_letters: DeadLetters,
    stop: CancellationToken,
    ready: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

/// A record: subject, and names and values as text.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    subject: String,
    values: Vec<(String, String)>,
}

impl Seen {
    fn new(subject: &str, values: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            subject: subject.to_owned(),
            values: values.iter().map(owned).collect(),
        }
    }
}

impl Bench {
    fn new() -> Self {
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

    fn start(
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
    fn records(&self) -> Vec<Seen> {
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

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let holds = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, holds).await.expect(what);
    }

    async fn until_records(&self, least: usize) -> Vec<Seen> {
        self.until("enough records", |bench| bench.records().len() >= least)
            .await;
        self.records()
    }

    async fn end(&self, source: JoinHandle<Result<(), SourceError>>) {
        self.stop.cancel();
        timeout(PATIENCE, source).await.unwrap().unwrap().unwrap();
        let metrics = self.source();
        assert_eq!(metrics.received.get(), metrics.committed.get(), "drained");
    }

    fn source(&self) -> crate::metrics::SourceMetrics {
        self.metrics.source(&SourceName::new("m").unwrap())
    }

    fn requests(&self, unit: u8, result: &str) -> u64 {
        let label = UnitResult {
            source: "m".to_owned(),
            unit,
            result: result.to_owned(),
        };
        self.metrics.modbus.requests.get_or_create(&label).get()
    }

    fn exceptions(&self, unit: u8, code: &str) -> u64 {
        let label = UnitCode {
            source: "m".to_owned(),
            unit,
            code: code.to_owned(),
        };
        self.metrics.modbus.exceptions.get_or_create(&label).get()
    }

    fn up(&self, unit: u8) -> i64 {
        self.source().modbus_unit(unit).up.get()
    }

    fn dropped(&self, reason: &str) -> u64 {
        let label = SourceReason {
            source: "m".to_owned(),
            reason: reason.to_owned(),
        };
        self.metrics.dropped.get_or_create(&label).get()
    }
}

fn values(payload: &[u8]) -> Vec<(String, String)> {
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

fn all_kinds() -> ModbusUnit {
    let mut volts = register("volts", RegisterKind::Input, 10, ValueType::F32);
    volts.order = WordOrder::Cdab;
    volts.unit = Some("V".to_owned());
    let registers = vec![
        register("pump", RegisterKind::Coil, 3, ValueType::Bool { bit: 0 }),
        register(
            "door",
            RegisterKind::Discrete,
            9,
            ValueType::Bool { bit: 0 },
        ),
        register("temp", RegisterKind::Holding, 0, ValueType::I16),
        volts,
    ];
    unit(5, registers)
}

fn answer_all_kinds(request: Request) -> Reply {
    match (request.function, request.address, request.count) {
        (1, 3, 1) => Reply::Bits(vec![1]),
        (2, 9, 1) => Reply::Bits(vec![0]),
        (3, 0, 1) => Reply::Words(vec![0xfff6]),
        (4, 10, 2) => Reply::Words(vec![0x0000, 0x4366]),
        _ => panic!("{request:?} was not asked for"),
    }
}

fn record_of_all_kinds() -> Seen {
    let values = [
        ("unit-5/pump", "true"),
        ("door", "false"),
        ("temp", "-10"),
        ("volts", "230.0"),
    ];
    Seen::new("m/unit-5", &values)
}

#[tokio::test]
async fn registers_of_all_kinds_on_a_line_are_one_record_a_poll() {
    let (line, bench) = (Line::new(), Bench::new());
    let (asked, script) = script(answer_all_kinds);
    line.serve(script);
    let source = bench.start("m", &line.bus(), vec![all_kinds()]);
    let records = bench.until_records(3).await;
    for record in &records {
        assert_eq!(*record, record_of_all_kinds());
    }
    assert!(*bench.ready.borrow());
    assert_eq!((bench.up(5), bench.source().connected.get()), (1, 1));
    bench.end(source).await;
    let requests = asked.lock().unwrap().len() as u64;
    let answered = bench.requests(5, "answered");
    assert!(
        answered <= requests && requests <= answered + 1,
        "one may be cut off"
    );
    assert_eq!(bench.requests(5, "timeout"), 0);
}

#[tokio::test]
async fn registers_of_all_kinds_over_tcp_are_one_record_a_poll() {
    let bench = Bench::new();
    let bus = tcp(script(answer_all_kinds).1);
    let source = bench.start("m", &bus, vec![all_kinds()]);
    assert_eq!(bench.until_records(3).await[2], record_of_all_kinds());
    bench.end(source).await;
}

#[tokio::test]
async fn a_dead_unit_does_not_hold_up_a_live_one() {
    let (line, bench) = (Line::new(), Bench::new());
    let (asked, script) = script(|request| match request.unit {
        1 => Reply::Silence,
        _ => Reply::Words(vec![7]),
    });
    line.serve(script);
    let mut dead = unit(1, vec![word(0)]);
    dead.timeout = Duration::from_millis(50);
    let source = bench.start("m", &line.bus(), vec![dead, unit(2, vec![word(0)])]);
    let polls = bench.until_records(40).await.len();
    // 3 tries at once, then one a rest, and each rest is twice as long as the one before.
    let tries = count(&asked, 1);
    assert!(
        (3..polls / 2).contains(&tries),
        "{tries} tries, {polls} polls"
    );
    assert_eq!((bench.up(1), bench.up(2)), (0, 1));
    // Between two tries of the dead one the live one had at least a turn, after the first three.
    let asked = asked.lock().unwrap().clone();
    let dead_ones: Vec<usize> = (0..asked.len()).filter(|at| asked[*at].unit == 1).collect();
    assert!(
        dead_ones[2..].windows(2).all(|pair| pair[1] > pair[0] + 1),
        "{dead_ones:?}"
    );
    bench.end(source).await;
    assert_eq!(bench.requests(2, "timeout"), 0);
}

#[tokio::test]
async fn a_unit_that_was_away_is_polled_again_when_it_is_back() {
    let bench = Bench::new();
    let mut asked_so_far = 0;
    let script = script(move |_| {
        asked_so_far += 1;
        if (2..=6).contains(&asked_so_far) {
            Reply::Silence
        } else {
            Reply::Words(vec![asked_so_far])
        }
    });
    let mut away = unit(1, vec![word(0)]);
    away.timeout = Duration::from_millis(200);
    let source = bench.start("m", &tcp(script.1), vec![away]);
    let records = bench.until_records(3).await;
    assert_eq!(records[0], Seen::new("m/unit-1", &[("unit-1/w0", "1")]));
    let after: u16 = records[1].values[0].1.parse().unwrap();
    assert!(after >= 7, "{records:?}");
    assert!(bench.requests(1, "timeout") >= 5);
    bench.end(source).await;
}

#[tokio::test]
async fn what_a_unit_refuses_is_left_out_and_counted_by_its_code() {
    let (line, bench) = (Line::new(), Bench::new());
    let (_asked, script) = script(|request| match request.address {
        4 => Reply::Exception(2),
        8 => Reply::Exception(0x55),
        _ => Reply::Words(vec![7]),
    });
    line.serve(script);
    let registers = vec![word(4), word(0), word(8)];
    let source = bench.start("m", &line.bus(), vec![unit(9, registers)]);
    let records = bench.until_records(2).await;
    assert_eq!(records[0], Seen::new("m/unit-9", &[("unit-9/w0", "7")]));
    assert!(bench.exceptions(9, "illegal_data_address") >= 2);
    assert!(bench.exceptions(9, "other") >= 2);
    assert_eq!(bench.up(9), 1, "an exception is an answer");
    bench.end(source).await;
}

#[tokio::test]
async fn a_busy_unit_is_asked_again_and_one_that_its_gateway_misses_is_down() {
    let bench = Bench::new();
    let mut busy = 2;
    let (asked, script) = script(move |request| match request.unit {
        1 if busy > 0 => {
            busy -= 1;
            Reply::Exception(6)
        }
        1 => Reply::Words(vec![1]),
        _ => Reply::Exception(0x0b),
    });
    let units = vec![unit(1, vec![word(0)]), unit(2, vec![word(0)])];
    let source = bench.start("m", &tcp(script), units);
    bench.until_records(20).await;
    assert_eq!(bench.exceptions(1, "server_device_busy"), 2);
    assert_eq!((bench.up(1), bench.up(2)), (1, 0));
    let tries = count(&asked, 2);
    assert!(tries < count(&asked, 1), "{tries}");
    bench.end(source).await;
    let (seen, asked) = (
        bench.exceptions(2, "gateway_target_device"),
        count(&asked, 2) as u64,
    );
    assert!(seen <= asked && asked <= seen + 1, "one may be cut off");
}

#[tokio::test]
async fn damaged_and_foreign_frames_are_never_taken_for_an_answer() {
    let (line, bench) = (Line::new(), Bench::new());
    let mut turn = 0;
    let (_asked, script) = script(move |_| {
        turn += 1;
        match turn % 3 {
            1 => Reply::Damaged(vec![666]),
            2 => Reply::AsUnit(77, vec![666]),
            _ => Reply::Words(vec![turn]),
        }
    });
    line.serve(script);
    let mut patient = unit(1, vec![word(0)]);
    patient.timeout = Duration::from_millis(300);
    let source = bench.start("m", &line.bus(), vec![patient]);
    let records = bench.until_records(4).await;
    for record in &records {
        let value: u16 = record.values[0].1.parse().unwrap();
        assert_eq!(value % 3, 0, "{record:?}");
    }
    assert!(bench.requests(1, "mismatch") >= 4);
    assert!(bench.requests(1, "timeout") + bench.requests(1, "garbage") >= 4);
    bench.end(source).await;
}

#[tokio::test]
async fn an_answer_of_another_length_is_refused() {
    let bench = Bench::new();
    let mut turn = 0;
    let (_asked, script) = script(move |_| {
        turn += 1;
        match turn {
            1 => Reply::Words(vec![1]),
            2 => Reply::Words(vec![1, 2, 3]),
            _ => Reply::Words(vec![0, 9]),
        }
    });
    let wide = register("x", RegisterKind::Holding, 0, ValueType::U32);
    let source = bench.start("m", &tcp(script), vec![unit(1, vec![wide])]);
    let records = bench.until_records(1).await;
    assert_eq!(records[0], Seen::new("m/unit-1", &[("unit-1/x", "9")]));
    assert_eq!(bench.requests(1, "mismatch"), 2);
    bench.end(source).await;
}

/// W1: RTU answers carry no number; what is on the line before a request is none to it.
#[tokio::test]
async fn a_late_answer_is_not_taken_for_that_to_the_next_request() {
    use std::io::Write as _;
    let line = Line::new();
    let bus = line.bus();
    let mut turn = bus.turn().await;
    turn.open().await.unwrap();
    let late = [1, 3, 2, 0x02, 0x9a];
    let mut far = line.far.try_clone().unwrap();
    far.write_all(&late).unwrap();
    far.write_all(&units::crc(&late).to_le_bytes()).unwrap();
    let arrived = async {
        while rustix::io::ioctl_fionread(&line.near).unwrap() < 7 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, arrived).await.unwrap();
    line.serve(script(|_| Reply::Words(vec![7])).1);
    let unit = unit(1, vec![word(0)]);
    let block = Plan::new(&unit).blocks()[0];
    let content = turn.read(1, &block, PATIENCE).await.unwrap();
    assert_eq!(content, Content::Words(vec![7]));
    assert_eq!(turn.late_bytes(), 7);
}

/// A client that has met garbage reports the next request as failed, too, unless it is a new one.
#[tokio::test]
async fn a_request_right_after_garbage_is_answered() {
    let line = Line::new();
    let mut first = true;
    let (_asked, script) = script(move |_| {
        if std::mem::take(&mut first) {
            // Longer than the client's patience with bytes that begin no frame.
            Reply::Damaged(vec![0x0303; 60])
        } else {
            Reply::Words(vec![7])
        }
    });
    line.serve(script);
    let bus = line.bus();
    let mut turn = bus.turn().await;
    turn.open().await.unwrap();
    let block = Plan::new(&unit(1, vec![word(0)])).blocks()[0];
    let wait = Duration::from_millis(500);
    let first = turn.read(1, &block, wait).await;
    assert!(
        matches!(first, Err(Fault::Garbage | Fault::Timeout)),
        "{first:?}"
    );
    let second = turn.read(1, &block, PATIENCE).await.unwrap();
    assert_eq!(second, Content::Words(vec![7]));
}

#[tokio::test]
async fn a_server_that_hangs_up_between_polls_costs_no_poll() {
    let bench = Bench::new();
    let mut polls = 0;
    let (_asked, script) = script(move |_| {
        polls += 1;
        Reply::AndHangUp(vec![polls])
    });
    let source = bench.start("m", &tcp(script), vec![unit(1, vec![word(0)])]);
    let records = bench.until_records(5).await;
    for (n, record) in (1..).zip(&records) {
        let value = format!("{n}");
        assert_eq!(*record, Seen::new("m/unit-1", &[("unit-1/w0", &value)]));
    }
    assert_eq!(bench.requests(1, "timeout"), 0);
    bench.end(source).await;
}

/// A connection that has carried answers is opened again at once and blames nobody; one that has
/// carried none may have been hung up because of the request.
#[tokio::test]
async fn a_connection_is_opened_again_at_once_only_if_it_has_carried_an_answer() {
    let mut requests = 0;
    let (_asked, script) = script(move |_| {
        requests += 1;
        match requests {
            1 => Reply::AndHangUp(vec![7]),
            _ => Reply::HangUp,
        }
    });
    let bus = tcp(script);
    let mut turn = bus.turn().await;
    let block = Plan::new(&unit(1, vec![word(0)])).blocks()[0];
    turn.open().await.unwrap();
    turn.read(1, &block, PATIENCE).await.unwrap();
    let mut losses = Vec::new();
    for _ in 0..2 {
        match turn.read(1, &block, PATIENCE).await {
            Err(Fault::Lost { after_answers }) => losses.push(after_answers),
            other => panic!("{other:?}"),
        }
        if losses.len() == 1 {
            turn.open().await.unwrap();
        }
    }
    assert_eq!(losses, [true, false]);
    let down = turn.open().await.unwrap_err();
    assert!(down.until > Instant::now() - Duration::from_secs(1));
}

#[tokio::test]
async fn a_unit_at_whose_request_the_server_hangs_up_does_not_hold_up_others() {
    let bench = Bench::new();
    let (asked, script) = script(|request| match request.unit {
        1 => Reply::HangUp,
        _ => Reply::Words(vec![7]),
    });
    let units = vec![unit(1, vec![word(0)]), unit(2, vec![word(0)])];
    let source = bench.start("m", &tcp(script), units);
    bench.until_records(20).await;
    assert!(count(&asked, 1) < count(&asked, 2));
    assert_eq!((bench.up(1), bench.up(2)), (0, 1));
    bench.end(source).await;
}

#[tokio::test]
async fn sources_share_a_bus_and_each_gets_its_answers() {
    let (line, bench) = (Line::new(), Bench::new());
    let (_asked, script) = script(|request| Reply::Words(vec![u16::from(request.unit)]));
    line.serve(script);
    let bus = line.bus();
    let first = bench.start("m", &bus, vec![unit(1, vec![word(0)])]);
    let second = bench.start("n", &bus, vec![unit(2, vec![word(0)])]);
    let both = |bench: &Bench| {
        let records = bench.records();
        let of = |subject| {
            records
                .iter()
                .filter(|seen| seen.subject == subject)
                .count()
        };
        of("m/unit-1") >= 5 && of("n/unit-2") >= 5
    };
    bench.until("records of both", both).await;
    for record in bench.records() {
        let value = &record.values[0].1;
        assert!(record.subject.ends_with(value.as_str()), "{record:?}");
    }
    bench.end(first).await;
    bench.end(second).await;
}

#[tokio::test]
async fn a_bus_that_appears_later_is_opened_then() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("tty");
    let bus = bus(BusKind::Rtu(RtuLine {
        device: Device::Path(device.clone()),
        baud_rate: 9600,
        parity: Parity::None,
        stop_bits: 1,
        rs485: None,
    }));
    let source = bench.start("m", &bus, vec![unit(1, vec![word(0)])]);
    let line = Line::new();
    line.serve(script(|_| Reply::Words(vec![7])).1);
    assert!(!*bench.ready.borrow());
    std::os::unix::fs::symlink(&line.path, &device).unwrap();
    bench.until_records(1).await;
    assert!(*bench.ready.borrow());
    bench.end(source).await;
}

#[tokio::test]
async fn a_bus_whose_port_another_program_has_is_opened_when_that_one_lets_go() {
    let line = Line::new();
    let bus = line.bus();
    let other = port::open((&line.settings()).into()).unwrap();
    let down = bus.turn().await.open().await.expect_err("in use");
    drop(other);
    tokio::time::sleep_until(down.until).await;
    assert!(bus.turn().await.open().await.is_ok());
}

#[tokio::test]
async fn while_the_buffer_is_full_polls_are_dropped_and_counted() {
    let bench = Bench::new();
    let filler = NewRecord {
        source: &SourceName::new("filler").unwrap(),
        subject: "s",
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: Stamp::default(),
        payload: &[7; 4000],
    };
    let fill = async {
        while bench.progress.borrow().condition != Condition::Full {
            if bench.log.append(&filler).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    timeout(PATIENCE, fill).await.unwrap();
    let (_asked, script) = script(|_| Reply::Words(vec![7]));
    let source = bench.start("m", &tcp(script), vec![unit(1, vec![word(0)])]);
    let dropping = |bench: &Bench| bench.dropped("buffer_full") >= 3;
    bench.until("polls to be dropped", dropping).await;
    assert_eq!(bench.up(1), 1, "the unit is polled all the same");
    bench.log.commit(bench.log.progress().synced);
    let taken = |bench: &Bench| bench.source().committed.get() >= 2;
    bench.until("polls to be taken again", taken).await;
    bench.stop.cancel();
    timeout(PATIENCE, source).await.unwrap().unwrap().unwrap();
    let dropped = bench.dropped("buffer_full") + bench.dropped("shutdown");
    let (received, committed) = (
        bench.source().received.get(),
        bench.source().committed.get(),
    );
    assert_eq!(received, committed + dropped);
}

/// Any function code with any content, in whole frames: what no checksum or length rejects.
fn any_units_data() -> impl FnMut() -> Vec<u8> + Send + 'static {
    let mut state = 1_u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as u8
    };
    let mut function = 0_u8;
    move || {
        function = function.wrapping_add(1);
        let content: Vec<u8> = (0..next() % 24).map(|_| next()).collect();
        [vec![function], content].concat()
    }
}

async fn bear_anything(bus: &Bus, rounds: usize, wait: Duration) {
    let registers = vec![word(0), word(1)];
    let block = Plan::new(&unit(1, registers)).blocks()[0];
    let mut turn = bus.turn().await;
    for _ in 0..rounds {
        turn.open().await.unwrap();
        // An answer with the right function and length may be among them.
        let _ = turn.read(1, &block, wait).await;
    }
    // Units that are behind still answer earlier requests.
    for _ in 0..40 {
        turn.open().await.unwrap();
        if let Ok(content) = turn.read(1, &block, Duration::from_millis(500)).await {
            assert_eq!(content, Content::Words(vec![7, 8]));
            return;
        }
    }
    panic!("no answer is taken any more");
}

#[tokio::test]
async fn no_answer_makes_the_source_panic_or_lose_its_place() {
    const ROUNDS: usize = 512;
    let script = || {
        let (mut requests, mut data) = (0, any_units_data());
        script(move |_| {
            requests += 1;
            if requests > ROUNDS {
                Reply::Words(vec![7, 8])
            } else {
                Reply::Data(data())
            }
        })
        .1
    };
    bear_anything(&tcp(script()), ROUNDS, PATIENCE).await;
    let line = Line::new();
    line.serve(script());
    bear_anything(&line.bus(), ROUNDS, Duration::from_millis(5)).await;
}

#[tokio::test]
async fn a_failed_log_ends_the_source() {
    let bench = Bench::new();
    let (_asked, script) = script(|_| Reply::Words(vec![7]));
    let source = bench.start("m", &tcp(script), vec![unit(1, vec![word(0)])]);
    bench.until_records(1).await;
    bench.log.close();
    let ended = timeout(PATIENCE, source).await.unwrap().unwrap();
    assert!(
        matches!(ended, Err(SourceError::LogFailed { .. })),
        "{ended:?}"
    );
}
