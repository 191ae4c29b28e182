//! Health, readiness, metrics and status over HTTP (DESIGN §9).
//!
//! - `/health`: 200 while the pipeline makes progress, or would have to, else 503; JSON says what
//!   is wrong.
//! - `/ready`: 200 once every source has connected once.
//! - `/metrics`: Prometheus text, `/api/status`: JSON, with the devices seen last:
//!   `?devices=N` for N of them (100 by default, 1,000 at most), `&skip=N` for those behind.
//! - `/`: the status page for people, which reads the JSON above every two seconds.
//!
//! A scrape asks the log for a copy of its figures; nothing here can hold up a record.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::commit_log::{CommitLog, Condition};
use crate::dead_letters::DeadLetters;
use crate::forwarder::parking::{Held, ParkedTopic, Parking};
use crate::metrics::{Metrics, SourceLabel};
use crate::registry::RegistryView;
use crate::supervisor::{Readiness, Stalled};

/// Devices a status shows where it is not told how many, and at most.
const DEVICES_SHOWN: usize = 100;
const DEVICES_SHOWN_MAX: usize = 1000;

/// What the endpoints report from.
#[derive(Debug)]
pub struct Status {
    /// `[gateway].id`
    pub gateway_id: String,
    /// The main log.
    pub log: CommitLog,
    /// What was set aside.
    pub dead_letters: DeadLetters,
    /// `[buffer].bytes_max`
    pub bytes_max: u64,
    /// What is parked.
    pub parking: Parking,
    /// All figures.
    pub metrics: Arc<Metrics>,
    /// The devices seen.
    pub devices: RegistryView,
    /// Whether each source has been connected once, by name.
    pub ready: Readiness,
    /// What stands still, if anything does.
    pub stalled: watch::Receiver<Option<Stalled>>,
    /// When the gateway was started.
    pub started: Instant,
}

/// Serves until `stop` is cancelled.
///
/// # Errors
/// As the listener says.
pub async fn serve(
    listener: tokio::net::TcpListener,
    status: Arc<Status>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let routes = page(Router::new())
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/status", get(api_status))
        .with_state(status);
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

#[cfg(feature = "http-page")]
fn page(routes: Router<Arc<Status>>) -> Router<Arc<Status>> {
    let page = axum::response::Html(include_str!("status.html"));
    routes.route("/", get(move || async move { page }))
}

#[cfg(not(feature = "http-page"))]
fn page(routes: Router<Arc<Status>>) -> Router<Arc<Status>> {
    routes
}

async fn health(State(status): State<Arc<Status>>) -> Response {
    let stalled = *status.stalled.borrow();
    let dead_letters_wait = status.dead_letters.condition() == Condition::Full;
    let (healthy, reason) = match status.log.progress().condition {
        Condition::Running if dead_letters_wait => {
            (false, "the disk has no space for dead letters".to_owned())
        }
        Condition::Running => match stalled {
            None => parking_health(status.parking.held(), &status.parking.topics()),
            Some(stalled) => (false, stalled.as_str().to_owned()),
        },
        Condition::Full => {
            let reason = "the buffer is full or the disk has no space";
            (false, reason.to_owned())
        }
        Condition::Poisoned => (false, "the commit log failed".to_owned()),
        Condition::Closed => (false, "the gateway is shutting down".to_owned()),
    };
    let code = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(json!({"healthy": healthy, "reason": reason}))).into_response()
}

/// Parked topics hold up nothing else; a record that can't be parked holds up all behind it.
fn parking_health(held: Option<Held>, topics: &[ParkedTopic]) -> (bool, String) {
    if let Some(Held {
        topic,
        why,
        since_ms,
    }) = held
    {
        let since = time_text(since_ms);
        let reason = format!("delivery is held up by topic {topic} since {since}: {why}");
        return (false, reason);
    }
    let Some(first) = topics.first() else {
        return (true, "running".to_owned());
    };
    let others = match topics.len() {
        1 => String::new(),
        count => format!(", and {} more topics", count - 1),
    };
    let since = time_text(first.since_ms);
    let ParkedTopic {
        topic,
        records,
        why,
        ..
    } = first;
    let reason = format!(
        "running; {records} records of topic {topic} are parked since {since}: {why}{others}"
    );
    (true, reason)
}

