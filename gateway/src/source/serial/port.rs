//! The port itself: found, opened raw, for us alone, with the configured line settings.
//!
//! Two calls of the underlying library are avoided because they block the calling thread: its
//! flush is `tcdrain`, and a close with output pending waits up to 30 s for a device that holds
//! the line. [`Port::close`] waits for the output a moment, then discards it.
//!
//! The driver's RS-485 mode and the parity that sticks are set through a second, short-lived
//! descriptor: they belong to the port, not to who opened it, and the library that reads and writes
//! has no call for them.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};
use serial2::rs4xx::Rs485Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep};
use tokio_serial::{
    ClearBuffer, DataBits, ErrorKind, SerialPort, SerialPortBuilder, SerialStream, StopBits,
};

use super::holder::Holders;
use super::usb;
use crate::config::{Device, FlowControl, Parity, Rs485, RtuLine, Serial, UsbMatch};

/// How long the output may take to leave before a port is closed.
const DRAIN_MAX: Duration = Duration::from_millis(500);
/// How often that is looked at: a few bytes' time at 9600 baud.
const DRAIN_CHECK: Duration = Duration::from_millis(5);

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing that matches is plugged in.
    #[error("{usb} is not plugged in")]
    NoAdapter {
        /// What was looked for.
        usb: UsbMatch,
    },
    /// More than one port matches.
    #[error("{usb} is any of {}; add serial or interface", ttys.join(", "))]
    Ambiguous {
        /// What was looked for.
        usb: UsbMatch,
        /// Names of the ttys.
        ttys: Vec<String>,
    },
    /// The kernel's list of ttys cannot be read.
    #[error("cannot look for {usb}")]
    Sysfs {
        /// What was looked for.
        usb: UsbMatch,
        /// Why.
        source: std::io::Error,
    },
    /// Another program has it.
    #[error("{} is in use by {holders}", path.display())]
    Busy {
        /// The port.
        path: PathBuf,
        /// By whom, as far as known; looked up by [`OpenError::with_holders`].
        holders: Holders,
    },
    /// The driver does not switch a transceiver.
    #[error("the driver of {} has no such RS-485 mode", path.display())]
    NoRs485 {
        /// The port.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The driver has no parity bit that is always the same.
    #[error("the driver of {} has neither mark nor space parity", path.display())]
    NoStickyParity {
        /// The port.
        path: PathBuf,
    },
    /// The system refused it, or a setting of it.
    #[error("cannot open {}", path.display())]
    Refused {
        /// The port.
        path: PathBuf,
        /// Why.
        source: tokio_serial::Error,
    },
}

impl OpenError {
    fn busy(path: &Path) -> Self {
        Self::Busy {
            path: path.to_owned(),
            holders: Holders::default(),
        }
    }

    fn refused(path: &Path, source: tokio_serial::Error) -> Self {
        match source.kind() {
            // The library's word for a port that is claimed, and for nothing else.
            ErrorKind::NoDevice => Self::busy(path),
            ErrorKind::InvalidInput | ErrorKind::Unknown | ErrorKind::Io(_) => Self::Refused {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// Looks up who has a port that is in use. That reads much of `/proc`: milliseconds.
    #[must_use]
    pub fn with_holders(self) -> Self {
        match self {
            Self::Busy { path, .. } => Self::Busy {
                holders: Holders::of(&path),
                path,
            },
            other @ (Self::NoAdapter { .. }
            | Self::Ambiguous { .. }
            | Self::Sysfs { .. }
            | Self::NoRs485 { .. }
            | Self::NoStickyParity { .. }
            | Self::Refused { .. }) => other,
        }
    }
}

/// Why a port is no longer of use.
#[derive(Debug, thiserror::Error)]
pub enum PortLost {
    /// It reads nothing, at once and for ever: the other end, or the adapter, is gone.
    #[error("the line was hung up")]
    HungUp,
    /// A system call failed, as with EIO when an adapter is pulled out.
    #[error("the port failed")]
    Failed(#[source] std::io::Error),
}

/// What a port is opened with, whoever uses it.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    device: &'a Device,
    baud_rate: u32,
    data_bits: u8,
    parity: Parity,
    stop_bits: u8,
    flow_control: FlowControl,
    rs485: Option<Rs485>,
}

impl<'a> From<&'a Serial> for Settings<'a> {
    fn from(serial: &'a Serial) -> Self {
        Self {
            device: &serial.device,
            baud_rate: serial.baud_rate,
            data_bits: serial.data_bits,
            parity: serial.parity,
            stop_bits: serial.stop_bits,
            flow_control: serial.flow_control,
            rs485: serial.rs485,
        }
    }
}

impl<'a> From<&'a RtuLine> for Settings<'a> {
    fn from(line: &'a RtuLine) -> Self {
        Self {
            device: &line.device,
            baud_rate: line.baud_rate,
            data_bits: 8,
            parity: line.parity,
            stop_bits: line.stop_bits,
            flow_control: FlowControl::None,
            rs485: line.rs485,
        }
    }
}

/// An open port.
#[derive(Debug)]
pub struct Port {
    reader: ReadHalf<SerialStream>,
    writer: WriteHalf<SerialStream>,
}

impl Port {
    /// Opens the port: see [`open`].
    ///
    /// # Errors
    /// [`OpenError`]; a port that is in use does not say by whom.
    pub fn open(config: &Serial) -> Result<Self, OpenError> {
        let (reader, writer) = tokio::io::split(open(config.into())?);
        Ok(Self { reader, writer })
    }

