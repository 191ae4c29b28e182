//! Simulated devices on a pseudo-terminal, with the shim link's receiver at the other end.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{FRAME_BYTES_MAX, encode};
use firmware_shim::link::receiver::{Receiver, Verdict};
use firmware_shim::senml::{self, Number};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sensor_sim::SimError;
use sensor_sim::fleet::Fleet;
use sensor_sim::profile::Profile;
use sensor_sim::progress::Report;
use sensor_sim::run::Run;
use sensor_sim::schedule::Schedule;
use sensor_sim::serial::{Framing, SerialOptions, send};

const PATIENCE: Duration = Duration::from_secs(60);

fn options(link: &Path) -> SerialOptions {
    SerialOptions {
        link: link.to_owned(),
        framing: Framing::Shim,
        acknowledged: true,
        overwrite: false,
        window: 8,
        baud: 0,
        noise: 0.0,
        payload_bytes_min: 0,
    }
}

fn fleet(devices: u32) -> Fleet {
    Fleet {
        profile: Profile::Press,
        seed: 3,
        first: 0,
        devices,
    }
}

/// Runs the simulator to its end.
fn simulate(options: &SerialOptions, fleet: Fleet, count: u64, ack_timeout: Duration) -> Report {
    let schedule = Schedule {
        rate: 0.0,
        count: Some(count),
        duration: None,
    };
    let run = Run::new(schedule);
    let work = async { Ok::<_, SimError>(send(options, fleet, &run).await?) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run.supervise(ack_timeout, work)).unwrap();
    Report::new(
        &run.counters(),
        fleet.devices,
        options.acknowledged,
        run.elapsed(),
    )
}

/// What a pack says: where from, the sequence, and everything but the times.
#[derive(Clone, Debug, PartialEq)]
struct Pack {
    base_name: String,
    sequence: u64,
    values: Vec<(String, f64)>,
}

fn unpack(payload: &[u8]) -> Pack {
    let mut pack = Pack {
        base_name: String::new(),
        sequence: 0,
        values: Vec::new(),
    };
    senml::for_each(payload, |record| {
        if let Some(base_name) = record.base_name {
            pack.base_name = base_name.to_owned();
            assert!(matches!(record.base_time, Some(Number::Float(at)) if at > 1e9));
        }
        match (record.name, record.value) {
            (Some("sequence"), Some(Number::Unsigned(sequence))) => pack.sequence = sequence,
            (Some(name), Some(Number::Float(value))) => {
                pack.values.push((name.to_owned(), value));
            }
            _ => {}
        }
    })
    .unwrap();
    pack
}

/// A gateway whose disk is instant: takes, commits and acknowledges.
struct Gateway {
    receivers: BTreeMap<u8, Receiver>,
    decoder: Decoder,
    packs: Vec<Pack>,
    rejected: u64,
    gaps: u64,
    started: Instant,
}

impl Gateway {
    fn new() -> Self {
        Self {
            receivers: BTreeMap::new(),
            decoder: Decoder::new(),
            packs: Vec::new(),
            rejected: 0,
            gaps: 0,
            started: Instant::now(),
        }
    }

    /// Serves the port until `end` says so; the port may not be there yet.
    fn serve(&mut self, link: &Path, end: impl Fn(&Self) -> bool) {
        let mut port = open_port(link);
        let mut buffer = [0; 4096];
        while !end(self) {
            assert!(
                self.started.elapsed() < PATIENCE,
                "{} packs",
                self.packs.len()
            );
            let count = read_some(&mut port, &mut buffer);
            for &byte in &buffer[..count] {
                self.take(byte);
            }
            let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap();
            for receiver in self.receivers.values_mut() {
                if let Some(header) = receiver.ack(now_ms) {
                    let mut frame = [0; FRAME_BYTES_MAX];
                    let used = encode(header, &[], &mut frame).unwrap();
                    port.write_all(&frame[..used]).unwrap();
                }
            }
        }
    }

