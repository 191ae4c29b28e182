//! Fuzzes a whole log directory: see `fuzz::targets::directory`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::directory(input));
