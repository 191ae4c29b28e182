//! What goes wrong in the field, under load: brokers that leave and return, and a gateway that is
//! killed. Nothing that was acknowledged may be lost or change its place.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod architectures;
mod exactly_once;
mod gateway_killed;
mod kafka_away;
mod mosquitto_restarted;
mod parking;
mod poison;
mod power_cut;
mod qos2_handshake;
mod redelivery;
mod refused_transactions;
mod serial;
mod shutdown;

use std::time::Duration;

use system_tests::mosquitto::Mosquitto;
use system_tests::sim::Sim;

/// For anything that takes seconds on an idle machine.
const SOON: Duration = Duration::from_secs(120);

const BUFFERED: &str = "edge_gateway_buffer_records";
const DELIVERED: &str = "edge_gateway_records_delivered_total";
const COMMITTED: &str = "edge_gateway_records_committed_total";

/// Twenty devices at `QoS` 1 that send until they are asked to stop.
fn city(broker: &Mosquitto, rate: u32) -> Sim {
    Sim::start(&format!(
        "mqtt --url {} --topic city/{{district}}/{{device}} --qos 1 --devices 20 --rate {rate} \
         --payload-bytes 200",
        broker.url()
    ))
}