    /// The two directions, to be used at the same time.
    pub fn halves(&mut self) -> (Reader<'_>, Writer<'_>) {
        (Reader(&mut self.reader), Writer(&mut self.writer))
    }

    /// Lets the output leave, for at most half a second, and closes the port.
    pub async fn close(self) {
        let stream = self.reader.unsplit(self.writer);
        let deadline = Instant::now() + DRAIN_MAX;
        while stream.bytes_to_write().is_ok_and(|bytes| bytes > 0) {
            if Instant::now() > deadline {
                // If even this fails the adapter is gone, and closing it does not wait.
                stream.clear(ClearBuffer::Output).unwrap_or_default();
                return;
            }
            sleep(DRAIN_CHECK).await;
        }
    }
}

/// Opens a port in raw mode.
///
/// Two gateways exclude each other by a lock that ends with the process. The kernel's own
/// exclusive mode, which keeps others out as well, is left on except for a pseudo-terminal: there
/// it would outlive a killed gateway for as long as anybody else has it open.
///
/// # Errors
/// [`OpenError`]; a port that is in use does not say by whom.
pub fn open(settings: Settings<'_>) -> Result<SerialStream, OpenError> {
    let path = find(settings.device)?;
    let aside = aside(&path, settings)?;
    let stream = open_stream(&path, settings).map_err(|error| OpenError::refused(&path, error))?;
    set_sticky_parity(&path, aside.as_ref(), settings.parity)?;
    Ok(stream)
}

/// Opens and closes a port; says how it is called.
///
/// # Errors
/// [`OpenError`]; a port that is in use says by whom, as far as known.
pub fn probe(settings: Settings<'_>) -> Result<String, OpenError> {
    let open = || {
        let path = find(settings.device)?;
        let aside = aside(&path, settings)?;
        let port = builder(&path, settings).open();
        let _port = port.map_err(|error| OpenError::refused(&path, error))?;
        set_sticky_parity(&path, aside.as_ref(), settings.parity)?;
        Ok(format!("{} opens", path.display()))
    };
    open().map_err(OpenError::with_holders)
}

/// The real path of the device, whatever it is called at the moment.
fn find(device: &Device) -> Result<PathBuf, OpenError> {
    let path = match device {
        Device::Path(path) => path.clone(),
        Device::Usb(usb) => find_usb(usb)?,
    };
    std::fs::canonicalize(&path).map_err(|error| OpenError::refused(&path, error.into()))
}

fn find_usb(usb: &UsbMatch) -> Result<PathBuf, OpenError> {
    let usb = usb.clone();
    match usb::find(Path::new(usb::SYSFS_TTYS), &usb) {
        Ok(ttys) => match ttys.as_slice() {
            [] => Err(OpenError::NoAdapter { usb }),
            [tty] => Ok(Path::new("/dev").join(tty)),
            [_, _, ..] => Err(OpenError::Ambiguous { usb, ttys }),
        },
        Err(source) => Err(OpenError::Sysfs { usb, source }),
    }
}

fn open_stream(path: &Path, settings: Settings<'_>) -> tokio_serial::Result<SerialStream> {
    let mut stream = SerialStream::open(&builder(path, settings))?;
    if path.starts_with("/dev/pts") {
        stream.set_exclusive(false)?;
    }
    Ok(stream)
}

fn builder(path: &Path, settings: Settings<'_>) -> SerialPortBuilder {
    tokio_serial::new(path.to_string_lossy(), settings.baud_rate)
        .data_bits(match settings.data_bits {
            5 => DataBits::Five,
            6 => DataBits::Six,
            7 => DataBits::Seven,
            _ => DataBits::Eight,
        })
        .parity(match settings.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Odd | Parity::Mark => tokio_serial::Parity::Odd,
            Parity::Even | Parity::Space => tokio_serial::Parity::Even,
        })
        .stop_bits(match settings.stop_bits {
            2 => StopBits::Two,
            _ => StopBits::One,
        })
        .flow_control(match settings.flow_control {
            FlowControl::None => tokio_serial::FlowControl::None,
            FlowControl::Software => tokio_serial::FlowControl::Software,
            FlowControl::Hardware => tokio_serial::FlowControl::Hardware,
        })
}

