//! What a poll makes of units that answer, refuse, are busy, away or dead.

use super::super::*;
use super::support::*;
use super::units::{Reply, Request};
use crate::config::{RegisterKind, ValueType, WordOrder};

fn all_kinds() -> ModbusUnit {
    let mut volts = register("volts", RegisterKind::Input, 10, ValueType::F32);
    volts.order = WordOrder::Cdab;
    volts.unit = Some("V".to_owned());
    let registers = vec![
        register("pump", RegisterKind::Coil, 3, ValueType::Bool { bit: 0 }),
        register(
            "door",
            RegisterKind::Discrete,
            9,
            ValueType::Bool { bit: 0 },
        ),
        register("temp", RegisterKind::Holding, 0, ValueType::I16),
        volts,
    ];
    unit(5, registers)
}

fn answer_all_kinds(request: Request) -> Reply {
    match (request.function, request.address, request.count) {
        (1, 3, 1) => Reply::Bits(vec![1]),
        (2, 9, 1) => Reply::Bits(vec![0]),
        (3, 0, 1) => Reply::Words(vec![0xfff6]),
        (4, 10, 2) => Reply::Words(vec![0x0000, 0x4366]),
        _ => panic!("{request:?} was not asked for"),
    }
}

fn record_of_all_kinds() -> Seen {
    let values = [
        ("unit-5/pump", "true"),
        ("door", "false"),
        ("temp", "-10"),
        ("volts", "230.0"),
    ];
    Seen::new("m/unit-5", &values)
}

#[tokio::test]
async fn registers_of_all_kinds_on_a_line_are_one_record_a_poll() {
    let (line, bench) = (Line::new(), Bench::new());
    let (asked, script) = script(answer_all_kinds);
    line.serve(script);
    let source = bench.start("m", &line.bus(), vec![all_kinds()]);
    let records = bench.until_records(3).await;
    for record in &records {
        assert_eq!(*record, record_of_all_kinds());
    }
    assert!(*bench.ready.borrow());
    assert_eq!((bench.up(5), bench.source().connected.get()), (1, 1));
    bench.end(source).await;
    let requests = asked.lock().unwrap().len() as u64;
    let answered = bench.requests(5, "answered");
    assert!(
        answered <= requests && requests <= answered + 1,
        "one may be cut off"
    );
    assert_eq!(bench.requests(5, "timeout"), 0);
}

#[tokio::test]
async fn registers_of_all_kinds_over_tcp_are_one_record_a_poll() {
    let bench = Bench::new();
    let bus = tcp(script(answer_all_kinds).1);
    let source = bench.start("m", &bus, vec![all_kinds()]);
    assert_eq!(bench.until_records(3).await[2], record_of_all_kinds());
    bench.end(source).await;
}

#[tokio::test]
async fn a_dead_unit_does_not_hold_up_a_live_one() {
    let (line, bench) = (Line::new(), Bench::new());
    let (asked, script) = script(|request| match request.unit {
        1 => Reply::Silence,
        _ => Reply::Words(vec![7]),
    });
    line.serve(script);
    let mut dead = unit(1, vec![word_at(0)]);
    dead.timeout = Duration::from_millis(50);
    let source = bench.start("m", &line.bus(), vec![dead, unit(2, vec![word_at(0)])]);
    let polls = bench.until_records(40).await.len();
    // 3 tries at once, then one a rest, and each rest is twice as long as the one before.
    let tries = count(&asked, 1);
    assert!(
        (3..polls / 2).contains(&tries),
        "{tries} tries, {polls} polls"
    );
    assert_eq!((bench.up(1), bench.up(2)), (0, 1));
    // Between two tries of the dead one the live one had at least a turn, after the first three.
    let asked = asked.lock().unwrap().clone();
    let dead_ones: Vec<usize> = (0..asked.len()).filter(|at| asked[*at].unit == 1).collect();
    assert!(
        dead_ones[2..].windows(2).all(|pair| pair[1] > pair[0] + 1),
        "{dead_ones:?}"
    );
    bench.end(source).await;
    assert_eq!(bench.requests(2, "timeout"), 0);
}

#[tokio::test]
async fn a_unit_that_was_away_is_polled_again_when_it_is_back() {
    let bench = Bench::new();
    let mut asked_so_far = 0;
    let script = script(move |_| {
        asked_so_far += 1;
        if (2..=6).contains(&asked_so_far) {
            Reply::Silence
        } else {
            Reply::Words(vec![asked_so_far])
        }
    });
    let mut away = unit(1, vec![word_at(0)]);
    away.timeout = Duration::from_millis(200);
    let source = bench.start("m", &tcp(script.1), vec![away]);
    let records = bench.until_records(3).await;
    assert_eq!(records[0], Seen::new("m/unit-1", &[("unit-1/w0", "1")]));
    let after: u16 = records[1].values[0].1.parse().unwrap();
    assert!(after >= 7, "{records:?}");
    assert!(bench.requests(1, "timeout") >= 5);
    bench.end(source).await;
}

#[tokio::test]
async fn what_a_unit_refuses_is_left_out_and_counted_by_its_code() {
    let (line, bench) = (Line::new(), Bench::new());
    let (_asked, script) = script(|request| match request.address {
        4 => Reply::Exception(2),
        8 => Reply::Exception(0x55),
        _ => Reply::Words(vec![7]),
    });
    line.serve(script);
    let registers = vec![word_at(4), word_at(0), word_at(8)];
    let source = bench.start("m", &line.bus(), vec![unit(9, registers)]);
    let records = bench.until_records(2).await;
    assert_eq!(records[0], Seen::new("m/unit-9", &[("unit-9/w0", "7")]));
    assert!(bench.exceptions(9, "illegal_data_address") >= 2);
    assert!(bench.exceptions(9, "other") >= 2);
    assert_eq!(bench.up(9), 1, "an exception is an answer");
    bench.end(source).await;
}

#[tokio::test]
async fn a_busy_unit_is_asked_again_and_one_that_its_gateway_misses_is_down() {
    let bench = Bench::new();
    let mut busy = 2;
    let (asked, script) = script(move |request| match request.unit {
        1 if busy > 0 => {
            busy -= 1;
            Reply::Exception(6)
        }
        1 => Reply::Words(vec![1]),
        _ => Reply::Exception(0x0b),
    });
    let units = vec![unit(1, vec![word_at(0)]), unit(2, vec![word_at(0)])];
    let source = bench.start("m", &tcp(script), units);
    bench.until_records(20).await;
    assert_eq!(bench.exceptions(1, "server_device_busy"), 2);
    assert_eq!((bench.up(1), bench.up(2)), (1, 0));
    let tries = count(&asked, 2);
    assert!(tries < count(&asked, 1), "{tries}");
    bench.end(source).await;
    let (seen, asked) = (
        bench.exceptions(2, "gateway_target_device"),
        count(&asked, 2) as u64,
    );
    assert!(seen <= asked && asked <= seen + 1, "one may be cut off");
}
