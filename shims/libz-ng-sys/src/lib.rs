//! pingora-core asks flate2 for zlib-ng, whose `-sys` crate runs cmake. Roundel promises to build with Rust and a C
//! compiler alone, so this crate takes that name and re-exports libz-sys: the same C interface over zlib, built by `cc`.
#![no_std]
pub use libz_sys::*;
