//! Fuzzes every framing of a serial line: see `fuzz::targets::framings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::framings(input));
