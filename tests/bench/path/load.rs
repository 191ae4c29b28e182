//! A publisher that is not the bottleneck: packets encoded in advance, written in bulk over several
//! connections at quality of service 1, each answer read and thrown away.
//!
//! It goes by a pace: so many a second, or as fast as the far end takes them, with so many on their
//! way at most. So the highest rate is found without a queue in the broker that grows.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::telemetry;

/// The broker reads one packet of a connection, then turns to the next.
const CONNECTIONS: usize = 4;
/// Written in one call.
const CHUNK_PACKETS: u64 = 32;
/// While nothing may be sent.
const PAUSE: Duration = Duration::from_micros(300);
/// A time of sending stands in the payload in so many hexadecimal digits, from its start.
pub(super) const TIME_DIGITS: usize = 16;

/// How fast messages are published.
#[derive(Clone, Debug)]
pub(super) enum Pace {
    /// As fast as `done` follows, at most `ahead` before it.
    Following { done: Arc<AtomicU64>, ahead: u64 },
    /// At even intervals; each payload begins with the time since `epoch`.
    PerSecond { rate: f64, epoch: Instant },
}

/// What is published: by so many devices in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) devices: u64,
    pub(super) payload_bytes: usize,
}

impl Load {
    /// 100 devices, 200 bytes.
    pub(super) const USUAL: Self = Self {
        devices: 100,
        payload_bytes: telemetry::PAYLOAD_BYTES,
    };
}

/// A thread that publishes until this is dropped.
#[derive(Debug)]
pub(super) struct Publisher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Publisher {
    /// Connects to a broker and begins. Topics are `load/<device % spread>/…`.
    pub(super) fn start(
        port: u16,
        load: Load,
        spread: u64,
        pace: Pace,
    ) -> Result<Self, BenchError> {
        let connections = match pace {
            Pace::Following { .. } => CONNECTIONS,
            Pace::PerSecond { .. } => 1,
        };
        let connect = |number| connect(port, number);
        let streams: std::io::Result<Vec<_>> = (0..connections).map(connect).collect();
        let streams = streams.map_err(BenchError::io("connect a publisher"))?;
        let packets = encode(load, spread);
        let stop: Arc<AtomicBool> = Arc::default();
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut writer = Writer {
                streams,
                packets,
                buffer: Vec::new(),
            };
            let ended = writer.run(&pace, &told);
            // Those who read the answers away end with their connections.
            let shut = |stream: &TcpStream| stream.shutdown(Shutdown::Both);
            writer.streams.iter().try_for_each(shut).and(ended)
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it, and says whether it did what it should.
    pub(super) fn finish(mut self) -> Result<(), BenchError> {
        let ended = self.end();
        ended.map_err(BenchError::io("publish"))
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        joined.map_or(Ok(()), |joined| joined.expect("publishing does not panic"))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // A failure has shown in what did not arrive.
        let _ = self.end();
    }
}

struct Writer {
    streams: Vec<TcpStream>,
    packets: Vec<Packet>,
    buffer: Vec<u8>,
}

struct Packet {
    bytes: Vec<u8>,
    id_at: usize,
}

impl Writer {
    fn run(&mut self, pace: &Pace, stop: &AtomicBool) -> std::io::Result<()> {
        let begun = Instant::now();
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            let may = match pace {
                Pace::Following { done, ahead } => {
                    let may = done.load(Ordering::Relaxed) + ahead - sent;
                    if may < CHUNK_PACKETS {
                        0
                    } else {
                        CHUNK_PACKETS
                    }
                }
                Pace::PerSecond { rate, .. } => {
                    let due = (begun.elapsed().as_secs_f64() * rate) as u64;
                    (due - sent).min(CHUNK_PACKETS)
                }
            };
            if may == 0 {
                std::thread::sleep(PAUSE);
                continue;
            }
            self.write(sent, may, pace)?;
            sent += may;
        }
        Ok(())
    }

    fn write(&mut self, from: u64, count: u64, pace: &Pace) -> std::io::Result<()> {
        self.buffer.clear();
        for number in from..from + count {
            let packet = &self.packets[(number % self.packets.len() as u64) as usize];
            let start = self.buffer.len();
            self.buffer.extend_from_slice(&packet.bytes);
            let id = (number % 0xffff) as u16 + 1;
            let id_at = start + packet.id_at;
            self.buffer[id_at..id_at + 2].copy_from_slice(&id.to_be_bytes());
            if let Pace::PerSecond { epoch, .. } = pace {
                let nanos = epoch.elapsed().as_nanos() as u64;
                let mut time = &mut self.buffer[id_at + 2..id_at + 2 + TIME_DIGITS];
                write!(time, "{nanos:016x}")?;
            }
        }
        let turn = (from / CHUNK_PACKETS) as usize % self.streams.len();
        self.streams[turn].write_all(&self.buffer)
    }
}

/// When a payload was sent, since the epoch.
pub(super) fn sent_at(payload: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(payload.get(..TIME_DIGITS)?).ok()?;
    u64::from_str_radix(digits, 16)
        .ok()
        .map(Duration::from_nanos)
}

fn encode(load: Load, spread: u64) -> Vec<Packet> {
    let messages = telemetry::messages(load.devices, load.payload_bytes);
    let encoded = messages.iter().enumerate().map(|(number, message)| {
        let (subject, payload) = message;
        let device = number as u64 % load.devices;
        let topic = format!("load/{}/{subject}", device % spread);
        let mut body = text(&topic);
        let id_in_body = body.len();
        body.extend([0, 0]);
        body.extend_from_slice(payload);
        let bytes = packet(0x32, &body);
        Packet {
            id_at: bytes.len() - body.len() + id_in_body,
            bytes,
        }
    });
    encoded.collect()
}

/// A connection with a clean session, whose answers a thread reads away.
fn connect(port: u16, number: usize) -> std::io::Result<TcpStream> {
    let stream = open(port, &format!("load-{number}"))?;
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    let mut read = vec![0; 64 * 1024];
    std::thread::spawn(move || while answers.read(&mut read).is_ok_and(|count| count > 0) {});
    Ok(stream)
}

/// A connection of MQTT 3.1.1, accepted, without keep-alive.
pub(super) fn open(port: u16, client_id: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
    body.extend(text(client_id));
    stream.write_all(&packet(0x10, &body))?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    match answer {
        [0x20, 2, 0, 0] => Ok(stream),
        _ => Err(std::io::Error::other(format!(
            "CONNACK expected: {answer:?}"
        ))),
    }
}

/// A text with its length before it.
pub(super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// A packet: its first byte, length and body.
pub(super) fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    let mut rest = body.len();
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        bytes.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}
