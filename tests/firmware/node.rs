//! The sensor node of `firmware-shim/firmware`, in QEMU, with the gateway at its UART.

use std::process::Command;
use std::time::Duration;

use firmware_shim::senml::{self, Number};
use system_tests::board::Board;
use system_tests::gateway::{Gateway, Settings};
use system_tests::oracle::Oracle;
use system_tests::tally::Counts;
use system_tests::{kafka, process, turn, wait};

use crate::{COMMITTED, GAPS, SOON};

const PROGRAM: &str = "sensor-node.elf";
const SOURCE: (&str, &str) = ("source", "node");
/// All that the node may have, and what of it must never have been touched.
const RAM_BYTES: usize = 4096;
const RAM_BYTES_SPARE: usize = 512;

/// What the node counted itself when it sampled the record in `value`; `None` for a gap marker.
fn lost(value: &[u8]) -> Option<u64> {
    if value.first() == Some(&b'{') {
        return None;
    }
    let mut lost = None;
    senml::for_each(value, |record| {
        if record.name == Some("lost")
            && let Some(Number::Unsigned(count)) = record.value
        {
            lost = Some(count);
        }
    })
    .unwrap();
    lost
}

/// Ends the run and reads it back: the counts, and what the node itself says it lost.
fn read_back(mut board: Board, mut gateway: Gateway, topic: &str) -> (Counts, u64) {
    board.freeze();
    assert_eq!(gateway.drain().code(), Some(0));
    let bootstrap = kafka::shared().bootstrap();
    let mut oracle = Oracle::new(&bootstrap, &[topic]);
    // The gateway has ended: what it delivered is there.
    while oracle.read_for(Duration::from_secs(1)) > 0 {}
    let counts = oracle.counts(topic);
    let records = usize::try_from(counts.records).unwrap();
    let all = Oracle::new(&bootstrap, &[topic]).take(records, SOON);
    let told = all
        .iter()
        .filter_map(|record| lost(record.value.as_deref()?));
    (counts, told.max().unwrap())
}

#[test]
fn every_record_of_the_node_arrives_though_the_gateway_is_killed_five_times() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let board = Board::start(PROGRAM);
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("node", board.line(), "shim");
    let mut gateway = Gateway::start_ready(&settings);
    for _ in 1..=5 {
        gateway.wait_metric(COMMITTED, &[SOURCE], 2.0, SOON);
        gateway.kill_and_restart();
    }
    gateway.wait_metric(COMMITTED, &[SOURCE], 2.0, SOON);
    assert_eq!(gateway.metric(GAPS, &[SOURCE]).unwrap_or(0.0), 0.0);
    let (counts, lost) = read_back(board, gateway, &topic);
    let expected = Counts {
        records: counts.records,
        duplicates: counts.duplicates,
        distinct: counts.distinct,
        devices: 1,
        ..Counts::default()
    };
    assert_eq!(counts, expected, "none missing, none out of order");
    assert!(counts.distinct >= 12, "{counts:?}");
    assert_eq!(lost, 0);
}

#[test]
fn what_the_node_gives_up_without_a_gateway_is_shown_told_and_counted_exactly() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let mut board = Board::start(PROGRAM);
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("node", board.line(), "shim");
    let mut gateway = Gateway::start_ready(&settings);
    gateway.wait_metric(COMMITTED, &[SOURCE], 2.0, SOON);
    assert!(!board.led(), "nothing is lost so far");

    gateway.kill();
    for on in [true, false, true] {
        wait::until("the LED blinks", SOON, || board.led() == on);
    }
    gateway.kill_and_restart();
    // What was given up lies before all that the node holds now.
    gateway.wait_metric(COMMITTED, &[SOURCE], 10.0, SOON);
    let gaps = gateway.metric(GAPS, &[SOURCE]).unwrap();
    wait::until("two more records", SOON, || {
        assert!(!board.led(), "all that was held has been acknowledged");
        gateway.metric(COMMITTED, &[SOURCE]) >= Some(12.0)
    });

    let (counts, lost) = read_back(board, gateway, &topic);
    assert!(counts.missing > 0, "{counts:?}");
    assert_eq!((gaps, counts.out_of_order), (counts.missing as f64, 0));
    assert_eq!(lost, counts.missing);
}

#[test]
fn the_nodes_in_rust_and_c_keep_within_their_ram_with_their_stacks() {
    let _turn = turn();
    for (program, statics_end) in [(PROGRAM, "__ebss"), ("board-node.elf", "bss_end")] {
        let kafka = kafka::shared();
        let topic = kafka.new_topic(1);
        let mut board = Board::start(program);
        let settings =
            Settings::new(&kafka.bootstrap(), &topic).serial("node", board.line(), "shim");
        let mut gateway = Gateway::start_ready(&settings);
        gateway.wait_metric(COMMITTED, &[SOURCE], 3.0, SOON);
        board.freeze();
        let statics = ram_offset(program, statics_end);
        let ram = board.ram(RAM_BYTES);
        let unused = ram[statics..].iter().take_while(|byte| **byte == 0);
        let untouched = unused.count();
        let stack = RAM_BYTES - statics - untouched;
        println!("{program}: RAM {statics} bytes of statics, {stack} of stack");
        assert!(stack > 0, "{program}: its stack is where it is looked for");
        assert!(untouched >= RAM_BYTES_SPARE, "{program}: {untouched}");
    }
}

/// Where a symbol of `program` lies, counted from the start of RAM.
fn ram_offset(program: &str, symbol: &str) -> usize {
    let output = Command::new("arm-none-eabi-nm")
        .arg(process::firmware(program))
        .output()
        .unwrap();
    let symbols = String::from_utf8(output.stdout).unwrap();
    let suffix = format!(" {symbol}");
    let line = symbols.lines().find(|line| line.ends_with(&suffix));
    let address = line.unwrap().split(' ').next().unwrap();
    usize::from_str_radix(address, 16).unwrap() - 0x2000_0000
}
