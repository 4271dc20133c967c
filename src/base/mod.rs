//! Small values without a subject: time, units, addresses. Imports nothing of this crate.

pub mod address;
pub mod backoff;
pub mod certificate;
pub mod clock;
pub mod crypto;
pub mod gcra;
pub mod host;
pub mod inline;
pub mod pairs;
pub mod path;
pub mod proxy_protocol;
pub mod request;
pub mod ring;
pub mod shard;
pub mod stamp;
pub mod template;
pub mod text;
pub mod units;
