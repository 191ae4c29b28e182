//! A whole board, emulated: Debian for arm64 with its own kernel, the arm64 package, systemd, a USB
//! serial adapter, and a plug that is pulled ten times. One story, as on a real board.
//!
//! It is ignored where nobody asks for it (`make board`): it takes root, some twenty minutes of an
//! idle machine, 4 GB of memory, and a Debian mirror the first time. `BOARD_PACKAGE` names the package.
//!
//! The witnesses of what was acknowledged are Mosquitto, which sends again what the gateway on the
//! board has not acknowledged and nothing else, and the devices of the two lines, which keep what the
//! link has not acknowledged. So what was acknowledged and lost is missing in Kafka at the end. While
//! a plug is pulled Kafka has been paused, so that the board's disk alone has what was acknowledged.
//!
//! Two switches, by which the test must fail: `BOARD_IGNORES_FLUSHES=1` has the disk lie, and
//! `BOARD_WITHOUT_SYNC=1` has the gateway acknowledge what it has not synced.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use system_tests::arm_board::{ArmBoard, HTTP_PORT, Parts};
use system_tests::fault_disk::Kept;
use system_tests::kafka::{HOST_IN_GUEST, Kafka, Security};
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::process;
use system_tests::random::Random;
use system_tests::sim::Sim;
use system_tests::wait;

