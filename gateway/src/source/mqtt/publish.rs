//! A PUBLISH packet, read where it lies.
//!
//! Topic and payload stay slices of the read buffer: from there they are copied once, into the
//! log's batch. Nothing in here makes a connection end that could be helped: a topic that is not
//! UTF-8 and properties that make no sense are not this reader's business.

use super::framing::Frame;
use super::packet::WireError;
use crate::config::MqttProtocol;

/// A PUBLISH from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    /// Quality of service, 0 to 2.
    pub(super) qos: u8,
    /// Delivered again.
    pub(super) dup: bool,
    /// 0 at quality of service 0, never 0 above.
    pub(super) packet_id: u16,
    /// As received: not necessarily UTF-8; empty if the broker used a topic alias, which we never
    /// allowed.
    pub(super) topic: &'a [u8],
    /// The payload, or its head if the packet was over the framer's limit.
    pub(super) payload: &'a [u8],
    /// Size of the whole payload.
    pub(super) payload_bytes: u64,
}

impl<'a> Publish<'a> {
    /// Reads the content of a frame whose type is PUBLISH.
    ///
    /// # Errors
    /// [`WireError::Malformed`] if not even topic and packet identifier can be told: it cannot be
    /// acknowledged.
    pub(super) fn read(frame: &Frame<'a>, protocol: MqttProtocol) -> Result<Self, WireError> {
        let mut rest = frame.body;
        let qos = (frame.first_byte >> 1) & 0b11;
        if qos == 3 {
            return Err(malformed("PUBLISH: quality of service 3"));
        }
        let topic_bytes = take_u16(&mut rest, "PUBLISH topic")?;
        let topic = take(&mut rest, usize::from(topic_bytes), "PUBLISH topic")?;
        let packet_id = match qos {
            0 => 0,
            _ => take_u16(&mut rest, "PUBLISH packet identifier")?,
        };
        if qos > 0 && packet_id == 0 {
            return Err(malformed("PUBLISH: packet identifier 0"));
        }
        if protocol == MqttProtocol::V5 {
            skip_properties(&mut rest, frame)?;
        }
        let missing = frame.body_bytes - frame.body.len() as u64;
        Ok(Self {
            qos,
            dup: frame.first_byte & 0b1000 != 0,
            packet_id,
            topic,
            payload: rest,
            payload_bytes: rest.len() as u64 + missing,
        })
    }
}

/// Steps over the properties. If the packet was cut off within them, nothing is left of the
/// payload's head.
fn skip_properties(rest: &mut &[u8], frame: &Frame<'_>) -> Result<(), WireError> {
    let mut bytes = 0;
    for shift in [0, 7, 14, 21] {
        let byte = take(rest, 1, "PUBLISH property length")?[0];
        bytes |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            let is_whole = frame.body.len() as u64 == frame.body_bytes;
            let bytes = if is_whole {
                bytes
            } else {
                bytes.min(rest.len())
            };
            take(rest, bytes, "PUBLISH properties")?;
            return Ok(());
        }
    }
    Err(malformed("PUBLISH property length"))
}

fn take_u16(rest: &mut &[u8], what: &'static str) -> Result<u16, WireError> {
    let bytes = take(rest, 2, what)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn take<'a>(rest: &mut &'a [u8], count: usize, what: &'static str) -> Result<&'a [u8], WireError> {
    let (taken, left) = rest.split_at_checked(count).ok_or(malformed(what))?;
    *rest = left;
    Ok(taken)
}

fn malformed(what: &'static str) -> WireError {
    WireError::Malformed { what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn frame(packet: &[u8]) -> Frame<'_> {
        let header = 1 + packet[1..].iter().position(|b| b & 0x80 == 0).unwrap() + 1;
        Frame {
            first_byte: packet[0],
            packet,
            body: &packet[header..],
            body_bytes: (packet.len() - header) as u64,
        }
    }

    fn written(version: MqttProtocol, topic: &str, qos: u8, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        match version {
            MqttProtocol::V311 => {
                use rumqttc::mqttbytes::{qos as quality, v4};
                let mut publish = v4::Publish::new(topic, quality(qos).unwrap(), payload);
                publish.pkid = 7;
                publish.write(&mut out).unwrap();
            }
            MqttProtocol::V5 => {
                use rumqttc::v5::mqttbytes::{qos as quality, v5};
                let properties = v5::PublishProperties {
                    content_type: Some("x".repeat(payload.len())),
                    ..Default::default()
                };
                let mut publish = v5::Publish::new(
                    topic,
                    quality(qos).unwrap(),
                    payload.to_vec(),
                    Some(properties),
                );
                publish.pkid = 7;
                publish.write(&mut out).unwrap();
            }
        }
        out
    }

    proptest! {
        #[test]
        fn what_rumqttc_writes_is_read_back(
            topic in "[a-zä/]{1,40}",
            qos in 0u8..3,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            version in prop_oneof![Just(MqttProtocol::V311), Just(MqttProtocol::V5)],
        ) {
            let packet = written(version, &topic, qos, &payload);
            let publish = Publish::read(&frame(&packet), version).unwrap();
            prop_assert_eq!(publish.topic, topic.as_bytes());
            prop_assert_eq!(publish.payload, &payload[..]);
            prop_assert_eq!(publish.payload_bytes, payload.len() as u64);
            prop_assert_eq!(publish.qos, qos);
            prop_assert_eq!(publish.packet_id, if qos == 0 { 0 } else { 7 });
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            first_byte in any::<u8>(),
            body in proptest::collection::vec(any::<u8>(), 0..60),
            missing in 0u64..5,
        ) {
            let frame = Frame {
                first_byte,
                packet: &body,
                body: &body,
                body_bytes: body.len() as u64 + missing,
            };
            let _ = Publish::read(&frame, MqttProtocol::V5);
            let _ = Publish::read(&frame, MqttProtocol::V311);
        }
    }

    #[test]
    fn a_topic_that_is_not_utf_8_is_handed_on_as_it_is() {
        let packet = [0x32, 7, 0, 2, 0xFF, 0xFE, 0, 9, b'!'];
        let publish = Publish::read(&frame(&packet), MqttProtocol::V311).unwrap();
        assert_eq!(publish.topic, [0xFF, 0xFE]);
        assert_eq!((publish.packet_id, publish.payload), (9, &b"!"[..]));
    }
}
