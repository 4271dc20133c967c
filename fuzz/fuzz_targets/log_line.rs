//! `tests/fuzz/promises/log_line.rs` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roundel_fuzz::promises::log_line::holds(bytes));
