//! The source at a pseudo-terminal, with a commit log in a directory of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{self, Header, Kind};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::line::LogFailed;
use super::port::{OpenError, Port};
use super::{SerialSource, Wiring};
use crate::commit_log::fs::RealFs;
use crate::commit_log::{
    CommitLog, CommitReport, Item, Observer, Options, Progress, SEGMENT_BYTES_MIN,
};
use crate::config::{Device, FlowControl, Parity, Rs485, Serial};
use crate::framing::Framing;
use crate::ingest::Ingest;
use crate::metrics::{Metrics, SourceMetrics, SourceReason};
use crate::record::{Offset, SourceName};

/// Longest wait for anything here; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Passes the log's progress on while its gate is open.
#[derive(Debug)]
struct Gate {
    progress: watch::Sender<Progress>,
    open: watch::Receiver<bool>,
}

impl Observer for Gate {
    fn progress(&self, progress: Progress) {
        if *self.open.borrow() {
            self.progress.send_replace(progress);
        }
    }

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

/// The master's side of a pseudo-terminal: where a device would be.
struct DeviceEnd {
    master: File,
    decoder: Decoder,
}

impl DeviceEnd {
    /// A new pseudo-terminal, reachable at `link`.
    fn plug_in(link: &Path) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        rustix::io::ioctl_fionbio(&master, true).expect("non-blocking");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let fresh = link.with_extension("new");
        std::os::unix::fs::symlink(OsStr::from_bytes(name.to_bytes()), &fresh).expect("linked");
        std::fs::rename(&fresh, link).expect("renamed");
        Self {
            master: File::from(master),
            decoder: Decoder::new(),
        }
    }

    /// Repeats a call that would block until it doesn't.
    async fn ready(mut call: impl FnMut() -> io::Result<usize>) -> usize {
        let done = async {
            loop {
                match call() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    other => return other.expect("the port is open"),
                }
            }
        };
        timeout(PATIENCE, done)
            .await
            .expect("the gateway does its part")
    }

    async fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = Self::ready(|| self.master.write(bytes)).await;
            bytes = &bytes[written..];
        }
    }

    /// The next frame of this kind.
    async fn hear(&mut self, kind: Kind) -> Header {
        loop {
            let mut byte = [0];
            assert_eq!(Self::ready(|| self.master.read(&mut byte)).await, 1);
            match self.decoder.push(byte[0]) {
                Outcome::Frame(frame) if frame.header.kind == kind => return frame.header,
                Outcome::Pending | Outcome::Frame(_) => {}
                Outcome::Rejected(rejection) => panic!("{rejection:?}"),
            }
        }
    }
}

struct Bench {
    dir: tempfile::TempDir,
    log: CommitLog,
    metrics: Metrics,
    gate: watch::Sender<bool>,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
    source: JoinHandle<Result<(), LogFailed>>,
    /// Opens the gate for what came while it was closed.
    catch_up: watch::Sender<Progress>,
}

impl Bench {
    fn start(framing: Framing) -> Self {
        Self::committing_every(Duration::ZERO, framing)
    }

    fn committing_every(commit_interval: Duration, framing: Framing) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (gate, open) = watch::channel(true);
        let (catch_up, progress) = watch::channel(Progress {
            synced: Offset::ZERO,
            condition: crate::commit_log::Condition::Running,
        });
        let observer = Gate {
            progress: catch_up.clone(),
            open,
        };
        let options = Options {
            dir: dir.path().join("log"),
            bytes_max: 16 * SEGMENT_BYTES_MIN,
            segment_bytes: SEGMENT_BYTES_MIN,
            commit_interval,
            drop_oldest: false,
            reserve: false,
            age_max: None,
            compression: crate::commit_log::Compression::None,
            clock: Arc::new(crate::clock::SystemClock::default()),
            owner: "test".to_owned(),
        };
        let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(observer), ());
        let log = opened.expect("a log").log;
        let metrics = Metrics::new();
        let (ready_sender, ready) = watch::channel(false);
        let stop = CancellationToken::new();
        let wiring = Wiring {
            name: name(),
            ingest: Ingest::new(log.clone(), progress),
            metrics: metrics.source(&name()),
            ready: ready_sender,
            stop: stop.clone(),
        };
        let config = config(dir.path().join("tty"), framing);
        let source = SerialSource::new(config, wiring, &BTreeMap::new());
        Self {
            source: tokio::spawn(source.run()),
            dir,
            log,
            metrics,
            gate,
            ready,
            stop,
            catch_up,
        }
    }

    /// Plugs a device in and waits until the port is open.
    async fn device(&mut self) -> DeviceEnd {
        let device = DeviceEnd::plug_in(&self.dir.path().join("tty"));
        self.until(|bench| bench.source().connected.get() == 1)
            .await;
        assert!(*self.ready.borrow());
        device
    }

    fn source(&self) -> SourceMetrics {
        self.metrics.source(&name())
    }

    fn rejected(&self, reason: &str) -> u64 {
        let label = SourceReason {
            source: name().to_string(),
            reason: reason.to_owned(),
        };
        self.metrics.frames_rejected.get_or_create(&label).get()
    }

    /// Waits for a condition that nothing announces.
    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let holds = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, holds)
            .await
            .expect("the condition comes about");
    }

    fn open_gate(&self) {
        self.gate.send_replace(true);
        self.catch_up.send_replace(self.log.progress());
    }

    async fn stopped(self) {
        self.stop.cancel();
        let ended = timeout(PATIENCE, self.source).await.expect("it ends");
        ended.expect("no panic").expect("the log is well");
    }

    fn synced(&self) -> u64 {
        self.log.progress().synced.get()
    }
}

