//! The main job on real brokers: what goes in by MQTT and serial lines comes out of Kafka, whole and
//! in order.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod bad_input;
mod clock;
mod dead_letters;
mod device_time;
mod devices;
mod framings;
mod load;
mod modbus;
mod mqtt;
mod partitions;
mod refusals;
mod serial;
mod tls;

use std::time::Duration;

/// For anything that takes seconds on an idle machine.
const SOON: Duration = Duration::from_secs(90);
