use proptest::prelude::*;

use super::*;
use crate::record::{Offset, PayloadKind, Stamp};

const MQTT: crate::record::Origin = crate::record::Origin::Mqtt {
    qos: 1,
    packet_id: 1,
    dup: false,
    settled: crate::record::Settled {
        acknowledged_below: crate::record::Offset::ZERO,
        released_below: crate::record::Offset::ZERO,
    },
};

fn record<'a>(source: &'a str, subject: &'a str, origin: crate::record::Origin) -> RecordView<'a> {
    RecordView {
        offset: Offset::ZERO,
        source,
        subject,
        kind: PayloadKind::Opaque,
        origin,
        received: Stamp::default(),
        boot_id: 0,
        payload: b"",
    }
}

fn route(source: Option<&str>, pattern: &str, topic: &str) -> Route {
    let source = source.map(|name| SourceName::new(name).expect("valid name"));
    let mut route = Route::new(source, Pattern::parse(pattern).expect("valid pattern"));
    route.set_topic(topic).expect("valid topic");
    route
}

fn router(routes: Vec<Route>) -> Router {
    let key = Template::parse("{device}", &[]).expect("valid key");
    Router::new(routes, "telemetry", key)
}

fn routed(router: &Router, record: &RecordView<'_>) -> Routed {
    let mut routed = Routed::default();
    router.route(record, &mut routed);
    routed
}

#[test]
fn the_first_route_that_matches_gives_topic_key_and_headers() {
    let mut air = route(
        Some("city"),
        "city/{district}/air/{device}",
        "air-{district}",
    );
    air.set_key("{district}/{device}").expect("valid key");
    air.add_header("district", "{district}")
        .expect("valid header");
    air.add_header("from", "{source} {{{subject}}}")
        .expect("valid header");
    let router = router(vec![air, route(None, "#", "rest")]);

    let to = routed(&router, &record("city", "city/north/air/a-7", MQTT));
    assert_eq!(to.topic(), "air-north");
    assert_eq!(to.key(), Some("north/a-7"));
    let headers: Vec<_> = to.headers().collect();
    assert_eq!(
        headers,
        [("district", "north"), ("from", "city {city/north/air/a-7}")]
    );
    assert!(!to.topic_repaired());

    let to = routed(&router, &record("town", "city/north/air/a-7", MQTT));
    assert_eq!(to.topic(), "rest");
    assert_eq!(to.headers().len(), 0);
}

#[test]
fn without_a_matching_route_the_defaults_apply() {
    let router = router(vec![route(None, "a/{b}", "x")]);
    let to = routed(&router, &record("city", "a/b/c", MQTT));
    assert_eq!((to.topic(), to.key()), ("telemetry", Some("a/b/c")));
}

#[test]
fn the_device_is_the_capture_then_what_the_line_calls_it_then_the_topic() {
    let router = router(vec![route(None, "city/{device}", "city")]);
    let line = crate::record::Origin::Line;
    for (subject, origin, device) in [
        ("city/a", MQTT, "a"),
        ("town/a", MQTT, "town/a"),
        ("press/urn:dev:1%2F2", line, "urn:dev:1/2"),
        ("press/7", line, "7"),
        ("city/1%2F2", line, "1%2F2"),
    ] {
        let to = routed(&router, &record("s", subject, origin));
        assert_eq!(to.key(), Some(device), "{subject}");
    }
}

#[test]
fn an_empty_key_is_no_key() {
    let router = router(vec![route(None, "a/{device}", "x")]);
    assert_eq!(routed(&router, &record("s", "a/", MQTT)).key(), None);
}

#[test]
fn a_topic_that_kafka_cannot_have_is_repaired_and_flagged() {
    let mut odd = route(None, "{a}/#", "{a}");
    odd.add_header("a", "{a}").expect("valid header");
    let router = router(vec![odd]);
    let mut to = Routed::default();
    router.route(&record("s", "Bad Tölz/x", MQTT), &mut to);
    assert_eq!((to.topic(), to.topic_repaired()), ("Bad_T_lz", true));
    assert_eq!(to.headers().next(), Some(("a", "Bad Tölz")));
    router.route(&record("s", "fine/x", MQTT), &mut to);
    assert_eq!((to.topic(), to.topic_repaired()), ("fine", false));
}

#[test]
fn buffers_filled_again_keep_nothing_of_the_record_before() {
    let mut first = route(None, "a/{b}", "t-{b}");
    first.add_header("h", "{b}").expect("valid header");
    let router = router(vec![first]);
    let mut to = Routed::default();
    router.route(&record("s", "a/long-level", MQTT), &mut to);
    router.route(&record("s", "z", MQTT), &mut to);
    assert_eq!((to.topic(), to.key()), ("telemetry", Some("z")));
    assert_eq!(to.headers().len(), 0);
    assert_eq!(to.text.len(), "telemetryz".len());
}

proptest! {
    /// The naive model of a template: replace each name, then each doubled brace.
    #[test]
    fn a_template_renders_as_replacing_each_name_would(
        parts in prop::collection::vec(
            prop::sample::select(vec!["x", "-", "{{", "}}", "{b}", "{source}", "{subject}", "{device}"]),
            0..8,
        ),
        level in "[a-z0-9é %]{0,6}",
    ) {
        let subject = format!("a/{level}");
        let mut route = route(None, "a/{b}", "t");
        route.set_key(&parts.concat()).expect("valid key");
        let expected: String = parts
            .iter()
            .map(|part| match *part {
                "{{" => "{",
                "}}" => "}",
                "{b}" => level.as_str(),
                "{source}" => "s",
                "{subject}" | "{device}" => subject.as_str(),
                text => text,
            })
            .collect();
        let to = routed(&router(vec![route]), &record("s", &subject, MQTT));
        prop_assert_eq!(to.key().unwrap_or(""), expected);
    }
}
