//! Answers that are damaged, foreign, late or garbage.

use super::super::*;
use super::support::*;
use super::units::{self, Reply};
use crate::config::{RegisterKind, ValueType};

#[tokio::test]
async fn damaged_and_foreign_frames_are_never_taken_for_an_answer() {
    let (line, bench) = (Line::new(), Bench::new());
    let mut turn = 0;
    let (_asked, script) = script(move |_| {
        turn += 1;
        match turn % 3 {
            1 => Reply::Damaged(vec![666]),
            2 => Reply::AsUnit(77, vec![666]),
            _ => Reply::Words(vec![turn]),
        }
    });
    line.serve(script);
    let mut patient = unit(1, vec![word_at(0)]);
    patient.timeout = Duration::from_millis(300);
    let source = bench.start("m", &line.bus(), vec![patient]);
    let records = bench.until_records(4).await;
    for record in &records {
        let value: u16 = record.values[0].1.parse().unwrap();
        assert_eq!(value % 3, 0, "{record:?}");
    }
    assert!(bench.requests(1, "mismatch") >= 4);
    assert!(bench.requests(1, "timeout") + bench.requests(1, "garbage") >= 4);
    bench.end(source).await;
}

#[tokio::test]
async fn an_answer_of_another_length_is_refused() {
    let bench = Bench::new();
    let mut turn = 0;
    let (_asked, script) = script(move |_| {
        turn += 1;
        match turn {
            1 => Reply::Words(vec![1]),
            2 => Reply::Words(vec![1, 2, 3]),
            _ => Reply::Words(vec![0, 9]),
        }
    });
    let wide = register("x", RegisterKind::Holding, 0, ValueType::U32);
    let source = bench.start("m", &tcp(script), vec![unit(1, vec![wide])]);
    let records = bench.until_records(1).await;
    assert_eq!(records[0], Seen::new("m/unit-1", &[("unit-1/x", "9")]));
    assert_eq!(bench.requests(1, "mismatch"), 2);
    bench.end(source).await;
}

/// W1: RTU answers carry no number; what is on the line before a request is none to it.
#[tokio::test]
async fn a_late_answer_is_not_taken_for_that_to_the_next_request() {
    use std::io::Write as _;
    let line = Line::new();
    let bus = line.bus();
    let mut turn = bus.turn().await;
    turn.open().await.unwrap();
    let late = [1, 3, 2, 0x02, 0x9a];
    let mut far = line.far.try_clone().unwrap();
    far.write_all(&late).unwrap();
    far.write_all(&units::crc(&late).to_le_bytes()).unwrap();
    let arrived = async {
        while rustix::io::ioctl_fionread(&line.near).unwrap() < 7 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, arrived).await.unwrap();
    line.serve(script(|_| Reply::Words(vec![7])).1);
    let unit = unit(1, vec![word_at(0)]);
    let block = Plan::new(&unit).blocks()[0];
    let content = turn.read(1, &block, PATIENCE).await.unwrap();
    assert_eq!(content, Content::Words(vec![7]));
    assert_eq!(turn.late_bytes(), 7);
}

/// A client that has met garbage reports the next request as failed, too, unless it is a new one.
#[tokio::test]
async fn a_request_right_after_garbage_is_answered() {
    let line = Line::new();
    let mut first = true;
    let (_asked, script) = script(move |_| {
        if std::mem::take(&mut first) {
            // Longer than the client's patience with bytes that begin no frame.
            Reply::Damaged(vec![0x0303; 60])
        } else {
            Reply::Words(vec![7])
        }
    });
    line.serve(script);
    let bus = line.bus();
    let mut turn = bus.turn().await;
    turn.open().await.unwrap();
    let block = Plan::new(&unit(1, vec![word_at(0)])).blocks()[0];
    let wait = Duration::from_millis(500);
    let first = turn.read(1, &block, wait).await;
    assert!(
        matches!(first, Err(Fault::Garbage | Fault::Timeout)),
        "{first:?}"
    );
    let second = turn.read(1, &block, PATIENCE).await.unwrap();
    assert_eq!(second, Content::Words(vec![7]));
}

/// Any function code with any content, in whole frames: what no checksum or length rejects.
fn any_units_data() -> impl FnMut() -> Vec<u8> + Send + 'static {
    let mut state = 1_u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as u8
    };
    let mut function = 0_u8;
    move || {
        function = function.wrapping_add(1);
        let content: Vec<u8> = (0..next() % 24).map(|_| next()).collect();
        [vec![function], content].concat()
    }
}

async fn bear_anything(bus: &Bus, rounds: usize, wait: Duration) {
    let registers = vec![word_at(0), word_at(1)];
    let block = Plan::new(&unit(1, registers)).blocks()[0];
    let mut turn = bus.turn().await;
    for _ in 0..rounds {
        turn.open().await.unwrap();
        // An answer with the right function and length may be among them.
        let _ = turn.read(1, &block, wait).await;
    }
    // Units that are behind still answer earlier requests.
    for _ in 0..40 {
        turn.open().await.unwrap();
        if let Ok(content) = turn.read(1, &block, Duration::from_millis(500)).await {
            assert_eq!(content, Content::Words(vec![7, 8]));
            return;
        }
    }
    panic!("no answer is taken any more");
}

#[tokio::test]
async fn no_answer_makes_the_source_panic_or_lose_its_place() {
    const ROUNDS: usize = 512;
    let script = || {
        let (mut requests, mut data) = (0, any_units_data());
        script(move |_| {
            requests += 1;
            if requests > ROUNDS {
                Reply::Words(vec![7, 8])
            } else {
                Reply::Data(data())
            }
        })
        .1
    };
    bear_anything(&tcp(script()), ROUNDS, PATIENCE).await;
    let line = Line::new();
    line.serve(script());
    bear_anything(&line.bus(), ROUNDS, Duration::from_millis(5)).await;
}
