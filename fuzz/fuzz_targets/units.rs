//! `tests/fuzz/promises/units.rs` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roundel_fuzz::promises::units::holds(bytes));
