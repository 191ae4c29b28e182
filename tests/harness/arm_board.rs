//! An ARM board, whole and emulated: Debian for arm64 under `qemu-system-aarch64`, 512 MB of memory,
//! two serial lines, a network that reaches our brokers, and a disk that forgets.
//!
//! The disk is a file on a [`FaultDisk`]: what the guest's flush has not reached is gone when the plug
//! is pulled, whoever was holding it, and QEMU ends only after the disk's power has failed, so that
//! nothing it does at its end is of use. The guest is told what to do through QEMU's guest agent.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::fault_disk::{FaultDisk, Kept};
use crate::process::{Process, temp_dir};
use crate::qmp::Qmp;
use crate::{http, ports, wait};

/// An emulated boot takes one to two minutes of an idle machine.
const UP_WITHIN: Duration = Duration::from_secs(900);
const QUIT_WITHIN: Duration = Duration::from_secs(30);
/// Where a gateway on the board is to listen, so that [`ArmBoard::metric`] finds it.
pub const HTTP_PORT: u16 = 9464;
/// Of the USB serial adapter, an FTDI one.
pub const USB_SERIAL_NUMBER: &str = "A10ABCDE";

const KERNEL_ARGUMENTS: &str = "root=/dev/vda ro console=ttyAMA0 quiet net.ifnames=0 \
     fsck.repair=yes systemd.show_status=0 systemd.journald.forward_to_console=1 \
     systemd.journald.max_level_console=info";

/// What a board is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// A directory with `vmlinuz`, `initrd.img` and `root.img`.
    pub image: PathBuf,
    /// A file that is a read-only disk of the board, `/dev/disk/by-id/virtio-package`.
    pub package: PathBuf,
    /// The line at the USB serial adapter.
    pub usb_line: PathBuf,
    /// The line at the virtio console.
    pub virtio_line: PathBuf,
    /// QEMU keeps the guest's flushes to itself, as a disk that lies does: a test is to fail then.
    pub ignores_flushes: bool,
}

/// A board, switched on or not.
#[derive(Debug)]
pub struct ArmBoard {
    parts: Parts,
    disk: FaultDisk,
    http_port: u16,
    running: Option<Running>,
    dir: TempDir,
}

#[derive(Debug)]
struct Running {
    qemu: Process,
    monitor: Qmp,
    agent: Qmp,
}

/// What a script in the guest ended with.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i64,
    /// What it printed, errors too.
    pub said: String,
}

