//! The transport under the protocol client, and what the client would not say about it.
//!
//! - **W1** A request begins on a line on which nothing is left to read: what came after an
//!   earlier request's timeout is read away first, so that it is not taken for this one's answer.
//! - **W2** A failed or hung-up transport is told from an answer that makes no sense: the client
//!   reports both as I/O errors.
//! - **W3** Nothing here blocks the thread: the serial library's flush waits until the last byte has
//!   left (`tcdrain`), its close for up to 30 s. There is nothing to flush, since writes go straight
//!   to the kernel, and what a dead line still holds is discarded before it is closed.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_serial::{ClearBuffer, SerialPort as _, SerialStream};

/// Most reads before a request, of [`DRAIN_BYTES`] each: a line that has still more to say is full
/// of noise, and the request will fail by itself.
const DRAIN_READS_MAX: usize = 64;
const DRAIN_BYTES: usize = 512;

/// A serial line or a connection.
#[derive(Debug)]
pub(super) enum Stream {
    Serial(SerialStream),
    Tcp(TcpStream),
}

/// Why a transport is no longer of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// It reads nothing, at once and for ever.
    #[error("the other end hung up")]
    HungUp,
    /// A system call failed, as with EIO when an adapter is pulled out.
    #[error("the line failed")]
    Failed(#[source] io::Error),
    /// It does not take the few bytes of a request.
    #[error("the line takes no bytes")]
    Stuck,
}

/// What was seen of a transport during one request.
#[derive(Debug, Default)]
struct Seen {
    /// No byte of the request has been written yet.
    fresh: bool,
    sent: bool,
    late_bytes: usize,
    lost: Option<Lost>,
}

#[derive(Debug)]
struct Inner {
    stream: Stream,
    seen: Seen,
}

/// The transport that the protocol client is given. Clones are the same one: whoever has the client
/// keeps one, to ask what was seen, and to give it to a new client.
#[derive(Clone, Debug)]
pub(super) struct Wire(Arc<Mutex<Inner>>);

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        let seen = Seen::default();
        Self(Arc::new(Mutex::new(Inner { stream, seen })))
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.inner().seen = Seen {
            fresh: true,
            ..Seen::default()
        };
    }

    /// Whether the whole request has gone to the kernel.
    pub(super) fn sent(&self) -> bool {
        self.inner().seen.sent
    }

    /// Bytes that were on the line before the request.
    pub(super) fn late_bytes(&self) -> usize {
        self.inner().seen.late_bytes
    }

    /// Why the transport is of no more use, if it isn't.
    pub(super) fn lost(&self) -> Option<Lost> {
        self.inner().seen.lost.take()
    }

    /// No caller blocks while it has the lock, and none panics: polling is all that is done.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn lose(&mut self, lost: Lost) -> io::Error {
        let error = io::Error::new(io::ErrorKind::NotConnected, lost.to_string());
        self.seen.lost = Some(lost);
        error
    }

    /// Reads into `buffer`; an end of the stream is an error.
    fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Serial(serial) => Pin::new(serial).poll_read(context, buffer),
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(context, buffer),
        };
        Poll::Ready(match ready!(read) {
            Ok(()) if buffer.filled().len() == before => Err(self.lose(Lost::HungUp)),
            Ok(()) => Ok(()),
            Err(error) => Err(self.lose(Lost::Failed(error))),
        })
    }

    /// W1.
    fn drain(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        for _ in 0..DRAIN_READS_MAX {
            let mut bytes = [0; DRAIN_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            match self.poll_bytes(context, &mut buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => break,
            }
            self.seen.late_bytes += buffer.filled().len();
        }
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_bytes(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        if std::mem::take(&mut inner.seen.fresh) {
            inner.drain(context)?;
        }
        let written = match &mut inner.stream {
            Stream::Serial(serial) => Pin::new(serial).poll_write(context, bytes),
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(context, bytes),
        };
        Poll::Ready(match ready!(written) {
            Ok(0) => Err(inner.lose(Lost::HungUp)),
            Ok(count) => Ok(count),
            Err(error) => Err(inner.lose(Lost::Failed(error))),
        })
    }

    /// The client flushes when it has written all of a request.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().seen.sent = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner().stream {
            Stream::Serial(_) => Poll::Ready(Ok(())),
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(context),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Stream::Serial(serial) = &self.stream {
            // If even this fails the adapter is gone, and closing it does not wait.
            serial.clear(ClearBuffer::Output).unwrap_or_default();
        }
    }
}