/// RFC 3339 in UTC.
fn time_text(wall_ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(wall_ms.div_euclid(1000));
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

fn parking(parking: &Parking) -> Value {
    let topics: Vec<Value> = parking.topics().into_iter().map(parked_topic).collect();
    let held = parking.held().map(
        |held| json!({"topic": held.topic, "why": held.why, "since": time_text(held.since_ms)}),
    );
    json!({"bytes_max": parking.bytes_max(), "held": held, "topics": topics})
}

fn parked_topic(parked: ParkedTopic) -> Value {
    json!({
        "topic": parked.topic,
        "why": parked.why,
        "since": time_text(parked.since_ms),
        "returning": parked.returning,
        "records": parked.records,
        "disk_bytes": parked.bytes,
    })
}

async fn ready(State(status): State<Arc<Status>>) -> Response {
    let waiting: Vec<&str> = status
        .ready
        .iter()
        .filter(|(_, ready)| !*ready.borrow())
        .map(|(name, _)| name.as_str())
        .collect();
    let ready = waiting.is_empty();
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(json!({"ready": ready, "waiting_for": waiting}))).into_response()
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match status.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn api_status(State(status): State<Arc<Status>>, RawQuery(query): RawQuery) -> Json<Value> {
    let page = Page::of(query.as_deref().unwrap_or_default());
    let devices = devices(status.devices.clone(), page).await;
    let stats = status.log.stats();
    let letters = status.dead_letters.kept();
    let sources: Vec<Value> = status
        .ready
        .iter()
        .map(|(name, ready)| source(&status.metrics, name, *ready.borrow()))
        .collect();
    Json(json!({
        "gateway": status.gateway_id,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": status.started.elapsed().as_secs(),
        "log": {
            "identity": status.log.identity(),
            "condition": format!("{:?}", stats.progress.condition).to_lowercase(),
            "synced": stats.progress.synced.get(),
            "committed": stats.committed.get(),
            "undelivered": stats.undelivered,
            "disk_bytes": stats.disk_bytes,
            "bytes_max": status.bytes_max,
            "segments": stats.segments,
            "written_bytes": stats.written_bytes,
        },
        "parking": parking(&status.parking),
        "dead_letters": {
            "kept": letters.letters,
            "bytes": letters.bytes,
        },
        "kafka_connected": status.metrics.kafka_connected.get() == 1,
        "sources": sources,
        "devices": devices,
    }))
}

fn source(metrics: &Metrics, name: &str, ready: bool) -> Value {
    let label = SourceLabel {
        source: name.to_owned(),
    };
    json!({
        "name": name,
        "ready": ready,
        "connected": metrics.source_connected.get_or_create(&label).get() == 1,
        "received": metrics.received.get_or_create(&label).get(),
    })
}

/// Which devices to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    skip: usize,
    limit: usize,
}

impl Page {
    /// Numbers that are none are as good as left out.
    fn of(query: &str) -> Self {
        let mut page = Self {
            skip: 0,
            limit: DEVICES_SHOWN,
        };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match (name.as_ref(), value.parse()) {
                ("devices", Ok(limit)) => page.limit = DEVICES_SHOWN_MAX.min(limit),
                ("skip", Ok(skip)) => page.skip = skip,
                (_, Ok(_) | Err(_)) => {}
            }
        }
        page
    }
}

/// Sorting tens of thousands of devices is nothing for a thread that also runs sources.
async fn devices(devices: RegistryView, page: Page) -> Value {
    let looked = tokio::task::spawn_blocking(move || devices.snapshot(page.skip, page.limit));
    let Ok(snapshot) = looked.await else {
        return Value::Null;
    };
    json!({
        "count": snapshot.count,
        "store": snapshot.store.condition().as_str(),
        "store_error": snapshot.store.last_error,
        "newest": snapshot.devices,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_topic_is_told_and_what_holds_delivery_up_is_no_health() {
        let parked = ParkedTopic {
            topic: "b".to_owned(),
            why: "Kafka refuses it".to_owned(),
            returning: false,
            records: 7,
            bytes: 1,
            since_ms: 1_700_000_000_000,
        };
        let held = Held {
            topic: "b".to_owned(),
            why: "full".to_owned(),
            since_ms: 0,
        };
        assert_eq!(parking_health(None, &[]), (true, "running".to_owned()));
        let (healthy, reason) = parking_health(None, &[parked.clone(), parked.clone()]);
        let told = "7 records of topic b are parked since 2023-11-14T22:13:20Z: Kafka refuses it, \
                    and 1 more topics";
        assert!(healthy && reason.ends_with(told), "{reason}");
        let (healthy, reason) = parking_health(Some(held), &[parked]);
        assert!(
            !healthy && reason.contains("topic b since 1970-"),
            "{reason}"
        );
    }

    #[test]
    fn a_page_of_devices_is_bounded_whatever_is_asked_for() {
        let page = |query| {
            let page = Page::of(query);
            (page.skip, page.limit)
        };
        assert_eq!(page(""), (0, DEVICES_SHOWN));
        assert_eq!(page("devices=0"), (0, 0));
        assert_eq!(page("skip=7&devices=1000000"), (7, DEVICES_SHOWN_MAX));
        assert_eq!(page("devices=-1&skip=x&a=1"), (0, DEVICES_SHOWN));
    }
}
