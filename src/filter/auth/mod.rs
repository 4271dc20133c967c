//! Who is asking: authentication of requests.
//!
//! It decides and hashes; on which thread a hash is computed, and when files are read again, is left to the callers.

pub mod basic;
pub mod users;
