//! Power cuts at any write, sync or change of a name, at three kinds of disk.
//!
//! | place | what a cut leaves |
//! |---|---|
//! | ext4 on a block device | the device as it was at an instant: what ext4 had not written back, the page cache, is gone |
//! | ext4 on a block device with a volatile cache | that less what was written since the last flush, or part of it, by sectors |
//! | a file system that promises what POSIX promises | what was synced, of names too, or that and a part of the rest |
//!
//! After the cut the disk answers with EIO until the gateway is killed, so that nothing is synced
//! and acknowledged that is not counted as before the cut. Then the disk is mounted anew, elsewhere,
//! and a second gateway opens what it finds.

use std::path::{Path, PathBuf};

use system_tests::fault_disk::{FaultDisk, Kept};
use system_tests::gateway::{Gateway, Settings};
use system_tests::mount::{Mount, make_ext4};
use system_tests::random::Random;
use system_tests::turn;

use crate::load::Site;
use crate::{COMMITTED, SMALL_SEGMENTS, SOON, rounds};

const DEVICE_BYTES: u64 = 64 << 20;
/// Storage failed (DESIGN §5).
const EXIT_STORAGE: i32 = 74;

/// Where the gateway's data lies.
enum Place {
    /// On the disk itself.
    Posix(FaultDisk),
    /// On a file system on the disk.
    Ext4 {
        /// None while it has no power. Unmounted before its disk.
        mount: Option<Mount>,
        disk: FaultDisk,
    },
}

impl Place {
    fn posix() -> Self {
        Self::Posix(FaultDisk::start())
    }

    fn ext4() -> Self {
        let disk = FaultDisk::start();
        make_ext4(&image(&disk), DEVICE_BYTES);
        let mount = Some(Mount::ext4(&image(&disk)));
        Self::Ext4 { mount, disk }
    }

    fn disk(&mut self) -> &mut FaultDisk {
        match self {
            Self::Posix(disk) | Self::Ext4 { disk, .. } => disk,
        }
    }

    fn data_dir(&self) -> PathBuf {
        let root: &Path = match self {
            Self::Posix(disk) => disk.path(),
            Self::Ext4 { mount, .. } => mount.as_ref().expect("it has power").path(),
        };
        root.join("edge-gateway")
    }

    /// The power returns.
    fn power_on(&mut self) {
        match self {
            Self::Posix(disk) => disk.power_on(),
            Self::Ext4 { mount, disk } => {
                *mount = None;
                disk.power_on();
                *mount = Some(Mount::ext4(&image(disk)));
            }
        }
    }
}

fn image(disk: &FaultDisk) -> PathBuf {
    disk.path().join("image")
}

/// Most operations from the arming of a cut to the cut: of the first start, which must have as many;
/// of a start under load, and a little beyond; and of some seconds of load.
const FIRST_START_OPERATIONS: u64 = 10;
const START_OPERATIONS: u64 = 25;
const LOAD_OPERATIONS: u64 = 300;

/// A disk, and chance to cut its power.
struct Cutter {
    place: Place,
    kept: &'static [Kept],
    random: Random,
}

impl Cutter {
    fn new(place: Place, kept: &'static [Kept]) -> Self {
        Self {
            place,
            kept,
            random: Random::seeded(),
        }
    }

    fn settings(&self, site: &Site) -> Settings {
        let settings = site.settings().section(SMALL_SEGMENTS);
        settings.data_dir(&self.place.data_dir())
    }

    /// One time in `of`.
    fn is_chance(&mut self, of: u64) -> bool {
        self.random.below(of) == 0
    }

    fn arm(&mut self, operations_max: u64) {
        let choice = self.random.below(self.kept.len() as u64);
        let kept = self.kept[usize::try_from(choice).unwrap()];
        let operations = 1 + self.random.below(operations_max);
        println!("power cut in operation {operations}, kept: {kept:?}");
        let seed = self.random.number();
        self.place.disk().arm(operations, kept, seed);
    }

    /// Waits for the cut, ends the gateway that it struck, and turns the power on.
    fn finish_cut(&mut self, gateway: &mut Gateway) {
        self.place.disk().wait_for_cut();
        gateway.kill();
        self.place.power_on();
    }
}

fn nothing_is_lost_by_power_cuts(place: Place, kept: &'static [Kept]) {
    let site = Site::start();
    let mut cutter = Cutter::new(place, kept);
    let press = site.press();
    for _ in 0..5 {
        cutter.arm(FIRST_START_OPERATIONS);
        let mut gateway = Gateway::start(&cutter.settings(&site));
        cutter.finish_cut(&mut gateway);
    }
    let mut gateway = Gateway::start_ready(&cutter.settings(&site));
    let mut load = site.load(press, 1000);
    let mut is_armed = false;
    for round in 1..=rounds() {
        println!("round {round}");
        let away = cutter.is_chance(2).then(|| site.kafka_away());
        if !is_armed {
            gateway.wait_metric(COMMITTED, &[("source", "city")], 1.0, SOON);
            cutter.arm(LOAD_OPERATIONS);
        }
        cutter.finish_cut(&mut gateway);
        load.assert_runs();
        is_armed = round < rounds() && cutter.is_chance(4);
        if is_armed {
            cutter.arm(START_OPERATIONS);
        }
        gateway = Gateway::start(&cutter.settings(&site));
        drop(away);
    }
    site.expect_all(load, gateway);
}

#[test]
fn nothing_is_lost_when_a_block_device_is_copied_at_any_instant() {
    let _turn = turn();
    nothing_is_lost_by_power_cuts(Place::ext4(), &[Kept::Everything]);
}

#[test]
fn nothing_is_lost_when_a_block_device_loses_its_cache() {
    let _turn = turn();
    nothing_is_lost_by_power_cuts(Place::ext4(), &[Kept::Nothing, Kept::Some]);
}

#[test]
fn nothing_is_lost_on_a_file_system_that_forgets_what_is_not_synced() {
    let _turn = turn();
    nothing_is_lost_by_power_cuts(Place::posix(), &[Kept::Nothing, Kept::Some]);
}

/// Kafka is away from the first record on, so that all of them must be found in a log that this very
/// gateway has made, with its directories.
#[test]
fn a_disk_that_dies_ends_the_gateway_with_exit_code_74_and_leaves_a_new_log_whole() {
    let _turn = turn();
    let site = Site::start();
    let mut cutter = Cutter::new(Place::posix(), &[Kept::Nothing]);
    let press = site.press();
    let mut gateway = Gateway::start_ready(&cutter.settings(&site));
    let away = site.kafka_away();
    let load = site.load(press, 1000);
    gateway.wait_metric(COMMITTED, &[("source", "city")], 500.0, SOON);
    cutter.arm(LOAD_OPERATIONS);
    assert_eq!(gateway.wait_end().code(), Some(EXIT_STORAGE));
    cutter.finish_cut(&mut gateway);
    let gateway = Gateway::start(&cutter.settings(&site));
    drop(away);
    site.expect_all(load, gateway);
}
