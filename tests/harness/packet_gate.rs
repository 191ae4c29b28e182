//! A TCP proxy between an MQTT client and its broker that can withhold one kind of packet, so that a
//! test can act at an exact instant of a handshake.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A packet of the `QoS` 2 handshake, and with it the way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Broker → client.
    Pubrel,
    /// Client → broker.
    Pubcomp,
}

impl Held {
    const fn packet_type(self) -> u8 {
        match self {
            Self::Pubrel => 6,
            Self::Pubcomp => 7,
        }
    }
}

/// The proxy. It accepts connections until the process ends.
#[derive(Debug)]
pub struct PacketGate {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    held: Held,
    closed: AtomicBool,
    count: AtomicUsize,
}

impl PacketGate {
    /// A gate before the broker on `broker_port`, closed to packets of kind `held`.
    ///
    /// # Panics
    /// If there is no port to listen on.
    #[must_use]
    pub fn before(broker_port: u16, held: Held) -> Self {
        let port = crate::ports::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port was free");
        let state = Arc::new(State {
            held,
            closed: AtomicBool::new(true),
            count: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A broker that is down refuses; the client finds its connection closed.
                if let Ok(broker) = TcpStream::connect(("127.0.0.1", broker_port)) {
                    join(client, broker, &shared);
                }
            }
        });
        Self { port, state }
    }

    /// TCP port of the gate.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `mqtt://…` of the gate.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// How many packets have been withheld. They are gone, as in a connection that broke.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.count.load(Ordering::SeqCst)
    }

    /// Lets everything pass from now on.
    pub fn open(&self) {
        self.state.closed.store(false, Ordering::SeqCst);
    }
}

fn join(client: TcpStream, broker: TcpStream, state: &Arc<State>) {
    let (Ok(client_2), Ok(broker_2)) = (client.try_clone(), broker.try_clone()) else {
        return;
    };
    let (up, down) = (Arc::clone(state), Arc::clone(state));
    std::thread::spawn(move || pass(client, broker, &up, Held::Pubcomp));
    std::thread::spawn(move || pass(broker_2, client_2, &down, Held::Pubrel));
}

/// Passes packets one way until either end closes; `candidate` is what may be held on this way.
fn pass(mut from: TcpStream, mut to: TcpStream, state: &State, candidate: Held) {
    while let Ok(packet) = read_packet(&mut from) {
        let chosen = candidate == state.held && packet[0] >> 4 == state.held.packet_type();
        if chosen && state.closed.load(Ordering::SeqCst) {
            state.count.fetch_add(1, Ordering::SeqCst);
        } else if to.write_all(&packet).is_err() {
            break;
        }
    }
    // Either end may be closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn read_packet(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 1];
    from.read_exact(&mut packet)?;
    let mut length = 0_usize;
    for shift in [0, 7, 14, 21] {
        let mut digit = [0];
        from.read_exact(&mut digit)?;
        packet.push(digit[0]);
        length |= usize::from(digit[0] & 0x7f) << shift;
        if digit[0] & 0x80 == 0 {
            break;
        }
    }
    let head = packet.len();
    packet.resize(head + length, 0);
    from.read_exact(&mut packet[head..])?;
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_cut_at_their_lengths() {
        let mut bytes = vec![0x32, 0x81, 0x01];
        bytes.extend([7; 129]);
        bytes.extend([0x62, 2, 0, 9]);
        let mut from = bytes.as_slice();
        assert_eq!(read_packet(&mut from).unwrap().len(), 132);
        assert_eq!(read_packet(&mut from).unwrap(), [0x62, 2, 0, 9]);
        assert!(read_packet(&mut from).is_err(), "nothing is left");
    }
}
