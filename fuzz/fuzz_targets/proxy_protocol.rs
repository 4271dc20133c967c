//! `tests/fuzz/promises/proxy_protocol.rs` under libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roundel_fuzz::promises::proxy_protocol::holds(bytes));
