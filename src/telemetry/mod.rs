//! What the proxy tells about itself: reasons, the access log, metrics, the process's log.

pub mod access_log;
mod file;
pub mod log;
pub mod metrics;
pub mod reason;
