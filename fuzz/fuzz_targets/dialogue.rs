//! `tests/fuzz/promises/dialogue.rs` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roundel_fuzz::promises::dialogue::holds(bytes));
