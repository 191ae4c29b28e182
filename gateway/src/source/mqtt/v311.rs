//! MQTT 3.1.1, by rumqttc's codec.

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, Login, Packet, Subscribe, SubscribeFilter, SubscribeReasonCode,
    Unsubscribe,
};
use rumqttc::mqttbytes::{Error, QoS};

use super::packet::{Control, EncodeError, SUBSCRIBE_PACKET_ID, UNSUBSCRIBE_PACKET_ID, WireError};
use crate::config::Mqtt;

pub(super) fn connect(
    config: &Mqtt,
    password: Option<&str>,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut connect = Connect::new(&config.client_id);
    connect.keep_alive = u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX);
    connect.clean_session = false;
    connect.login = config
        .username
        .as_ref()
        .map(|username| Login::new(username, password.unwrap_or_default()));
    encoded("CONNECT", connect.write(out))
}

pub(super) fn subscribe(config: &Mqtt, out: &mut BytesMut) -> Result<(), EncodeError> {
    let filters = config.subscriptions.iter().map(|subscription| {
        SubscribeFilter::new(subscription.filter.clone(), quality(subscription.qos))
    });
    let mut subscribe = Subscribe::new_many(filters);
    subscribe.pkid = SUBSCRIBE_PACKET_ID;
    encoded("SUBSCRIBE", subscribe.write(out))
}

pub(super) fn unsubscribe(filters: &[String], out: &mut BytesMut) -> Result<(), EncodeError> {
    let unsubscribe = Unsubscribe {
        pkid: UNSUBSCRIBE_PACKET_ID,
        topics: filters.to_vec(),
    };
    encoded("UNSUBSCRIBE", unsubscribe.write(out))
}

pub(super) fn control(packet: &[u8]) -> Result<Control, WireError> {
    let unexpected = |packet| Err(WireError::Unexpected { packet });
    match Packet::read(&mut BytesMut::from(packet), packet.len())? {
        Packet::ConnAck(connack) => Ok(match connack.code {
            ConnectReturnCode::Success => Control::Accepted {
                session_present: connack.session_present,
                keep_alive_s: None,
            },
            refused => Control::Refused {
                reason: format!("{refused:?}"),
            },
        }),
        Packet::SubAck(suback) => Ok(Control::Subscribed(
            suback.return_codes.into_iter().map(granted).collect(),
        )),
        Packet::UnsubAck(_) => Ok(Control::Unsubscribed { refused: None }),
        Packet::PubRel(pubrel) => Ok(Control::Released {
            packet_id: pubrel.pkid,
        }),
        Packet::PingResp => Ok(Control::Pong),
        Packet::Connect(_) => unexpected("CONNECT"),
        Packet::Publish(_) => unexpected("PUBLISH"),
        Packet::PubAck(_) => unexpected("PUBACK"),
        Packet::PubRec(_) => unexpected("PUBREC"),
        Packet::PubComp(_) => unexpected("PUBCOMP"),
        Packet::Subscribe(_) => unexpected("SUBSCRIBE"),
        Packet::Unsubscribe(_) => unexpected("UNSUBSCRIBE"),
        Packet::PingReq => unexpected("PINGREQ"),
        Packet::Disconnect => unexpected("DISCONNECT"),
    }
}

fn granted(code: SubscribeReasonCode) -> Result<u8, String> {
    match code {
        SubscribeReasonCode::Success(qos) => Ok(qos as u8),
        SubscribeReasonCode::Failure => Err("Failure".to_owned()),
    }
}

fn quality(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn encoded(packet: &'static str, outcome: Result<usize, Error>) -> Result<(), EncodeError> {
    outcome.map(|_bytes| ()).map_err(|error| EncodeError {
        packet,
        detail: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mqtt::tests::config;

    #[test]
    fn connect_asks_for_a_persistent_session() {
        let mut out = BytesMut::new();
        let mut config = config();
        config.username = Some("gw".to_owned());
        connect(&config, Some("secret"), &mut out).unwrap();
        let Packet::Connect(read) = Packet::read(&mut out, 1000).unwrap() else {
            panic!("not a CONNECT");
        };
        assert!(!read.clean_session);
        assert_eq!(read.keep_alive, 30);
        assert_eq!(read.login, Some(Login::new("gw", "secret")));
    }

    #[test]
    fn a_refused_filter_is_told_apart_from_a_granted_one() {
        let answer = control(&[0x90, 4, 0, 1, 1, 0x80]).unwrap();
        assert_eq!(
            answer,
            Control::Subscribed(vec![Ok(1), Err("Failure".to_owned())])
        );
    }

    #[test]
    fn a_connack_that_refuses_says_why() {
        assert_eq!(
            control(&[0x20, 2, 0, 5]).unwrap(),
            Control::Refused {
                reason: "NotAuthorized".to_owned()
            }
        );
    }
}
