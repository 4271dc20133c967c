//! Small values without a subject: time, units, addresses. Imports nothing of this crate.

pub mod clock;
pub mod request;
