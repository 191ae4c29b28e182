//! One connection to the broker: the only place of the source that does I/O.
//!
//! A single task reads, writes and waits for the log, each in a step that can be dropped without
//! harm: the bytes are in the framer or in [`Session::out`] before the next step, so nothing is lost
//! between two of them. It reads as long as the broker takes our answers; a broker that does not is
//! silent by that, and the connection ends.

use std::future::ready;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::framing::{Frame, Framer};
use super::pace::Pace;
use super::packet::{Control, Wire, WireError};
use super::publish::Publish;
use super::session::Session;
use super::transport::{self, ConnectionError, Duplex, Socket};
use crate::clock;
use crate::commit_log::Progress;
use crate::config::Mqtt;
use crate::record::{SourceName, Stamp};
use crate::source::SourceError;

/// From the first SYN to CONNACK. A broker on a slow radio link with TLS answers within a few
/// seconds; chosen by eye, not measured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Unsent answers beyond this stop the reading: the broker does not take what it asked for. 16,384
/// acknowledgements; a well-behaved broker has at most `receive_maximum` outstanding.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// How long the log may take for what was appended when the source stops: some group commits, even
/// on a slow card. What is not acknowledged by then, the broker sends again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the broker may take to close its side. Until then we read on: closing a socket with
/// unread bytes resets it, and a reset may overtake our last acknowledgements.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Half keep-alive intervals without a byte from the broker until the connection counts as dead. In
/// each of them a ping was sent.
const QUIET_TICKS_MAX: u32 = 3;

/// Largest packet that is not a publish: a SUBACK for thousands of filters, a CONNACK with user
/// properties. Chosen by eye.
const CONTROL_BYTES_MAX: u64 = 64 * 1024;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The source was told to stop: all is acknowledged, the broker knows that we left.
    Stopped,
    /// Publishes were discarded while the log was full: connect again for them.
    MadeRoom,
    /// It broke.
    Lost(ConnectionError),
}

/// A step failed: the connection is lost, or the source cannot go on.
enum Failure {
    Connection(ConnectionError),
    Source(SourceError),
}

impl<E: Into<ConnectionError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Connection(error.into())
    }
}

/// A connection that the broker has accepted.
pub(super) struct Connection {
    socket: Socket,
    reader: ReadHalf<Box<dyn Duplex>>,
    writer: WriteHalf<Box<dyn Duplex>>,
    framer: Framer,
    wire: Wire,
    keep_alive: Duration,
    quiet_ticks: u32,
    /// The broker had kept our session.
    pub(super) session_present: bool,
}

impl Connection {
    /// Connects: TCP, TLS, CONNECT, CONNACK.
    ///
    /// # Errors
    /// [`ConnectionError`], after 10 s at the latest.
    pub(super) async fn open(config: &Mqtt) -> Result<Self, ConnectionError> {
        tokio::time::timeout(CONNECT_TIMEOUT, Self::open_untimed(config))
            .await
            .unwrap_or(Err(ConnectionError::ConnectTimeout {
                seconds: CONNECT_TIMEOUT.as_secs(),
            }))
    }

    async fn open_untimed(config: &Mqtt) -> Result<Self, ConnectionError> {
        let password = transport::password(config).await?;
        let (stream, socket) = transport::open(config).await?;
        let (reader, writer) = tokio::io::split(stream);
        let mut connection = Self {
            socket,
            reader,
            writer,
            framer: Framer::new(config.payload_bytes_max),
            wire: Wire(config.protocol),
            keep_alive: config.keep_alive,
            quiet_ticks: 0,
            session_present: false,
        };
        let mut out = BytesMut::new();
        connection
            .wire
            .connect(config, password.as_deref(), &mut out)?;
        connection.write_all(&mut out).await?;
        match connection.read_control().await? {
            Control::Accepted {
                session_present,
                keep_alive_s,
            } => {
                connection.session_present = session_present;
                if let Some(seconds) = keep_alive_s {
                    connection.keep_alive = Duration::from_secs(u64::from(seconds));
                }
                Ok(connection)
            }
            Control::Refused { reason } => Err(ConnectionError::Refused { reason }),
            Control::Subscribed(_)
            | Control::Unsubscribed { .. }
            | Control::Released { .. }
            | Control::Pong
            | Control::Disconnected { .. } => Err(ConnectionError::OutOfPlace {
                when: "before CONNACK",
            }),
        }
    }

    async fn read_control(&mut self) -> Result<Control, ConnectionError> {
        loop {
            if let Some(frame) = self.framer.next()? {
                return Ok(control(self.wire, &frame)?);
            }
            self.read().await?;
        }
    }

