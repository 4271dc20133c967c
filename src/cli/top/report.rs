//! What a proxy says of itself, taken from its JSON: the parts of `/api/v1/status` and `/api/v1/history` that are shown.

use std::collections::BTreeMap;
use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What a proxy said at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    pub(super) status: Status,
    pub(super) history: History,
}

impl Report {
    /// Takes both answers apart.
    ///
    /// # Errors
    /// They are not what this version's proxy says.
    pub(super) fn read(status: Value, history: Value) -> io::Result<Self> {
        let fault = |error: serde_json::Error| io::Error::other(format!("what answers is another version: {error}"));
        Ok(Self {
            status: serde_json::from_value(status).map_err(fault)?,
            history: serde_json::from_value(history).map_err(fault)?,
        })
    }
}

/// `/api/v1/status`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) pid: u32,
    pub(super) generation: u64,
    pub(super) config_hash: String,
    #[serde(deserialize_with = "moment")]
    pub(super) started_at: Option<Timestamp>,
    pub(super) listeners: Vec<Listener>,
    pub(super) upstreams: Vec<Upstream>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) connections: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) balance: String,
    pub(super) backends: Vec<Backend>,
    #[serde(default)]
    pub(super) unresolved: Vec<Unresolved>,
    #[serde(default)]
    pub(super) limits: Limits,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Unresolved {
    pub(super) name: String,
    pub(super) reason: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Limits {
    pub(super) pending: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Backend {
    pub(super) address: String,
    pub(super) name: String,
    pub(super) state: String,
    #[serde(deserialize_with = "moment")]
    pub(super) since: Option<Timestamp>,
    pub(super) reason: String,
    pub(super) weight: u32,
    pub(super) backup: bool,
    pub(super) in_flight: u64,
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) latency_ms: Latency,
    pub(super) last_probe: Option<Probe>,
}

impl Backend {
    /// Whether it gets requests.
    pub(super) fn usable(&self) -> bool {
        matches!(self.state.as_str(), "healthy" | "slow_start")
    }

    /// Whether an operator has taken it out of use.
    pub(super) fn withdrawn(&self) -> bool {
        matches!(self.state.as_str(), "draining" | "drained")
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Probe {
    #[serde(deserialize_with = "moment")]
    pub(super) at: Option<Timestamp>,
    pub(super) ok: bool,
    pub(super) duration_ms: Option<f64>,
    pub(super) error: Option<String>,
}

/// `/api/v1/history`: the last minutes, a second at a time, the oldest first.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct History {
    pub(super) good: Vec<u64>,
    pub(super) client_errors: Vec<u64>,
    pub(super) server_errors: Vec<u64>,
    pub(super) p50_ms: Vec<Option<f64>>,
    pub(super) p99_ms: Vec<Option<f64>>,
    pub(super) upstreams: BTreeMap<String, Sums>,
}

impl History {
    /// All requests of each second.
    pub(super) fn requests(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator {
        let errors = self.client_errors.iter().zip(&self.server_errors);
        self.good.iter().zip(errors).map(|(good, (client, server))| good + client + server)
    }
}

/// What went to one upstream.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Sums {
    pub(super) requests: Vec<u64>,
    pub(super) errors: Vec<u64>,
}

/// A time in RFC 3339; what cannot be read is no time, and no reason to show nothing.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_shown_is_read_and_the_rest_left_alone() {
        let status = json!({
            "version": "1.2.3", "pid": 7, "generation": 2, "config_hash": "ab", "started_at": "2026-01-01T00:00:00Z",
            "later": {}, "listeners": [{"name": "public", "address": "0.0.0.0:80", "connections": null}], "upstreams": [],
        });
        let history = json!({
            "good": [1, 2], "client_errors": [0, 1], "server_errors": [1, 0], "p50_ms": [null, 1.5], "p99_ms": [null, 2],
            "upstreams": {"web": {"requests": [2, 3], "errors": [1, 0]}},
        });
        let report = Report::read(status, history).unwrap();
        assert_eq!((report.status.pid, report.status.listeners[0].connections), (7, None));
        assert_eq!(report.history.requests().collect::<Vec<_>>(), [2, 3]);
        assert!(Report::read(json!({"pid": "x"}), json!({})).is_err());
    }
}
