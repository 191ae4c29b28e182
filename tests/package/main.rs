//! The Debian package on a Debian system under systemd: installed, fed, upgraded, reloaded, hung,
//! removed, purged. One story, since each step is only worth something after those before it.
//!
//! It is ignored where nobody asks for it: it takes root, `systemd-nspawn`, and a Debian mirror the
//! first time (`make test-deb`). The program packaged is the one beside the test, or the one that
//! `EDGE_GATEWAY_PACKAGED` names.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use system_tests::machine::Machine;
use system_tests::mock_kafka::MockKafka;
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::process::{temp_dir, workspace_program};
use system_tests::pty::Pty;
use system_tests::sim::Sim;
use system_tests::{ports, wait};

const SOON: Duration = Duration::from_secs(90);
const UNIT: &str = "edge-gateway.service";
/// The group dialout, which has this number on every Debian system.
const DIALOUT: u32 = 20;
const TTY: &str = "/dev/ttyTEST0";
const OLD: &str = "0.0.9";
const NEW: &str = "0.1.0";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn printed(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn debian_tree() -> PathBuf {
    PathBuf::from(printed(&mut Command::new(
        root().join("tests/package/tree.sh"),
    )))
}

/// The same program as two versions.
fn packages(out: &Path) {
    let packaged = std::env::var_os("EDGE_GATEWAY_PACKAGED");
    let program = packaged.map_or_else(|| workspace_program("edge-gateway"), PathBuf::from);
    for version in [OLD, NEW] {
        printed(
            Command::new(root().join("config/debian/build.sh"))
                .args(["--version", version, "--program"])
                .arg(&program)
                .arg("--out")
                .arg(out)
                .env("CARGO_TARGET_DIR", out.join("build")),
        );
    }
}

/// A line that the gateway reads by the rights of its group, as a tty of a USB adapter.
fn serial_line() -> Pty {
    let line = Pty::open();
    chown(line.path(), Some(0), Some(DIALOUT)).unwrap();
    std::fs::set_permissions(line.path(), Permissions::from_mode(0o660)).unwrap();
    line
}

fn send_lines(line: &mut Pty, sequences: std::ops::Range<u64>) {
    for sequence in sequences {
        let text = format!(
            "{{\"source\":\"press\",\"device\":\"press-1\",\"sequence\":{sequence},\"sent_at\":0}}\n"
        );
        line.send(text.as_bytes());
    }
}

/// What a technician writes, and lets the unit use a pseudo-terminal.
fn configure(machine: &Machine, mqtt: &str, kafka: &str, http_port: u16) {
    machine.run(&format!(
        "cat > /etc/edge-gateway/gateway.toml <<'EOF'\n\
         [gateway]\nid = \"board\"\n\
         [sources.city]\ntype = \"mqtt\"\nurl = \"{mqtt}\"\n\
         subscriptions = [{{ filter = \"city/#\", qos = 1 }}]\n\
         [sources.press]\ntype = \"serial\"\ndevice = \"{TTY}\"\nframing = \"lines\"\n\
         [kafka]\nbrokers = [\"{kafka}\"]\ntopic = \"city\"\n\
         [[routes]]\nsource = \"press\"\nmatch = \"#\"\ntopic = \"press\"\nkey = \"press\"\n\
         [http]\nlisten = \"127.0.0.1:{http_port}\"\n\
         EOF\n\
         mkdir -p /etc/systemd/system/{UNIT}.d\n\
         printf '[Service]\\nDeviceAllow=char-pts rw\\nWatchdogSec=3s\\n' \
             > /etc/systemd/system/{UNIT}.d/test.conf\n\
         systemctl daemon-reload"
    ));
}

fn install(machine: &Machine, version: &str) -> String {
    machine.run(&format!(
        "dpkg --force-confdef --force-confold -i /debs/edge-gateway_{version}_$(dpkg --print-architecture).deb 2>&1"
    ))
}

fn is_active(machine: &Machine) -> bool {
    machine.property(UNIT, "ActiveState") == "active"
}

/// Installed without a configuration it does not run, and does not try for ever.
fn it_waits_for_a_configuration(machine: &Machine) {
    let said = install(machine, OLD);
    assert!(said.contains("not started. Fill in"), "{said}");
    assert!(!is_active(machine));
    machine.run(&format!("systemctl is-enabled {UNIT}"));
    assert!(
        !machine
            .try_run(&format!("systemctl start {UNIT}"))
            .status
            .success()
    );
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "78");
    assert_eq!(machine.property(UNIT, "ActiveState"), "failed");
    assert_eq!(machine.property(UNIT, "NRestarts"), "0");
}

