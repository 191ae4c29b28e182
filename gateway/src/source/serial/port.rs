//! The port itself: opened raw, for us alone, with the configured line settings.
//!
//! Two calls of the underlying library are avoided because they block the calling thread: its
//! flush is `tcdrain`, and a close with output pending waits up to 30 s for a device that holds
//! the line. [`Port::close`] waits for the output a moment, then discards it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep};
use tokio_serial::{ClearBuffer, DataBits, SerialPort, SerialStream, StopBits};

use crate::config::{FlowControl, Parity, Serial};

/// How long the output may take to leave before a port is closed.
const DRAIN_MAX: Duration = Duration::from_millis(500);
/// How often that is looked at: a few bytes' time at 9600 baud.
const DRAIN_CHECK: Duration = Duration::from_millis(5);

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {}", device.display())]
pub(super) struct OpenError {
    device: PathBuf,
    #[source]
    source: tokio_serial::Error,
}

/// Why a port is no longer of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum PortLost {
    /// It reads nothing, at once and for ever: the other end, or the adapter, is gone.
    #[error("the line was hung up")]
    HungUp,
    /// A system call failed, as with EIO when an adapter is pulled out.
    #[error("the port failed")]
    Failed(#[source] std::io::Error),
}

/// An open port.
#[derive(Debug)]
pub(super) struct Port {
    reader: ReadHalf<SerialStream>,
    writer: WriteHalf<SerialStream>,
}

impl Port {
    /// Opens the port in raw mode.
    ///
    /// Two gateways exclude each other by a lock that ends with the process. The kernel's own
    /// exclusive mode, which keeps others out as well, is left on except for a pseudo-terminal:
    /// there it would outlive a killed gateway for as long as anybody else has it open.
    pub(super) fn open(config: &Serial) -> Result<Self, OpenError> {
        Self::open_stream(config)
            .map(|stream| {
                let (reader, writer) = tokio::io::split(stream);
                Self { reader, writer }
            })
            .map_err(|source| OpenError {
                device: config.device.clone(),
                source,
            })
    }

    fn open_stream(config: &Serial) -> tokio_serial::Result<SerialStream> {
        let path = std::fs::canonicalize(&config.device)?;
        let builder = tokio_serial::new(path.to_string_lossy(), config.baud_rate)
            .data_bits(match config.data_bits {
                5 => DataBits::Five,
                6 => DataBits::Six,
                7 => DataBits::Seven,
                _ => DataBits::Eight,
            })
            .parity(match config.parity {
                Parity::None => tokio_serial::Parity::None,
                Parity::Odd => tokio_serial::Parity::Odd,
                Parity::Even => tokio_serial::Parity::Even,
            })
            .stop_bits(match config.stop_bits {
                2 => StopBits::Two,
                _ => StopBits::One,
            })
            .flow_control(match config.flow_control {
                FlowControl::None => tokio_serial::FlowControl::None,
                FlowControl::Software => tokio_serial::FlowControl::Software,
                FlowControl::Hardware => tokio_serial::FlowControl::Hardware,
            });
        let mut stream = SerialStream::open(&builder)?;
        if path.starts_with("/dev/pts") {
            stream.set_exclusive(false)?;
        }
        Ok(stream)
    }

    /// The two directions, to be used at the same time.
    pub(super) fn halves(&mut self) -> (Reader<'_>, Writer<'_>) {
        (Reader(&mut self.reader), Writer(&mut self.writer))
    }

    /// Lets the output leave, for at most half a second, and closes the port.
    pub(super) async fn close(self) {
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

/// The direction towards the gateway.
pub(super) struct Reader<'a>(&'a mut ReadHalf<SerialStream>);

impl Reader<'_> {
    /// Waits for bytes and returns how many there were, at least one.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing was read.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, PortLost> {
        match self.0.read(buffer).await {
            Ok(0) => Err(PortLost::HungUp),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(PortLost::Failed(error)),
        }
    }
}

/// The direction towards the devices.
pub(super) struct Writer<'a>(&'a mut WriteHalf<SerialStream>);

impl Writer<'_> {
    /// Waits until the line takes some of `bytes` and returns how many.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing was written.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<usize, PortLost> {
        match self.0.write(bytes).await {
            Ok(0) => Err(PortLost::HungUp),
            Ok(written) => Ok(written),
            Err(error) => Err(PortLost::Failed(error)),
        }
    }
}
