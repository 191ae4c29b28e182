//! A log that is full, and one that fails.

use super::super::*;
use super::support::*;
use super::units::Reply;
use crate::record::SourceName;

#[tokio::test]
async fn while_the_buffer_is_full_polls_are_dropped_and_counted() {
    let bench = Bench::new();
    let filler = NewRecord {
        source: &SourceName::new("filler").unwrap(),
        subject: "s",
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: Stamp::default(),
        payload: &[7; 4000],
    };
    let fill = async {
        while bench.progress.borrow().condition != Condition::Full {
            if bench.log.append(&filler).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    timeout(PATIENCE, fill).await.unwrap();
    let (_asked, script) = script(|_| Reply::Words(vec![7]));
    let source = bench.start("m", &tcp(script), vec![unit(1, vec![word_at(0)])]);
    let dropping = |bench: &Bench| bench.dropped("buffer_full") >= 3;
    bench.until("polls to be dropped", dropping).await;
    assert_eq!(bench.up(1), 1, "the unit is polled all the same");
    bench.log.commit(bench.log.progress().synced);
    let taken = |bench: &Bench| bench.source().committed.get() >= 2;
    bench.until("polls to be taken again", taken).await;
    bench.stop.cancel();
    timeout(PATIENCE, source).await.unwrap().unwrap().unwrap();
    let dropped = bench.dropped("buffer_full") + bench.dropped("shutdown");
    let (received, committed) = (
        bench.source().received.get(),
        bench.source().committed.get(),
    );
    assert_eq!(received, committed + dropped);
}

#[tokio::test]
async fn a_failed_log_ends_the_source() {
    let bench = Bench::new();
    let (_asked, script) = script(|_| Reply::Words(vec![7]));
    let source = bench.start("m", &tcp(script), vec![unit(1, vec![word_at(0)])]);
    bench.until_records(1).await;
    bench.log.close();
    let ended = timeout(PATIENCE, source).await.unwrap().unwrap();
    assert!(
        matches!(ended, Err(SourceError::LogFailed { .. })),
        "{ended:?}"
    );
}
