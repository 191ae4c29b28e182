//! Random lives of a log against a model that is nothing but three numbers: what was appended, what
//! is durable, what is delivered. `EDGE_GATEWAY_MODEL_CASES` sets how many.

use proptest::prelude::*;

use super::super::{CommitLog, Condition, Item, Opened};
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
    /// From the call so many calls from now on nothing finds space, until the disk isn't full.
    NoSpace(u64),
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
        1 => (0_u64..12).prop_map(Step::NoSpace),
    ]
}

struct Model {
    fs: SimFs,
    opened: Option<Opened<Digest>>,
    appended: u64,
    synced: u64,
    committed: u64,
    /// Highest committed offset there ever was.
    delivered: u64,
    /// There was a time when not even a write in place found space.
    no_space: bool,
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
            delivered: 0,
            no_space: false,
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
            Step::Full(true) => self.fs.set_full(true),
            Step::Full(false) => self.fs.space_returns(),
            Step::NoSpace(calls) => {
                self.fs.no_space_in(calls);
                self.no_space = true;
            }
        }
        self.synced = self.synced.max(self.log().progress().synced.get());
        self.delivered = self.delivered.max(self.committed);
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
        self.delivered = self.delivered.max(self.committed);
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
                self.fs.space_returns();
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
        // A segment goes although the slots found no space to say that it is delivered, on a file
        // system where they need some: a crash then leaves a gap that is none.
        let mut cursor = opened.log.cursor(Offset::new(committed));
        let begin = match cursor.next().expect("read") {
            Some(Item::Hole(hole)) if self.no_space => hole.last.get() + 1,
            Some(_) | None => committed,
        };
        assert!(
            begin <= committed.max(self.delivered),
            "only what was delivered is gone"
        );
        assert_holds(&opened.log, begin, next);
        (self.appended, self.synced, self.committed) = (next, next, begin);
        self.opened = Some(opened);
    }
}

/// A closed log of so many records, some delivered, and where its files are damaged: which file,
/// which part of it in 65536ths, and how.
fn damage() -> impl Strategy<Value = (u64, u64, usize, u16, Damage)> {
    let damage = prop_oneof![
        4 => (0_u32..8).prop_map(Damage::Bit),
        1 => Just(Damage::CutOff),
        1 => (1_usize..3000).prop_map(Damage::Zeroes),
        1 => Just(Damage::Gone),
    ];
    let records = 1_u64..70;
    let delivered = 0_u64..70;
    (records, delivered, any::<usize>(), any::<u16>(), damage)
}

#[derive(Clone, Debug)]
enum Damage {
    Bit(u32),
    CutOff,
    Zeroes(usize),
    Gone,
}

fn inflict(fs: &SimFs, file: usize, place: u16, damage: &Damage) {
    let mut names = fs.names();
    names.retain(|name| name.ends_with(".seg") || name == "slots");
    let path = dir().join(&names[file % names.len()]);
    let at = |content: &[u8]| content.len() * usize::from(place) / 65536;
    match *damage {
        Damage::Bit(bit) => fs.tamper(&path, |content| {
            let at = at(content);
            content[at] ^= 1 << bit;
        }),
        Damage::CutOff => fs.tamper(&path, |content| content.truncate(at(content))),
        Damage::Zeroes(count) => fs.tamper(&path, |content| {
            let from = at(content);
            let to = (from + count).min(content.len());
            content[from..to].fill(0);
        }),
        Damage::Gone => fs.delete(&path),
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
        model.fs.space_returns();
        model.run(&Step::Sync);
        model.run(&Step::Reopen);
    }

    #[test]
    fn damage_anywhere_is_told_and_every_offset_is_read_or_missed(
        (records, delivered, file, place, damage) in damage()
    ) {
        let fs = SimFs::default();
        let opened = open(&fs);
        for number in 0..records {
            assert!(append_synced(&opened.log, number..number + 1));
        }
        opened.log.commit(Offset::new(delivered.min(records)));
        drop(opened);
        inflict(&fs, file, place, &damage);
        let opened = open(&fs);
        let log = &opened.log;
        let (committed, next) = (log.committed().get(), log.progress().synced.get());
        prop_assert_eq!(next, records, "no offset is used twice");
        let content = read(log, Offset::new(committed));
        let missed: u64 = content.holes.iter().map(|h| h.last.plus(1).since(h.first)).sum();
        prop_assert_eq!(content.offsets.len() as u64 + missed, next - committed);
        let mut cursor = log.cursor(log.committed());
        let mut told: u64 = opened.recovery.findings.iter().map(|f| f.records_lost()).sum();
        while cursor.next().expect("read").is_some() {
            told += std::iter::from_fn(|| cursor.take_finding())
                .map(|f| f.records_lost())
                .sum::<u64>();
        }
        prop_assert_eq!(told, missed, "each lost record is told once");
        prop_assert!(append_synced(log, next..next + 2));
        drop(opened);
        let again = read(&open(&fs).log, Offset::new(committed));
        prop_assert_eq!(again.offsets.len(), content.offsets.len() + 2);
    }
}