    /// Reads what is there.
    ///
    /// # Cancel safety
    /// If the future is dropped, nothing was read.
    async fn read(&mut self) -> Result<(), ConnectionError> {
        match self.reader.read_buf(self.framer.space()).await {
            Ok(0) => Err(ConnectionError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(ConnectionError::Lost(error)),
        }
    }

    async fn write_all(&mut self, out: &mut BytesMut) -> Result<(), ConnectionError> {
        let written = self.writer.write_all_buf(out).await;
        written.map_err(ConnectionError::Lost)
    }
}

/// Serves one connection until it ends.
pub(super) struct Server<'a> {
    pub(super) config: &'a Mqtt,
    pub(super) source: &'a SourceName,
    pub(super) session: &'a mut Session,
    pub(super) progress: &'a mut watch::Receiver<Progress>,
    pub(super) stop: &'a CancellationToken,
    pub(super) ready: &'a watch::Sender<bool>,
}

impl Server<'_> {
    /// Subscribes, and takes publishes until the source stops or the connection breaks.
    ///
    /// # Errors
    /// [`SourceError`] if the log has failed.
    pub(super) async fn run(mut self, mut connection: Connection) -> Result<Ended, SourceError> {
        self.session.connected(connection.session_present);
        match self.serve(&mut connection).await {
            Ok(ended) => {
                self.close(&mut connection).await;
                Ok(ended)
            }
            Err(Failure::Connection(error)) => Ok(Ended::Lost(error)),
            Err(Failure::Source(error)) => Err(error),
        }
    }

    async fn serve(&mut self, connection: &mut Connection) -> Result<Ended, Failure> {
        // What came right behind CONNACK, and what waited from before it.
        self.take(connection).await?;
        self.progressed(connection.wire).await?;
        let mut ticks = ticks(connection.keep_alive);
        let mut gathered = pin!(tokio::time::sleep(Duration::ZERO));
        let mut pace = Pace::new(self.session.commit_interval());
        loop {
            let waits = self.session.waits_for_log();
            let gathering = pace.gathers() && waits;
            tokio::select! {
                // In this order: reading may always have more to do, the others soon have not.
                biased;
                () = self.stop.cancelled() => return self.drain(connection).await,
                _ = ticks.tick() => {
                    tick(connection)?;
                    self.session.tick().map_err(Failure::Source)?;
                }
                moved = moved(self.progress, self.source), if waits => {
                    moved.map_err(Failure::Source)?;
                    pace.committed(Instant::now());
                    self.progressed(connection.wire).await?;
                    if self.session.wants_reconnect() {
                        return Ok(Ended::MadeRoom);
                    }
                }
                written = connection.writer.write_buf(&mut self.session.out),
                    if !self.session.out.is_empty() =>
                {
                    self.session.handed(written.map_err(ConnectionError::Lost)?);
                }
                read = connection.reader.read_buf(connection.framer.space()),
                    if !gathering && self.session.out.len() < OUT_BYTES_MAX =>
                {
                    let bytes = read.map_err(ConnectionError::Lost)?;
                    if bytes == 0 {
                        return Err(ConnectionError::Closed.into());
                    }
                    connection.quiet_ticks = 0;
                    if !waits {
                        // What the log did so far is no news to what comes now.
                        self.progress.mark_unchanged();
                    }
                    self.take(connection).await?;
                    if let Some(until) = pace.read(bytes, Instant::now()) {
                        gathered.as_mut().reset(until);
                    }
                    if pace.is_sparse() {
                        connection.socket.acknowledge();
                    }
                }
                () = &mut gathered, if gathering => pace.gathered(),
                // There was nothing to be read.
                () = ready(()), if !pace.gathers() && !pace.is_paused() => {
                    if let Some(until) = pace.idle(Instant::now()) {
                        gathered.as_mut().reset(until);
                    } else if pace.pauses() {
                        self.session.paused();
                    }
                }
            }
        }
    }

    async fn progressed(&mut self, wire: Wire) -> Result<(), Failure> {
        self.session.progressed().await.map_err(Failure::Source)?;
        if let Some(unwanted) = self.session.take_subscription() {
            if !unwanted.is_empty() {
                wire.unsubscribe(&unwanted, &mut self.session.out)?;
            }
            wire.subscribe(self.config, &mut self.session.out)?;
        }
        Ok(())
    }

    /// Takes all packets that have been read whole.
    async fn take(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        let received = clock::now();
        while let Some(frame) = connection.framer.next()? {
            if frame.is_publish() {
                self.publish(&frame, received).await?;
            } else {
                let control = control(connection.wire, &frame)?;
                self.control(control)?;
            }
        }
        Ok(())
    }

    async fn publish(&mut self, frame: &Frame<'_>, received: Stamp) -> Result<(), Failure> {
        let publish = Publish::read(frame, self.config.protocol)?;
        let taken = self.session.publish(&publish, received).await;
        taken.map_err(Failure::Source)
    }

    fn control(&mut self, control: Control) -> Result<(), Failure> {
        match control {
            Control::Released { packet_id } => {
                self.session.released(packet_id);
                Ok(())
            }
            Control::Subscribed(granted) => {
                self.subscribed(&granted);
                Ok(())
            }
            Control::Unsubscribed { refused } => self.unsubscribed(refused.as_deref()),
            Control::Pong => {
                self.session.ponged();
                Ok(())
            }
            Control::Disconnected { reason } => {
                Err(ConnectionError::Disconnected { reason }.into())
            }
            Control::Accepted { .. } | Control::Refused { .. } => {
                Err(ConnectionError::OutOfPlace {
                    when: "after CONNACK",
                }
                .into())
            }
        }
    }

    /// The source is ready once the broker has granted every filter.
    fn subscribed(&self, granted: &[Result<u8, String>]) {
        let mut all_granted = granted.len() == self.config.subscriptions.len();
        for (subscription, granted) in self.config.subscriptions.iter().zip(granted) {
            let filter = &subscription.filter;
            match granted {
                Ok(qos) if *qos < subscription.qos => warn!(
                    source = %self.source, filter, granted = qos, asked = subscription.qos,
                    "the broker granted a lower quality of service"
                ),
                Ok(_) => {}
                Err(reason) => {
                    all_granted = false;
                    error!(
                        source = %self.source, filter, reason,
                        "the broker refused a subscription: its messages are missing; \
                         check the broker's access rights and this filter"
                    );
                }
            }
        }
        if all_granted {
            info!(source = %self.source, filters = granted.len(), "subscribed");
            self.ready.send_replace(true);
        }
    }

    /// Filters that were refused are tried again at the next connect.
    fn unsubscribed(&mut self, refused: Option<&str>) -> Result<(), Failure> {
        if let Some(reason) = refused {
            warn!(
                source = %self.source, reason,
                "the broker keeps a subscription that the configuration no longer has: \
                 its messages go on coming"
            );
            return Ok(());
        }
        info!(source = %self.source, "unsubscribed from what the configuration no longer has");
        self.session.unsubscribed().map_err(Failure::Source)
    }

    /// Waits for the commit of what was taken and acknowledges it; takes nothing more.
    async fn drain(&mut self, connection: &mut Connection) -> Result<Ended, Failure> {
        let mut deadline = pin!(tokio::time::sleep(DRAIN_TIMEOUT));
        self.session.stop_taking().await.map_err(Failure::Source)?;
        while !self.session.is_settled() {
            tokio::select! {
                () = &mut deadline => {
                    warn!(
                        source = %self.source,
                        "stopping with records unacknowledged: the broker will send them again"
                    );
                    break;
                }
                moved = moved(self.progress, self.source) => {
                    moved.map_err(Failure::Source)?;
                    self.session.progressed().await.map_err(Failure::Source)?;
                }
                written = connection.writer.write_buf(&mut self.session.out),
                    if !self.session.out.is_empty() =>
                {
                    self.session.handed(written.map_err(ConnectionError::Lost)?);
                }
            }
        }
        Ok(Ended::Stopped)
    }

    /// Sends what is owed and DISCONNECT, which leaves the session at the broker. A connection
    /// that breaks now has served its purpose: the broker sends again what it missed.
    async fn close(&mut self, connection: &mut Connection) {
        connection.wire.disconnect(&mut self.session.out);
        // Whatever becomes of it: in doubt a publish that comes again is stored.
        self.session.handed(self.session.out.len());
        let goodbye = async {
            connection.write_all(&mut self.session.out).await?;
            let shut_down = connection.writer.shutdown().await;
            shut_down.map_err(ConnectionError::Lost)?;
            let mut unread = BytesMut::new();
            loop {
                unread.clear();
                unread.reserve(4096);
                match connection.reader.read_buf(&mut unread).await {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(ConnectionError::Lost(error)),
                }
            }
        };
        let outcome: Result<Result<(), ConnectionError>, _> =
            tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => {
                info!(source = %self.source, "the broker did not close the connection in order");
            }
        }
    }
}

