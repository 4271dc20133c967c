//! How the health of backends is found out: `health_check`, `outlier_detection`.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// How backends are probed.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// What a probe does.
    pub probe: Probe,
    /// Between two probes of a backend whose state is settled.
    pub interval: Duration,
    /// When a probe has failed; always shorter than `interval`.
    pub timeout: Duration,
    /// Between two probes of a backend that is between two states.
    pub fast_interval: Duration,
    /// Failures in a row that take a backend out.
    pub fall: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
    /// Whether a backend is used before its first good probe.
    pub start: Start,
    /// Another port of the same address.
    pub port: Option<u16>,
    /// TLS for the probe; none: as the backend is written.
    pub tls: Option<bool>,
}

/// What a probe does.
#[derive(Debug, Clone)]
pub enum Probe {
    /// Connects.
    Tcp,
    /// Sends a request and judges the answer.
    Http(HttpProbe),
    /// Calls `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service asked for; empty: the whole server.
        service: String,
    },
}

/// The request of an HTTP probe and what is expected of its answer.
#[derive(Debug, Clone)]
pub struct HttpProbe {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path: String,
    /// Its `Host`; none: the backend's as written.
    pub host: Option<HeaderValue>,
    /// Further fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The statuses that are good.
    pub expect_status: StatusSet,
    /// Text that the first 64 KiB of the body must contain.
    pub expect_body: Option<String>,
}

/// A set of statuses, as inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSet(pub Vec<(u16, u16)>);

impl StatusSet {
    /// Whether `status` is in the set.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

/// Whether a backend is used before its first good probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Not before.
    Probe,
    /// At once.
    Healthy,
}

/// How backends are ejected for failures of real requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlier {
    /// Gateway errors or failed connects in a row.
    pub consecutive_errors: u32,
    /// The first ejection's length; the n-th lasts n times as long.
    pub base_ejection: Duration,
    /// The longest ejection.
    pub max_ejection: Duration,
    /// The largest share of backends that may be ejected at once (0.0 to 1.0); one always may.
    pub max_ejected: f64,
}

/// What happens when no backend is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenNoneHealthy {
    /// 503 at once.
    Fail,
    /// Send to all but drained ones, unprobed ones included.
    FailOpen,
}
