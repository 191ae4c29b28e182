//! Edge gateway: serial, Modbus and MQTT in, a durable commit log, Kafka out.
//!
//! # The path of one record
//! A [`source`] takes it off its wire and appends it through [`ingest`] to the [`commit_log`], which
//! gathers records, writes them as one batch and syncs once. Only then does the source acknowledge
//! the sender. The [`forwarder`] reads synced records, routes them, and hands them to [`kafka`]; over
//! an unbroken run of delivery reports the committed offset moves, and segments below it are reused.
//!
//! # Guarantees
//! - **G1** A sender is acknowledged only after its record is synced ([`ingest::Committed`]).
//! - **G2** A record leaves the disk only after Kafka's delivery report, after it became a dead
//!   letter on disk, or by a configured rule that counts it.
//! - **G3** Records of one key reach their topic in the order in which they were received.
//! - **G4** With `delivery = "exactly_once"` what is in the commit log is in Kafka once, or is one dead
//!   letter or one counted drop, never both.
//! - **G5** A publish that the MQTT broker sends again, and a retransmitted link frame, are stored
//!   once ([`state::window`], [`source::serial`]); in doubt a record is stored.
//! - **G6** No input makes the gateway panic, hang or grow without bound.
//! - **G7** Nothing is dropped silently: counters with reasons, and gap markers.
//! - **G8** A corrupt or full disk needs no human at the board.
//!
//! # Map
//! [`app`] starts and drains everything · [`signals`], [`supervisor`], [`pulse`] · [`config`], [`cli`], [`logging`], [`probe`], [`sniff`] ·
//! [`record`], [`clock`], [`state`], [`registry`] · [`source`], [`framing`] · [`ingest`] · [`commit_log`] · [`dead_letters`] ·
//! [`forwarder`] · [`kafka`] · [`http`], [`metrics`]
//!
//! # Switches
//! Kinds of sources, TLS and more can be left out: the features in `Cargo.toml`. A configuration that
//! asks for what is not in is refused, with the switch's name.

#![cfg_attr(
    not(all(
        feature = "serial",
        feature = "modbus",
        feature = "mqtt",
        feature = "tls",
        feature = "registry"
    )),
    allow(dead_code, reason = "what serves only parts that are left out")
)]

pub mod app;
pub mod cli;
pub mod clock;
pub mod commit_log;
pub mod config;
pub mod dead_letters;
pub mod forwarder;
pub mod framing;
pub mod http;
pub mod ingest;
pub mod kafka;
pub mod logging;
pub mod metrics;
pub mod probe;
pub mod pulse;
pub mod record;
pub mod registry;
pub mod signals;
#[cfg(feature = "serial")]
pub mod sniff;
pub mod source;
pub mod state;
pub mod supervisor;
