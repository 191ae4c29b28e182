//! Finding the tty of a USB adapter in sysfs, by what the adapter says of itself.
//!
//! ```text
//! /sys/class/tty/ttyUSB3 -> …/1-1.2/1-1.2:1.0/ttyUSB3/tty/ttyUSB3
//!                             │      └ bInterfaceNumber
//!                             └ idVendor idProduct serial
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::UsbMatch;

/// Where the kernel lists ttys.
pub(super) const SYSFS_TTYS: &str = "/sys/class/tty";
/// A machine with more ttys than this is not looked through to the end.
const TTYS_MAX: usize = 4096;

/// Names of the ttys whose adapter matches, sorted.
pub(super) fn find(ttys: &Path, wanted: &UsbMatch) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(ttys)?.take(TTYS_MAX) {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| !is_console(name)) else {
            continue;
        };
        // It may be gone by now.
        if fs::canonicalize(ttys.join(name)).is_ok_and(|tty| matches(&tty, wanted)) {
            found.push(name.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// The consoles, `tty0` and so on, are many and never USB adapters.
fn is_console(name: &str) -> bool {
    name.strip_prefix("tty")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn matches(tty: &Path, wanted: &UsbMatch) -> bool {
    let Some(adapter) = above(tty, "idVendor") else {
        return false;
    };
    let id = |name| attribute(&adapter, name).and_then(|id| u16::from_str_radix(&id, 16).ok());
    let interface = || -> Option<u8> {
        let number = attribute(&above(tty, "bInterfaceNumber")?, "bInterfaceNumber")?;
        u8::from_str_radix(&number, 16).ok()
    };
    id("idVendor") == Some(wanted.vid)
        && id("idProduct") == Some(wanted.pid)
        && (wanted.serial.is_none() || attribute(&adapter, "serial") == wanted.serial)
        && (wanted.interface.is_none() || interface() == wanted.interface)
}

/// The nearest directory above that has this attribute.
fn above(tty: &Path, attribute: &str) -> Option<PathBuf> {
    let mut above = tty.ancestors();
    above
        .find(|dir| dir.join(attribute).is_file())
        .map(Path::to_owned)
}

fn attribute(dir: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join(name)).ok()?;
    Some(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as sysfs has it.
    struct Tree {
        dir: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir_all(dir.path().join("class/tty")).expect("made");
            let tree = Self { dir };
            tree.tty("platform/serial8250", "ttyS0");
            tree.tty("virtual", "tty1");
            tree
        }

        fn tty(&self, device: &str, name: &str) {
            let tty = self
                .dir
                .path()
                .join("devices")
                .join(device)
                .join("tty")
                .join(name);
            fs::create_dir_all(&tty).expect("made");
            std::os::unix::fs::symlink(tty, self.ttys().join(name)).expect("linked");
        }

        fn plug_in(&self, port: &str, ids: (&str, &str, Option<&str>), ttys: &[&str]) {
            let adapter = self.dir.path().join("devices/usb1").join(port);
            for (number, tty) in ttys.iter().enumerate() {
                let interface = format!("{port}:1.{number}");
                self.tty(&format!("usb1/{port}/{interface}/{tty}"), tty);
                let number = format!("{number:02x}\n");
                fs::write(adapter.join(interface).join("bInterfaceNumber"), number)
                    .expect("written");
            }
            fs::write(adapter.join("idVendor"), format!("{}\n", ids.0)).expect("written");
            fs::write(adapter.join("idProduct"), format!("{}\n", ids.1)).expect("written");
            if let Some(serial) = ids.2 {
                fs::write(adapter.join("serial"), format!("{serial}\n")).expect("written");
            }
        }

        fn ttys(&self) -> PathBuf {
            self.dir.path().join("class/tty")
        }

        fn find(&self, serial: Option<&str>, interface: Option<u8>) -> Vec<String> {
            let wanted = UsbMatch {
                vid: 0x0403,
                pid: 0x6001,
                serial: serial.map(str::to_owned),
                interface,
            };
            find(&self.ttys(), &wanted).expect("readable")
        }
    }

    #[test]
    fn an_adapter_is_found_by_its_ids_serial_number_and_interface() {
        let tree = Tree::new();
        assert_eq!(tree.find(None, None), [""; 0]);
        tree.plug_in("1-1", ("0403", "6001", Some("A1")), &["ttyUSB1"]);
        tree.plug_in("1-2", ("0403", "6015", Some("A1")), &["ttyUSB0"]);
        tree.plug_in("1-3", ("0403", "6001", None), &["ttyUSB2", "ttyUSB3"]);
        assert_eq!(tree.find(None, None), ["ttyUSB1", "ttyUSB2", "ttyUSB3"]);
        assert_eq!(tree.find(Some("A1"), None), ["ttyUSB1"]);
        assert_eq!(tree.find(None, Some(1)), ["ttyUSB3"]);
        assert_eq!(tree.find(Some("A2"), None), [""; 0]);
    }

    #[test]
    fn an_adapter_is_found_under_another_number_when_it_returns() {
        let tree = Tree::new();
        tree.plug_in("1-1", ("0403", "6001", Some("A1")), &["ttyUSB0"]);
        assert_eq!(tree.find(Some("A1"), None), ["ttyUSB0"]);
        fs::remove_dir_all(tree.dir.path().join("devices/usb1/1-1")).expect("removed");
        assert_eq!(
            tree.find(Some("A1"), None),
            [""; 0],
            "a link to nothing is no adapter"
        );
        tree.plug_in("1-4", ("0403", "6001", Some("A1")), &["ttyUSB7"]);
        assert_eq!(tree.find(Some("A1"), None), ["ttyUSB7"]);
    }
}
