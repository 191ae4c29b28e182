//! The forwarder between a real commit log and a broker that speaks Kafka's protocol
//! (librdkafka's mock cluster, on loopback), under outages and refusals.

mod at_least_once;
mod bench;
mod exactly_once;
mod parking;
