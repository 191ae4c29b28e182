//! One connection and the devices that share it: makes messages when they are due, publishes them
//! in order, waits for their acknowledgement, and goes on after every loss of the connection.
//!
//! All of it runs in one task. Packets are collected and written together, so a high rate costs
//! few system calls; a payload is made in a reused buffer.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::MqttError;
use super::connection::{self, Address, Connection};
use super::window::{Outgoing, Window};
use super::wire::{Answer, Hello, Protocol, Publish, Qos};
use crate::message::{JsonDevice, Message, wall_ms};
use crate::progress::Counters;
use crate::random::Random;
use crate::run::Phase;
use crate::schedule::Schedule;

/// Bytes collected before a write; enough for some hundred messages, chosen by eye.
const OUT_BYTES_MAX: usize = 64 * 1024;
/// Longest silence that a broker allows, which the CONNECT announces.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// First and longest wait between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What all connections of a run have in common.
#[derive(Debug)]
pub struct Settings {
    /// Where the broker is.
    pub address: Address,
    /// Version of MQTT.
    pub protocol: Protocol,
    /// Quality of service of all messages.
    pub qos: Qos,
    /// Most messages in flight on a connection.
    pub in_flight_max: u16,
    /// How long the first connection may take.
    pub connect_timeout: Duration,
}

/// A device and its PUBLISH packets.
#[derive(Debug)]
pub struct Device {
    /// Makes the payloads.
    pub json: JsonDevice,
    /// Carries them.
    pub publish: Publish,
}

/// How an exchange on one connection ended.
enum Ended {
    /// All is sent and acknowledged.
    Done,
    /// The run was told to end at once.
    Aborted,
}

/// Publishes the messages of some devices over one connection.
pub struct Publisher {
    settings: Arc<Settings>,
    hello: Hello,
    devices: Vec<Device>,
    schedule: Schedule,
    started: Instant,
    made: u64,
    window: Window,
    counters: Arc<Counters>,
    phase: watch::Receiver<Phase>,
    input: BytesMut,
    out: BytesMut,
    body: BytesMut,
    pings: u64,
    pongs: u64,
    /// The ping whose answer says that the broker has read all that was sent at `QoS` 0.
    fence: Option<u64>,
    /// A message was finished since the last attempt to connect: the broker is well.
    answered: bool,
}

impl Publisher {
    /// A publisher of `devices`, by `schedule`, as `hello` introduces it.
    #[must_use]
    pub fn new(
        settings: Arc<Settings>,
        hello: Hello,
        devices: Vec<Device>,
        schedule: Schedule,
        (counters, phase): (Arc<Counters>, watch::Receiver<Phase>),
    ) -> Self {
        let window = Window::new(settings.in_flight_max);
        Self {
            settings,
            hello,
            devices,
            schedule,
            started: Instant::now(),
            made: 0,
            window,
            counters,
            phase,
            input: BytesMut::new(),
            out: BytesMut::with_capacity(2 * OUT_BYTES_MAX),
            body: BytesMut::with_capacity(OUT_BYTES_MAX),
            pings: 0,
            pongs: 0,
            fence: None,
            answered: false,
        }
    }

    /// Publishes everything; returns when all is acknowledged or the run is aborted.
    ///
    /// # Errors
    /// [`MqttError`] if the broker never answered in time, or refuses for good.
    pub async fn run(mut self) -> Result<(), MqttError> {
        let mut phase = self.phase.clone();
        let aborted = phase.wait_for(|phase| *phase == Phase::Aborted);
        tokio::select! {
            result = self.publish_all() => result,
            // A run that is gone cannot be waited for either: both ends are an abort.
            _ = aborted => Ok(()),
        }
    }

