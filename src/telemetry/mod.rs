//! What the proxy tells about itself: reasons, the access log, metrics, the process's log.

pub mod access_log;
pub mod reason;
