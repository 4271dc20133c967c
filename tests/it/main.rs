//! The integration tests: the real binary, real sockets, one file a promise.

#[allow(unused_imports)] // see harness/mod.rs
mod harness;
mod kit;
mod round_robin;
