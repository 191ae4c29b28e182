//! What the session knows of MQTT: the few things that differ in nothing but their encoding
//! between 3.1.1 and 5.
//!
//! The two adapters ([`v311`](super::v311), [`v5`](super::v5)) turn rumqttc's packets into
//! [`Control`]. A PUBLISH is not decoded by them but by [`publish`](super::publish): rumqttc ends
//! the connection at a topic that is not UTF-8 (3.1.1) or a malformed property (5), upon which the
//! broker sends the same publish again, for ever.

use bytes::BytesMut;

use super::acks::{Ack, Durable};
use super::{v5, v311};
use crate::config::{Mqtt, MqttProtocol};

/// A packet from the broker, other than a PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// CONNACK with success.
    Accepted {
        /// The broker had kept our session.
        session_present: bool,
        /// The broker insists on this keep-alive, in seconds.
        keep_alive_s: Option<u16>,
    },
    /// CONNACK with anything else.
    Refused {
        /// The broker's return code.
        reason: String,
    },
    /// SUBACK: per filter the granted quality of service, or why it was refused.
    Subscribed(Vec<Result<u8, String>>),
    /// UNSUBACK.
    Unsubscribed {
        /// Why the broker keeps one of the filters (5 only).
        refused: Option<String>,
    },
    /// PUBREL: the broker has our PUBREC and forgets the publish.
    Released {
        /// Of the publish.
        packet_id: u16,
    },
    /// PINGRESP.
    Pong,
    /// DISCONNECT (5 only).
    Disconnected {
        /// The broker's reason code.
        reason: String,
    },
}

/// The broker sent what the protocol does not allow.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// An MQTT 3.1.1 packet that does not decode.
    #[error("malformed MQTT 3.1.1 packet")]
    V311(#[from] rumqttc::mqttbytes::Error),
    /// An MQTT 5 packet that does not decode.
    #[error("malformed MQTT 5 packet")]
    V5(#[from] rumqttc::v5::mqttbytes::Error),
    /// A packet that a client never gets.
    #[error("unexpected {packet} packet")]
    Unexpected {
        /// Its name.
        packet: &'static str,
    },
    /// A PUBLISH or a fixed header that cannot be read.
    #[error("malformed {what}")]
    Malformed {
        /// Which part of it.
        what: &'static str,
    },
    /// A control packet beyond any sensible size.
    #[error("control packet of {bytes} bytes")]
    TooLong {
        /// Its size.
        bytes: u64,
    },
}

/// A packet of ours could not be encoded: the configuration holds a string too long for MQTT.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode {packet}: {detail}")]
pub(super) struct EncodeError {
    /// Name of the packet.
    pub(super) packet: &'static str,
    /// What rumqttc said of it.
    pub(super) detail: String,
}

/// One version of the protocol: what to write, and how to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wire(pub(super) MqttProtocol);

impl Wire {
    /// Writes CONNECT: persistent session, no will.
    pub(super) fn connect(
        self,
        config: &Mqtt,
        password: Option<&str>,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        match self.0 {
            MqttProtocol::V311 => v311::connect(config, password, out),
            MqttProtocol::V5 => v5::connect(config, password, out),
        }
    }

    /// Writes one SUBSCRIBE for all filters.
    pub(super) fn subscribe(self, config: &Mqtt, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self.0 {
            MqttProtocol::V311 => v311::subscribe(config, out),
            MqttProtocol::V5 => v5::subscribe(config, out),
        }
    }

    /// Writes one UNSUBSCRIBE for all of `filters`.
    pub(super) fn unsubscribe(
        self,
        filters: &[String],
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        match self.0 {
            MqttProtocol::V311 => v311::unsubscribe(filters, out),
            MqttProtocol::V5 => v5::unsubscribe(filters, out),
        }
    }

    /// Writes PUBACK or PUBREC. The proof is what makes it impossible to send one early (G1).
    pub(super) fn acknowledge(self, ack: Ack, _proof: Durable, out: &mut BytesMut) {
        match ack {
            Ack::Puback { packet_id } => short(PUBACK, packet_id, out),
            Ack::Pubrec { packet_id } => short(PUBREC, packet_id, out),
        }
    }

    /// Writes PUBCOMP.
    pub(super) fn complete(self, packet_id: u16, out: &mut BytesMut) {
        short(PUBCOMP, packet_id, out);
    }

    /// Writes PINGREQ.
    pub(super) fn ping(self, out: &mut BytesMut) {
        out.extend_from_slice(&[PINGREQ, 0]);
    }

    /// Writes DISCONNECT, which leaves the session and its expiry as they are.
    pub(super) fn disconnect(self, out: &mut BytesMut) {
        out.extend_from_slice(&[DISCONNECT, 0]);
    }

    /// Reads a whole packet that is no PUBLISH.
    pub(super) fn control(self, packet: &[u8]) -> Result<Control, WireError> {
        match self.0 {
            MqttProtocol::V311 => v311::control(packet),
            MqttProtocol::V5 => v5::control(packet),
        }
    }
}

// First bytes of the packets that are the same two or four bytes in both versions (MQTT 5 lets the
// reason code "success" and empty properties be left out).
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;
const PINGREQ: u8 = 0xC0;
const DISCONNECT: u8 = 0xE0;

fn short(first_byte: u8, packet_id: u16, out: &mut BytesMut) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[first_byte, 2, high, low]);
}

/// Packet identifier of the one SUBSCRIBE of a connection.
pub(super) const SUBSCRIBE_PACKET_ID: u16 = 1;
/// Packet identifier of its one UNSUBSCRIBE.
pub(super) const UNSUBSCRIBE_PACKET_ID: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_packet_makes_a_decoder_panic(
            first_byte in prop_oneof![
                Just(0x20), Just(0x90), Just(0x62), Just(0xD0), Just(0xE0), any::<u8>()],
            body in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..45], 0..40),
        ) {
            let length = u8::try_from(body.len()).unwrap();
            let packet = [&[first_byte, length][..], &body].concat();
            for protocol in [MqttProtocol::V311, MqttProtocol::V5] {
                let _ = Wire(protocol).control(&packet);
            }
        }
    }

    #[test]
    fn packets_without_content_read_back_as_themselves_in_both_versions() {
        let mut out = BytesMut::new();
        for wire in [Wire(MqttProtocol::V311), Wire(MqttProtocol::V5)] {
            wire.complete(0x1234, &mut out);
            wire.ping(&mut out);
            wire.disconnect(&mut out);
        }
        use rumqttc::mqttbytes::v4;
        assert_eq!(
            v4::Packet::read(&mut out, 100).unwrap(),
            v4::Packet::PubComp(v4::PubComp::new(0x1234))
        );
        assert_eq!(
            v4::Packet::read(&mut out, 100).unwrap(),
            v4::Packet::PingReq
        );
        assert_eq!(
            v4::Packet::read(&mut out, 100).unwrap(),
            v4::Packet::Disconnect
        );
        use rumqttc::v5::mqttbytes::v5;
        assert_eq!(
            v5::Packet::read(&mut out, None).unwrap(),
            v5::Packet::PubComp(v5::PubComp::new(0x1234, None))
        );
        assert_eq!(
            v5::Packet::read(&mut out, None).unwrap(),
            v5::Packet::PingReq(v5::PingReq)
        );
        assert_eq!(&out[..], [0xE0, 0]);
    }
}
