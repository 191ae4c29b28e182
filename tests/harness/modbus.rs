//! Modbus units that do as a test says: on a serial line (RTU) or behind a TCP port.
//!
//! Made by hand, so that what no proper unit does can be scripted: silence, a wrong checksum, the
//! answer of another unit, a connection that is hung up. The gateway's own tests include this file.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// What a unit is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The unit asked.
    pub unit: u8,
    /// Function code: 1 to 4.
    pub function: u8,
    /// First address.
    pub address: u16,
    /// How many bits or words.
    pub count: u16,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Words.
    Words(Vec<u16>),
    /// Packed bits, as on the wire.
    Bits(Vec<u8>),
    /// An exception.
    Exception(u8),
    /// Any protocol data unit, in a whole frame.
    Data(Vec<u8>),
    /// Nothing.
    Silence,
    /// Words, under another unit's address.
    AsUnit(u8, Vec<u16>),
    /// Words, in a frame whose last byte is wrong.
    Damaged(Vec<u16>),
    /// Words, and then the connection is closed (TCP alone).
    AndHangUp(Vec<u16>),
    /// No word, and the connection is closed (TCP alone).
    HangUp,
}

/// A script: called with each request, in order.
pub type Script = Box<dyn FnMut(Request) -> Reply + Send>;

/// Serves the units of a line, whose far end is `line`, on a thread, for as long as the process
/// lives.
pub fn serve_rtu(mut line: File, mut script: Script) {
    std::thread::spawn(move || {
        let mut bytes = [0; 8];
        while line.read_exact(&mut bytes).is_ok() {
            let request = request(&bytes[..6]);
            let frame = answer(request, &script(request)).map(|mut frame| {
                let crc = crc(&frame.bytes);
                frame.bytes.extend(crc.to_le_bytes());
                frame.damaged()
            });
            if frame.is_some_and(|bytes| line.write_all(&bytes).is_err()) {
                return;
            }
        }
    });
}

/// Serves units behind a TCP port of this machine, any number of connections.
///
/// # Panics
/// If there is no port.
#[must_use]
pub fn serve_tcp(script: Script) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let script = Arc::new(Mutex::new(script));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || connection(stream, &script));
        }
    });
    address
}

fn connection(mut stream: impl Read + Write, script: &Mutex<Script>) {
    let mut bytes = [0; 12];
    while stream.read_exact(&mut bytes).is_ok() {
        let request = request(&bytes[6..]);
        let reply = script.lock().unwrap_or_else(PoisonError::into_inner)(request);
        if reply == Reply::HangUp {
            return;
        }
        if let Some(frame) = answer(request, &reply) {
            let mut adu = bytes[..4].to_vec();
            adu.extend((frame.bytes.len() as u16).to_be_bytes());
            adu.extend(frame.damaged());
            if stream.write_all(&adu).is_err() {
                return;
            }
        }
        if matches!(reply, Reply::AndHangUp(_)) {
            return;
        }
    }
}

fn request(bytes: &[u8]) -> Request {
    Request {
        unit: bytes[0],
        function: bytes[1],
        address: u16::from_be_bytes([bytes[2], bytes[3]]),
        count: u16::from_be_bytes([bytes[4], bytes[5]]),
    }
}

struct Frame {
    bytes: Vec<u8>,
    damage: bool,
}

impl Frame {
    fn damaged(mut self) -> Vec<u8> {
        if let (true, Some(last)) = (self.damage, self.bytes.last_mut()) {
            *last ^= 0xff;
        }
        self.bytes
    }
}

/// Unit address and protocol data unit.
fn answer(request: Request, reply: &Reply) -> Option<Frame> {
    let (unit, content, damage) = match reply {
        Reply::Words(words) | Reply::AndHangUp(words) => (request.unit, of(words), false),
        Reply::Damaged(words) => (request.unit, of(words), true),
        Reply::AsUnit(unit, words) => (*unit, of(words), false),
        Reply::Bits(bits) => (request.unit, bits.clone(), false),
        Reply::Exception(code) => {
            let bytes = vec![request.unit, request.function | 0x80, *code];
            return Some(Frame {
                bytes,
                damage: false,
            });
        }
        Reply::Data(data) => {
            let bytes = [&[request.unit], &data[..]].concat();
            return Some(Frame {
                bytes,
                damage: false,
            });
        }
        Reply::Silence | Reply::HangUp => return None,
    };
    let mut bytes = vec![unit, request.function, content.len() as u8];
    bytes.extend(content);
    Some(Frame { bytes, damage })
}

fn of(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// CRC-16/MODBUS.
#[must_use]
pub fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            let shifted = crc >> 1;
            if crc & 1 == 1 {
                shifted ^ 0xa001
            } else {
                shifted
            }
        })
    })
}
