//! MQTT 5, by rumqttc's codec.
//!
//! No topic alias maximum is announced, so that every publish names its topic; and no maximum
//! packet size, since a broker drops a larger publish silently, while the gateway can set its head
//! aside and say so (G7).

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Filter, Login, Packet, RetainForwardRule,
    Subscribe, SubscribeReasonCode, UnsubAckReason, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

use super::packet::{Control, EncodeError, SUBSCRIBE_PACKET_ID, UNSUBSCRIBE_PACKET_ID, WireError};
use crate::config::Mqtt;

pub(super) fn connect(
    config: &Mqtt,
    password: Option<&str>,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut properties = ConnectProperties::new();
    // u32::MAX means "never expires" (MQTT 5, section 3.1.2.11.2).
    let expiry_s = u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX);
    properties.session_expiry_interval = Some(expiry_s);
    properties.receive_maximum = Some(config.receive_maximum);
    let connect = Connect {
        keep_alive: u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: config.client_id.clone(),
        clean_start: false,
        properties: Some(properties),
    };
    let login = config
        .username
        .as_ref()
        .map(|username| Login::new(username, password.unwrap_or_default()));
    encoded("CONNECT", connect.write(&None, &login, out))
}

pub(super) fn subscribe(config: &Mqtt, out: &mut BytesMut) -> Result<(), EncodeError> {
    let filters = config.subscriptions.iter().map(|subscription| {
        let mut filter = Filter::new(&subscription.filter, quality(subscription.qos));
        // SUBSCRIBE goes out on every connect; retained messages come again only if the broker
        // does not know the subscription any more.
        filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
        filter
    });
    let mut subscribe = Subscribe::new_many(filters, None);
    subscribe.pkid = SUBSCRIBE_PACKET_ID;
    encoded("SUBSCRIBE", subscribe.write(out))
}

pub(super) fn unsubscribe(filters: &[String], out: &mut BytesMut) -> Result<(), EncodeError> {
    let unsubscribe = Unsubscribe {
        pkid: UNSUBSCRIBE_PACKET_ID,
        filters: filters.to_vec(),
        properties: None,
    };
    encoded("UNSUBSCRIBE", unsubscribe.write(out))
}

pub(super) fn control(packet: &[u8]) -> Result<Control, WireError> {
    // rumqttc refuses the two shortest forms of DISCONNECT (MQTT 5, section 3.14.2.1).
    match packet {
        [0xE0, 0] => Ok(disconnected("NormalDisconnection")),
        [0xE0, 1, code] => Ok(disconnected(&format!("code {code:#04x}"))),
        longer => decode(longer),
    }
}

fn decode(packet: &[u8]) -> Result<Control, WireError> {
    let unexpected = |packet| Err(WireError::Unexpected { packet });
    match Packet::read(&mut BytesMut::from(packet), None)? {
        Packet::ConnAck(connack) => Ok(match connack.code {
            ConnectReturnCode::Success => Control::Accepted {
                session_present: connack.session_present,
                keep_alive_s: connack.properties.and_then(|all| all.server_keep_alive),
            },
            refused => Control::Refused {
                reason: format!("{refused:?}"),
            },
        }),
        Packet::SubAck(suback) => Ok(Control::Subscribed(
            suback.return_codes.into_iter().map(granted).collect(),
        )),
        Packet::UnsubAck(unsuback) => Ok(Control::Unsubscribed {
            refused: unsuback.reasons.into_iter().find_map(refused),
        }),
        Packet::PubRel(pubrel) => Ok(Control::Released {
            packet_id: pubrel.pkid,
        }),
        Packet::PingResp(_) => Ok(Control::Pong),
        Packet::Disconnect(disconnect) => {
            Ok(disconnected(&format!("{:?}", disconnect.reason_code)))
        }
        Packet::Auth(_) => unexpected("AUTH"),
        Packet::Connect(..) => unexpected("CONNECT"),
        Packet::Publish(_) => unexpected("PUBLISH"),
        Packet::PubAck(_) => unexpected("PUBACK"),
        Packet::PubRec(_) => unexpected("PUBREC"),
        Packet::PubComp(_) => unexpected("PUBCOMP"),
        Packet::Subscribe(_) => unexpected("SUBSCRIBE"),
        Packet::Unsubscribe(_) => unexpected("UNSUBSCRIBE"),
        Packet::PingReq(_) => unexpected("PINGREQ"),
    }
}

