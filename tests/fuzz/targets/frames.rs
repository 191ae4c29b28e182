//! Fuzzes the bytes of a serial line: see `fuzz::targets::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::frames(input));
