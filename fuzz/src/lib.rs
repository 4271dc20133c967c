//! The promises of the proxy's parsers and of its request path, for libFuzzer. They are written in `tests/fuzz/promises`, where
//! `cargo test` holds them too.

#[path = "../../tests/fuzz/promises/mod.rs"]
pub mod promises;
#[path = "../../tests/reader/mod.rs"]
pub mod reader;
