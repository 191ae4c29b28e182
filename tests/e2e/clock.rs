//! A board that boots in 1970: order, loss and times, on a Kafka that refuses old timestamps.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use system_tests::clockless_board::ClocklessBoard;
use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::Kafka;
use system_tests::oracle::{Oracle, Received};
use system_tests::pty::Pty;
use system_tests::{frame, turn, wait};

use crate::SOON;

const COMMITTED: &str = "edge_gateway_records_committed_total";

/// A device on a serial line and what it has sent. Its own sequence runs on while the board is off.
struct Device {
    line: Pty,
    sent: u32,
}

impl Device {
    /// Sends `count` messages and waits until the gateway has them on disk.
    fn send(&mut self, gateway: &mut Gateway, count: u32) -> Range<usize> {
        let before = gateway.metric(COMMITTED, &[]).unwrap_or(0.0);
        let from = self.sent;
        for sequence in from..from + count {
            let payload = format!(r#"{{"source":"t","device":"d","sequence":{sequence}}}"#);
            self.line
                .send(&frame::opaque(7, sequence, payload.as_bytes()));
            // No more than the pseudo-terminal holds.
            if sequence % 16 == 15 {
                let so_far = f64::from(sequence + 1 - from);
                gateway.wait_metric(COMMITTED, &[], before + so_far, SOON);
            }
        }
        gateway.wait_metric(COMMITTED, &[], before + f64::from(count), SOON);
        self.sent += count;
        from as usize..self.sent as usize
    }
}

/// A board that has just booted in 1970, a device at its serial line, and a Kafka that refuses
/// timestamps more than an hour from its own clock.
struct Scene {
    kafka: Kafka,
    device: Device,
    board: ClocklessBoard,
    gateway: Gateway,
}

impl Scene {
    fn new() -> Self {
        let kafka = Kafka::start();
        let hour_ms = ("message.timestamp.before.max.ms", "3600000");
        kafka.create_topic("telemetry", 1, &[hour_ms]);
        let device = Device {
            line: Pty::open(),
            sent: 0,
        };
        let settings = Settings::new(&kafka.bootstrap(), "telemetry").serial(
            "press",
            device.line.path(),
            "shim",
        );
        let board = ClocklessBoard::new();
        let mut gateway = Gateway::start_on(&board, &settings);
        gateway.wait_ready();
        Self {
            kafka,
            device,
            board,
            gateway,
        }
    }

    /// See [`Device::send`].
    fn send(&mut self, count: u32) -> Range<usize> {
        self.device.send(&mut self.gateway, count)
    }

    fn expect_no_dead_letter(&self) {
        let letters = self.gateway.metric("edge_gateway_dead_letters_total", &[]);
        assert_eq!(letters, None);
    }

    fn oracle(&self) -> Oracle {
        Oracle::new(&self.kafka.bootstrap(), &["telemetry"])
    }

    /// Sets the clock, and waits until the gateway has taken back what its Kafka client holds.
    fn set_clock_and_wait(&mut self) {
        let told = |gateway: &Gateway| gateway.log().matches("the clock was set").count();
        let before = told(&self.gateway);
        self.board.set_clock();
        wait::until("the clock was set", SOON, || told(&self.gateway) > before);
    }

    /// The plug pulled and put in again.
    fn power_cycle(&mut self) {
        self.gateway.kill();
        self.board.reboot();
        self.gateway.restart_on(&self.board);
        self.gateway.wait_ready();
    }
}

fn sequences(records: &[Received]) -> impl Iterator<Item = Option<u64>> {
    let sequence = |record: &Received| frame::sequence(record.value.as_deref());
    records.iter().map(sequence)
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn quality(record: &Received) -> &str {
    record
        .headers
        .get("timequality")
        .map_or("none", String::as_str)
}

#[test]
fn a_board_that_boots_in_1970_loses_nothing_and_dates_what_can_be_dated() {
    let _turn = turn();
    let began_ms = now_ms();
    let mut scene = Scene::new();
    scene.kafka.pause();

    let before_ntp = scene.send(1000);
    scene.board.set_clock();
    let after_ntp = scene.send(200);
    let first_boot_ended_ms = now_ms();

    scene.power_cycle();
    let never_set = scene.send(300);

    scene.power_cycle();
    let third_boot_ms = now_ms();
    let third_boot = scene.send(100);
    let sent = third_boot.end;
    let forwarded_from_ms = now_ms();
    scene.set_clock_and_wait();
    scene.kafka.resume();

    let records = scene.oracle().take(sent, SOON);
    let whole = sequences(&records).eq((0..sent as u64).map(Some));
    assert!(whole, "whole and in order");
    let ended_ms = now_ms();
    let check = |range: Range<usize>, expected: &str, within: Range<i64>| {
        for record in &records[range] {
            assert_eq!(quality(record), expected, "{record:?}");
            let time = record.timestamp_ms.unwrap();
            // Looks at two clocks are not taken at once.
            let near = within.start - 2_000..within.end + 2_000;
            assert!(
                near.contains(&time),
                "{time} outside {within:?}: {record:?}"
            );
        }
    };
    check(before_ntp, "corrected", began_ms..first_boot_ended_ms);
    check(after_ntp, "synced", began_ms..first_boot_ended_ms);
    check(never_set, "unsynced", forwarded_from_ms..ended_ms);
    check(third_boot, "corrected", third_boot_ms..ended_ms);
}

#[test]
fn while_the_clock_is_not_set_kafka_gets_no_timestamp_of_ours() {
    let _turn = turn();
    let mut scene = Scene::new();
    scene.send(50);
    let mut oracle = scene.oracle();
    for record in oracle.take(50, SOON) {
        assert_eq!((quality(&record), record.timestamp_ms), ("unsynced", None));
        assert_eq!(record.headers.get("ce_time"), None);
    }
    // Hours fast: Kafka refuses what is more than an hour ahead, once.
    scene.board.shift_clock(3 * 3600);
    scene.send(20);
    let records = oracle.take(20, SOON);
    let whole = sequences(&records).eq((50..70).map(Some));
    assert!(whole, "whole and in order");
    scene.expect_no_dead_letter();
}

/// Less fast than what Kafka refuses. What the client held when the clock was set back is dated anew.
#[test]
fn records_of_a_clock_that_ran_fast_are_dated_right_once_it_is_set_back() {
    let _turn = turn();
    let began_ms = now_ms();
    let mut scene = Scene::new();
    scene.board.shift_clock(1800);
    scene.kafka.pause();
    scene.send(500);
    scene.set_clock_and_wait();
    scene.send(100);
    scene.kafka.resume();
    let records = scene.oracle().take(600, SOON);
    let ended_ms = now_ms();
    let whole = sequences(&records).eq((0..600).map(Some));
    assert!(whole, "whole and in order");
    for (at, record) in records.iter().enumerate() {
        let expected = if at < 500 { "corrected" } else { "synced" };
        assert_eq!(quality(record), expected, "{record:?}");
        let time = record.timestamp_ms.unwrap();
        let near = began_ms - 2_000..ended_ms + 2_000;
        assert!(near.contains(&time), "{time} outside {near:?}: {record:?}");
    }
    scene.expect_no_dead_letter();
}