    async fn publish_all(&mut self) -> Result<(), MqttError> {
        let mut random = Random::new(u64::from(std::process::id()));
        let mut backoff = BACKOFF.0;
        let mut connected_before = false;
        loop {
            let error = match self.open().await {
                Ok(connection) => {
                    self.begin(&connection, connected_before);
                    connected_before = true;
                    match self.exchange(connection.stream).await {
                        Ok(Ended::Done) => return self.forget_session().await,
                        Ok(Ended::Aborted) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if error.is_permanent() {
                return Err(error);
            }
            if !connected_before && self.started.elapsed() > self.settings.connect_timeout {
                return Err(MqttError::NeverConnected {
                    source: Box::new(error),
                });
            }
            if std::mem::take(&mut self.answered) {
                backoff = BACKOFF.0;
            }
            sleep(backoff.mul_f64(0.75 + 0.5 * random.unit())).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn open(&self) -> Result<Connection, MqttError> {
        connection::open(&self.settings.address, self.settings.protocol, &self.hello).await
    }

    /// Makes ready for a new connection: what is unacknowledged goes first.
    fn begin(&mut self, connection: &Connection, connected_before: bool) {
        let session_lost = connected_before && !self.hello.clean && !connection.session_present;
        Counters::add(&self.counters.reconnects, u64::from(connected_before));
        Counters::add(&self.counters.sessions_lost, u64::from(session_lost));
        let limit = self.settings.in_flight_max.min(connection.receive_maximum);
        self.window.reconnected(connection.session_present, limit);
        self.out.clear();
        self.input.clear();
        self.input.extend_from_slice(&connection.input);
        self.pings = 0;
        self.pongs = 0;
        self.fence = None;
    }

    async fn exchange(&mut self, stream: Box<dyn connection::Stream>) -> Result<Ended, MqttError> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut phase = self.phase.clone();
        let mut ping = tokio::time::interval_at(Instant::now() + KEEP_ALIVE / 2, KEEP_ALIVE / 2);
        loop {
            self.take_answers()?;
            self.fill()?;
            if self.is_done() {
                self.settings.protocol.write_goodbye(&mut self.out)?;
                // All is acknowledged: a connection that fails now takes nothing with it.
                writer.write_all(&self.out).await.unwrap_or_default();
                writer.shutdown().await.unwrap_or_default();
                return Ok(Ended::Done);
            }
            let due = self.wake_at();
            tokio::select! {
                read = reader.read_buf(&mut self.input) => {
                    if read.map_err(MqttError::Io)? == 0 {
                        return Err(MqttError::Closed);
                    }
                }
                written = writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                    written.map_err(MqttError::Io)?;
                }
                () = sleep_until(due.unwrap_or(self.started)), if due.is_some() => {}
                _ = ping.tick() => self.ping()?,
                changed = phase.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::Aborted);
                    }
                }
            }
        }
    }

    /// Writes what is due, as far as window and buffer have room.
    fn fill(&mut self) -> Result<(), MqttError> {
        self.write_outgoing()?;
        let due = self.schedule.due(self.started.elapsed());
        let sent_ms = wall_ms();
        while self.made < due && self.may_make() {
            let devices = self.devices.len() as u64;
            let slot = usize::try_from(self.made % devices).expect("below the number of devices");
            let message = Message {
                slot,
                sequence: self.made / devices,
                sent_ms,
            };
            self.made += 1;
            Counters::add(&self.counters.sent, 1);
            if self.settings.qos == Qos::AtMostOnce {
                self.write_publish(0, message, false)?;
            } else {
                self.window.push(message);
                self.write_outgoing()?;
            }
        }
        if self.settings.qos == Qos::AtMostOnce && self.sending_is_over() && self.fence.is_none() {
            self.settings.protocol.write_ping(&mut self.out)?;
            self.pings += 1;
            self.fence = Some(self.pings);
        }
        Ok(())
    }

    fn write_outgoing(&mut self) -> Result<(), MqttError> {
        while self.out.len() < OUT_BYTES_MAX {
            match self.window.next_outgoing() {
                Some(Outgoing::Publish {
                    packet_id,
                    message,
                    again,
                }) => {
                    Counters::add(&self.counters.resent, u64::from(again));
                    self.write_publish(packet_id, message, again)?;
                }
                Some(Outgoing::Release { packet_id }) => {
                    self.settings
                        .protocol
                        .write_release(packet_id, &mut self.out)?;
                }
                None => break,
            }
        }
        Ok(())
    }

