//! Edge gateway. (head follows)

pub mod app;
pub mod cli;
pub mod clock;
pub mod commit_log;
pub mod config;
pub mod dead_letters;
pub mod forwarder;
pub mod http;
pub mod ingest;
pub mod kafka;
pub mod logging;
pub mod metrics;
pub mod probe;
pub mod record;
pub mod source;
pub mod state;