/// A second descriptor of a port that nobody has claimed, with the driver's RS-485 mode set; `None`
/// where nothing needs one. It is to be held until the port is open and set, since a port that
/// nobody has open may forget its modes.
fn aside(path: &Path, settings: Settings<'_>) -> Result<Option<serial2::SerialPort>, OpenError> {
    if settings.rs485.is_none() && settings.parity == Parity::None {
        return Ok(None);
    }
    let refused = |error: std::io::Error| OpenError::refused(path, error.into());
    let Some(file) = claim(path).map_err(refused)? else {
        return Err(OpenError::busy(path));
    };
    let port = serial2::SerialPort::from(OwnedFd::from(file));
    if let Some(mode) = settings.rs485 {
        let set = port.set_rs4xx_mode(rs485(mode));
        set.map_err(|source| OpenError::NoRs485 {
            path: path.to_owned(),
            source,
        })?;
    }
    // Not kept: the one who reads and writes takes the same lock.
    flock(&port, FlockOperation::Unlock).map_err(|error| refused(error.into()))?;
    Ok(Some(port))
}

fn rs485(mode: Rs485) -> Rs485Config {
    let mut config = Rs485Config::new();
    config.set_invert_rts(mode.rts_inverted);
    config.set_full_duplex(mode.echo);
    config.set_bus_termination(mode.termination);
    config.set_delay_before_send(mode.delay_before);
    config.set_delay_after_send(mode.delay_after);
    config
}

/// Makes odd parity mark and even parity space, or the other way round where another program has
/// left the port so.
fn set_sticky_parity(
    path: &Path,
    aside: Option<&serial2::SerialPort>,
    parity: Parity,
) -> Result<(), OpenError> {
    let Some(port) = aside else {
        return Ok(());
    };
    let sticks = match parity {
        Parity::Mark | Parity::Space => true,
        Parity::None | Parity::Odd | Parity::Even => false,
    };
    let set = || {
        let mut termios = tcgetattr(port)?;
        termios.control_modes.set(ControlModes::CMSPAR, sticks);
        tcsetattr(port, OptionalActions::Now, &termios)?;
        rustix::io::Result::Ok(
            tcgetattr(port)?
                .control_modes
                .contains(ControlModes::CMSPAR),
        )
    };
    match set() {
        // What a driver has no bit for, it takes out again.
        Ok(found) if found == sticks => Ok(()),
        Ok(_) => Err(OpenError::NoStickyParity {
            path: path.to_owned(),
        }),
        Err(error) => Err(OpenError::refused(path, std::io::Error::from(error).into())),
    }
}

/// Opens a port and locks it; `None` if somebody else has.
fn claim(path: &Path) -> std::io::Result<Option<File>> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).expect("flags of open are an int"))
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => return Ok(None),
        other => other?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The direction towards the gateway.
#[derive(Debug)]
pub struct Reader<'a>(&'a mut ReadHalf<SerialStream>);

impl Reader<'_> {
    /// Waits for bytes and returns how many there were, at least one.
    ///
    /// # Errors
    /// [`PortLost`]; the port is to be closed.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing was read.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, PortLost> {
        match self.0.read(buffer).await {
            Ok(0) => Err(PortLost::HungUp),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(PortLost::Failed(error)),
        }
    }
}

/// The direction towards the devices.
#[derive(Debug)]
pub struct Writer<'a>(&'a mut WriteHalf<SerialStream>);

impl Writer<'_> {
    /// Waits until the line takes some of `bytes` and returns how many.
    ///
    /// # Errors
    /// [`PortLost`]; the port is to be closed.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing was written.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, PortLost> {
        match self.0.write(bytes).await {
            Ok(0) => Err(PortLost::HungUp),
            Ok(written) => Ok(written),
            Err(error) => Err(PortLost::Failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_a_transceiver_reaches_the_driver() {
        let (before, after) = (Duration::from_millis(3), Duration::from_millis(7));
        for (rts_inverted, echo, termination) in [
            (true, false, false),
            (false, true, false),
            (false, false, true),
        ] {
            let config = rs485(Rs485 {
                rts_inverted,
                delay_before: before,
                delay_after: after,
                echo,
                termination,
            });
            assert_eq!(config.get_invert_rts(), rts_inverted);
            assert_eq!(config.get_full_duplex(), echo);
            assert_eq!(config.get_bus_termination(), termination);
            assert_eq!(config.get_delay_before_send(), before);
            assert_eq!(config.get_delay_after_send(), after);
        }
    }
}
