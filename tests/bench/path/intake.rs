//! From MQTT to the log, Kafka away: beside a bare client at the same broker.

use system_tests::gateway::Gateway;
use system_tests::ports;

use super::bare::{Bare, Running, Task};
use super::gateway::{self, COMMITTED, Counted};
use super::run::Measured;
use super::through::{Case, loaded};
use super::{Asked, World, mosquitto};
use crate::error::BenchError;
use crate::report::{Report, Target};

const RATE_MIN: f64 = 0.8;
const CPU_MAX: f64 = 1.8;

/// Adds a sample of each figure.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    let (measured, ceiling) = world.in_turn(|| measured(world), || ceiling(world))?;
    let asked = Asked {
        what: "MQTT to the log".to_owned(),
        ceiling: "bare client",
        rate: Target::AtLeast(RATE_MIN),
        cpu: Target::AtMost(CPU_MAX),
    };
    asked.add(&measured, &ceiling, report);
    Ok(())
}

/// The bare client.
pub(super) fn ceiling(world: &World<'_>) -> Result<Measured, BenchError> {
    let broker = mosquitto();
    let bare = Running::start(&Bare::new(Task::Mqtt).mqtt(broker.port()))?;
    bare.wait_ready();
    loaded(world, &broker, &bare, Case::USUAL)
}

fn measured(world: &World<'_>) -> Result<Measured, BenchError> {
    let broker = mosquitto();
    let data = gateway::data_dir(world.on)?;
    let nobody = format!("127.0.0.1:{}", ports::free());
    let kafka = (nobody.as_str(), "telemetry");
    let settings = gateway::settings(kafka, &broker.url(), 1, data.path(), "");
    let gateway = Gateway::start_ready(&settings);
    let subject = Counted {
        gateway: &gateway,
        counter: COMMITTED,
    };
    loaded(world, &broker, &subject, Case::USUAL)
}
