//! A serial line that a test holds the far end of.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// The device's end of a line, in raw mode.
#[derive(Debug)]
pub struct Pty {
    device_end: File,
    /// Keeps the line alive while nobody else has it open.
    _gateway_end: File,
    path: PathBuf,
}

impl Pty {
    /// A new line.
    ///
    /// # Panics
    /// If the system has none.
    #[must_use]
    pub fn open() -> Self {
        let device_end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a PTY");
        grantpt(&device_end).expect("a new PTY is ours");
        unlockpt(&device_end).expect("a new PTY is ours");
        let name = ptsname(&device_end, Vec::new()).expect("a PTY has a name");
        let path = PathBuf::from(name.to_str().expect("names of PTYs are ASCII"));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let gateway_end = rustix::fs::open(&path, flags, Mode::empty()).expect("a PTY opens");
        let mut attributes = tcgetattr(&gateway_end).expect("a PTY is a terminal");
        attributes.make_raw();
        tcsetattr(&gateway_end, OptionalActions::Now, &attributes).expect("a PTY is a terminal");
        Self {
            device_end: File::from(device_end),
            _gateway_end: File::from(gateway_end),
            path,
        }
    }

    /// What the gateway opens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the device's end, for units that answer by themselves.
    ///
    /// # Panics
    /// If the process has no more files.
    #[must_use]
    pub fn device_end(&self) -> File {
        self.device_end.try_clone().expect("a file can be had")
    }

    /// Sends bytes; blocks while the line is full.
    ///
    /// # Panics
    /// If the line is gone.
    pub fn send(&mut self, bytes: &[u8]) {
        self.device_end.write_all(bytes).expect("the line is there");
    }

    /// Receives at least one byte; blocks until there is one.
    ///
    /// # Panics
    /// If the line is gone.
    pub fn receive(&mut self) -> Vec<u8> {
        let mut buffer = [0; 1024];
        let count = self
            .device_end
            .read(&mut buffer)
            .expect("the line is there");
        buffer[..count].to_vec()
    }
}
