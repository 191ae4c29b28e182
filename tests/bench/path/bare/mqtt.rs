//! A bare client: rumqttc for MQTT 5 with manual acknowledgements.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, ClientError, Event, MqttOptions};

use super::tell;
use crate::error::BenchError;

/// The gateway's default.
const RECEIVE_MAXIMUM: u16 = 1000;
/// Half of what the broker has under way. Acknowledgements together cost a third of what they cost
/// one by one.
const ACKNOWLEDGED_TOGETHER: usize = 500;
const PACKET_BYTES_MAX: u32 = 1 << 20;
/// As many as there are packet identifiers: Mosquitto goes beyond the maximum at times.
const REQUESTS: usize = u16::MAX as usize;

/// What is done with a message.
pub(super) trait Handler {
    /// One that was received.
    fn handle(&mut self, publish: &Publish) -> Result<(), BenchError>;

    /// Before some are acknowledged; returns how many are done with, of so many received.
    fn progress(&mut self, received: u64) -> Result<u64, BenchError>;
}

/// Nothing is.
pub(super) struct Discard;

impl Handler for Discard {
    fn handle(&mut self, _publish: &Publish) -> Result<(), BenchError> {
        Ok(())
    }

    fn progress(&mut self, received: u64) -> Result<u64, BenchError> {
        Ok(received)
    }
}

/// Subscribes and receives until the process is ended.
pub(super) fn receive(port: u16, handler: impl Handler) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::io("start a runtime"))?;
    runtime.block_on(serve(port, handler))
}

async fn serve(port: u16, mut handler: impl Handler) -> Result<(), BenchError> {
    let mut options = MqttOptions::new("bare", "127.0.0.1", port);
    options
        .set_clean_start(true)
        .set_manual_acks(true)
        .set_receive_maximum(Some(RECEIVE_MAXIMUM))
        .set_max_packet_size(Some(PACKET_BYTES_MAX));
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    client
        .subscribe("load/#", QoS::AtLeastOnce)
        .await
        .map_err(refused)?;
    let mut received = 0;
    let mut unacknowledged = Vec::with_capacity(ACKNOWLEDGED_TOGETHER);
    loop {
        let event = events.poll().await;
        let event = event.map_err(|error| stuck(&error))?;
        let publish = match event {
            Event::Incoming(Packet::Publish(publish)) => publish,
            Event::Incoming(Packet::SubAck(_)) => {
                tell(0);
                continue;
            }
            Event::Incoming(_) | Event::Outgoing(_) => continue,
        };
        handler.handle(&publish)?;
        received += 1;
        unacknowledged.push(publish);
        if unacknowledged.len() < ACKNOWLEDGED_TOGETHER {
            continue;
        }
        tell(handler.progress(received)?);
        for publish in unacknowledged.drain(..) {
            client.try_ack(&publish).map_err(refused)?;
        }
    }
}

fn refused(error: ClientError) -> BenchError {
    stuck(&error)
}

fn stuck(error: &dyn std::error::Error) -> BenchError {
    BenchError::Program {
        program: "the bare MQTT client".to_owned(),
        said: error.to_string(),
    }
}
