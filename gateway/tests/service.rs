//! The real binary under a service manager: what it says to `NOTIFY_SOCKET`, and what signals do.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway that is watched by us as by a service manager.
struct Service {
    manager: UnixDatagram,
    gateway: Child,
    dir: tempfile::TempDir,
}

impl Service {
    /// Starts one whose source is the pseudo-terminal at `tty`, or where there is none, a broker
    /// that is away.
    fn start(tty: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("notify");
        let manager = UnixDatagram::bind(&socket).expect("bound");
        manager.set_read_timeout(Some(PATIENCE)).expect("set");
        configure(dir.path(), tty, free_port());
        let log = fs::File::create(dir.path().join("log.txt")).expect("a file");
        let gateway = Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
            .args(["run", "--config"])
            .arg(config_path(dir.path()))
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "600000")
            .env_remove("WATCHDOG_PID")
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        Self {
            manager,
            gateway,
            dir,
        }
    }

    /// Messages up to the first with this line.
    fn until(&self, line: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut messages = Vec::new();
        while Instant::now() < deadline {
            let mut text = [0; 4096];
            let count = self.manager.recv(&mut text).expect("a message");
            let text = String::from_utf8_lossy(&text[..count]).into_owned();
            let found = text.lines().any(|found| found == line);
            messages.push(text);
            if found {
                return messages;
            }
        }
        panic!("no {line} among {messages:?}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.gateway), signal).expect("it runs");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log.txt")).expect("its log")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
    }
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("gateway.toml")
}

fn configure(dir: &Path, tty: Option<&str>, http_port: u16) {
    let source = match tty {
        Some(tty) => format!("type = \"serial\"\ndevice = \"{tty}\"\nframing = \"lines\""),
        None => "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:9\"\n\
                 subscriptions = [{ filter = \"a\" }]"
            .to_owned(),
    };
    let text = format!(
        "[gateway]\nid = \"gw\"\ndata_dir = \"{}\"\n[sources.one]\n{source}\n\
         [kafka]\nbrokers = [\"127.0.0.1:9\"]\n[http]\nlisten = \"127.0.0.1:{http_port}\"\n",
        dir.join("data").display()
    );
    fs::write(config_path(dir), text).expect("written");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// A raw pseudo-terminal: its device's end, its other end kept open, and that one's path.
fn pseudo_terminal() -> (fs::File, fs::File, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a pseudo-terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let path = name.into_string().expect("a path of ASCII");
    let slave = fs::File::open(&path).expect("it is there");
    (fs::File::from(master), slave, path)
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let request = b"GET /health HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

#[test]
fn ready_is_said_once_sources_are_open_then_alive_and_at_the_end_stopping() {
    let (_device, _slave, tty) = pseudo_terminal();
    let mut service = Service::start(Some(&tty));
    let before = service.until("READY=1");
    assert!(before.iter().all(|text| !text.contains("STOPPING")));
    service.until("WATCHDOG=1");
    service.until("WATCHDOG=1");
    service.signal(Signal::TERM);
    let last = service.until("STOPPING=1").pop().expect("a message");
    assert!(last.contains("EXTEND_TIMEOUT_USEC=70000000"), "{last}");
    let ended = service.gateway.wait().expect("it ends");
    assert_eq!(ended.code(), Some(0), "{}", service.log());
}

#[test]
fn a_broker_that_is_away_does_not_keep_a_start_from_being_ready() {
    let service = Service::start(None);
    let before = service.until("READY=1");
    let alive = before.iter().filter(|text| *text == "WATCHDOG=1").count();
    assert!(
        alive > 10,
        "it waits for the broker, and is alive: {before:?}"
    );
    service.until("STATUS=Kafka away, one away, 0 records in the buffer");
}

#[test]
fn a_reload_is_the_same_process_with_the_new_configuration_and_a_bad_one_changes_nothing() {
    let (_device, _slave, tty) = pseudo_terminal();
    let mut service = Service::start(Some(&tty));
    service.until("READY=1");
    let config = config_path(service.dir.path());
    let good = fs::read_to_string(&config).expect("readable");
    fs::write(&config, good.replace("lines", "liens")).expect("written");
    service.signal(Signal::HUP);
    let deadline = Instant::now() + PATIENCE;
    while !service.log().contains("not reloaded") {
        assert!(Instant::now() < deadline, "{}", service.log());
        service.until("WATCHDOG=1");
    }
    assert!(service.log().contains("did you mean \"lines\"?"));
    let port = free_port();
    configure(service.dir.path(), Some(&tty), port);
    service.signal(Signal::HUP);
    let messages = service.until("RELOADING=1");
    assert!(messages.last().expect("one").contains("MONOTONIC_USEC="));
    service.until("READY=1");
    assert!(answers(port), "{}", service.log());
    assert!(service.gateway.try_wait().expect("a child").is_none());
    service.signal(Signal::TERM);
    let ended = service.gateway.wait().expect("it ends");
    assert_eq!(ended.code(), Some(0), "{}", service.log());
}
