//! MQTT 5 and 3.1.1 on the wire, as far as a publisher needs them: one form for both.
//!
//! The packets are encoded and decoded by rumqttc's codecs. Its event loop is not used: it writes
//! and flushes every publish on its own, and does not keep the order of what it sends again (see
//! [`super::window`]).

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{Error as V311Error, v4};
use rumqttc::v5::mqttbytes::{Error as V5Error, v5};

/// Largest packet taken from the broker; a publisher is sent acknowledgements only.
const PACKET_BYTES_MAX: u32 = 64 * 1024;
/// How long a broker keeps the session of a publisher that is away (MQTT 5).
const SESSION_EXPIRY_SECONDS: u32 = 24 * 3600;

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// MQTT 5.
    #[value(name = "5")]
    V5,
    /// MQTT 3.1.1.
    #[value(name = "3.1.1")]
    V311,
}

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Qos {
    /// Not acknowledged.
    #[value(name = "0")]
    AtMostOnce,
    /// Acknowledged by PUBACK.
    #[value(name = "1")]
    AtLeastOnce,
    /// Acknowledged by PUBREC and PUBCOMP.
    #[value(name = "2")]
    ExactlyOnce,
}

/// How a client introduces itself.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Client id, which names the session.
    pub client_id: String,
    /// Asks the broker to forget the session it has.
    pub clean: bool,
    /// The broker drops the connection if it hears nothing for one and a half times as long.
    pub keep_alive_s: u16,
    /// User name and password.
    pub login: Option<(String, String)>,
}

/// What the broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// CONNACK that accepts.
    Welcome {
        /// The broker knows the session.
        session_present: bool,
        /// Most publishes that may be unacknowledged.
        receive_maximum: u16,
    },
    /// CONNACK that refuses.
    Refused {
        /// The broker's reason.
        reason: String,
        /// Trying again cannot help.
        permanent: bool,
    },
    /// PUBACK.
    PubAck {
        /// Packet id.
        packet_id: u16,
        /// The broker refused the message.
        refused: bool,
    },
    /// PUBREC.
    PubRec {
        /// Packet id.
        packet_id: u16,
        /// The broker refused the message.
        refused: bool,
    },
    /// PUBCOMP.
    PubComp {
        /// Packet id.
        packet_id: u16,
    },
    /// PINGRESP.
    Pong,
    /// DISCONNECT.
    Goodbye {
        /// The broker's reason.
        reason: String,
    },
    /// A packet that no broker sends to a publisher.
    Unexpected,
}