fn name() -> SourceName {
    SourceName::new("press-line").expect("valid")
}

fn config(device: PathBuf, framing: Framing) -> Serial {
    Serial {
        device: Device::Path(device),
        baud_rate: 115_200,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
        flow_control: FlowControl::None,
        rs485: None,
        framing,
        checksum: None,
        frame_bytes_max: 1024,
    }
}

fn opaque(sequence: u32) -> Vec<u8> {
    let header = Header {
        kind: Kind::Opaque,
        address: 0,
        session: 1,
        sequence,
        backlog: 0,
    };
    let mut bytes = vec![0; frame::FRAME_BYTES_MAX];
    let used = frame::encode(header, &sequence.to_le_bytes(), &mut bytes).expect("fits");
    bytes.truncate(used);
    bytes
}

#[tokio::test]
async fn a_port_that_returns_under_another_number_is_opened_again_and_its_session_goes_on() {
    let mut bench = Bench::start(Framing::Shim);
    assert!(!*bench.ready.borrow());
    let link = bench.dir.path().join("tty");
    // A number that somebody has open is not given out again.
    let mut held = Vec::new();
    let mut paths = Vec::new();
    for round in 0..3 {
        let mut device = bench.device().await;
        held.push(File::open(&link).expect("a terminal"));
        paths.push(std::fs::canonicalize(&link).expect("there"));
        if round > 0 {
            // Sent before the port went; the device did not hear its ACK.
            device.write(&opaque(round - 1)).await;
        }
        device.write(&opaque(round)).await;
        while device.hear(Kind::Ack).await != Header::ack(0, 1, round + 1) {}
        drop(device);
        bench.until(|b| b.source().connected.get() == 0).await;
    }
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 3, "the port had another number each time");
    assert_eq!(bench.synced(), 3);
    assert_eq!(bench.source().duplicates.get(), 2);
    assert_eq!(bench.source().committed.get(), 3);
    bench.stopped().await;
}

#[tokio::test]
async fn a_link_ack_waits_for_the_commit_and_a_duplicate_learns_only_what_is_durable() {
    let mut bench = Bench::start(Framing::Shim);
    let mut device = bench.device().await;
    bench.gate.send_replace(false);
    device.write(&opaque(0)).await;
    bench.until(|b| b.source().received.get() == 1).await;
    device.write(&opaque(0)).await;
    assert_eq!(device.hear(Kind::Ack).await, Header::ack(0, 1, 0));
    bench.until(|b| b.synced() == 1).await;
    bench.open_gate();
    assert_eq!(device.hear(Kind::Ack).await, Header::ack(0, 1, 1));
    bench.stopped().await;
}

#[tokio::test]
async fn a_device_whose_window_is_full_does_not_wait_out_the_commit_interval() {
    const WINDOW: u32 = 8;
    let never = Duration::from_secs(3600);
    let mut bench = Bench::committing_every(never, Framing::Shim);
    let mut device = bench.device().await;
    for round in 0..2 {
        for sequence in round * WINDOW..(round + 1) * WINDOW {
            device.write(&opaque(sequence)).await;
        }
        while device.hear(Kind::Ack).await != Header::ack(0, 1, (round + 1) * WINDOW) {}
    }
    bench.stopped().await;
}

#[tokio::test]
async fn a_source_that_stops_acknowledges_what_it_took_once_that_is_committed() {
    let mut bench = Bench::start(Framing::Shim);
    let mut device = bench.device().await;
    bench.gate.send_replace(false);
    device.write(&opaque(0)).await;
    bench.until(|b| b.synced() == 1).await;
    bench.stop.cancel();
    bench.open_gate();
    assert_eq!(device.hear(Kind::Ack).await, Header::ack(0, 1, 1));
    bench.stopped().await;
}