/// For anything that takes seconds on a board that is not emulated.
const SOON: Duration = Duration::from_secs(600);
const COMMITTED: &str = "edge_gateway_records_committed_total";
const BUFFERED: &str = "edge_gateway_buffer_records";
const UNIT: &str = "edge-gateway.service";
const PULLS: u32 = 10;
/// Where the test is to fail: a gateway that does not sync leaves the disk little to do, so the cut comes
/// after few operations, and what is missing is missing after one.
const PULLS_WITHOUT_SYNC: u32 = 1;
const OPERATIONS_WITHOUT_SYNC: u64 = 20;
/// So many records at least are acknowledged and not in Kafka when the plug is pulled under load.
const ON_DISK_ALONE: f64 = 200.0;
/// Then the power fails within so many operations of the disk.
const OPERATIONS: u64 = 1500;
/// What udev calls QEMU's adapter by the package's rule.
const USB_TTY: &str = "/dev/edge-gateway/0403-6001-A10ABCDE-00";
const SOURCES: [&str; 3] = ["city", "press", "panel"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn image() -> PathBuf {
    let output = Command::new(root().join("tests/board/image.sh")).output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "image.sh: {errors}");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

fn package() -> PathBuf {
    let package = std::env::var_os("BOARD_PACKAGE").map(PathBuf::from);
    let package = package.unwrap_or_else(|| root().join("dist/edge-gateway_0.1.0_arm64.deb"));
    assert!(package.is_file(), "{}: make cross deb", package.display());
    package
}

/// Devices on a serial line, four of them.
fn devices(line: &Path, seed: u32) -> Sim {
    let sim = Sim::start(&format!(
        "serial --pty {} --devices 4 --rate 20 --seed {seed}",
        line.display()
    ));
    wait::until("the line", Duration::from_secs(20), || line.exists());
    sim
}

/// What was overwritten and flushed is there after a power cut, what was overwritten and not flushed
/// is as it was before, though it had reached the disk.
fn the_disk_forgets_what_is_not_flushed(board: &mut ArmBoard) {
    let write = "dd bs=4096 count=1 iflag=fullblock oflag=direct status=none";
    let read = "dd if=/root/$f bs=4096 count=1 iflag=direct status=none | head -c 3; done";
    board.run(&format!(
        "for f in flushed unflushed; do yes old | {write} conv=fsync of=/root/$f; done; sync"
    ));
    board.run(&format!(
        "yes new | {write} conv=notrunc,fsync of=/root/flushed
         yes new | {write} conv=notrunc of=/root/unflushed"
    ));
    let both = format!("for f in flushed unflushed; do {read}");
    let before = board.run(&both);
    board.arm(1, Kept::Nothing, 0);
    board.pull_plug(|_| {});
    board.switch_on();
    board.wait_up();
    let after = board.run(&both);
    println!("flushed and unflushed: {before} before the power cut, {after} after it");
    assert_eq!((before.as_str(), after.as_str()), ("newnew", "newold"));
}

fn is_set(switch: &str) -> bool {
    std::env::var_os(switch).is_some_and(|value| value == "1")
}

fn is_without_sync() -> bool {
    is_set("BOARD_WITHOUT_SYNC")
}

/// The gateway's calls for syncing return at once, from its first start on.
fn take_sync_away(board: &mut ArmBoard) {
    let script = r#"built="$(mktemp)"; trap 'rm "$built"' EXIT
        aarch64-linux-gnu-gcc -Wall -Wextra -Werror -Os -shared -nostdlib -s \
            -Wl,-z,max-page-size=4096 -o "$built" tests/board/unsynced.c
        gzip -c "$built" | base64 -w0"#;
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(root())
        .output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let library = String::from_utf8(output.stdout).unwrap();
    board.run(&format!(
        "mkdir -p /usr/local/lib /etc/systemd/system/{UNIT}.d
         echo {library} | base64 -d | gzip -d > /usr/local/lib/unsynced.so
         printf '%s\\n' '[Service]' Environment=LD_PRELOAD=/usr/local/lib/unsynced.so \
             > /etc/systemd/system/{UNIT}.d/unsynced.conf"
    ));
}

/// Once on the flash before the first pull; what a technician does not wait for is not tested here.
fn install(board: &mut ArmBoard, mqtt_port: u16, kafka: &str, package_bytes: u64) {
    let said = board.run(&format!(
        "head -c {package_bytes} /dev/disk/by-id/virtio-package > /root/gateway.deb
         DEBIAN_FRONTEND=noninteractive dpkg -i /root/gateway.deb"
    ));
    assert!(said.contains("not started. Fill in"), "{said}");
    board.run(&format!(
        "cat > /etc/edge-gateway/gateway.toml <<'EOF'
[gateway]
id = \"board\"
[sources.city]
type = \"mqtt\"
url = \"mqtt://{HOST_IN_GUEST}:{mqtt_port}\"
subscriptions = [{{ filter = \"city/#\", qos = 1 }}]
[sources.press]
type = \"serial\"
device = \"{USB_TTY}\"
framing = \"shim\"
[sources.panel]
type = \"serial\"
device = \"/dev/hvc0\"
framing = \"shim\"
[kafka]
brokers = [\"{kafka}\"]
topic = \"city\"
[[routes]]
source = \"press\"
match = \"press/{{device}}\"
topic = \"press\"
key = \"{{device}}\"
[[routes]]
source = \"panel\"
match = \"panel/{{device}}\"
topic = \"panel\"
key = \"{{device}}\"
[http]
listen = \"0.0.0.0:{HTTP_PORT}\"
EOF
mkdir -p /etc/systemd/system/{UNIT}.d
printf '%s\\n' '[Unit]' Wants=dev-hvc0.device After=dev-hvc0.device '[Service]' \
    'DeviceAllow=char-hvc rw' > /etc/systemd/system/{UNIT}.d/panel.conf
echo 'KERNEL==\"hvc0\", GROUP=\"dialout\", MODE=\"0660\"' > /etc/udev/rules.d/80-panel.rules
udevadm control --reload
udevadm trigger --settle /dev/hvc0
systemctl daemon-reload
systemctl start {UNIT}
sync"
    ));
}

/// What a container can't show: drivers, names and rights of real devices.
fn it_runs_as_installed(board: &mut ArmBoard) {
    println!("{}", board.run("uname -srm; grep MemTotal /proc/meminfo"));
    board.run(&format!("systemctl is-active {UNIT}"));
    board.run("systemctl show --value -p Result systemd-tmpfiles-setup.service | grep -qx success");
    board.run("grep -qw ftdi_sio /proc/modules; grep -qw cdc_acm /proc/modules");
    let tty = board.run(&format!("stat -c %G:%a $(readlink -f {USB_TTY})"));
    assert_eq!(tty.trim(), "dialout:660");
    let user = board.run(&format!(
        "stat -c %U /proc/$(systemctl show --value -p MainPID {UNIT})"
    ));
    assert_eq!(user.trim(), "edge-gateway");
    let owner = board.run("stat -c %U:%G:%a /var/lib/edge-gateway");
    assert_eq!(owner.trim(), "edge-gateway:edge-gateway:750");
}

/// What the gateway takes of the board, as the kernel tells it.
fn footprint(board: &mut ArmBoard) -> String {
    let status = format!("/proc/$(systemctl show --value -p MainPID {UNIT})/status");
    board.run(&format!(
        "grep -E '^(VmHWM|VmRSS|RssAnon|Threads):' {status}"
    ))
}

/// Switches the board on and waits until it has taken something from each source. Says how long the
/// sources were without it, and how it found its log.
fn switch_on(board: &mut ArmBoard) -> String {
    board.switch_on();
    let ready = board.wait_ready();
    wait_for_load(board);
    let opened = board.last_said("commit log open").unwrap();
    let (_, found) = opened.split_once("undelivered=").unwrap();
    format!("ready after {ready:.0?}, undelivered={found}")
}

fn wait_for_load(board: &mut ArmBoard) {
    for source in SOURCES {
        wait::until(&format!("records of {source}"), SOON, || {
            let committed = board.metric(COMMITTED, &[("source", source)]);
            committed.is_some_and(|records| records >= 1.0)
        });
    }
}

/// Pulls the plug in the midst of a boot or under load; the first time of the board that is on.
fn pull(board: &mut ArmBoard, round: u32, kafka: &Kafka, random: &mut Random) {
    let kept = if round.is_multiple_of(2) {
        Kept::Some
    } else {
        Kept::Nothing
    };
    let mut waiting = 0.0;
    let when = if round.is_multiple_of(4) {
        board.arm(1 + random.below(400), kept, random.number());
        board.switch_on();
        "in a start".to_owned()
    } else {
        let found = if round == 1 {
            "newly installed".to_owned()
        } else {
            switch_on(board)
        };
        kafka.pause();
        wait::until("records on the disk alone", SOON, || {
            waiting = board.metric(BUFFERED, &[]).unwrap_or(0.0);
            waiting >= ON_DISK_ALONE
        });
        let operations = if is_without_sync() {
            OPERATIONS_WITHOUT_SYNC
        } else {
            OPERATIONS
        };
        board.arm(1 + random.below(operations), kept, random.number());
        format!("{found}; under load")
    };
    board.pull_plug(|board| waiting = board.metric(BUFFERED, &[]).unwrap_or(waiting));
    kafka.resume();
    println!("| {round} | {when} | {kept:?} | {waiting} |");
}

#[test]
#[ignore = "make board: takes root, QEMU, a Debian mirror and twenty minutes"]
fn a_board_whose_plug_is_pulled_ten_times_loses_nothing_that_was_acknowledged() {
    let kafka = Kafka::start_with(Security::Guest);
    for topic in SOURCES {
        kafka.create_topic(topic, 3, &[]);
    }
    let broker = Mosquitto::start();
    let dir = process::temp_dir();
    let parts = Parts {
        image: image(),
        package: package(),
        usb_line: dir.path().join("press"),
        virtio_line: dir.path().join("panel"),
        ignores_flushes: is_set("BOARD_IGNORES_FLUSHES"),
    };
    let package_bytes = parts.package.metadata().unwrap().len();
    let press = devices(&parts.usb_line, 1);
    let panel = devices(&parts.virtio_line, 2);
    let mut random = Random::seeded();

    let mut board = ArmBoard::new(parts);
    board.switch_on();
    println!("first boot: {:.0?}", board.wait_up());
    the_disk_forgets_what_is_not_flushed(&mut board);
    let pulls = if is_without_sync() {
        take_sync_away(&mut board);
        PULLS_WITHOUT_SYNC
    } else {
        PULLS
    };
    let bootstrap = kafka.bootstrap_in_guest();
    install(&mut board, broker.port(), &bootstrap, package_bytes);
    board.wait_ready();
    it_runs_as_installed(&mut board);
    let city = Sim::start(&format!(
        "mqtt --url {} --topic city/{{district}}/{{device}} --qos 1 --devices 20 --rate 50",
        broker.url()
    ));
    wait_for_load(&mut board);
    println!("{}", footprint(&mut board));

    println!("| pull | when | kept of what was not flushed | not delivered when last asked |");
    println!("|---|---|---|---|");
    for round in 1..=pulls {
        pull(&mut board, round, &kafka, &mut random);
    }
    println!("{}", switch_on(&mut board));
    for sim in [&city, &press, &panel] {
        sim.stop_sending();
    }
    // What is to be missing is not waited for that long.
    let arrives_within = if is_without_sync() { SOON / 5 } else { SOON };
    let mut oracle = Oracle::new(&kafka.bootstrap(), &SOURCES);
    for (topic, sim) in SOURCES.into_iter().zip([city, press, panel]) {
        let report = sim.finish(SOON);
        let counts = oracle.expect_all(topic, report.sent, arrives_within);
        println!("{topic}: {report:?}, in Kafka {counts:?}");
    }
    // With the backlog of all pulls drained.
    println!("{}", footprint(&mut board));
    board.run(&format!("systemctl stop {UNIT}"));
    println!("{}", board.run("edge-gateway buffer verify"));
}
