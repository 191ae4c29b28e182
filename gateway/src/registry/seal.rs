//! A seal says which files the store left, and what is in them, so that it never opens others (D3).
//!
//! It is a text beside them: a line `<CRC-32C> <bytes> <name>` for each file, `dir <name>` for each
//! empty directory, a line with the CRC-32C of those above, and `devices <number>`, how many the store
//! said it holds (older seals lack that line). It is removed before the store is opened and
//! made again when the store has written all it holds.
//!
//! Nothing is synced but at a clean end, to leave the flash to the log: after a power cut the seal
//! may not match, and the registry begins anew.

use std::fmt::Write as _;
use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::path::Path;

/// Entries of the store's directory that are looked at; sled makes four.
const ENTRIES_MAX: usize = 32;
const READ_BYTES: usize = 64 * 1024;
const DEVICES: &[u8] = b"devices ";

/// What lies in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    text: String,
    /// Bytes of all files.
    pub(super) bytes: u64,
}

impl Contents {
    /// Reads all files of `dir`, and syncs them if `sync` is set.
    ///
    /// # Errors
    /// What the system said; also if there is anything that no store of ours leaves, or more than
    /// `bytes_max`.
    pub(super) fn read(dir: &Path, bytes_max: u64, sync: bool) -> io::Result<Self> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)?.take(ENTRIES_MAX + 1) {
            entries.push(entry?);
        }
        if entries.len() > ENTRIES_MAX {
            return Err(strange("too many files"));
        }
        entries.sort_by_key(DirEntry::file_name);
        let mut contents = Self {
            text: String::new(),
            bytes: 0,
        };
        for entry in &entries {
            contents.add(entry, bytes_max, sync)?;
        }
        let crc = crc32c::crc32c(contents.text.as_bytes());
        let _ = writeln!(contents.text, "{crc:08x}");
        Ok(contents)
    }

    fn add(&mut self, entry: &DirEntry, bytes_max: u64, sync: bool) -> io::Result<()> {
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| strange("no text for a name"))?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if fs::read_dir(entry.path())?.next().is_some() {
                return Err(strange("files in a directory"));
            }
            let _ = writeln!(self.text, "dir {name}");
            return Ok(());
        }
        // Opening a pipe would wait for its other end.
        if !kind.is_file() {
            return Err(strange("neither file nor directory"));
        }
        let file = File::open(entry.path())?;
        let (crc, bytes) = checksum(&file, bytes_max - self.bytes)?;
        if sync {
            file.sync_data()?;
        }
        self.bytes += bytes;
        let _ = writeln!(self.text, "{crc:08x} {bytes} {name}");
        Ok(())
    }

    /// Whether `seal` was made of exactly this, and how many devices it speaks of, if it does.
    pub(super) fn sealed_by(&self, seal: &[u8]) -> Option<Option<u64>> {
        let rest = seal.strip_prefix(self.text.as_bytes())?;
        if rest.is_empty() {
            return Some(None);
        }
        let number = rest.strip_prefix(DEVICES)?.strip_suffix(b"\n")?;
        std::str::from_utf8(number).ok()?.parse().ok().map(Some)
    }

    /// Writes the seal, replacing an older one at once.
    pub(super) fn seal(&self, devices: u64, path: &Path, sync: bool) -> io::Result<()> {
        let beside = path.with_extension("new");
        let said = format!("{devices}\n");
        fs::write(
            &beside,
            [self.text.as_bytes(), DEVICES, said.as_bytes()].concat(),
        )?;
        if sync {
            File::open(&beside)?.sync_all()?;
        }
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(dir) if sync => File::open(dir)?.sync_all(),
            Some(_) | None => Ok(()),
        }
    }
}

fn checksum(mut file: &File, bytes_max: u64) -> io::Result<(u32, u64)> {
    let mut buffer = vec![0; READ_BYTES];
    let (mut crc, mut bytes) = (0, 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((crc, bytes));
        }
        bytes += read as u64;
        if bytes > bytes_max {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

fn strange(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
