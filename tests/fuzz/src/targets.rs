//! The targets: functions of bytes that return, or panic where a promise is broken.

use std::path::PathBuf;

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{self, Frame, HEADER_BYTES, Header};
use firmware_shim::senml;

use crate::check;
use crate::format;
use crate::input::Input;
use crate::line;
use crate::memory::MemoryFs;
use crate::template;

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// All of them by name, as in `corpus/`.
pub const ALL: [(&str, Target); 6] = [
    ("segment", segment),
    ("slots", slots),
    ("directory", directory),
    ("damage", damage),
    ("frames", frames),
    ("framings", framings),
];

/// A log whose only segment is `input` behind its first byte. If that is odd, batches in it get good
/// checksums.
pub fn segment(input: &[u8]) {
    let mut input = Input(input);
    let repair = input.u8() & 1 != 0;
    let mut file = input.0.to_vec();
    if repair {
        format::repair_segment(&mut file);
    }
    let fs = MemoryFs::default();
    fs.put(&segment_path(0), file);
    check::holds(&fs);
}

/// A good log with another slot file: `input` behind its first byte, as the bytes of slot 0 and,
/// from byte 64 on, slot 1. If the first byte is odd, both get good checksums.
pub fn slots(input: &[u8]) {
    let mut input = Input(input);
    let repair = input.u8() & 1 != 0;
    let (first, second) = (input.bytes(64), input.0);
    let mut file = first.to_vec();
    if !second.is_empty() {
        file.resize(4096, 0);
        file.extend_from_slice(second);
    }
    if repair {
        file.resize(8192, 0);
        format::repair_slots(&mut file);
    }
    let fs = template::fs();
    fs.put(&check::dir().join("slots"), file);
    check::holds(&fs);
}

/// A directory of up to seven files: segments of sealed batches, spares, slots, foreign names.
pub fn directory(input: &[u8]) {
    let mut input = Input(input);
    let fs = MemoryFs::default();
    for _ in 0..input.u8() % 8 {
        let (path, content) = file(&mut input);
        fs.put(&path, content);
    }
    check::holds(&fs);
}

fn file(input: &mut Input<'_>) -> (PathBuf, Vec<u8>) {
    let dir = check::dir();
    match input.u8() % 16 {
        0..=9 => {
            let base = input.number();
            (segment_path(base), format::segment(input))
        }
        10 | 11 => {
            let mut content = vec![0; 8192];
            for at in [0, 4096] {
                let slot = input.bytes(64);
                content[at..at + slot.len()].copy_from_slice(slot);
            }
            format::repair_slots(&mut content);
            (dir.join("slots"), content)
        }
        12 => (dir.join("slots"), input.bytes(100).to_vec()),
        13 => (dir.join("spare"), format::segment(input)),
        14 => (dir.join("lock"), input.bytes(20).to_vec()),
        _ => {
            let letter = char::from(b'a' + input.u8() % 26);
            (dir.join(format!("{letter}.seg")), format::segment(input))
        }
    }
}

fn segment_path(base: u64) -> PathBuf {
    check::dir().join(format!("{base:020}.seg"))
}

/// A good log, damaged as `input` says: bits, ranges, headers with their checksum made good, lengths
/// and names of files.
pub fn damage(input: &[u8]) {
    let mut input = Input(input);
    let mut files = template::FILES.clone();
    for _ in 0..16 {
        if input.is_empty() || files.is_empty() {
            break;
        }
        let which = usize::from(input.u8()) % files.len();
        damage_file(&mut input, &mut files, which);
    }
    let fs = MemoryFs::default();
    for (path, content) in files {
        fs.put(&path, content);
    }
    check::holds(&fs);
}

fn damage_file(input: &mut Input<'_>, files: &mut Vec<(PathBuf, Vec<u8>)>, which: usize) {
    let how = input.u8() % 10;
    if how == 8 {
        files.swap_remove(which);
        return;
    }
    if how == 9 {
        files[which].0 = segment_path(input.number());
        return;
    }
    let at = place(input, &files[which].1);
    let content = &mut files[which].1;
    let room = content.len().saturating_sub(at);
    match how {
        // A header's field, behind a checksum that is made good.
        0..=2 => {
            let field = 8 + usize::from(input.u8()) % 72;
            let count = usize::from(input.u8() % 8) + 1;
            let value = input.bytes(count);
            if room >= field + value.len() && room >= format::HEADER_BYTES {
                content[at + field..at + field + value.len()].copy_from_slice(value);
                format::repair_batch(content, at);
            }
        }
        3 => {
            if let Some(byte) = content.get_mut(at + usize::from(input.u8())) {
                *byte ^= 1 << (input.u8() % 8);
            }
        }
        // Sectors of an earlier life, or never written.
        4 => {
            let len = (usize::from(input.u8()) * 512).min(room);
            content[at..at + len].fill(0);
        }
        5 | 6 => {
            let from = place(input, content);
            let len = usize::from(input.u16()).min(room);
            let len = len.min(content.len() - from);
            content.copy_within(from..from + len, at);
        }
        _ => content.truncate(at),
    }
}

/// Where a batch begins, or any place.
fn place(input: &mut Input<'_>, content: &[u8]) -> usize {
    let batch = usize::from(input.u8());
    let starts = format::batch_positions(content);
    match starts.get(batch % 32) {
        Some(&at) => at,
        None => (input.u32() as usize) % (content.len() + 1),
    }
}

/// A serial line in the framing that the first byte chooses: portions of so many bytes, with silences
/// between them.
pub fn framings(input: &[u8]) {
    line::holds(&mut Input(input));
}

/// The bytes of a serial line behind the first byte of `input`. If that is odd, a good frame with
/// them as its payload comes first. They are read as a `SenML` pack too.
pub fn frames(input: &[u8]) {
    let mut input = Input(input);
    let mut line = Vec::new();
    if input.u8() & 1 != 0 {
        let header = Header::from_bytes(*input.0.first_chunk().unwrap_or(&[0x11; HEADER_BYTES]));
        let payload = &input.0[..input.0.len().min(frame::PAYLOAD_BYTES_MAX)];
        line.extend(
            header
                .map(|header| encoded(header, payload))
                .iter()
                .flatten(),
        );
    }
    line.extend_from_slice(input.0);
    let mut decoder: Decoder = Decoder::new();
    for &byte in &line {
        match decoder.push(byte) {
            Outcome::Pending | Outcome::Rejected(_) => {}
            Outcome::Frame(found) => encodes_back(&found),
        }
    }
    // An error is an answer; a panic is not.
    let _ = senml::for_each(input.0, |_| {});
    let _ = senml::base_name(input.0);
}

fn encoded(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut out = [0; frame::FRAME_BYTES_MAX];
    let len = frame::encode(header, payload, &mut out).expect("the buffer holds any frame");
    out[..len].to_vec()
}

fn encodes_back(found: &Frame<'_>) {
    let bytes = encoded(found.header, found.payload);
    let (end, head) = bytes.split_last().expect("a frame has an end");
    let mut decoder: Decoder = Decoder::new();
    for &byte in head {
        assert_eq!(
            decoder.push(byte),
            Outcome::Pending,
            "it ends with its last byte"
        );
    }
    assert_eq!(decoder.push(*end), Outcome::Frame(*found));
}
