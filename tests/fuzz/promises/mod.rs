//! The promises that hold for any bytes: one file a target, each a plain function that panics where its promise is broken.
//!
//! They are used twice: by libFuzzer (`fuzz/fuzz_targets`), and by `cargo test` (`tests/fuzz/main.rs`), which replays the seeds and
//! then goes through some mutations of them. `docs/fuzzing.md` lists them.

pub mod answer;
pub mod backends;
pub mod certificate;
pub mod client;
pub mod compress;
pub mod config;
pub mod credentials;
pub mod dialogue;
mod frames;
pub mod framing;
pub mod handover;
pub mod head;
pub mod headers;
pub mod host;
pub mod log_line;
pub mod path;
pub mod proxy_protocol;
pub mod road;
pub mod road_answers;
pub mod road_h2;
pub mod road_h2_answers;
pub mod units;
mod world;
