//! What the proxy tells about itself: reasons, the access log, metrics, events, traces, the process's log.

pub mod access_log;
pub mod events;
mod file;
pub mod log;
pub mod metrics;
pub mod reason;
pub mod sparing;
pub mod trace;
