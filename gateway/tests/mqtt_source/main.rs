//! The MQTT source against a broker that says exactly what the test wants at exactly that moment
//! ([`scripted`], [`redelivery`]), and against Mosquitto ([`mosquitto`]). The log beneath is the real one, on a file
//! system whose syncs the test holds back.

mod fixture;
mod held_fs;
mod mosquitto;
mod peer;
mod redelivery;
mod scripted;
