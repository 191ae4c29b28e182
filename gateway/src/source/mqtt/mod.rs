//! The MQTT source: subscribes at a broker, puts publishes into the log, acknowledges them once
//! they are durable.
//!
//! ```text
//!  broker ─▶ transport ─▶ framing ─▶ publish ─▶ session ─▶ intake ─▶ ingest ─▶ commit log
//!               ▲          (bytes)   (packet)      │                               │
//!               └───────── out ◀── PUBACK, PUBREC ─┴── acks ◀────── progress ◀─────┘
//! ```
//!
//! # Layout
//! - `connection`: the only I/O; `transport`: TCP and TLS, and all errors of a connection
//! - `framing`, `publish`, `packet` with `v311` and `v5`: bytes to packets and back
//! - `session`: what is done with them; `acks`: what is owed; `intake`: a full log;
//!   `redelivery`: what comes again; `subscriptions`: SUBSCRIBE and UNSUBSCRIBE; `backoff`: when to
//!   connect again; `pace`: when to read
//!
//! # Why rumqttc's codec without its event loop
//! The event loop (0.25) was read for this, and each of these would have needed a way around it:
//! every manual acknowledgement is a request and a write of its own, where here those of a group
//! commit leave in one; its flush waits for the broker without a limit, so that a broker which stops
//! reading stops the pings; a reply it was writing is lost if another branch of its `select!` wins;
//! packets left in its event list survive a reconnect and would be acknowledged on the new
//! connection, where their identifiers mean other messages; it forgets unreleased identifiers at a
//! reconnect and answers their PUBREL with a disconnect, for ever; and a publish over its packet
//! limit, or in 3.1.1 with a topic that is not UTF-8, ends the connection, upon which the broker
//! sends it again. Its packet types and their encoding are used as they are.
//!
//! # Invariants
//! - **M1** PUBACK and PUBREC leave only with the proof that the publish is synced, as a record or as
//!   a dead letter, and in the order of the publishes (G1).
//! - **M2** What was received on one connection is never acknowledged on another.
//! - **M3** Every PUBREL is answered by PUBCOMP, so that no restart can wedge a session.
//! - **M4** A publish that the broker sends again is stored once, across restarts and power cuts; in
//!   doubt it is stored ([`window`](crate::state::window)).
//! - **M5** Memory is bounded: one read buffer (`payload_bytes_max` and 0.3 MiB), 4 MiB held, and
//!   what the log buffers.
//!
//! # When things go wrong
//! - *Crash, power cut*: what was not acknowledged is sent again, with DUP. What of it is in the log
//!   is acknowledged and not stored again. A dead letter is no record: it may be there twice.
//! - *Broker away*: connects again for ever, 250 ms to 30 s apart. A session that is gone then is a
//!   gap of unknown size.
//! - *Log full*: see `intake`. *Log failed*: no acknowledgement; [`SourceError::LogFailed`].
//! - *A publish that cannot become a record* (too large, a topic that is not UTF-8): a dead letter,
//!   then acknowledged. While it is stored (one sync) nothing else happens on the connection.
//!
//! Runs as one task of the runtime.

mod acks;
mod backoff;
mod connection;
mod framing;
mod intake;
mod pace;
mod packet;
mod publish;
mod redelivery;
mod session;
mod subscriptions;
mod transport;
mod v311;
mod v5;

use std::pin::pin;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::backoff::Backoff;
use self::connection::{Connection, Ended, Server};
use self::session::Session;
use self::transport::ConnectionError;
use super::{SourceContext, SourceError};
use crate::commit_log::Progress;
use crate::config::Mqtt;
use crate::metrics::SourceMetrics;
use crate::record::SourceName;

/// Runs an MQTT source until it is stopped.
///
/// When it returns after a stop, what the log made durable in time is acknowledged, and the broker
/// keeps the session.
///
/// # Errors
/// [`SourceError::LogFailed`].
pub async fn run(config: Mqtt, context: SourceContext) -> Result<(), SourceError> {
    let session = Session::new(&config, &context);
    let mut source = MqttSource {
        session,
        progress: context.ingest.progress(),
        backoff: Backoff::new(),
        name: context.name,
        metrics: context.metrics,
        ready: context.ready,
        stop: context.stop,
        config,
    };
    while let Next::Connect = source.connect_once().await? {}
    source.session.stop_taking().await?;
    source.session.leave().await
}

struct MqttSource {
    config: Mqtt,
    name: SourceName,
    metrics: SourceMetrics,
    session: Session,
    progress: watch::Receiver<Progress>,
    backoff: Backoff,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
}

enum Next {
    Connect,
    Stop,
}

impl MqttSource {
    /// One connection, from the attempt to its end and the wait after it.
    async fn connect_once(&mut self) -> Result<Next, SourceError> {
        let config = self.config.clone();
        match self.meanwhile(Connection::open(&config)).await? {
            None => return Ok(Next::Stop),
            Some(Err(error)) => self.report(&error),
            Some(Ok(connection)) => match self.serve(connection).await? {
                Ended::Stopped => return Ok(Next::Stop),
                Ended::MadeRoom => {
                    // At once: each such round has brought some megabytes into the log.
                    info!(source = %self.name, "the log has room again: reconnecting");
                    return Ok(Next::Connect);
                }
                Ended::Lost(error) => self.report(&error),
            },
        }
        let wait = tokio::time::sleep(self.backoff.wait());
        match self.meanwhile(wait).await? {
            None => Ok(Next::Stop),
            Some(()) => Ok(Next::Connect),
        }
    }

    async fn serve(&mut self, connection: Connection) -> Result<Ended, SourceError> {
        info!(
            source = %self.name,
            session_present = connection.session_present,
            "connected to {}:{}", self.config.host, self.config.port
        );
        self.metrics.connected.set(1);
        let since = Instant::now();
        let server = Server {
            config: &self.config,
            source: &self.name,
            session: &mut self.session,
            progress: &mut self.progress,
            stop: &self.stop,
            ready: &self.ready,
        };
        let ended = server.run(connection).await;
        self.session.disconnected();
        self.metrics.connected.set(0);
        self.backoff.lasted(since.elapsed());
        ended
    }

    /// Awaits something that has no connection, while the log goes on. `None` if the source is told
    /// to stop first.
    async fn meanwhile<F: Future>(&mut self, future: F) -> Result<Option<F::Output>, SourceError> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                output = &mut future => return Ok(Some(output)),
                moved = connection::moved(&mut self.progress, &self.name) => {
                    moved?;
                    self.session.progressed().await?;
                }
            }
        }
    }

    fn report(&self, error: &ConnectionError) {
        warn!(
            source = %self.name,
            "no connection to {}:{}, trying again: {}",
            self.config.host, self.config.port, chain(error)
        );
    }
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::{Mqtt, MqttProtocol, Subscription};

    pub(super) fn config() -> Mqtt {
        Mqtt {
            host: "127.0.0.1".to_owned(),
            port: 1883,
            tls: None,
            protocol: MqttProtocol::V5,
            subscriptions: vec![Subscription {
                filter: "city/#".to_owned(),
                qos: 1,
            }],
            client_id: "gw-city".to_owned(),
            username: None,
            password_file: None,
            session_expiry: Duration::from_secs(86400),
            payload_bytes_max: 1 << 20,
            receive_maximum: 1000,
            keep_alive: Duration::from_secs(30),
            dedupe: true,
        }
    }
}
