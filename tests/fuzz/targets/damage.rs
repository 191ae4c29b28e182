//! Fuzzes a good log, damaged: see `fuzz::targets::damage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::damage(input));
