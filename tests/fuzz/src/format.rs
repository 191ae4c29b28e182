//! As much of the format on disk as is needed to give a fuzzer's bytes good checksums. Written down
//! here once more, not imported: a change of the format shows as a corpus that finds nothing whole.

use crate::input::Input;

/// The identity of every log that is fuzzed.
pub const IDENTITY: u64 = 0x0123_4567_89ab_cdef;
/// Bytes of a batch's header.
pub const HEADER_BYTES: usize = 80;
const BATCH_MAGIC: [u8; 4] = *b"EGLB";
const SLOT_MAGIC: [u8; 4] = *b"EGLS";
const ALIGN: usize = 8;
const SLOT_STRIDE: usize = 4096;
const SLOT_BYTES: usize = 64;

/// Where batches seem to begin: the magic bytes at a multiple of 8.
#[must_use]
pub fn batch_positions(file: &[u8]) -> Vec<usize> {
    let places = (0..file.len().saturating_sub(HEADER_BYTES - 1)).step_by(ALIGN);
    places
        .filter(|&at| file[at..at + 4] == BATCH_MAGIC)
        .collect()
}

/// Gives every batch of a segment the right identity and checksum, as far as its length is one.
pub fn repair_segment(file: &mut [u8]) {
    for at in batch_positions(file) {
        repair_batch(file, at);
    }
}

/// Gives the batch at `at` the right identity and checksum, if its length is one.
pub fn repair_batch(file: &mut [u8], at: usize) {
    let content = u32::from_le_bytes([file[at + 8], file[at + 9], file[at + 10], file[at + 11]]);
    let end = at + HEADER_BYTES + content as usize;
    if end <= file.len() {
        file[at + 16..at + 24].copy_from_slice(&IDENTITY.to_le_bytes());
        let crc = crc32c::crc32c(&file[at + 8..end]);
        file[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Gives both slots of a slot file the right magic bytes, identity and checksum.
pub fn repair_slots(file: &mut [u8]) {
    for at in [0, SLOT_STRIDE] {
        if let Some(slot) = file.get_mut(at..at + SLOT_BYTES) {
            slot[0..4].copy_from_slice(&SLOT_MAGIC);
            slot[16..24].copy_from_slice(&IDENTITY.to_le_bytes());
            let crc = crc32c::crc32c(&slot[8..]);
            slot[4..8].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// Composes a segment file of sealed batches and rubbish, as `input` says.
#[must_use]
pub fn segment(input: &mut Input<'_>) -> Vec<u8> {
    let mut file = Vec::new();
    let mut next = input.number();
    for _ in 0..input.u8() % 16 {
        match input.u8() {
            0..=199 => next = batch(input, next, &mut file),
            200..=219 => {
                let len = usize::from(input.u8());
                file.extend_from_slice(input.bytes(len));
            }
            220..=239 => file.resize(file.len() + usize::from(input.u16()), 0),
            240..=255 => {
                let cut = usize::from(input.u8()).min(file.len());
                file.truncate(file.len() - cut);
            }
        }
        file.resize(file.len().next_multiple_of(ALIGN), 0);
    }
    file
}

/// Appends a batch, mostly one that follows upon `next`; returns the offset behind it.
fn batch(input: &mut Input<'_>, next: u64, file: &mut Vec<u8>) -> u64 {
    let odd = input.u8();
    let unless = |bit: u8, usual: u64, input: &mut Input<'_>| match odd & 1 << bit {
        0 => usual,
        _ => input.number(),
    };
    let start = file.len();
    file.resize(start + HEADER_BYTES, 0);
    let kind = unless(0, 0, input) as u8;
    let compression = unless(1, 0, input) as u8;
    let version = unless(2, 1, input) as u8;
    let base = unless(3, next, input);
    let synced = unless(4, base, input);
    let committed = unless(5, 0, input);
    let open_counter = unless(6, 1, input) as u32;
    let records = unless(7, u64::from(input.u8() % 4), input);
    content(input, records, file);
    let content_bytes = (file.len() - start - HEADER_BYTES) as u32;
    let whole_bytes = unless(1, u64::from(content_bytes), input) as u32;
    let head = &mut file[start..start + HEADER_BYTES];
    head[0..4].copy_from_slice(&BATCH_MAGIC);
    head[8..12].copy_from_slice(&content_bytes.to_le_bytes());
    head[12..15].copy_from_slice(&[version, kind, compression]);
    head[24..28].copy_from_slice(&open_counter.to_le_bytes());
    head[28..32].copy_from_slice(&(records as u32).to_le_bytes());
    head[32..40].copy_from_slice(&base.to_le_bytes());
    head[40..48].copy_from_slice(&synced.to_le_bytes());
    head[48..56].copy_from_slice(&committed.to_le_bytes());
    head[72..76].copy_from_slice(&whole_bytes.to_le_bytes());
    repair_batch(file, start);
    base.wrapping_add(records)
}

/// Appends a batch's content: entries of a plain line, or any bytes.
fn content(input: &mut Input<'_>, records: u64, file: &mut Vec<u8>) {
    let shape = input.u8();
    if shape & 0x80 != 0 {
        let len = usize::from(input.u8());
        file.extend_from_slice(input.bytes(len));
        return;
    }
    for _ in 0..records.min(8) {
        let payload = input.bytes(usize::from(shape & 0x1f));
        // Length, tag, wall clock, monotonic clock, source "s", subject "s/1", payload.
        file.push((payload.len() + 9) as u8);
        file.extend_from_slice(&[0, 2, 1, 1, b's', 3, b's', b'/', b'1']);
        file.extend_from_slice(payload);
    }
}
