//! Fuzzes the slot file of a good log: see `fuzz::targets::slots`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::targets::slots(input));
