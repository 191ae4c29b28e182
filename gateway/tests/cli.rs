//! The command line of the real binary: what it prints where, and its exit codes (DESIGN §5).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

fn gateway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn check(file: &Path, more: &[&str]) -> Output {
    let file = file.display().to_string();
    gateway(&[&["check", "--config", &file], more].concat())
}

fn written(dir: &Path, text: &str) -> PathBuf {
    let file = dir.join("gateway.toml");
    fs::write(&file, text).expect("written");
    file
}

#[test]
fn help_and_version_are_answers_on_standard_output() {
    let help = gateway(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("check"), "{}", stdout(&help));
    let version = gateway(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(stdout(&version).starts_with("edge-gateway "));
    let switches = "with: serial modbus mqtt tls registry http-page documents progress-bar";
    assert!(stdout(&version).contains(switches), "{}", stdout(&version));
}

#[test]
fn completions_of_every_shell_and_a_man_page_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = gateway(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = stdout(&output);
        assert!(script.contains("check") && script.contains("connect"));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let output = gateway(&["man", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let page = |name| fs::read_to_string(dir.path().join(name)).expect("a page");
    assert!(page("edge-gateway.1").contains("Exit codes"));
    assert!(page("edge-gateway-check.1").contains("connect"));
    assert!(!dir.path().join("edge-gateway-man.1").exists());
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_64() {
    for arguments in [
        &[][..],
        &["rnu"],
        &["run", "--confgi", "x"],
        &["check", "--config"],
        &["buffer"],
        &["buffer", "stat", "--count", "3"],
        &["top"],
    ] {
        let output = gateway(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty());
    }
}

#[test]
fn a_configuration_with_mistakes_ends_with_78_and_all_of_them_for_check_and_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = written(dir.path(), "[gateway]\nid = 7\n[kafka]\nbroker = []\n");
    let file = file.display().to_string();
    for command in ["check", "run"] {
        let output = gateway(&[command, "--config", &file]);
        assert_eq!(output.status.code(), Some(78), "{command}");
        assert!(stdout(&output).is_empty());
        for mistake in [
            format!("{file}:2: gateway.id: is a number"),
            format!("{file}:4: kafka.broker: is not a known key"),
            format!("{file}:3: kafka.brokers: is missing"),
            format!("{file}: sources: is missing"),
            "4 mistakes".to_owned(),
        ] {
            assert!(
                stderr(&output).contains(&mistake),
                "{mistake}\n{}",
                stderr(&output)
            );
        }
    }
}

#[test]
fn a_configuration_that_is_not_there_ends_with_78_and_the_cause_once() {
    let output = check(Path::new("/nonexistent/gateway.toml"), &[]);
    assert_eq!(output.status.code(), Some(78));
    let text = stderr(&output);
    assert_eq!(text.matches("No such file").count(), 1, "{text}");
    assert!(text.contains("/nonexistent/gateway.toml"), "{text}");
}

#[test]
fn check_sums_up_a_valid_configuration() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/smart-city.toml");
    let output = check(&example, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "configuration is valid",
        "press-4",
        "127.0.0.1:9092",
        "256 MiB",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_small_budget_is_all_it_takes_to_have_a_working_buffer() {
    for more in [
        "",
        "when_full = \"drop_oldest\"\nage_max = \"7 days\"\ncompression = \"zstd\"\n",
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut text = fs::read_to_string(connectable(dir.path(), 9, "127.0.0.1:9", "5"))
            .expect("written just now");
        text += "[http]\nlisten = \"127.0.0.1:0\"\n[buffer]\nbytes_max = \"16 MiB\"\n";
        let file = written(dir.path(), &(text + more));
        let checked = check(&file, &[]);
        assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
        assert!(stdout(&checked).contains("16 MiB"), "{}", stdout(&checked));
        let mut gateway = Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
            .args(["run", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        // It listens for signals once it says that it runs.
        let stderr = gateway.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let runs = lines.by_ref().any(|line| line.contains("running"));
        assert!(runs, "{more}: it ended before it ran");
        let segment = dir.path().join("log/00000000000000000000.seg");
        assert_eq!(fs::metadata(segment).expect("a segment").len(), 4 << 20);
        let pid = rustix::process::Pid::from_child(&gateway);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let rest: Vec<String> = lines.collect();
        let ended = gateway.wait().expect("it ends");
        assert_eq!(ended.code(), Some(0), "{rest:?}");
    }
}

fn connectable(dir: &Path, mqtt_port: u16, brokers: &str, protocol: &str) -> PathBuf {
    let data_dir = dir.display();
    written(
        dir,
        &format!(
            "[gateway]\nid = \"gw\"\ndata_dir = \"{data_dir}\"\n\
             [sources.city]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{mqtt_port}\"\n\
             protocol = \"{protocol}\"\nsubscriptions = [{{ filter = \"a\" }}]\n\
             [kafka]\nbrokers = [\"{brokers}\"]\n"
        ),
    )
}

/// Takes one connection, keeps the CONNECT that comes, answers it.
fn broker(answer: &'static [u8]) -> (u16, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut head = [0; 2];
        stream.read_exact(&mut head).expect("a fixed header");
        let mut connect = vec![0; usize::from(head[1])];
        stream.read_exact(&mut connect).expect("CONNECT");
        stream.write_all(answer).expect("answered");
        connect
    });
    (port, served)
}

#[test]
fn check_connect_asks_every_endpoint_with_a_clean_session_of_its_own() {
    let cluster = MockCluster::<DefaultProducerContext>::new(1).expect("a mock of Kafka");
    let dir = tempfile::tempdir().expect("a directory");
    for (protocol, answer) in [("3.1.1", &[0x20, 2, 0, 0][..]), ("5", &[0x20, 3, 0, 0, 0])] {
        let (port, served) = broker(answer);
        let file = connectable(dir.path(), port, &cluster.bootstrap_servers(), protocol);
        let output = check(&file, &["--connect"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(
            stdout(&output).matches("ok  ").count(),
            2,
            "{}",
            stdout(&output)
        );
        let connect = served.join().expect("served");
        assert_eq!(connect[7] & 0b10, 0b10, "a clean session");
        let text = String::from_utf8_lossy(&connect).into_owned();
        assert!(text.contains("gw-city-check-"), "{text}");
    }
}

#[test]
fn check_connect_says_which_endpoint_fails_and_why_and_ends_with_1() {
    let dir = tempfile::tempdir().expect("a directory");
    let (port, served) = broker(&[0x20, 3, 0, 0x87, 0]);
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = closed.local_addr().expect("bound").to_string();
    drop(closed);
    let output = check(&connectable(dir.path(), port, &nobody, "5"), &["--connect"]);
    served.join().expect("served");
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("failed  source city") && text.contains("not authorised"),
        "{text}"
    );
    assert!(
        text.contains("failed  kafka") && text.contains("no broker answered"),
        "{text}"
    );
}

/// Both sides of a raw pseudo-terminal, the device's first, and the path of the gateway's.
fn pseudo_terminal() -> (fs::File, fs::File, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a pseudo-terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let path = name.into_string().expect("a path of ASCII");
    let slave = fs::File::open(&path).expect("it is there");
    let mut raw = tcgetattr(&slave).expect("a terminal");
    raw.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &raw).expect("set");
    (fs::File::from(master), slave, path)
}

#[test]
fn sniff_shows_frames_as_they_come_and_ends_after_as_many_as_asked() {
    let (mut device, slave, path) = pseudo_terminal();
    device
        .write_all(b"T=21.5\r\nH=40\r\nP=1013\r\n")
        .expect("written");
    let output = gateway(&["sniff", &path, "--framing", "lines", "--count", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    drop(slave);
    let shown: Vec<String> = stdout(&output)
        .lines()
        .map(|line| line.split_once("  ").expect("a time").1.to_owned())
        .collect();
    assert_eq!(shown, ["6 bytes  \"T=21.5\"", "4 bytes  \"H=40\""]);
}

#[test]
fn sniff_says_which_framing_a_line_has() {
    let (mut device, slave, path) = pseudo_terminal();
    let line = b"$IIMTW,18.7,C*1D\r\n";
    let feeder = std::thread::spawn(move || {
        // More than fits a terminal's buffer: it goes on as the gateway reads.
        for _ in 0..400 {
            device.write_all(line).expect("written");
        }
        device
    });
    let output = gateway(&["sniff", &path, "--guess", "--count", "3"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // What the gateway had no need to read fits the terminal's buffer.
    feeder.join().expect("no panic");
    drop(slave);
    let told = stdout(&output);
    assert!(told.contains("checksum = \"nmea\""), "{told}");
    assert_eq!(told.matches("$IIMTW,18.7,C*1D").count(), 3, "{told}");
}

#[test]
fn sniff_refuses_a_framing_that_is_none_and_a_port_that_is_none() {
    let output = gateway(&["sniff", "/dev/null", "--framing", "lnies"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        stderr(&output).contains("did you mean \"lines\"?"),
        "{}",
        stderr(&output)
    );
    let output = gateway(&["sniff", "/nonexistent/tty"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("cannot open /nonexistent/tty"),
        "{}",
        stderr(&output)
    );
}
