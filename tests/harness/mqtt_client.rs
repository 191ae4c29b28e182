//! An MQTT 3.1.1 publisher of the fewest possible parts, for payloads that no sensor sends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// A connected publisher. Dropping it closes the connection.
#[derive(Debug)]
pub struct MqttClient {
    stream: TcpStream,
    packet_id: u16,
}

impl MqttClient {
    /// Connects to 127.0.0.1 with a clean session.
    ///
    /// # Panics
    /// If the broker does not accept.
    #[must_use]
    pub fn connect(port: u16, client_id: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a broker listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("not zero");
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
        push_text(&mut body, client_id.as_bytes());
        stream
            .write_all(&packet(0x10, &body))
            .expect("the broker reads");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("a CONNACK");
        assert_eq!(answer, [0x20, 2, 0, 0], "CONNACK");
        Self {
            stream,
            packet_id: 0,
        }
    }

    /// Publishes at `QoS` 1; returns with the PUBACK.
    ///
    /// # Panics
    /// If none comes.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.packet_id = self.packet_id % 0xfffe + 1;
        let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
        push_text(&mut body, topic.as_bytes());
        body.extend(self.packet_id.to_be_bytes());
        body.extend(payload);
        self.stream
            .write_all(&packet(0x32, &body))
            .expect("the broker reads");
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer).expect("a PUBACK");
        let [high, low] = self.packet_id.to_be_bytes();
        assert_eq!(answer, [0x40, 2, high, low], "PUBACK");
    }
}

fn push_text(body: &mut Vec<u8>, text: &[u8]) {
    let length = u16::try_from(text.len()).expect("a short text");
    body.extend(length.to_be_bytes());
    body.extend(text);
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    let mut rest = body.len();
    loop {
        let digit = u8::try_from(rest % 128).expect("below 128");
        rest /= 128;
        bytes.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}
