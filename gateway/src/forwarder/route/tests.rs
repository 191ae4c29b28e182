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

#[test]
fn a_route_that_drops_takes_its_records_and_no_others() {
    let mut drop = Route::new(
        None,
        Pattern::parse("city/+/debug/#").expect("valid pattern"),
    );
    drop.set_drop();
    let keeper = route(None, "city/keep/debug/#", "kept");
    let router = router(vec![keeper, drop, route(None, "#", "rest")]);
    let drops = |subject| router.drops(&record("s", subject, MQTT), &mut Routed::default());
    assert!(drops("city/north/debug/x"));
    assert!(!drops("city/keep/debug/x"), "an earlier route wins");
    assert!(!drops("city/north/air"), "a later one takes it");
}

/// A route of the naive model: source, levels of its pattern, parts of its topic, and whether it
/// drops.
type ModelRoute = (
    Option<&'static str>,
    Vec<&'static str>,
    Vec<&'static str>,
    bool,
);

const LEVELS: [&str; 8] = ["a", "b", "", "+", "#", "{x}", "{y}", "{device}"];
const PARTS: [&str; 6] = ["t", "{x}", "{y}", "{device}", "{source}", "{subject}"];

fn is_capture(part: &str) -> bool {
    part.starts_with('{')
}

/// A valid one: "#" last, captures once each, a topic of what the pattern captures.
fn model_route() -> impl Strategy<Value = ModelRoute> {
    let levels = prop::collection::vec(prop::sample::select(LEVELS.to_vec()), 1..5);
    let parts = prop::collection::vec(prop::sample::select(PARTS.to_vec()), 1..4);
    let source = prop::sample::select(vec![None, Some("s"), Some("other")]);
    (source, levels, parts, any::<bool>()).prop_map(|(source, mut levels, mut parts, drops)| {
        if let Some(rest) = levels.iter().position(|level| *level == "#") {
            levels.truncate(rest + 1);
        }
        let mut seen = Vec::new();
        levels.retain(|level| {
            let twice = is_capture(level) && seen.contains(level);
            seen.push(level);
            !twice
        });
        if levels == [""] {
            levels.push("a");
        }
        parts.retain(|part| !["{x}", "{y}"].contains(part) || levels.contains(part));
        parts.push("-");
        (source, levels, parts, drops)
    })
}

fn naive_captures<'s>(
    levels: &[&'static str],
    subject: &[&'s str],
) -> Option<Vec<(&'static str, &'s str)>> {
    match (levels, subject) {
        ([], []) | (["#"], _) => Some(Vec::new()),
        ([level, levels @ ..], [found, subject @ ..]) => {
            let here = *level == "+" || is_capture(level) || level == found;
            let mut behind = naive_captures(levels, subject).filter(|_| here)?;
            if is_capture(level) {
                behind.push((level, found));
            }
            Some(behind)
        }
        ([], [_, ..]) | ([_, ..], []) => None,
    }
}

fn naive_topic(parts: &[&str], subject: &str, captures: &[(&str, &str)]) -> String {
    let value = |part: &str| match captures.iter().find(|(name, _)| *name == part) {
        Some((_, found)) => (*found).to_owned(),
        None => part
            .replace("{source}", "s")
            .replace("{subject}", subject)
            .replace("{device}", subject),
    };
    let topic: String = parts.iter().map(|part| value(part)).collect();
    topic
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

proptest! {
    #[test]
    fn records_go_where_the_first_route_of_a_naive_model_sends_them(
        routes in prop::collection::vec(model_route(), 0..4),
        subject in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "é", "c d"]), 1..5),
    ) {
        let text = subject.join("/");
        let taken = routes.iter().find_map(|(source, levels, parts, drops)| {
            let captures = naive_captures(levels, &subject).filter(|_| source.is_none_or(|s| s == "s"))?;
            Some((naive_topic(parts, &text, &captures), *drops))
        });
        let (topic, drops) = taken.unwrap_or(("telemetry".to_owned(), false));
        let compiled = routes.iter().map(|(source, levels, parts, drops)| {
            let mut route = route(*source, &levels.join("/"), &parts.concat());
            if *drops {
                route.set_drop();
            }
            route
        });
        let router = router(compiled.collect());
        let record = record("s", &text, MQTT);
        prop_assert_eq!(router.drops(&record, &mut Routed::default()), drops);
        let to = routed(&router, &record);
        prop_assert_eq!(to.topic(), topic.as_str());
        prop_assert!(is_topic_name(to.topic()));
    }
}
