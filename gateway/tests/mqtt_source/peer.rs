//! A broker of a few lines: the test reads every packet of the client and writes every answer.

use edge_gateway::config::MqttProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::soon;

/// A packet of the client's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Connect,
    Subscribe,
    /// Of these filters.
    Unsubscribe(Vec<String>),
    Puback(u16),
    Pubrec(u16),
    Pubcomp(u16),
    Ping,
    Disconnect,
}

/// Waits for connections.
pub(crate) struct Broker {
    listener: TcpListener,
    protocol: MqttProtocol,
}

impl Broker {
    pub(crate) async fn new(protocol: MqttProtocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self { listener, protocol }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("bound").port()
    }

    /// The next connection, before its CONNECT.
    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = soon("a connection", self.listener.accept())
            .await
            .expect("accept");
        Peer {
            stream,
            protocol: self.protocol,
        }
    }

    /// The next connection, accepted and all subscriptions granted.
    pub(crate) async fn session(&self, session_present: bool) -> Peer {
        let mut peer = self.accept().await;
        assert_eq!(peer.sent().await, Sent::Connect);
        peer.accept(session_present).await;
        assert_eq!(peer.sent().await, Sent::Subscribe);
        peer.grant(2).await;
        peer
    }
}

fn filters(mut rest: &[u8]) -> Vec<String> {
    let mut filters = Vec::new();
    while let [high, low, tail @ ..] = rest {
        let (filter, behind) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        filters.push(String::from_utf8(filter.to_vec()).expect("UTF-8"));
        rest = behind;
    }
    filters
}

/// One connection.
pub(crate) struct Peer {
    stream: TcpStream,
    protocol: MqttProtocol,
}

impl Peer {
    /// The client's next packet, pings left out.
    pub(crate) async fn sent(&mut self) -> Sent {
        loop {
            match self.next().await.expect("the connection is open") {
                Sent::Ping => self.write(&[0xD0, 0]).await,
                packet => return packet,
            }
        }
    }

    /// The client closes the connection, and says nothing before.
    pub(crate) async fn closed(&mut self) {
        while let Some(packet) = self.next().await {
            assert_eq!(packet, Sent::Ping);
        }
    }

    async fn next(&mut self) -> Option<Sent> {
        soon("a packet", self.read_packet()).await
    }

    async fn read_packet(&mut self) -> Option<Sent> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        let id = || u16::from_be_bytes([body[0], body[1]]);
        Some(match first >> 4 {
            1 => Sent::Connect,
            4 => Sent::Puback(id()),
            5 => Sent::Pubrec(id()),
            7 => Sent::Pubcomp(id()),
            8 => Sent::Subscribe,
            10 => Sent::Unsubscribe(filters(&body[self.filters_at()..])),
            12 => Sent::Ping,
            14 => Sent::Disconnect,
            other => panic!("packet type {other}"),
        })
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let written = soon("room to write", self.stream.write_all(bytes)).await;
        written.expect("the connection is open");
    }

    /// Writes as much as the client takes; an error once it has closed the connection.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// CONNACK.
    pub(crate) async fn accept(&mut self, session_present: bool) {
        let present = u8::from(session_present);
        match self.protocol {
            MqttProtocol::V311 => self.write(&[0x20, 2, present, 0]).await,
            MqttProtocol::V5 => self.write(&[0x20, 3, present, 0, 0]).await,
        }
    }

    /// SUBACK for one filter, with this code.
    pub(crate) async fn grant(&mut self, code: u8) {
        match self.protocol {
            MqttProtocol::V311 => self.write(&[0x90, 3, 0, 1, code]).await,
            MqttProtocol::V5 => self.write(&[0x90, 4, 0, 1, 0, code]).await,
        }
    }

    /// Where the filters of an UNSUBSCRIBE begin: behind packet identifier and, in 5, properties.
    fn filters_at(&self) -> usize {
        match self.protocol {
            MqttProtocol::V311 => 2,
            MqttProtocol::V5 => 3,
        }
    }

    /// UNSUBACK for one filter.
    pub(crate) async fn unsubscribed(&mut self) {
        match self.protocol {
            MqttProtocol::V311 => self.write(&[0xB0, 2, 0, 2]).await,
            MqttProtocol::V5 => self.write(&[0xB0, 4, 0, 2, 0, 0]).await,
        }
    }

    /// PUBLISH.
    pub(crate) async fn publish(&mut self, qos: u8, id: u16, topic: &[u8], payload: &[u8]) {
        self.publish_with(qos << 1, id, topic, payload).await;
    }

    /// PUBLISH with DUP.
    pub(crate) async fn publish_again(&mut self, qos: u8, id: u16, topic: &[u8], payload: &[u8]) {
        self.publish_with(qos << 1 | 0b1000, id, topic, payload)
            .await;
    }

    async fn publish_with(&mut self, flags: u8, id: u16, topic: &[u8], payload: &[u8]) {
        let mut body = u16::try_from(topic.len())
            .expect("short")
            .to_be_bytes()
            .to_vec();
        body.extend_from_slice(topic);
        if flags & 0b110 != 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        if self.protocol == MqttProtocol::V5 {
            body.push(0);
        }
        body.extend_from_slice(payload);
        let mut packet = vec![0x30 | flags];
        let mut length = body.len();
        while length >= 128 {
            packet.push((length % 128) as u8 | 0x80);
            length /= 128;
        }
        packet.push(length as u8);
        packet.extend_from_slice(&body);
        self.write(&packet).await;
    }

    /// PUBREL. The client answers at once, so that what it sends before the answer is all that it
    /// had to say until then.
    pub(crate) async fn release(&mut self, id: u16) {
        let [high, low] = id.to_be_bytes();
        self.write(&[0x62, 2, high, low]).await;
    }

    /// The client has nothing to say.
    pub(crate) async fn is_quiet(&mut self) {
        self.release(u16::MAX).await;
        assert_eq!(self.sent().await, Sent::Pubcomp(u16::MAX));
    }
}
