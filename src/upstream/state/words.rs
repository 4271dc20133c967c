//! How the state machine says things.

use std::time::Duration;

pub(super) fn good_in_row(count: u32) -> String {
    if count == 1 { "a probe was good".into() } else { format!("{count} probes were good in a row") }
}

pub(super) fn probes_failed(count: u32, cause: &str) -> String {
    if count == 1 { format!("a probe failed: {cause}") } else { format!("{count} probes failed in a row: {cause}") }
}

/// A duration as an operator writes it: `30s`, `1m30s`, `250ms`.
pub(super) struct Span(pub(super) Duration);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        match (seconds / 60, seconds % 60, millis) {
            (0, 0, millis) => write!(f, "{millis}ms"),
            (0, seconds, 0) => write!(f, "{seconds}s"),
            (0, seconds, millis) => write!(f, "{seconds}.{millis:03}s"),
            (minutes, 0, _) => write!(f, "{minutes}m"),
            (minutes, seconds, _) => write!(f, "{minutes}m{seconds}s"),
        }
    }
}