    fn write_publish(&mut self, id: u16, message: Message, again: bool) -> Result<(), MqttError> {
        let device = &mut self.devices[message.slot];
        device
            .json
            .write(message.sequence, message.sent_ms, &mut self.body);
        let payload = self.body.split().freeze();
        device.publish.write(id, again, payload, &mut self.out)?;
        Ok(())
    }

    fn take_answers(&mut self) -> Result<(), MqttError> {
        while let Some(answer) = self.settings.protocol.read(&mut self.input)? {
            match answer {
                Answer::PubAck { packet_id, refused } => {
                    let finished = self.window.finish(packet_id);
                    self.count(finished, refused);
                }
                Answer::PubRec {
                    packet_id,
                    refused: true,
                } => {
                    let finished = self.window.finish(packet_id);
                    self.count(finished, true);
                }
                Answer::PubRec {
                    packet_id,
                    refused: false,
                } => {
                    // Also for one that is not awaited: the broker must be rid of it.
                    self.window.received(packet_id);
                    self.settings
                        .protocol
                        .write_release(packet_id, &mut self.out)?;
                }
                Answer::PubComp { packet_id } => {
                    let finished = self.window.complete(packet_id);
                    self.count(finished, false);
                }
                Answer::Pong => self.pongs += 1,
                Answer::Goodbye { reason } => return Err(MqttError::Goodbye { reason }),
                Answer::Welcome { .. } | Answer::Refused { .. } | Answer::Unexpected => {
                    return Err(MqttError::OutOfTurn);
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, finished: bool, refused: bool) {
        self.answered |= finished;
        let counter = if refused {
            &self.counters.refused
        } else {
            &self.counters.acknowledged
        };
        Counters::add(counter, u64::from(finished));
    }

    fn ping(&mut self) -> Result<(), MqttError> {
        if self.pongs < self.pings {
            return Err(MqttError::Unresponsive {
                seconds: KEEP_ALIVE.as_secs() / 2,
            });
        }
        self.pings += 1;
        Ok(self.settings.protocol.write_ping(&mut self.out)?)
    }

    fn may_make(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX && self.window.has_room() && !self.sending_is_over()
    }

    /// When the next message is due, if one may be made at all.
    fn wake_at(&self) -> Option<Instant> {
        let due = self.schedule.due_at(self.made);
        let due = self
            .schedule
            .duration
            .map_or(due, |duration| due.min(duration));
        self.may_make()
            .then(|| self.started.checked_add(due))
            .flatten()
    }

    fn sending_is_over(&self) -> bool {
        *self.phase.borrow() != Phase::Sending
            || self.schedule.is_over(self.made, self.started.elapsed())
    }

    fn is_done(&self) -> bool {
        let fenced = self.settings.qos != Qos::AtMostOnce
            || self.fence.is_some_and(|fence| self.pongs >= fence);
        self.sending_is_over() && self.window.is_empty() && fenced
    }

    /// MQTT 3.1.1 has no end of a session but a clean one in its place, so that no broker is left
    /// with the sessions of all runs. MQTT 5 says it in its DISCONNECT.
    async fn forget_session(&mut self) -> Result<(), MqttError> {
        if self.settings.protocol == Protocol::V5 || self.hello.clean {
            return Ok(());
        }
        self.hello.clean = true;
        // A broker that is gone by now keeps a session that nobody needs: no reason to fail.
        let Ok(mut connection) = self.open().await else {
            return Ok(());
        };
        self.out.clear();
        self.settings.protocol.write_goodbye(&mut self.out)?;
        connection
            .stream
            .write_all(&self.out)
            .await
            .unwrap_or_default();
        connection.stream.shutdown().await.unwrap_or_default();
        Ok(())
    }
}
