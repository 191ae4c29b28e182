//! SIGKILL at any instant: while the log is opened, and under load.

use std::time::Duration;

use system_tests::gateway::Gateway;
use system_tests::random::Random;
use system_tests::turn;

use crate::load::Site;
use crate::{COMMITTED, SMALL_SEGMENTS, SOON, rounds};

#[test]
fn nothing_is_lost_when_the_gateway_is_killed_at_any_instant() {
    let _turn = turn();
    let site = Site::start();
    let settings = site.settings().section(SMALL_SEGMENTS);
    let mut random = Random::seeded();
    let press = site.press();
    let mut gateway = Gateway::start_ready(&settings);
    let mut load = site.load(press, 2000);
    for round in 1..=rounds() {
        let is_opening = random.below(4) == 0;
        if !is_opening {
            gateway.wait_metric(COMMITTED, &[("source", "city")], 1.0, SOON);
        }
        let away = (random.below(2) == 0).then(|| site.kafka_away());
        // Not a wait for anything: the instant is what is left to chance.
        let instant = Duration::from_micros(random.below(300_000));
        std::thread::sleep(instant);
        let since = if is_opening { "start" } else { "commit" };
        println!("round {round}: killed {instant:?} after its {since}");
        load.assert_runs();
        gateway.kill_and_restart();
        drop(away);
    }
    site.expect_all(load, gateway);
}
