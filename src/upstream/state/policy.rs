//! The rules by which the state machine moves, as the plan of an upstream sets them.

use std::time::Duration;

use crate::config::plan::{self, Outlier, Probe, Start};

/// What moves a backend from state to state, taken from its upstream's plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How probes are judged; none where backends are not probed.
    pub probes: Option<ProbePolicy>,
    /// When failures of requests eject; none where they never do.
    pub outlier: Option<Outlier>,
    /// How long a backend that comes (back) into use is ramped up.
    pub slow_start: Duration,
}

/// How probes are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbePolicy {
    /// Failures in a row that take a backend out.
    pub fall: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
    /// Between two probes in a settled state.
    pub interval: Duration,
    /// Between two probes while between two states.
    pub fast_interval: Duration,
    /// Whether a backend is used before its first good probe.
    pub start: Start,
    /// Whether a good probe shows that the application answers (http, grpc), not its port alone (tcp).
    pub asks_application: bool,
}

impl Policy {
    /// The policy of an upstream.
    #[must_use]
    pub fn of(upstream: &plan::Upstream) -> Self {
        let probes = upstream.health_check.as_deref().map(|check| ProbePolicy {
            fall: check.fall.max(1),
            rise: check.rise.max(1),
            interval: check.interval,
            fast_interval: check.fast_interval.min(check.interval),
            start: check.start,
            asks_application: !matches!(check.probe, Probe::Tcp),
        });
        Self { probes, outlier: upstream.outlier, slow_start: upstream.slow_start }
    }
}