fn it_runs_as_a_user_of_its_own_with_little_exposure(machine: &Machine) {
    machine.run(&format!("systemctl start {UNIT}"));
    assert!(is_active(machine));
    let pid = machine.property(UNIT, "MainPID");
    assert_eq!(
        machine.run(&format!("stat -c %U /proc/{pid}")).trim(),
        "edge-gateway"
    );
    let security = machine.run(&format!("systemd-analyze security --no-pager {UNIT}"));
    let exposure = security
        .split("exposure level for edge-gateway.service: ")
        .nth(1)
        .and_then(|text| text.split_whitespace().next())
        .and_then(|number| number.parse::<f32>().ok());
    assert!(exposure.unwrap() <= 2.0, "{security}");
    let other = machine.try_run(&format!("nsenter -t {pid} -m ls /root /home/x"));
    assert!(!other.status.success(), "it sees the homes of others");
    for file in ["completions/edge-gateway", "man1/edge-gateway.1.gz"] {
        machine.run(&format!("dpkg -L edge-gateway | grep -q {file}"));
    }
}

fn a_reload_takes_a_good_file_alone(machine: &Machine) {
    let pid = machine.property(UNIT, "MainPID");
    machine.run("sed -i 's/^framing/framings/' /etc/edge-gateway/gateway.toml");
    let reload = format!("systemctl reload {UNIT}");
    assert!(!machine.try_run(&reload).status.success());
    assert!(is_active(machine));
    machine.run("sed -i 's/^framings/framing/' /etc/edge-gateway/gateway.toml");
    machine.run(&reload);
    wait::until("the gateway begun anew", SOON, || {
        let journal = machine.run(&format!("journalctl _PID={pid} -o cat"));
        is_active(machine) && journal.matches("running").count() >= 2
    });
    assert_eq!(machine.property(UNIT, "MainPID"), pid);
}

fn a_hung_gateway_is_restarted(machine: &Machine, line: &Pty) {
    let pid = machine.property(UNIT, "MainPID");
    machine.run(&format!("kill -STOP {pid}"));
    // A tty is taken for one alone until its last user closes it; of this one that is us.
    let ours = std::fs::File::open(line.path()).unwrap();
    wait::until("a restart by the watchdog", SOON, || {
        rustix::termios::ioctl_tiocnxcl(&ours).unwrap();
        is_active(machine) && machine.property(UNIT, "MainPID") != pid
    });
    machine.run(&format!(
        "journalctl -u {UNIT} -o cat | grep -q 'Watchdog timeout'"
    ));
}

fn removing_keeps_configuration_and_buffer_until_told(machine: &Machine) {
    machine.run("dpkg -r edge-gateway");
    assert!(!is_active(machine));
    machine.run("test -e /etc/edge-gateway/gateway.toml; ls /var/lib/edge-gateway/log/*.seg");
    install(machine, NEW);
    assert!(is_active(machine), "it is configured, so it starts");
    let said = machine.run("dpkg -P edge-gateway 2>&1");
    assert!(said.contains("the buffer stays"), "{said}");
    machine.run("! test -e /etc/edge-gateway/gateway.toml; ls /var/lib/edge-gateway/log/*.seg");
    install(machine, NEW);
    machine.run("touch /var/lib/edge-gateway/remove-on-purge; dpkg -P edge-gateway");
    machine.run("! test -e /var/lib/edge-gateway");
}

#[test]
#[ignore = "make test-deb: takes root, systemd-nspawn and a Debian mirror"]
fn the_package_is_installed_fed_upgraded_and_removed_and_loses_nothing() {
    let debs = temp_dir();
    packages(debs.path());
    let mut line = serial_line();
    let binds = [
        (debs.path().to_owned(), "/debs"),
        (line.path().to_owned(), TTY),
    ];
    let machine = Machine::boot(&debian_tree(), &binds);
    let broker = Mosquitto::start();
    let mut kafka = MockKafka::start();
    kafka.create_topic("city", 3);
    kafka.create_topic("press", 1);

    it_waits_for_a_configuration(&machine);
    configure(&machine, &broker.url(), kafka.bootstrap(), ports::free());
    it_runs_as_a_user_of_its_own_with_little_exposure(&machine);

    let mut oracle = Oracle::new(kafka.bootstrap(), &["city", "press"]);
    let sim = Sim::start(&format!(
        "mqtt --url {} --topic city/{{district}}/{{device}} --qos 1 --devices 10 --rate 200 \
         --client-id sensors",
        broker.url()
    ));
    send_lines(&mut line, 0..100);
    oracle.expect_all("press", 100, SOON);

    // From here on everything happens under load, and half of it without Kafka.
    a_reload_takes_a_good_file_alone(&machine);
    a_hung_gateway_is_restarted(&machine, &line);
    kafka.down();
    let before = machine.property(UNIT, "MainPID");
    install(&machine, NEW);
    assert!(is_active(&machine));
    assert_ne!(machine.property(UNIT, "MainPID"), before);
    machine.run("grep -q 'id = \"board\"' /etc/edge-gateway/gateway.toml");
    send_lines(&mut line, 100..200);
    sim.stop_sending();
    let sent = sim.finish(SOON).sent;
    kafka.up();
    oracle.expect_all("city", sent, SOON);
    oracle.expect_all("press", 200, SOON);

    removing_keeps_configuration_and_buffer_until_told(&machine);
}