#[tokio::test]
async fn noise_on_the_line_is_rejected_and_counted_and_the_next_frame_is_taken() {
    let mut bench = Bench::start(Framing::Shim);
    let mut device = bench.device().await;
    device.write(&[0x55; 3000]).await;
    device.write(&[0, 0x09, 0x11, 0]).await;
    device.write(&opaque(0)).await;
    assert_eq!(device.hear(Kind::Ack).await, Header::ack(0, 1, 1));
    assert_eq!((bench.rejected("too_long"), bench.rejected("cobs")), (1, 1));
    bench.stopped().await;
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_is_taken_once_its_last_byte_is_there() {
    let mut bench = Bench::start(Framing::Shim);
    let mut device = bench.device().await;
    let tty = File::open(bench.dir.path().join("tty")).expect("a terminal");
    for sequence in 0..3 {
        for byte in opaque(sequence) {
            device.write(&[byte]).await;
            // What is written before the gateway has read comes to it as one piece.
            bench
                .until(|_| rustix::io::ioctl_fionread(&tty).is_ok_and(|bytes| bytes == 0))
                .await;
        }
        let acknowledged = Header::ack(0, 1, sequence + 1);
        while device.hear(Kind::Ack).await != acknowledged {}
    }
    bench.stopped().await;
}

#[tokio::test]
async fn a_device_that_is_heard_is_told_the_time() {
    let mut bench = Bench::start(Framing::Shim);
    let mut device = bench.device().await;
    device.write(&opaque(0)).await;
    assert_eq!(device.hear(Kind::Time).await, Header::time(0, 1));
    bench.stopped().await;
}

#[tokio::test]
async fn a_line_without_an_end_is_rejected_and_the_next_one_is_stored() {
    let mut bench = Bench::start(Framing::Lines);
    let mut device = bench.device().await;
    for _ in 0..100 {
        device.write(&[b'x'; 1000]).await;
    }
    device.write(b"\nT=21.5\r\n\xff\xfe\n").await;
    bench.until(|b| b.source().committed.get() == 2).await;
    assert_eq!(bench.rejected("too_long"), 1);
    bench.stopped().await;
}

#[tokio::test]
async fn a_port_that_one_gateway_has_open_is_refused_to_another_until_it_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path().join("tty"), Framing::Shim);
    let _device = DeviceEnd::plug_in(&dir.path().join("tty"));
    let first = Port::open(&config).expect("free");
    let refused = Port::open(&config).expect_err("in use");
    assert!(matches!(refused, OpenError::Busy { .. }), "{refused:?}");
    first.close().await;
    assert!(Port::open(&config).is_ok());
}

#[tokio::test]
async fn a_port_that_another_program_has_open_is_refused_with_its_name_and_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path().join("tty"), Framing::Shim);
    let _device = DeviceEnd::plug_in(&dir.path().join("tty"));
    let path = std::fs::canonicalize(dir.path().join("tty")).expect("there");
    let tty = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("free");
    rustix::fs::flock(&tty, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    // The lock goes with the descriptor that the other program inherits.
    let mut other = std::process::Command::new("sleep")
        .arg("600")
        .stdin(tty)
        .spawn()
        .expect("sleep");
    let refused = Port::open(&config).expect_err("in use").with_holders();
    other.kill().expect("it runs");
    other.wait().expect("it ends");
    let expected = format!(
        "{} is in use by sleep (process {})",
        path.display(),
        other.id()
    );
    assert_eq!(refused.to_string(), expected);
    assert!(Port::open(&config).is_ok());
}

