//! A closed log's files, looked at and changed by hand, and what is told of it then.

use std::path::PathBuf;

use super::super::{CommitLog, Finding, Opened, Outcome, Severity, batch, segment, slots};
use super::sim_fs::SimFs;
use super::support::*;
use crate::record::Offset;

pub(super) fn segment_path(base: u64) -> PathBuf {
    segment::path(dir(), Offset::new(base))
}

/// Bases of the segments there are, oldest first.
pub(super) fn bases(fs: &SimFs) -> Vec<u64> {
    let mut bases: Vec<u64> = fs
        .names()
        .iter()
        .filter_map(|name| segment::base_of(name))
        .map(Offset::get)
        .collect();
    bases.sort_unstable();
    bases
}

/// A closed log of `records` records, one batch each.
pub(super) fn log_of(records: u64) -> SimFs {
    let fs = SimFs::default();
    let opened = open(&fs);
    for number in 0..records {
        assert!(append_synced(&opened.log, number..number + 1));
    }
    fs
}

/// Where the batch of the record begins in its segment, found by the magic.
pub(super) fn batch_position(content: &[u8], base: u64) -> usize {
    (0..content.len() - batch::HEADER_BYTES)
        .step_by(8)
        .find(|&at| {
            content[at..at + 4] == *b"EGLB"
                && content[at + 13] == 0
                && content[at + 32..at + 40] == base.to_le_bytes()
        })
        .expect("the batch")
}

/// Gives the batch at a position a good checksum again.
pub(super) fn seal(content: &mut [u8], at: usize) {
    let length = u32::from_le_bytes(content[at + 8..at + 12].try_into().expect("4")) as usize;
    let crc = crc32c::crc32c(&content[at + 8..at + batch::HEADER_BYTES + length]);
    content[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn identity(fs: &SimFs) -> u64 {
    let Ok(slots::Peeked::Slot(slot)) = slots::peek(fs, dir()) else {
        panic!("no slot")
    };
    slot.identity
}

/// Makes the slots those of a moment when so much was delivered and synced.
pub(super) fn slots_say(fs: &SimFs, committed: u64, synced: u64) {
    let slot = slots::Slot {
        identity: identity(fs),
        open_counter: 2,
        committed: Offset::new(committed),
        synced: Offset::new(synced),
        lineage: 0,
    };
    fs.delete(&slots::path(dir()));
    let (mut file, _) = slots::Slots::open(fs, dir()).expect("slots");
    file.write(&slot).expect("write");
    super::super::fs::Fs::sync_dir(fs, dir()).expect("sync");
}

pub(super) fn found(opened: &Opened<Digest>, outcome: Outcome) -> bool {
    let mut findings = opened.recovery.findings.iter();
    findings.any(|finding| finding.outcome == outcome)
}

/// What a reader of everything that is undelivered is told.
pub(super) fn told_by_reading(log: &CommitLog) -> Vec<Finding> {
    let mut told = Vec::new();
    let mut cursor = log.cursor(log.committed());
    while cursor.next().expect("read").is_some() {
        told.extend(std::iter::from_fn(|| cursor.take_finding()));
    }
    told.extend(std::iter::from_fn(|| cursor.take_finding()));
    told
}

/// What is told by opening, then by reading: in all once each. Opening tells the first time only.
pub(super) fn all_findings(opened: &Opened<Digest>) -> Vec<Finding> {
    let read = told_by_reading(&opened.log);
    let again = told_by_reading(&opened.log);
    assert_eq!(again, [], "told once");
    [opened.recovery.findings.clone(), read].concat()
}

/// The cases that lost something, with the first and last lost offset.
pub(super) fn losses(findings: &[Finding]) -> Vec<(Outcome, u64, u64)> {
    let lost = |finding: &Finding| {
        let (first, last) = finding.lost?;
        assert_eq!(finding.outcome.severity(), Severity::Loss);
        let text = finding.to_string();
        assert!(
            text.contains(&format!("offsets {first} to {last}")),
            "{text}"
        );
        Some((finding.outcome, first.get(), last.get()))
    };
    findings.iter().filter_map(lost).collect()
}
