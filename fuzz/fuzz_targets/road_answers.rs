//! `tests/fuzz/promises/road_answers.rs` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roundel_fuzz::promises::road_answers::holds(bytes));