#[tokio::test]
async fn every_setting_of_a_line_reaches_the_terminal() {
    use rustix::termios::{ControlModes, InputModes, tcgetattr};
    let dir = tempfile::tempdir().expect("a directory");
    let device = DeviceEnd::plug_in(&dir.path().join("tty"));
    for (baud_rate, data_bits, parity, stop_bits, flow_control) in [
        (4_000_000, 8, Parity::None, 1, FlowControl::None),
        (9_600, 7, Parity::Even, 1, FlowControl::Software),
        (123_456, 6, Parity::Odd, 2, FlowControl::Hardware),
        (50, 5, Parity::None, 2, FlowControl::None),
        (19_200, 8, Parity::Mark, 1, FlowControl::None),
        (123_456, 7, Parity::Space, 1, FlowControl::None),
        (19_200, 8, Parity::Even, 1, FlowControl::None),
    ] {
        let config = Serial {
            baud_rate,
            data_bits,
            parity,
            stop_bits,
            flow_control,
            ..config(dir.path().join("tty"), Framing::Lines)
        };
        let _port = Port::open(&config).expect("settings that a terminal takes");
        let set = tcgetattr(&device.master).expect("a terminal");
        assert_eq!(
            (set.input_speed(), set.output_speed()),
            (baud_rate, baud_rate)
        );
        // A pseudo-terminal keeps to 8 bits and no parity, whatever is asked of it; but it keeps which
        // parity it would be.
        let stop_bits_set = 1 + u8::from(set.control_modes.contains(ControlModes::CSTOPB));
        assert_eq!(stop_bits_set, stop_bits);
        let sticks = matches!(parity, Parity::Mark | Parity::Space);
        let is_odd = matches!(parity, Parity::Odd | Parity::Mark);
        assert_eq!(set.control_modes.contains(ControlModes::CMSPAR), sticks);
        assert_eq!(set.control_modes.contains(ControlModes::PARODD), is_odd);
        let hardware = set.control_modes.contains(ControlModes::CRTSCTS);
        let software = set
            .input_modes
            .contains(InputModes::IXON | InputModes::IXOFF);
        assert_eq!(hardware, flow_control == FlowControl::Hardware);
        assert_eq!(software, flow_control == FlowControl::Software);
    }
}

#[tokio::test]
async fn a_port_without_an_rs485_mode_is_refused_where_one_is_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let _device = DeviceEnd::plug_in(&dir.path().join("tty"));
    let config = Serial {
        rs485: Some(Rs485::default()),
        ..config(dir.path().join("tty"), Framing::Lines)
    };
    let refused = Port::open(&config).expect_err("a pseudo-terminal has no transceiver");
    assert!(matches!(refused, OpenError::NoRs485 { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_line_that_takes_no_output_is_read_all_the_same() {
    use rustix::termios::{Action, tcflow};
    let mut bench = Bench::start(Framing::Shim);
    let mut device = bench.device().await;
    let tty = File::open(bench.dir.path().join("tty")).expect("a terminal");
    tcflow(&tty, Action::OOff).expect("output held");
    for sequence in 0..200 {
        device.write(&opaque(sequence)).await;
        // A device that hears no ACK does not send for ever either: what a slow disk leaves no room for
        // is refused, and to be sent again.
        let taken = u64::from(sequence) + 1;
        bench.until(|b| b.source().committed.get() == taken).await;
    }
    tcflow(&tty, Action::OOn).expect("output goes on");
    while device.hear(Kind::Ack).await != Header::ack(0, 1, 200) {}
    bench.stopped().await;
}

#[tokio::test]
async fn a_silence_ends_a_frame_and_a_pause_of_the_reader_is_none() {
    let mut bench = Bench::start(Framing::Idle(Duration::from_millis(50)));
    let mut device = bench.device().await;
    for round in 1..=3 {
        device.write(b"ab").await;
        device.write(b"cd").await;
        bench.until(|b| b.source().committed.get() == round).await;
    }
    let mut cursor = bench.log.cursor(Offset::ZERO);
    while let Some(Item::Batch(batch)) = cursor.next().expect("readable") {
        for record in batch.records() {
            assert_eq!(record.payload, b"abcd");
        }
    }
    bench.stopped().await;
}

#[tokio::test]
async fn a_length_that_was_noise_is_given_up_after_a_silence() {
    let mut bench = Bench::start(Framing::LengthU8);
    let mut device = bench.device().await;
    device.write(b"\xc8noise").await;
    bench.until(|b| b.rejected("truncated") == 1).await;
    device.write(b"\x02ok").await;
    bench.until(|b| b.source().committed.get() == 1).await;
    bench.stopped().await;
}

#[tokio::test]
async fn an_adapter_that_reads_empty_for_ever_is_noticed_and_heard_when_it_works_again() {
    let mut bench = Bench::start(Framing::Lines);
    let device = bench.device().await;
    // A terminal whose other end is gone reads nothing, at once, for as long as it is held.
    let held = File::open(bench.dir.path().join("tty")).expect("a terminal");
    drop(device);
    bench.until(|b| b.source().connected.get() == 0).await;
    let mut device = bench.device().await;
    device.write(b"back\n").await;
    bench.until(|b| b.source().committed.get() == 1).await;
    drop(held);
    bench.stopped().await;
}

#[tokio::test]
async fn a_source_whose_device_never_appears_stops_when_told() {
    let bench = Bench::start(Framing::Shim);
    bench.until(|b| b.source().connected.get() == 0).await;
    assert!(!*bench.ready.borrow());
    bench.stopped().await;
}
