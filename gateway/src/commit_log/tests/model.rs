//! Random lives of a log against a model that is nothing but three numbers: what was appended, what
//! is durable, what is delivered. `EDGE_GATEWAY_MODEL_CASES` sets how many.

use proptest::prelude::*;

use super::super::{CommitLog, Condition, Opened};
use super::sim_fs::SimFs;
use super::support::*;
use crate::record::Offset;

#[derive(Clone, Debug)]
enum Step {
    /// Appends so many records, without waiting.
    Append(u64),
    /// Waits until all of them are synced.
    Sync,
    /// Delivers this share of what is synced, in 255ths.
    Commit(u8),
    /// Reads everything that is not delivered.
    Read,
    /// Closes and opens.
    Reopen,
    /// The power goes so many calls from now; open again with what the disk kept.
    PowerCut(u64, u64),
    /// The process is killed so many calls from now; open again.
    Kill(u64),
    /// The call so many calls from now fails.
    Fail(u64),
    /// The disk is full, or is no longer.
    Full(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..12).prop_map(Step::Append),
        4 => Just(Step::Sync),
        4 => any::<u8>().prop_map(Step::Commit),
        2 => Just(Step::Read),
        1 => Just(Step::Reopen),
        1 => (0_u64..12, any::<u64>()).prop_map(|(calls, seed)| Step::PowerCut(calls, seed)),
        1 => (0_u64..12).prop_map(Step::Kill),
        1 => (0_u64..12).prop_map(Step::Fail),
        1 => any::<bool>().prop_map(Step::Full),
    ]
}

struct Model {
    fs: SimFs,
    opened: Option<Opened<Digest>>,
    appended: u64,
    synced: u64,
    committed: u64,
}

impl Model {
    fn new() -> Self {
        let fs = SimFs::default();
        let opened = Some(open(&fs));
        Self {
            fs,
            opened,
            appended: 0,
            synced: 0,
            committed: 0,
        }
    }

    fn log(&self) -> &CommitLog {
        &self.opened.as_ref().expect("open").log
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Append(count) => self.append(count),
            Step::Sync => self.sync(),
            Step::Commit(share) => {
                let synced = self.log().progress().synced.get();
                let offset = self.committed + (synced - self.committed) * u64::from(share) / 255;
                self.log().commit(Offset::new(offset));
                self.committed = self.log().committed().get();
            }
            Step::Read => {
                let synced = self.log().progress().synced.get();
                let content = read(self.log(), Offset::new(self.committed));
                assert_eq!(content.holes, Vec::new());
                assert!(content.offsets.len() as u64 >= synced - self.committed);
            }
            Step::Reopen => {
                self.log().close();
                self.reopen();
            }
            Step::PowerCut(calls, seed) => {
                self.fs.power_off_in(calls);
                self.append(3);
                self.end_life();
                self.fs.power_cycle(seed);
                self.reopen();
            }
            Step::Kill(calls) => {
                self.fs.power_off_in(calls);
                self.append(3);
                self.end_life();
                self.fs.process_restart();
                self.reopen();
            }
            Step::Fail(calls) => self.fs.fail_in(calls, std::io::ErrorKind::Other),
            Step::Full(full) => self.fs.set_full(full),
        }
        self.synced = self.synced.max(self.log().progress().synced.get());
        if self.log().progress().condition == Condition::Poisoned {
            self.end_life();
            self.fs.process_restart();
            self.reopen();
        }
    }

    fn append(&mut self, count: u64) {
        for _ in 0..count {
            // Refused is fine: full, or failed.
            if append(self.log(), self.appended) {
                self.appended += 1;
            }
        }
    }

    fn sync(&mut self) {
        while self.log().progress().synced.get() < self.appended {
            let progress = self.log().wait(
                self.log().progress().synced,
                std::time::Duration::from_millis(2),
            );
            if progress.condition != Condition::Running {
                return;
            }
        }
    }

    fn end_life(&mut self) {
        self.log().close();
        self.synced = self.synced.max(self.log().progress().synced.get());
        self.committed = self.log().committed().get();
        self.opened = None;
    }

    /// Opens again and checks what is there against what must be.
    fn reopen(&mut self) {
        self.opened = None;
        let opened = match try_open(&self.fs) {
            Ok(opened) => opened,
            // An injected error, or a full disk before there is a single segment.
            Err(_) => {
                self.fs.process_restart();
                self.fs.set_full(false);
                open(&self.fs)
            }
        };
        let next = opened.log.progress().synced.get();
        assert!(
            next >= self.synced,
            "I1: {} were synced, {next} are there",
            self.synced
        );
        assert!(
            next <= self.appended,
            "{} were appended, {next} are there",
            self.appended
        );
        let committed = opened.log.committed().get();
        assert!(
            committed <= self.committed,
            "delivered {}, said {committed}",
            self.committed
        );
        assert_eq!(opened.recovery.holes, Vec::new());
        assert_eq!(opened.state, Digest::of(next), "I9");
        assert_holds(&opened.log, committed, next);
        (self.appended, self.synced, self.committed) = (next, next, committed);
        self.opened = Some(opened);
    }
}

fn cases() -> u32 {
    std::env::var("EDGE_GATEWAY_MODEL_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(1500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn no_life_loses_what_was_synced(steps in proptest::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
        }
        model.fs.set_full(false);
        model.run(&Step::Sync);
        model.run(&Step::Reopen);
    }
}
