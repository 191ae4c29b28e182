//! Debian's Mosquitto, with a configuration, a port and a persistence folder of its own.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::certs::Certs;
use crate::process::{Process, temp_dir};
use crate::{ports, wait};

/// Where Debian puts it; `sbin` is not on every user's path.
const PROGRAMS: [&str; 2] = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
const READY_WITHIN: Duration = Duration::from_secs(20);

/// What a broker is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// `max_inflight_messages`, per client.
    pub inflight_max: u16,
    /// TLS that asks for a client certificate.
    pub certs: Option<&'a Certs>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            inflight_max: 1000,
            certs: None,
        }
    }
}

/// A broker. Its port and its sessions stay the same over [`stop`](Mosquitto::stop) and
/// [`start_again`](Mosquitto::start_again).
#[derive(Debug)]
pub struct Mosquitto {
    process: Option<Process>,
    port: u16,
    secured: bool,
    dir: TempDir,
}

impl Mosquitto {
    /// Starts a broker; returns once it listens.
    ///
    /// # Panics
    /// If Mosquitto is missing or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Like [`start`](Self::start), with options.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(options: Options<'_>) -> Self {
        let mut broker = Self {
            process: None,
            port: ports::free(),
            secured: options.certs.is_some(),
            dir: temp_dir(),
        };
        std::fs::write(broker.config_path(), broker.config(options)).expect("a new directory");
        broker.start_again();
        broker
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `mqtt://…`, or `mqtts://…` by the name in the server's certificate.
    #[must_use]
    pub fn url(&self) -> String {
        if self.secured {
            format!("mqtts://localhost:{}", self.port)
        } else {
            format!("mqtt://127.0.0.1:{}", self.port)
        }
    }

    /// Stops it; it writes its sessions and queued messages to disk.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(20));
        }
    }

    /// Starts it with the sessions it has; returns once it listens.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        let program = PROGRAMS
            .iter()
            .find(|path| std::path::Path::new(path).is_file())
            .unwrap_or_else(|| panic!("no Mosquitto in {PROGRAMS:?}: make setup"));
        let mut command = Command::new(program);
        command.arg("-c").arg(self.config_path());
        let dir = self.dir.path();
        let mut process = Process::start("mosquitto", command, dir, Some(dir));
        wait::until("Mosquitto listens", READY_WITHIN, || {
            let ended = process.ended();
            assert!(ended.is_none(), "Mosquitto ended: {ended:?}");
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        self.process = Some(process);
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("mosquitto.conf")
    }

    fn config(&self, options: Options<'_>) -> String {
        // Started as root, it would change to a user who cannot read the temporary directory.
        let mut text = format!(
            "user root\n\
             listener {} 127.0.0.1\n\
             allow_anonymous true\n\
             persistence true\n\
             persistence_location {}/\n\
             max_inflight_messages {}\n\
             max_queued_messages 0\n\
             log_dest stderr\n",
            self.port,
            self.dir.path().display(),
            options.inflight_max
        );
        if let Some(certs) = options.certs {
            let _ = write!(
                text,
                "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
                certs.ca.display(),
                certs.server.cert.display(),
                certs.server.key.display()
            );
        }
        text
    }
}