/// Bytes that are not MQTT, or a packet that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// By the rules of MQTT 3.1.1.
    #[error("MQTT 3.1.1 packet: {0}")]
    V311(#[from] V311Error),
    /// By the rules of MQTT 5.
    #[error("MQTT 5 packet: {0}")]
    V5(#[from] V5Error),
}

/// The PUBLISH packets of one device; only id, payload and flag change between them.
#[derive(Debug)]
pub enum Publish {
    /// MQTT 3.1.1.
    V311(v4::Publish),
    /// MQTT 5.
    V5(v5::Publish),
}

impl Publish {
    /// Publishes of `topic` at `qos`.
    #[must_use]
    pub fn new(protocol: Protocol, topic: String, qos: Qos) -> Self {
        use rumqttc::QoS as V311;
        use rumqttc::v5::mqttbytes::QoS as V5;
        let (v311, v5) = match qos {
            Qos::AtMostOnce => (V311::AtMostOnce, V5::AtMostOnce),
            Qos::AtLeastOnce => (V311::AtLeastOnce, V5::AtLeastOnce),
            Qos::ExactlyOnce => (V311::ExactlyOnce, V5::ExactlyOnce),
        };
        match protocol {
            Protocol::V311 => Self::V311(v4::Publish::from_bytes(topic, v311, Bytes::new())),
            Protocol::V5 => Self::V5(v5::Publish::new(topic, v5, Bytes::new(), None)),
        }
    }

    /// Appends one PUBLISH; `packet_id` is 0 at `QoS` 0 and nowhere else.
    ///
    /// # Errors
    /// [`WireError`] if the packet is larger than MQTT allows.
    pub fn write(
        &mut self,
        packet_id: u16,
        again: bool,
        payload: Bytes,
        out: &mut BytesMut,
    ) -> Result<(), WireError> {
        match self {
            Self::V311(publish) => {
                publish.pkid = packet_id;
                publish.dup = again;
                publish.payload = payload;
                publish.write(out)?;
                publish.payload = Bytes::new();
            }
            Self::V5(publish) => {
                publish.pkid = packet_id;
                publish.dup = again;
                publish.payload = payload;
                publish.write(out)?;
                publish.payload = Bytes::new();
            }
        }
        Ok(())
    }
}

impl Protocol {
    /// Appends a CONNECT.
    ///
    /// # Errors
    /// [`WireError`] if client id or login are longer than MQTT allows.
    pub fn write_connect(self, hello: &Hello, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Self::V311 => {
                let mut connect = v4::Connect::new(hello.client_id.clone());
                connect.keep_alive = hello.keep_alive_s;
                connect.clean_session = hello.clean;
                if let Some((username, password)) = &hello.login {
                    connect.set_login(username, password);
                }
                connect.write(out)?;
            }
            Self::V5 => {
                let mut properties = v5::ConnectProperties::new();
                properties.session_expiry_interval = Some(SESSION_EXPIRY_SECONDS);
                let connect = v5::Connect {
                    keep_alive: hello.keep_alive_s,
                    client_id: hello.client_id.clone(),
                    clean_start: hello.clean,
                    properties: Some(properties),
                };
                let login = hello.login.as_ref();
                let login = login.map(|(username, password)| v5::Login::new(username, password));
                connect.write(&None, &login, out)?;
            }
        }
        Ok(())
    }

    /// Appends a PUBREL.
    ///
    /// # Errors
    /// None in practice; the codec's signature allows one.
    pub fn write_release(self, packet_id: u16, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Self::V311 => v4::PubRel::new(packet_id).write(out)?,
            Self::V5 => v5::PubRel::new(packet_id, None).write(out)?,
        };
        Ok(())
    }

    /// Appends a PINGREQ.
    ///
    /// # Errors
    /// None in practice; the codec's signature allows one.
    pub fn write_ping(self, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Self::V311 => v4::PingReq.write(out)?,
            Self::V5 => v5::PingReq::write(out)?,
        };
        Ok(())
    }

    /// Appends a DISCONNECT that, in MQTT 5, ends the session too.
    ///
    /// # Errors
    /// None in practice; the codec's signature allows one.
    pub fn write_goodbye(self, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Self::V311 => v4::Disconnect.write(out)?,
            Self::V5 => {
                let mut goodbye =
                    v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection);
                goodbye.properties = Some(v5::DisconnectProperties {
                    session_expiry_interval: Some(0),
                    reason_string: None,
                    user_properties: Vec::new(),
                    server_reference: None,
                });
                goodbye.write(out)?
            }
        };
        Ok(())
    }

    /// Takes the next packet out of `input`; `None` if it is not all there yet.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not MQTT; the connection is of no more use.
    pub fn read(self, input: &mut BytesMut) -> Result<Option<Answer>, WireError> {
        match self {
            Self::V311 => match v4::Packet::read(input, PACKET_BYTES_MAX as usize) {
                Ok(packet) => Ok(Some(v311_answer(packet))),
                Err(V311Error::InsufficientBytes(_)) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::V5 => match v5::Packet::read(input, Some(PACKET_BYTES_MAX)) {
                Ok(packet) => Ok(Some(v5_answer(packet))),
                Err(V5Error::InsufficientBytes(_)) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }
}

fn v311_answer(packet: v4::Packet) -> Answer {
    use v4::Packet;
    match packet {
        Packet::ConnAck(connack) => v311_welcome(&connack),
        Packet::PubAck(puback) => Answer::PubAck {
            packet_id: puback.pkid,
            refused: false,
        },
        Packet::PubRec(pubrec) => Answer::PubRec {
            packet_id: pubrec.pkid,
            refused: false,
        },
        Packet::PubComp(pubcomp) => Answer::PubComp {
            packet_id: pubcomp.pkid,
        },
        Packet::PingResp => Answer::Pong,
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::PubRel(_)
        | Packet::Subscribe(_)
        | Packet::SubAck(_)
        | Packet::Unsubscribe(_)
        | Packet::UnsubAck(_)
        | Packet::PingReq
        | Packet::Disconnect => Answer::Unexpected,
    }
}

fn v311_welcome(connack: &v4::ConnAck) -> Answer {
    use v4::ConnectReturnCode as Code;
    let permanent = match connack.code {
        Code::Success => {
            let session_present = connack.session_present;
            return Answer::Welcome {
                session_present,
                receive_maximum: u16::MAX,
            };
        }
        Code::ServiceUnavailable => false,
        Code::RefusedProtocolVersion
        | Code::BadClientId
        | Code::BadUserNamePassword
        | Code::NotAuthorized => true,
    };
    Answer::Refused {
        reason: format!("{:?}", connack.code),
        permanent,
    }
}

fn v5_answer(packet: v5::Packet) -> Answer {
    use v5::Packet;
    match packet {
        Packet::ConnAck(connack) => v5_welcome(&connack),
        Packet::PubAck(puback) => {
            use v5::PubAckReason as Reason;
            let refused = !matches!(
                puback.reason,
                Reason::Success | Reason::NoMatchingSubscribers
            );
            Answer::PubAck {
                packet_id: puback.pkid,
                refused,
            }
        }
        Packet::PubRec(pubrec) => {
            use v5::PubRecReason as Reason;
            let refused = !matches!(
                pubrec.reason,
                Reason::Success | Reason::NoMatchingSubscribers
            );
            Answer::PubRec {
                packet_id: pubrec.pkid,
                refused,
            }
        }
        Packet::PubComp(pubcomp) => Answer::PubComp {
            packet_id: pubcomp.pkid,
        },
        Packet::PingResp(_) => Answer::Pong,
        Packet::Disconnect(goodbye) => Answer::Goodbye {
            reason: format!("{:?}", goodbye.reason_code),
        },
        Packet::Auth(_)
        | Packet::Connect(..)
        | Packet::Publish(_)
        | Packet::PingReq(_)
        | Packet::Subscribe(_)
        | Packet::SubAck(_)
        | Packet::PubRel(_)
        | Packet::Unsubscribe(_)
        | Packet::UnsubAck(_) => Answer::Unexpected,
    }
}

fn v5_welcome(connack: &v5::ConnAck) -> Answer {
    use v5::ConnectReturnCode as Code;
    let permanent = match connack.code {
        Code::Success => {
            let properties = connack.properties.as_ref();
            let announced = properties.and_then(|properties| properties.receive_max);
            return Answer::Welcome {
                session_present: connack.session_present,
                receive_maximum: announced.unwrap_or(u16::MAX),
            };
        }
        Code::ServiceUnavailable
        | Code::UnspecifiedError
        | Code::ImplementationSpecificError
        | Code::ServerUnavailable
        | Code::ServerBusy
        | Code::QuotaExceeded
        | Code::ConnectionRateExceeded => false,
        Code::RefusedProtocolVersion
        | Code::BadClientId
        | Code::MalformedPacket
        | Code::ProtocolError
        | Code::UnsupportedProtocolVersion
        | Code::ClientIdentifierNotValid
        | Code::BadUserNamePassword
        | Code::NotAuthorized
        | Code::Banned
        | Code::BadAuthenticationMethod
        | Code::TopicNameInvalid
        | Code::PacketTooLarge
        | Code::PayloadFormatInvalid
        | Code::RetainNotSupported
        | Code::QoSNotSupported
        | Code::UseAnotherServer
        | Code::ServerMoved => true,
    };
    Answer::Refused {
        reason: format!("{:?}", connack.code),
        permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_carries_its_topic_payload_id_and_flag() {
        let mut out = BytesMut::new();
        let mut publish = Publish::new(Protocol::V311, "a/b".to_owned(), Qos::AtLeastOnce);
        publish
            .write(7, true, Bytes::from_static(b"hi"), &mut out)
            .unwrap();
        assert_eq!(&out[..], b"\x3a\x09\x00\x03a/b\x00\x07hi");
        out.clear();
        let mut publish = Publish::new(Protocol::V5, "a/b".to_owned(), Qos::AtMostOnce);
        publish
            .write(0, false, Bytes::from_static(b"hi"), &mut out)
            .unwrap();
        assert_eq!(&out[..], b"\x30\x08\x00\x03a/b\x00hi");
    }

    #[test]
    fn answers_are_read_one_by_one_as_they_become_whole() {
        let mut input = BytesMut::from(&b"\x20\x02\x01\x00\x40\x02\x00\x05\x70\x02\x00"[..]);
        let mut read = || Protocol::V311.read(&mut input).unwrap();
        assert_eq!(
            read(),
            Some(Answer::Welcome {
                session_present: true,
                receive_maximum: u16::MAX
            })
        );
        assert_eq!(
            read(),
            Some(Answer::PubAck {
                packet_id: 5,
                refused: false
            })
        );
        assert_eq!(read(), None);
        input.extend_from_slice(b"\x06");
        assert_eq!(
            Protocol::V311.read(&mut input).unwrap(),
            Some(Answer::PubComp { packet_id: 6 })
        );
    }

    #[test]
    fn mqtt_5_says_its_receive_maximum_and_why_it_refuses_a_message() {
        let mut input = BytesMut::from(&b"\x20\x06\x00\x00\x03\x21\x00\x14"[..]);
        assert_eq!(
            Protocol::V5.read(&mut input).unwrap(),
            Some(Answer::Welcome {
                session_present: false,
                receive_maximum: 20
            })
        );
        let mut input = BytesMut::from(&b"\x40\x04\x00\x05\x97\x00"[..]);
        assert_eq!(
            Protocol::V5.read(&mut input).unwrap(),
            Some(Answer::PubAck {
                packet_id: 5,
                refused: true
            })
        );
    }

    #[test]
    fn bytes_that_are_not_mqtt_are_an_error() {
        for protocol in [Protocol::V5, Protocol::V311] {
            let mut input = BytesMut::from(&[0xFF_u8; 16][..]);
            assert!(protocol.read(&mut input).is_err());
        }
    }
}
