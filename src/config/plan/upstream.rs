//! Where requests are sent: `upstreams`, but for their health.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{HealthCheck, Outlier, StatusSet, WhenNoneHealthy};
use crate::base::proxy_protocol::Version;

/// Where requests are sent.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Its backends as written; a host name stands for all its addresses.
    pub backends: Vec<Backend>,
    /// Backends that come from elsewhere than the file.
    pub discovery: Option<Discovery>,
    /// How a backend is chosen.
    pub balance: Balance,
    /// How backends are probed; none where probes are turned off.
    pub health_check: Option<Arc<HealthCheck>>,
    /// How backends are ejected for failures of real requests.
    pub outlier: Option<Outlier>,
    /// How long a recovered backend is ramped up; zero: not at all.
    pub slow_start: Duration,
    /// What happens when no backend is usable.
    pub when_none_healthy: WhenNoneHealthy,
    /// TLS toward its backends, for those written `https://`, and for all where the section is written.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The protocol that its backends speak.
    pub protocol: UpstreamProtocol,
    /// The version of the PROXY protocol that connections begin with; none: they do not.
    pub send_proxy_protocol: Option<Version>,
    /// Deadlines.
    pub timeouts: UpstreamTimeouts,
    /// What is tried again.
    pub retry: Retry,
    /// Bounds over the whole upstream.
    pub limits: UpstreamLimits,
    /// Idle connections.
    pub keepalive: Keepalive,
    /// Sticky sessions.
    pub sticky: Option<Sticky>,
}

/// One backend as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// As the operator wrote it: its `name` in the status.
    pub name: Arc<str>,
    /// Where it is.
    pub target: Target,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Its share; 0 = no new requests.
    pub weight: u32,
    /// Used only when no other backend is usable.
    pub backup: bool,
    /// Requests at once; none: no bound of its own.
    pub max_requests: Option<u32>,
    /// Connections at once; none: no bound of its own.
    pub max_connections: Option<u32>,
}

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// An IP address and port.
    Inet(SocketAddr),
    /// A host name (lower case, without a trailing dot) and port, resolved while running.
    Name(Arc<str>, u16),
    /// A unix socket.
    Unix(PathBuf),
}

/// Backends that come from elsewhere than the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// A DNS name: with a port its A and AAAA records, without one its SRV records.
    Dns {
        /// The name.
        name: Arc<str>,
        /// The port of every backend; none: from the SRV record.
        port: Option<u16>,
        /// The longest time between two lookups (a shorter TTL shortens it).
        refresh: Duration,
    },
    /// A file with a YAML list of backends, watched.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// How a backend is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Balance {
    /// In turn; by smooth weighted round robin where weights differ.
    RoundRobin,
    /// Fewest requests in flight per weight.
    LeastRequests,
    /// Two random choices, the lower latency x load wins.
    PeakEwma,
    /// `choices` random choices, the lower load wins; 1 is plain weighted random.
    Random {
        /// How many.
        choices: usize,
    },
    /// Consistent hashing.
    Hash {
        /// What is hashed.
        key: HashKey,
        /// No backend holds more than this times its share of the load.
        load_factor: Option<f64>,
    },
}

impl fmt::Display for Balance {
    /// The word in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round_robin",
            Self::LeastRequests => "least_requests",
            Self::PeakEwma => "peak_ewma",
            Self::Random { .. } => "random",
            Self::Hash { .. } => "hash",
        })
    }
}

/// What consistent hashing hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// Path and query.
    Uri,
    /// The path.
    Path,
    /// A header field's first value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// A query parameter's first value.
    Query(String),
}

/// TLS toward backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name asked for and verified; none: the backend's host name as written (its IP address where it has none).
    pub sni: Option<String>,
    /// Further roots, PEM; none: the system's.
    pub ca: Option<PathBuf>,
    /// Whether the certificate is verified.
    pub verify: bool,
    /// Our certificate and key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The protocol that backends speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN over TLS, by prior knowledge without.
    Http2,
    /// What ALPN chooses; HTTP/1.1 without TLS.
    Auto,
}

impl UpstreamTls {
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert.as_path(), key.as_path()]);
        self.ca.as_deref().into_iter().chain(identity)
    }
}

/// Deadlines toward backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// To connect (TLS included).
    pub connect: Duration,
    /// From the request's last byte sent to the answer's first byte.
    pub first_byte: Duration,
    /// Between two reads or writes.
    pub idle: Duration,
    /// One try, from connect to the last byte.
    pub total: Option<Duration>,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Tries beyond the first; 0 turns retries off (failed connects still go to another backend).
    pub attempts: u32,
    /// The share of a retry that each request pays for (0.0 to 1.0).
    pub budget: f64,
    /// Retries that each second pays for.
    pub min_per_second: u32,
    /// Statuses of backends that are retried.
    pub statuses: StatusSet,
    /// Statuses of gRPC that are retried where nothing but the status was answered.
    pub grpc_statuses: Vec<u8>,
    /// The longest wait before the first retry; doubled for each further one.
    pub backoff: Duration,
    /// The longest wait before any retry.
    pub max_backoff: Duration,
    /// Bytes of a request's body that are kept for another try.
    pub body: u64,
}

/// Bounds over a whole upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Connections that are in use at once; none: no bound.
    pub connections: Option<u32>,
    /// Requests at once; none: no bound.
    pub requests: Option<u32>,
    /// Requests that wait for a place; none: no bound but their time.
    pub pending: Option<usize>,
    /// How long a request may wait for a place.
    pub pending_timeout: Duration,
}

/// Idle connections to backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection may be idle.
    pub idle: Duration,
    /// Idle connections kept for each backend; 0: none.
    pub max_idle: usize,
    /// Requests on one connection.
    pub max_requests: Option<u32>,
}

/// Sticky sessions by a cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// Its `Max-Age`; none: a session cookie.
    pub max_age: Option<Duration>,
}
