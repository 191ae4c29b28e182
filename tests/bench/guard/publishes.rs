//! The MQTT source, fed by a broker that does nothing but send publishes and count their PUBACKs.
//!
//! What would make the count vary is kept out: the source runs on the first thread, with everything
//! else on others, and the log commits when half its buffer is full, not by time.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::commit_log::{CommitLog, Options, Progress};
use edge_gateway::config::{Mqtt, SourceKind};
use edge_gateway::dead_letters::DeadLetters;
use edge_gateway::ingest::Ingest;
use edge_gateway::metrics::Metrics;
use edge_gateway::record::SourceName;
use edge_gateway::source::{SourceContext, mqtt};
use edge_gateway::state::GatewayState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cases::PATIENCE;
use crate::driver::{self, Teller};
use crate::error::BenchError;
use crate::telemetry;

const BYTES_MAX: u64 = 256 << 20;
/// The log commits at 512 KiB of a buffer of 1 MiB: some 2,200 publishes, and takes 4,400.
const IN_FLIGHT_MAX: u64 = 3500;
/// What is left at the end is committed after this, and not much sooner before.
const COMMIT_INTERVAL: Duration = Duration::from_secs(2);
const WRITTEN_TOGETHER: u64 = 64;
const PUBACK: u8 = 0x40;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;

/// Receives so many publishes.
pub(super) fn receive(dir: &Path, publishes: u64) -> Result<(), BenchError> {
    let failed = BenchError::io("listen as a broker");
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    let address = listener
        .local_addr()
        .map_err(BenchError::io("listen as a broker"))?;
    let stop = CancellationToken::new();
    let broker = broker(listener, publishes, stop.clone());
    let name = SourceName::new("city").expect("a valid name");
    let (log, progress) = open(dir)?;
    let metrics = Metrics::new();
    let context = SourceContext {
        ingest: Ingest::new(log.clone(), progress),
        dead_letters: DeadLetters::open(dir, "guard", &metrics)?,
        metrics: metrics.source(&name),
        recovered: GatewayState::default().source(&name),
        name,
        ready: watch::channel(false).0,
        stop,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::io("start a runtime"))?;
    let ended = runtime.block_on(mqtt::run(config(dir, address.port()), context));
    ended.map_err(|error| BenchError::Stuck(error.to_string()))?;
    log.close();
    let answered = broker.join().expect("the broker does not panic");
    answered.map_err(BenchError::io("be a broker"))
}

fn config(dir: &Path, port: u16) -> Mqtt {
    let text = format!(
        "[gateway]\nid = \"guard\"\ndata_dir = \"{}\"\n\
         [sources.city]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         subscriptions = [{{ filter = \"city/#\", qos = 1 }}]\n\
         receive_maximum = 4000\nkeep_alive = \"{} s\"\n\
         [kafka]\nbrokers = [\"127.0.0.1:1\"]\ntopic = \"telemetry\"\n",
        dir.display(),
        PATIENCE.as_secs(),
    );
    match driver::config(&text).sources.remove(0).kind {
        SourceKind::Mqtt(mqtt) => *mqtt,
        SourceKind::Serial(_) | SourceKind::Modbus(_) => unreachable!("its type is mqtt"),
    }
}

fn open(dir: &Path) -> Result<(CommitLog, watch::Receiver<Progress>), BenchError> {
    let (teller, progress) = Teller::new();
    let options = Options {
        commit_interval: COMMIT_INTERVAL,
        ..driver::options(&dir.join("log"), BYTES_MAX)
    };
    let state = GatewayState::default();
    let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(teller), state)?;
    Ok((opened.log, progress))
}

fn broker(
    listener: TcpListener,
    publishes: u64,
    stop: CancellationToken,
) -> JoinHandle<std::io::Result<()>> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        greet(&mut stream)?;
        let sent = send(&mut stream, publishes);
        stop.cancel();
        sent?;
        // DISCONNECT, and the end.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map(drop)
    })
}

/// CONNECT and SUBSCRIBE, and a yes to both.
fn greet(stream: &mut TcpStream) -> std::io::Result<()> {
    packet(stream)?;
    stream.write_all(&[0x20, 3, 0, 0, 0])?;
    let subscribe = packet(stream)?;
    stream.write_all(&[0x90, 4, subscribe[0], subscribe[1], 0, 1])
}

/// The body of a packet of less than 128 bytes.
fn packet(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; usize::from(head[1])];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Publishes, and waits for PUBACKs.
fn send(stream: &mut TcpStream, publishes: u64) -> std::io::Result<()> {
    let packets = encode();
    let mut acknowledged = 0;
    let (mut answer, mut identifier) = ([0; 2], [0; 2]);
    let mut sent = 0;
    while acknowledged < publishes {
        if sent < publishes && sent + WRITTEN_TOGETHER <= acknowledged + IN_FLIGHT_MAX {
            let mut some = Vec::new();
            for number in sent..sent + WRITTEN_TOGETHER {
                let (packet, id_at) = &packets[(number % packets.len() as u64) as usize];
                let start = some.len();
                some.extend_from_slice(packet);
                let id = (number % 0xffff) as u16 + 1;
                some[start + id_at..start + id_at + 2].copy_from_slice(&id.to_be_bytes());
            }
            stream.write_all(&some)?;
            sent += WRITTEN_TOGETHER;
            continue;
        }
        stream.read_exact(&mut answer)?;
        match answer {
            [PUBACK, rest] => {
                stream.read_exact(&mut identifier[..usize::from(rest)])?;
                acknowledged += 1;
            }
            [PINGREQ, 0] => stream.write_all(&[PINGRESP, 0])?,
            other => return Err(std::io::Error::other(format!("a PUBACK? {other:?}"))),
        }
    }
    Ok(())
}

/// Publishes of MQTT 5 at quality of service 1, and where their identifiers are.
fn encode() -> Vec<(Vec<u8>, usize)> {
    let messages = telemetry::messages(100, telemetry::PAYLOAD_BYTES);
    let encoded = messages.iter().map(|(subject, payload)| {
        let length = 2 + subject.len() + 2 + 1 + payload.len();
        // Two digits: all are of 128 to 16,383 bytes.
        let mut bytes = vec![0x32, (length % 128) as u8 | 0x80, (length / 128) as u8];
        bytes.extend((subject.len() as u16).to_be_bytes());
        bytes.extend_from_slice(subject.as_bytes());
        let id_at = bytes.len();
        // No properties.
        bytes.extend([0, 0, 0]);
        bytes.extend_from_slice(payload);
        (bytes, id_at)
    });
    encoded.collect()
}
