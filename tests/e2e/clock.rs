//! A board that boots in 1970: order, loss and times, on a Kafka that refuses old timestamps.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use system_tests::clockless_board::ClocklessBoard;
use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::Kafka;
use system_tests::oracle::{Oracle, Received};
use system_tests::pty::Pty;
use system_tests::{frame, turn};

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
    let kafka = Kafka::start();
    let hour_ms = ("message.timestamp.before.max.ms", "3600000");
    kafka.create_topic("telemetry", 1, &[hour_ms]);
    let mut device = Device {
        line: Pty::open(),
        sent: 0,
    };
    let settings =
        Settings::new(&kafka.bootstrap(), "telemetry").serial("press", device.line.path(), "shim");
    let mut board = ClocklessBoard::new();
    let began_ms = now_ms();
    let mut gateway = Gateway::start_on(&board, &settings);
    gateway.wait_ready();
    kafka.pause();

    let before_ntp = device.send(&mut gateway, 1000);
    board.set_clock();
    let after_ntp = device.send(&mut gateway, 200);
    let first_boot_ended_ms = now_ms();

    gateway.kill();
    board.reboot();
    gateway.restart_on(&board);
    gateway.wait_ready();
    let never_set = device.send(&mut gateway, 300);

    gateway.kill();
    board.reboot();
    gateway.restart_on(&board);
    gateway.wait_ready();
    let third_boot_ms = now_ms();
    let sent = device.send(&mut gateway, 100).end;
    board.set_clock();
    let forwarded_from_ms = now_ms();
    kafka.resume();

    let records = Oracle::new(&kafka.bootstrap(), &["telemetry"]).take(sent, SOON);
    let sequences = records
        .iter()
        .map(|record| frame::sequence(record.value.as_deref()));
    assert!(
        sequences.eq((0..sent as u64).map(Some)),
        "whole and in order"
    );
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
    // What was handed to the Kafka client before the clock was set went without a timestamp.
    let (undated, dated): (Vec<_>, Vec<_>) =
        (never_set.start..sent).partition(|at| records[*at].timestamp_ms.is_none());
    for at in undated {
        assert_eq!(quality(&records[at]), "unsynced");
    }
    for at in dated {
        if never_set.contains(&at) {
            check(at..at + 1, "unsynced", forwarded_from_ms..ended_ms);
        } else {
            check(at..at + 1, "corrected", third_boot_ms..ended_ms);
        }
    }
}

#[test]
fn while_the_clock_is_not_set_kafka_gets_no_timestamp_of_ours() {
    let _turn = turn();
    let kafka = Kafka::start();
    let hour_ms = ("message.timestamp.before.max.ms", "3600000");
    kafka.create_topic("telemetry", 1, &[hour_ms]);
    let mut device = Device {
        line: Pty::open(),
        sent: 0,
    };
    let settings =
        Settings::new(&kafka.bootstrap(), "telemetry").serial("press", device.line.path(), "shim");
    let board = ClocklessBoard::new();
    let mut gateway = Gateway::start_on(&board, &settings);
    gateway.wait_ready();
    device.send(&mut gateway, 50);
    let mut oracle = Oracle::new(&kafka.bootstrap(), &["telemetry"]);
    for record in oracle.take(50, SOON) {
        assert_eq!((quality(&record), record.timestamp_ms), ("unsynced", None));
        assert_eq!(record.headers.get("ce_time"), None);
    }
    // Hours fast: Kafka refuses what is more than an hour ahead, once.
    board.shift_clock(3 * 3600);
    device.send(&mut gateway, 20);
    let records = oracle.take(20, SOON);
    let sequences = records
        .iter()
        .map(|record| frame::sequence(record.value.as_deref()));
    assert!(sequences.eq((50..70).map(Some)), "whole and in order");
    assert_eq!(gateway.metric("edge_gateway_dead_letters_total", &[]), None);
}
