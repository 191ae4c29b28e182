//! A pseudo-terminal whose far end stands where a gateway expects its serial port.
//!
//! The simulator keeps the far end open itself, so that bytes on the line survive a gateway that
//! closes the port or is killed, as they do in a device's own hardware; it only must not wait for
//! room without an end, hence non-blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::io::{Errno, ioctl_fionread, read, write};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, ioctl_tiocnxcl, tcgetattr, tcsetattr};

use super::SerialError;

/// A pseudo-terminal and the link to its far end; dropping it removes both.
#[derive(Debug)]
pub struct Pty {
    near: OwnedFd,
    far: OwnedFd,
    link: PathBuf,
    target: PathBuf,
}

impl Pty {
    /// Makes a pseudo-terminal in raw mode and links `link` to it, in place of an older link.
    ///
    /// # Errors
    /// [`SerialError::Pty`] if the system has none to give, [`SerialError::Link`] if `link` cannot
    /// be made, for instance since something that is no link stands there.
    pub fn open(link: &Path) -> Result<Self, SerialError> {
        let (near, far, target) = make().map_err(SerialError::Pty)?;
        let pty = Self {
            near,
            far,
            link: link.to_owned(),
            target,
        };
        match std::fs::symlink_metadata(link) {
            Ok(found) if found.file_type().is_symlink() => std::fs::remove_file(link),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
        .and_then(|()| std::os::unix::fs::symlink(&pty.target, link))
        .map_err(|source| SerialError::Link {
            link: link.to_owned(),
            source,
        })?;
        Ok(pty)
    }

    /// Reads what has come from the gateway; 0 if nothing has.
    ///
    /// # Errors
    /// [`io::Error`] if the pseudo-terminal fails.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        none_if_not_ready(read(&self.near, buffer))
    }

    /// Writes as much as there is room for; 0 if there is none.
    ///
    /// # Errors
    /// [`io::Error`] if the pseudo-terminal fails.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        none_if_not_ready(write(&self.near, bytes))
    }

    /// Waits until there is something to read, room to write if `to_write`, or `timeout` is over.
    ///
    /// # Errors
    /// [`io::Error`] if the system cannot wait.
    pub fn wait(&self, to_write: bool, timeout: Duration) -> io::Result<()> {
        let write = if to_write {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        let mut fds = [PollFd::new(&self.near, PollFlags::IN | write)];
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes that the gateway has not read yet.
    ///
    /// # Errors
    /// [`io::Error`] if the pseudo-terminal fails.
    pub fn unread(&self) -> io::Result<u64> {
        Ok(ioctl_fionread(&self.far)?)
    }

    /// Lifts the exclusive claim of a gateway that is gone. A real port forgets it when it is
    /// closed for the last time, which this one never is.
    ///
    /// # Errors
    /// [`io::Error`] if the pseudo-terminal fails.
    pub fn lift_claim(&self) -> io::Result<()> {
        Ok(ioctl_tiocnxcl(&self.far)?)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // Only what is ours: another run may have put its own link there.
        if std::fs::read_link(&self.link).is_ok_and(|target| target == self.target) {
            // A link that stays behind is replaced by the next run.
            std::fs::remove_file(&self.link).unwrap_or_default();
        }
    }
}

fn make() -> io::Result<(OwnedFd, OwnedFd, PathBuf)> {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let name = ptsname(&near, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let far = open(name.as_c_str(), flags, Mode::empty())?;
    let mut settings = tcgetattr(&far)?;
    settings.make_raw();
    tcsetattr(&far, OptionalActions::Now, &settings)?;
    fcntl_setfl(&near, fcntl_getfl(&near)? | OFlags::NONBLOCK)?;
    let target = PathBuf::from(name.to_string_lossy().into_owned());
    Ok((near, far, target))
}

fn none_if_not_ready(result: rustix::io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_link_leads_to_the_far_end_and_goes_with_the_pty() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("tty");
        std::os::unix::fs::symlink("/nonexistent", &link).unwrap();
        let pty = Pty::open(&link).unwrap();
        std::fs::write(&link, b"ack").unwrap();
        pty.wait(false, Duration::from_secs(10)).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(pty.read(&mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"ack");
        drop(pty);
        assert!(std::fs::symlink_metadata(&link).is_err());
    }

    #[test]
    fn a_file_in_the_links_place_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("tty");
        std::fs::write(&link, b"precious").unwrap();
        assert!(matches!(Pty::open(&link), Err(SerialError::Link { .. })));
        assert_eq!(std::fs::read(&link).unwrap(), b"precious");
    }

    #[test]
    fn writing_does_not_block_where_nobody_reads() {
        let directory = tempfile::tempdir().unwrap();
        let pty = Pty::open(&directory.path().join("tty")).unwrap();
        let mut written = 0;
        for _ in 0..1_000 {
            written += pty.write(&[b'x'; 1024]).unwrap();
        }
        assert!(written > 0 && written < 1_000 * 1024, "{written}");
        // The kernel hands what was written to the far end by a worker of its own.
        let deadline = Instant::now() + Duration::from_secs(10);
        while pty.unread().unwrap() == 0 {
            assert!(Instant::now() < deadline, "nothing reached the far end");
            std::thread::yield_now();
        }
    }
}
