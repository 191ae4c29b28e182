//! One message at a time: from the frame's first byte on the line to the ACK's last, with the sync
//! between. Beside it, after each trip, a bare write and sync on the same disk, so that a slow second
//! meets both.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{Header, body_bytes};
use system_tests::gateway::Gateway;
use system_tests::pty::Pty;

use super::Surroundings;
use crate::error::BenchError;
use crate::frames;
use crate::report::{Report, Target};

const WARM_UP_TRIPS: u32 = 200;
const MEASURED_TRIPS: u32 = 1000;
const PAYLOAD: [u8; 64] = [0x5a; 64];
const MEDIAN_MS_MAX: f64 = 3.0;
const BLOCK_BYTES: usize = 4096;
const BLOCKS: u32 = 256;

/// Adds a sample of the medians and of the 99th percentiles.
pub(super) fn measure(on: &Path, report: &mut Report) -> Result<(), BenchError> {
    let surroundings = Surroundings::new(on)?;
    let mut pty = Pty::open();
    let settings = surroundings
        .settings(std::iter::once(&pty))
        .section("[buffer]\ncommit_interval = 0");
    let _gateway = Gateway::start_ready(&settings);
    let bare = BareDisk::new(surroundings.data.path())?;
    let mut decoder = Decoder::new();
    let (mut trips_ms, mut syncs_ms) = (Vec::new(), Vec::new());
    for sequence in 0..WARM_UP_TRIPS + MEASURED_TRIPS {
        let trip_ms = trip(&mut pty, &mut decoder, sequence);
        let sync_ms = bare.sync(sequence)?;
        if sequence >= WARM_UP_TRIPS {
            trips_ms.push(trip_ms);
            syncs_ms.push(sync_ms);
        }
    }
    let median = Target::AtMost(MEDIAN_MS_MAX);
    add("frame, sync, ACK", median, trips_ms, report);
    add("a bare sync beside it", Target::None, syncs_ms, report);
    Ok(())
}

fn add(what: &str, median: Target, mut times_ms: Vec<f64>, report: &mut Report) {
    times_ms.sort_by(f64::total_cmp);
    let at = |of_100: usize| times_ms[times_ms.len() * of_100 / 100];
    report.add(&format!("{what}: median, ms"), 2, median, at(50));
    let what = format!("{what}: 99 of 100 within, ms");
    report.add(&what, 2, Target::None, at(99));
}

/// Sends a message and waits until it is acknowledged; returns how long that took.
fn trip(pty: &mut Pty, decoder: &mut Decoder<{ body_bytes(8) }>, sequence: u32) -> f64 {
    let mut bytes = Vec::new();
    frames::encode(sequence, &PAYLOAD, &mut bytes);
    let acknowledged = Header::ack(0, 1, sequence + 1);
    let start = Instant::now();
    pty.send(&bytes);
    loop {
        for byte in pty.receive() {
            if let Outcome::Frame(frame) = decoder.push(byte)
                && frame.header == acknowledged
            {
                return start.elapsed().as_secs_f64() * 1e3;
            }
        }
    }
}

/// A file that has its blocks, written in place.
struct BareDisk(File);

impl BareDisk {
    fn new(dir: &Path) -> Result<Self, BenchError> {
        let make = || {
            let file = File::create_new(dir.join("bare"))?;
            for block in 0..BLOCKS {
                file.write_all_at(&[1; BLOCK_BYTES], position(block))?;
            }
            file.sync_all()?;
            Ok(file)
        };
        make().map(Self).map_err(BenchError::io("make a file"))
    }

    /// Writes a block and syncs it; returns how long that took.
    fn sync(&self, number: u32) -> Result<f64, BenchError> {
        let block = [number as u8; BLOCK_BYTES];
        let start = Instant::now();
        let written = self.0.write_all_at(&block, position(number % BLOCKS));
        let synced = written.and_then(|()| self.0.sync_data());
        synced.map_err(BenchError::io("sync a file"))?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

fn position(block: u32) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}
