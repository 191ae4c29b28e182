//! Health, readiness, metrics and status over HTTP (DESIGN §9).
//!
//! - `/health`: 200 while the pipeline can make progress, else 503; JSON says what is wrong.
//! - `/ready`: 200 once every source has connected once.
//! - `/metrics`: Prometheus text, `/api/status`: JSON.
//!
//! A scrape asks the log for a copy of its figures; nothing here can hold up a record.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::commit_log::{CommitLog, Condition};
use crate::metrics::Metrics;

/// What the endpoints report from.
#[derive(Debug)]
pub struct Status {
    /// `[gateway].id`
    pub gateway_id: String,
    /// The main log.
    pub log: CommitLog,
    /// All figures.
    pub metrics: Arc<Metrics>,
    /// Whether each source has been connected once, by name.
    pub ready: Vec<(String, watch::Receiver<bool>)>,
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
    let routes = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/status", get(api_status))
        .with_state(status);
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn health(State(status): State<Arc<Status>>) -> Response {
    let (healthy, reason) = match status.log.progress().condition {
        Condition::Running => (true, "running"),
        Condition::Full => (false, "the buffer is full or the disk has no space"),
        Condition::Poisoned => (false, "the commit log failed"),
        Condition::Closed => (false, "the gateway is shutting down"),
    };
    let code = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(json!({"healthy": healthy, "reason": reason}))).into_response()
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

async fn api_status(State(status): State<Arc<Status>>) -> Json<Value> {
    let stats = status.log.stats();
    let sources: Vec<Value> = status
        .ready
        .iter()
        .map(|(name, ready)| json!({"name": name, "ready": *ready.borrow()}))
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
            "segments": stats.segments,
            "written_bytes": stats.written_bytes,
        },
        "kafka_connected": status.metrics.kafka_connected.get() == 1,
        "sources": sources,
    }))
}
