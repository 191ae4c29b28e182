//! Buses that hang up, are shared, come late, or are somebody else's.

use super::super::*;
use super::support::*;
use super::units::Reply;
use crate::config::{BusKind, Device, Parity, RtuLine};
use crate::source::serial::port;

#[tokio::test]
async fn a_server_that_hangs_up_between_polls_costs_no_poll() {
    let bench = Bench::new();
    let mut polls = 0;
    let (_asked, script) = script(move |_| {
        polls += 1;
        Reply::AndHangUp(vec![polls])
    });
    let source = bench.start("m", &tcp(script), vec![unit(1, vec![word_at(0)])]);
    let records = bench.until_records(5).await;
    for (n, record) in (1..).zip(&records) {
        let value = format!("{n}");
        assert_eq!(*record, Seen::new("m/unit-1", &[("unit-1/w0", &value)]));
    }
    assert_eq!(bench.requests(1, "timeout"), 0);
    bench.end(source).await;
}

/// A connection that has carried answers is opened again at once and blames nobody; one that has
/// carried none may have been hung up because of the request.
#[tokio::test]
async fn a_connection_is_opened_again_at_once_only_if_it_has_carried_an_answer() {
    let mut requests = 0;
    let (_asked, script) = script(move |_| {
        requests += 1;
        match requests {
            1 => Reply::AndHangUp(vec![7]),
            _ => Reply::HangUp,
        }
    });
    let bus = tcp(script);
    let mut turn = bus.turn().await;
    let block = Plan::new(&unit(1, vec![word_at(0)])).blocks()[0];
    turn.open().await.unwrap();
    turn.read(1, &block, PATIENCE).await.unwrap();
    let mut losses = Vec::new();
    for _ in 0..2 {
        match turn.read(1, &block, PATIENCE).await {
            Err(Fault::Lost { after_answers }) => losses.push(after_answers),
            other => panic!("{other:?}"),
        }
        if losses.len() == 1 {
            turn.open().await.unwrap();
        }
    }
    assert_eq!(losses, [true, false]);
    let down = turn.open().await.unwrap_err();
    assert!(down.until > Instant::now() - Duration::from_secs(1));
}

#[tokio::test]
async fn a_unit_at_whose_request_the_server_hangs_up_does_not_hold_up_others() {
    let bench = Bench::new();
    let (asked, script) = script(|request| match request.unit {
        1 => Reply::HangUp,
        _ => Reply::Words(vec![7]),
    });
    let units = vec![unit(1, vec![word_at(0)]), unit(2, vec![word_at(0)])];
    let source = bench.start("m", &tcp(script), units);
    bench.until_records(20).await;
    assert!(count(&asked, 1) < count(&asked, 2));
    assert_eq!((bench.up(1), bench.up(2)), (0, 1));
    bench.end(source).await;
}

#[tokio::test]
async fn sources_share_a_bus_and_each_gets_its_answers() {
    let (line, bench) = (Line::new(), Bench::new());
    let (_asked, script) = script(|request| Reply::Words(vec![u16::from(request.unit)]));
    line.serve(script);
    let bus = line.bus();
    let first = bench.start("m", &bus, vec![unit(1, vec![word_at(0)])]);
    let second = bench.start("n", &bus, vec![unit(2, vec![word_at(0)])]);
    let both = |bench: &Bench| {
        let records = bench.records();
        let of = |subject| {
            records
                .iter()
                .filter(|seen| seen.subject == subject)
                .count()
        };
        of("m/unit-1") >= 5 && of("n/unit-2") >= 5
    };
    bench.until("records of both", both).await;
    for record in bench.records() {
        let value = &record.values[0].1;
        assert!(record.subject.ends_with(value.as_str()), "{record:?}");
    }
    bench.end(first).await;
    bench.end(second).await;
}

#[tokio::test]
async fn a_bus_that_appears_later_is_opened_then() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("tty");
    let bus = bus(BusKind::Rtu(RtuLine {
        device: Device::Path(device.clone()),
        baud_rate: 9600,
        parity: Parity::None,
        stop_bits: 1,
        rs485: None,
    }));
    let source = bench.start("m", &bus, vec![unit(1, vec![word_at(0)])]);
    let line = Line::new();
    line.serve(script(|_| Reply::Words(vec![7])).1);
    assert!(!*bench.ready.borrow());
    std::os::unix::fs::symlink(&line.path, &device).unwrap();
    bench.until_records(1).await;
    assert!(*bench.ready.borrow());
    bench.end(source).await;
}

#[tokio::test]
async fn a_bus_whose_port_another_program_has_is_opened_when_that_one_lets_go() {
    let line = Line::new();
    let bus = line.bus();
    let other = port::open((&line.settings()).into()).unwrap();
    let down = bus.turn().await.open().await.expect_err("in use");
    drop(other);
    tokio::time::sleep_until(down.until).await;
    assert!(bus.turn().await.open().await.is_ok());
}