    fn take(&mut self, byte: u8) {
        let frame = match self.decoder.push(byte) {
            Outcome::Frame(frame) => frame,
            Outcome::Pending => return,
            Outcome::Rejected(_) => {
                self.rejected += 1;
                return;
            }
        };
        let address = frame.header.address;
        let receiver = self
            .receivers
            .entry(address)
            .or_insert_with(|| Receiver::new(address, None));
        if let Verdict::Take(take) = receiver.receive(&frame) {
            receiver.taken(&take);
            receiver.committed(&take);
            self.gaps += take.gap;
            self.packs.push(unpack(frame.payload));
        }
    }

    /// Asserts that each of `devices` sent 0, 1, … in order, `each` of them.
    fn assert_complete(&self, devices: u32, each: u64) {
        for device in 0..devices {
            let name = format!("urn:dev:sim:press-{device:03}/");
            let of_device = self.packs.iter().filter(|pack| pack.base_name == name);
            let sequences: Vec<u64> = of_device.map(|pack| pack.sequence).collect();
            assert_eq!(sequences, (0..each).collect::<Vec<_>>(), "{name}");
        }
        assert_eq!(self.gaps, 0);
    }
}

/// Opens the far end as soon as it is there.
fn open_port(link: &Path) -> File {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open(link);
        match port {
            Ok(port) => return port,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Reads what is there, after a short wait for it; 0 if nothing is, or the line is gone.
fn read_some(port: &mut File, buffer: &mut [u8]) -> usize {
    let wait = Timespec::try_from(Duration::from_millis(10)).unwrap();
    poll(&mut [PollFd::new(&*port, PollFlags::IN)], Some(&wait)).unwrap();
    match port.read(buffer) {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        // EIO: the simulator has ended.
        Err(error) if error.raw_os_error() == Some(5) => 0,
        Err(error) => panic!("{error}"),
    }
}

/// A simulator with a gateway beside it, which serves until the simulator has ended.
fn run_with_gateway(options: &SerialOptions, fleet: Fleet, count: u64) -> (Report, Gateway) {
    let ended = Arc::new(AtomicBool::new(false));
    let link = options.link.clone();
    let seen = Arc::clone(&ended);
    let gateway = std::thread::spawn(move || {
        let mut gateway = Gateway::new();
        gateway.serve(&link, |_| seen.load(Ordering::Acquire));
        gateway
    });
    let report = simulate(options, fleet, count, PATIENCE);
    ended.store(true, Ordering::Release);
    (report, gateway.join().unwrap())
}

fn temporary_link() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("tty");
    (directory, link)
}

#[test]
fn one_device_and_several_on_a_line_deliver_everything_once_and_in_order() {
    for devices in [1, 4] {
        let (_directory, link) = temporary_link();
        let count = 100 * u64::from(devices);
        let (report, gateway) = run_with_gateway(&options(&link), fleet(devices), count);
        gateway.assert_complete(devices, 100);
        assert_eq!((report.sent, report.acknowledged), (count, Some(count)));
        assert_eq!(gateway.receivers.contains_key(&0), devices == 1);
        assert!(!link.exists(), "the link goes with the simulator");
    }
}

#[test]
fn noise_is_rejected_and_what_it_hit_is_sent_again() {
    let (_directory, link) = temporary_link();
    let noisy = SerialOptions {
        noise: 0.1,
        ..options(&link)
    };
    let (report, gateway) = run_with_gateway(&noisy, fleet(2), 60);
    gateway.assert_complete(2, 30);
    assert!(
        report.damaged > 0 && report.resent > 0 && report.is_complete(),
        "{report}"
    );
    assert!(gateway.rejected > 0);
}

#[test]
fn a_gateway_that_goes_away_and_returns_misses_nothing() {
    let (_directory, link) = temporary_link();
    let served = link.clone();
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    let gateway = std::thread::spawn(move || {
        let mut gateway = Gateway::new();
        for part in 1..=3 {
            gateway.serve(&served, |gateway| gateway.packs.len() >= part * 30);
            gateway.decoder.reset();
        }
        gateway.serve(&served, |_| seen.load(Ordering::Acquire));
        gateway
    });
    let report = simulate(&options(&link), fleet(2), 200, PATIENCE);
    ended.store(true, Ordering::Release);
    gateway.join().unwrap().assert_complete(2, 100);
    assert_eq!(report.acknowledged, Some(200));
}

#[test]
fn content_depends_on_the_seed_and_not_on_the_run() {
    let run = |seed| {
        let (_directory, link) = temporary_link();
        let fleet = Fleet { seed, ..fleet(1) };
        run_with_gateway(&options(&link), fleet, 20).1.packs
    };
    let first = run(1);
    assert_eq!(first.len(), 20);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}

#[test]
fn padding_brings_a_pack_to_the_asked_size_within_a_byte() {
    for asked in [200, 500, 1024] {
        let (_directory, link) = temporary_link();
        let padded = SerialOptions {
            payload_bytes_min: asked,
            ..options(&link)
        };
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let reader = std::thread::spawn(move || {
            let mut sizes = Vec::new();
            let mut port = open_port(&link);
            let mut decoder: Decoder = Decoder::new();
            let mut buffer = [0; 4096];
            while !seen.load(Ordering::Acquire) {
                let count = read_some(&mut port, &mut buffer);
                for &byte in &buffer[..count] {
                    if let Outcome::Frame(frame) = decoder.push(byte) {
                        sizes.push(frame.payload.len());
                    }
                }
            }
            sizes
        });
        let one_way = SerialOptions {
            acknowledged: false,
            ..padded
        };
        simulate(&one_way, fleet(1), 20, PATIENCE);
        ended.store(true, Ordering::Release);
        let sizes = reader.join().unwrap();
        assert_eq!(sizes.len(), 20);
        assert!(
            sizes.iter().all(|&size| size == asked || size + 1 == asked),
            "{sizes:?}"
        );
    }
}

#[test]
fn one_way_devices_lose_nothing_to_the_end_of_the_run() {
    let (_directory, link) = temporary_link();
    let one_way = SerialOptions {
        acknowledged: false,
        ..options(&link)
    };
    let (report, gateway) = run_with_gateway(&one_way, fleet(3), 3_000);
    gateway.assert_complete(3, 1_000);
    assert_eq!(
        (report.sent, report.acknowledged, report.resent),
        (3_000, None, 0)
    );
}

#[test]
fn lines_are_json_with_every_sequence_in_order() {
    let (_directory, link) = temporary_link();
    let lines = SerialOptions {
        framing: Framing::Lines,
        acknowledged: false,
        ..options(&link)
    };
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut port = open_port(&link);
        let mut buffer = [0; 4096];
        while !seen.load(Ordering::Acquire) {
            let count = read_some(&mut port, &mut buffer);
            text.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8(text).unwrap()
    });
    simulate(&lines, fleet(2), 2_000, PATIENCE);
    ended.store(true, Ordering::Release);
    let text = reader.join().unwrap();
    assert_eq!(text.lines().count(), 2_000);
    for (number, line) in text.lines().enumerate() {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["source"], "sim/press");
        assert_eq!(json["device"], format!("press-{:03}", number % 2));
        assert_eq!(json["sequence"], number / 2);
    }
}

#[test]
fn a_run_ends_without_acknowledgements_once_its_patience_is_over() {
    let (_directory, link) = temporary_link();
    let report = simulate(&options(&link), fleet(1), 10, Duration::from_millis(300));
    assert_eq!((report.sent, report.acknowledged), (10, Some(0)));
    assert!(!report.is_complete());
}

#[test]
fn a_device_told_to_overwrite_gives_up_its_oldest_messages() {
    let (_directory, link) = temporary_link();
    let overwriting = SerialOptions {
        overwrite: true,
        ..options(&link)
    };
    let report = simulate(&overwriting, fleet(1), 1_000, Duration::from_millis(300));
    assert_eq!(report.sent, 1_000);
    assert_eq!(report.overwritten, 1_000 - 64);
}
