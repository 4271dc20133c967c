//! What the admin API says of a backend.

use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::backend::{Backend, ProbeReport};
use super::state::State;
use crate::base::clock::{Clock, Moment, rfc3339};

impl Backend {
    /// What `/api/v1/status` says of it at `now`.
    #[must_use]
    pub fn status(&self, clock: &Clock, now: Moment) -> BackendStatus {
        let health = self.health();
        let since = clock.wall(health.since()).checked_sub(health.carried()).unwrap_or(UNIX_EPOCH);
        let millis = |q| self.quantiles().at(q, now).map(|latency| latency.as_micros() as f64 / 1000.0);
        BackendStatus {
            address: self.address().to_string(),
            name: self.name().to_string(),
            state: health.state(),
            since: rfc3339(since),
            reason: health.why().to_string(),
            weight: self.weight(),
            backup: self.backup(),
            in_flight: self.in_flight(),
            most: self.most(),
            requests: self.requests(),
            failures: self.failures(),
            latency_ms: LatencyStatus { p50: millis(0.5), p99: millis(0.99) },
            last_probe: self.last_probe().map(|probe| ProbeStatus::of(&probe, clock)),
        }
    }
}

/// What `/api/v1/status` says of a backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackendStatus {
    /// IP address and port, or `unix:` and a path.
    pub address: String,
    /// As the operator wrote it.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Since when (RFC 3339, UTC).
    pub since: String,
    /// Why, in words.
    pub reason: String,
    /// Its share.
    pub weight: u32,
    /// Whether it is used only when no other backend is usable.
    pub backup: bool,
    /// Requests in flight.
    pub in_flight: u32,
    /// How many may be; none: no bound of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
    /// Requests it was chosen for.
    pub requests: u64,
    /// Requests that failed at it.
    pub failures: u64,
    /// Latency to the first byte over about the last minute.
    pub latency_ms: LatencyStatus,
    /// The last probe; none before the first.
    pub last_probe: Option<ProbeStatus>,
}

/// Latency to the first byte, in milliseconds; none where no request was answered lately.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyStatus {
    /// Half of the requests took no longer.
    pub p50: Option<f64>,
    /// 99 % of the requests took no longer.
    pub p99: Option<f64>,
}

/// The last probe of a backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeStatus {
    /// When its result came (RFC 3339, UTC).
    pub at: String,
    /// Whether it was good.
    pub ok: bool,
    /// How long it took, in milliseconds; none where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ProbeStatus {
    fn of(probe: &ProbeReport, clock: &Clock) -> Self {
        Self {
            at: rfc3339(clock.wall(probe.at)),
            ok: probe.result.is_ok(),
            duration_ms: probe.result.as_ref().ok().map(|took| took.as_micros() as f64 / 1000.0),
            error: probe.result.as_ref().err().map(ToString::to_string),
        }
    }
}