impl ArmBoard {
    /// A board, switched off, with a fresh copy of the image on its disk.
    ///
    /// # Panics
    /// If the image is missing, or the disk's program, or what it takes.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let board = Self {
            parts,
            disk: FaultDisk::start(),
            http_port: ports::free(),
            running: None,
            dir: temp_dir(),
        };
        let fresh = board.parts.image.join("root.img");
        let image = board.disk_image();
        std::fs::copy(&fresh, &image).unwrap_or_else(|e| panic!("{}: {e}", fresh.display()));
        for path in [image.as_path(), board.disk.path()] {
            let synced = File::open(path).and_then(|file| file.sync_all());
            synced.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        board
    }

    /// Switches it on; returns at once.
    ///
    /// # Panics
    /// If QEMU is missing, or it runs already.
    pub fn switch_on(&mut self) {
        assert!(self.running.is_none(), "the board runs already");
        let mut command = self.command();
        for part in ["monitor", "agent"] {
            let socket = self.dir.path().join(part);
            // Of the run before.
            let _ = std::fs::remove_file(&socket);
            if part == "monitor" {
                command.arg("-qmp");
                command.arg(format!("unix:{},server=on,wait=off", socket.display()));
            } else {
                let chardev = format!(
                    "socket,id=agent,path={},server=on,wait=off",
                    socket.display()
                );
                command.args(["-chardev", &chardev, "-device"]);
                command.arg("virtserialport,chardev=agent,name=org.qemu.guest_agent.0");
            }
        }
        let qemu = Process::start("qemu", command, self.dir.path(), Some(self.dir.path()));
        self.running = Some(Running {
            qemu,
            monitor: Qmp::connect(&self.dir.path().join("monitor"), UP_WITHIN),
            agent: Qmp::connect_agent(&self.dir.path().join("agent"), UP_WITHIN),
        });
    }

    /// Waits until the system answers; returns how long that took.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_up(&mut self) -> Duration {
        let start = Instant::now();
        self.running().agent.ask("guest-ping", &json!({}));
        start.elapsed()
    }

    /// Runs a script in the guest, by `sh -eu`, and returns what that printed.
    ///
    /// # Panics
    /// If the script fails.
    pub fn run(&mut self, script: &str) -> String {
        let ran = self.try_run(script);
        assert_eq!(ran.code, 0, "{script}\n{}", ran.said);
        ran.said
    }

    /// Runs a script in the guest that may fail.
    ///
    /// # Panics
    /// If the board is off or does not answer.
    pub fn try_run(&mut self, script: &str) -> Ran {
        let script = format!("exec 2>&1; export LC_ALL=C.UTF-8; {script}");
        let agent = &mut self.running().agent;
        let arguments = json!({
            "path": "/bin/sh", "arg": ["-euc", script], "capture-output": true
        });
        let started = agent.ask("guest-exec", &arguments);
        wait::until_some("the end of a script on the board", UP_WITHIN, || {
            let status = agent.ask("guest-exec-status", &json!({ "pid": started["pid"] }));
            let said = status["out-data"].as_str().unwrap_or_default();
            status["exited"].as_bool()?.then(|| Ran {
                code: status["exitcode"].as_i64().unwrap_or(-1),
                said: String::from_utf8_lossy(&from_base64(said)).into_owned(),
            })
        })
    }

    /// Lets the disk's power fail in so manyth operation from now that changes or flushes something.
    ///
    /// # Panics
    /// If the disk's program has ended.
    pub fn arm(&mut self, operations: u64, kept: Kept, seed: u64) {
        self.disk.arm(operations, kept, seed);
    }

    /// Waits for the disk's power to fail, then ends the emulator by `quit`. The disk then has what was
    /// left. Meanwhile `look` is called, about once a second.
    ///
    /// # Panics
    /// If the power does not fail.
    pub fn pull_plug(&mut self, mut look: impl FnMut(&Self)) {
        wait::until("the power cut", UP_WITHIN, || {
            let is_cut = self.disk.is_cut();
            if !is_cut {
                look(self);
            }
            is_cut
        });
        let mut running = self.running.take().expect("the board runs");
        running.monitor.ask("quit", &json!({}));
        running.qemu.wait(QUIT_WITHIN);
        self.disk.power_on();
    }

    /// The last line on its console, over all of its boots, that holds `text`.
    #[must_use]
    pub fn last_said(&self, text: &str) -> Option<String> {
        let console = std::fs::read(self.console()).ok()?;
        let console = String::from_utf8_lossy(&console).into_owned();
        let mut lines = console.lines().rev();
        lines.find(|line| line.contains(text)).map(str::to_owned)
    }

    /// A metric of the gateway on the board, as [`http::metric`].
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        http::metric(self.http_port, name, labels)
    }

    /// Waits until `/ready` of the gateway answers 200; returns how long that took.
    ///
    /// # Panics
    /// If it does not, or QEMU ends.
    pub fn wait_ready(&mut self) -> Duration {
        let start = Instant::now();
        wait::until("/ready of the gateway on the board", UP_WITHIN, || {
            let ended = self.running().qemu.ended();
            assert!(ended.is_none(), "QEMU ended: {ended:?}");
            http::get(self.http_port, "/ready").is_some_and(|(status, _)| status == 200)
        });
        start.elapsed()
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("the board is on")
    }

    fn disk_image(&self) -> PathBuf {
        self.disk.path().join("root.img")
    }

    fn console(&self) -> PathBuf {
        self.dir.path().join("console.log")
    }

    fn command(&self) -> Command {
        let image = &self.parts.image;
        let mut command = Command::new("qemu-system-aarch64");
        command
            .args(["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512"])
            .args(["-accel", "tcg,thread=multi", "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-kernel"])
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(image.join("initrd.img"))
            .args(["-append", KERNEL_ARGUMENTS])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
            .arg("-chardev")
            .arg(format!(
                "file,id=console,append=on,path={}",
                self.console().display()
            ))
            .args(["-serial", "chardev:console"]);
        // What the guest flushes QEMU flushes: `writeback` is the mode of a disk with a cache.
        let cache = if self.parts.ignores_flushes {
            "file.locking=off,cache=unsafe"
        } else {
            "file.locking=off,cache=writeback"
        };
        drive(&mut command, "disk", &self.disk_image(), cache);
        drive(&mut command, "package", &self.parts.package, "readonly=on");
        command.args(["-device", "virtio-net-pci,netdev=net,romfile=", "-netdev"]);
        command.arg(format!(
            "user,id=net,hostfwd=tcp:127.0.0.1:{}-:{HTTP_PORT}",
            self.http_port
        ));
        command.args(["-device", "qemu-xhci"]);
        let adapter = format!("usb-serial,serial={USB_SERIAL_NUMBER}");
        line(&mut command, "usb", &adapter, &self.parts.usb_line);
        line(
            &mut command,
            "virtio",
            "virtconsole",
            &self.parts.virtio_line,
        );
        command
    }
}

impl Drop for ArmBoard {
    fn drop(&mut self) {
        // It lets go of the disk, which can then be unmounted.
        self.running = None;
        if std::thread::panicking() {
            let console = std::fs::read(self.console()).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            let lines: Vec<&str> = console.lines().collect();
            let tail = lines.len().saturating_sub(80);
            eprintln!("--- console of the board\n{}", lines[tail..].join("\n"));
        }
    }
}

fn drive(command: &mut Command, name: &str, file: &Path, more: &str) {
    let file = file.display();
    command
        .arg("-drive")
        .arg(format!("if=none,id={name},format=raw,file={file},{more}"));
    command.arg("-device").arg(format!(
        "virtio-blk-pci,drive={name},serial={name},discard=off,write-zeroes=off"
    ));
}

fn line(command: &mut Command, name: &str, device: &str, path: &Path) {
    let path = path.display();
    command.args(["-chardev", &format!("serial,id={name},path={path}")]);
    command.args(["-device", &format!("{device},chardev={name}")]);
}

fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte: u8| DIGITS.iter().position(|digit| *digit == byte);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for value in text.bytes().map_while(digit) {
        bits = bits << 6 | u32::try_from(value).expect("below 64");
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_and_without_padding() {
        for (text, bytes) in [("", ""), ("YQ==", "a"), ("YWI=", "ab"), ("YWJj", "abc")] {
            assert_eq!(from_base64(text), bytes.as_bytes(), "{text}");
        }
        assert_eq!(from_base64("//79"), [0xff, 0xfe, 0xfd]);
    }
}
