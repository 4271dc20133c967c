//! `tests/fuzz/promises/road_h2_answers.rs` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roundel_fuzz::promises::road_h2_answers::holds(bytes));