fn disconnected(reason: &str) -> Control {
    Control::Disconnected {
        reason: reason.to_owned(),
    }
}

fn granted(code: SubscribeReasonCode) -> Result<u8, String> {
    match code {
        SubscribeReasonCode::Success(qos) => Ok(qos as u8),
        refused @ (SubscribeReasonCode::Failure
        | SubscribeReasonCode::Unspecified
        | SubscribeReasonCode::ImplementationSpecific
        | SubscribeReasonCode::NotAuthorized
        | SubscribeReasonCode::TopicFilterInvalid
        | SubscribeReasonCode::PkidInUse
        | SubscribeReasonCode::QuotaExceeded
        | SubscribeReasonCode::SharedSubscriptionsNotSupported
        | SubscribeReasonCode::SubscriptionIdNotSupported
        | SubscribeReasonCode::WildcardSubscriptionsNotSupported) => Err(format!("{refused:?}")),
    }
}

fn refused(reason: UnsubAckReason) -> Option<String> {
    match reason {
        UnsubAckReason::Success | UnsubAckReason::NoSubscriptionExisted => None,
        UnsubAckReason::UnspecifiedError
        | UnsubAckReason::ImplementationSpecificError
        | UnsubAckReason::NotAuthorized
        | UnsubAckReason::TopicFilterInvalid
        | UnsubAckReason::PacketIdentifierInUse => Some(format!("{reason:?}")),
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
    fn connect_asks_for_a_persistent_session_and_announces_no_alias() {
        let mut out = BytesMut::new();
        connect(&config(), None, &mut out).unwrap();
        let Packet::Connect(read, will, login) = Packet::read(&mut out, None).unwrap() else {
            panic!("not a CONNECT");
        };
        assert!(!read.clean_start);
        assert_eq!((will, login), (None, None));
        let properties = read.properties.unwrap();
        assert_eq!(properties.session_expiry_interval, Some(86400));
        assert_eq!(properties.receive_maximum, Some(1000));
        assert_eq!(properties.topic_alias_max, None);
        assert_eq!(properties.max_packet_size, None);
    }

    #[test]
    fn subscribe_asks_for_retained_messages_only_with_a_new_subscription() {
        let mut out = BytesMut::new();
        subscribe(&config(), &mut out).unwrap();
        let Packet::Subscribe(read) = Packet::read(&mut out, None).unwrap() else {
            panic!("not a SUBSCRIBE");
        };
        let rules: Vec<_> = read
            .filters
            .iter()
            .map(|f| &f.retain_forward_rule)
            .collect();
        assert_eq!(rules, [&RetainForwardRule::OnNewSubscribe]);
    }

    #[test]
    fn a_filter_that_was_not_there_any_more_is_unsubscribed_and_a_forbidden_one_is_not() {
        for (code, refused) in [(0, None), (0x11, None), (0x87, Some("NotAuthorized"))] {
            let refused = refused.map(str::to_owned);
            let answer = control(&[0xB0, 5, 0, 2, 0, 0, code]).unwrap();
            assert_eq!(answer, Control::Unsubscribed { refused });
        }
    }

    #[test]
    fn every_form_of_a_disconnect_is_understood() {
        for packet in [&[0xE0, 0][..], &[0xE0, 1, 0x8E], &[0xE0, 2, 0x8E, 0]] {
            assert!(matches!(
                control(packet).unwrap(),
                Control::Disconnected { .. }
            ));
        }
    }
}