/// Waits until the log has moved on.
///
/// # Errors
/// [`SourceError::LogFailed`] if it never will.
///
/// # Cancel safety
/// If the future is dropped, the next call sees the same change.
pub(super) async fn moved(
    progress: &mut watch::Receiver<Progress>,
    source: &SourceName,
) -> Result<(), SourceError> {
    progress
        .changed()
        .await
        .map_err(|_closed| SourceError::LogFailed {
            source_name: source.clone(),
        })
}

/// Half a keep-alive interval has passed: notices a broker that is gone.
fn tick(connection: &mut Connection) -> Result<(), ConnectionError> {
    if connection.quiet_ticks >= QUIET_TICKS_MAX {
        return Err(ConnectionError::Silent);
    }
    connection.quiet_ticks += 1;
    Ok(())
}

fn control(wire: Wire, frame: &Frame<'_>) -> Result<Control, WireError> {
    if frame.is_cut_off() || frame.body_bytes > CONTROL_BYTES_MAX {
        return Err(WireError::TooLong {
            bytes: frame.body_bytes,
        });
    }
    wire.control(frame.packet)
}

/// Half the keep-alive interval; an hour where the broker wants none.
fn ticks(keep_alive: Duration) -> Interval {
    let period = match keep_alive.is_zero() {
        true => Duration::from_secs(3600),
        false => keep_alive / 2,
    };
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
