//! The plan: the configuration as it will run.
//!
//! Everything a default fills is filled, every pattern is compiled, every reference between sections is checked. Rooms are
//! built from these values and from nothing else; they never see the file. A plan holds no live state and starts nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use crate::base::proxy_protocol::Version;
use crate::base::template::Part;

/// The whole configuration as it will run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configuration file, canonical where it exists (`demo` for the built-in demonstration).
    pub source: PathBuf,
    /// Hash of the configuration's meaning, as 16 hex digits: two files that mean the same have the same hash.
    pub hash: String,
    /// The process.
    pub server: Server,
    /// How the process stops.
    pub drain: Drain,
    /// When the configuration is read again.
    pub reload: Reload,
    /// Whether answers by the proxy carry `Proxy-Status` (RFC 9209).
    pub expose_reason: bool,
    /// Own error pages by status.
    pub errors: ErrorPages,
    /// Where clients are accepted, in the order of the file.
    pub listeners: Vec<Listener>,
    /// Where requests are sent, in the order of the file.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Which request goes where, by name: the last tie-break of precedence, which the route table makes from hosts and
    /// matches.
    pub routes: Vec<Arc<Route>>,
    /// The admin listener.
    pub admin: Admin,
    /// The access log; none where it is turned off.
    pub access_log: Option<AccessLog>,
    /// The process's own log.
    pub log: Log,
    /// Whether `/metrics` is served on the admin listener.
    pub prometheus: bool,
    /// Traces; none where they are turned off.
    pub tracing: Option<Tracing>,
}

impl Plan {
    /// The files beside those of the configuration that are read with it: error pages, the admin token, roots and
    /// certificates toward backends. Others are looked at by those who use them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let listeners = self.listeners.iter().map(|listener| &listener.errors);
        let routes = self.routes.iter().map(|route| &route.errors);
        let pages = [&self.errors].into_iter().chain(listeners).chain(routes);
        let pages = pages.flat_map(|pages| pages.values().map(|page| page.path.as_path()));
        let tls = self.upstreams.iter().filter_map(|upstream| upstream.tls.as_deref());
        let single = [self.admin.token_file.as_deref(), self.server.ca_file.as_deref()];
        pages.chain(single.into_iter().flatten()).chain(tls.flat_map(UpstreamTls::files))
    }

    /// The files of users, which are read with the configuration, and by themselves when they change.
    pub fn users(&self) -> impl Iterator<Item = &Path> {
        self.routes.iter().filter_map(|route| route.filters.auth_basic.as_ref()).map(|auth| auth.users.as_path())
    }
}

/// Own error pages: the bytes of the page by status.
pub type ErrorPages = BTreeMap<u16, Arc<ErrorPage>>;

/// One error page, read when the configuration was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    /// The file it came from.
    pub path: PathBuf,
    /// `Content-Type`, by the file's extension.
    pub content_type: &'static str,
    /// The page.
    pub body: bytes::Bytes,
}

/// The process: Pingora's `ServerConf` with Roundel's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // Pingora's own keys: its documentation of `ServerConf` applies.
pub struct Server {
    pub daemon: bool,
    pub error_log: Option<PathBuf>,
    pub pid_file: PathBuf,
    pub upgrade_sock: PathBuf,
    pub user: Option<String>,
    pub group: Option<String>,
    pub working_directory: Option<PathBuf>,
    pub threads: usize,
    pub listener_tasks_per_fd: usize,
    pub work_stealing: bool,
    pub ca_file: Option<PathBuf>,
    pub grace_period: Duration,
    pub client_bind_to_ipv4: Vec<String>,
    pub client_bind_to_ipv6: Vec<String>,
    pub upstream_keepalive_pool_size: usize,
    pub upstream_connect_offload_threadpools: Option<usize>,
    pub upstream_connect_offload_thread_per_pool: Option<usize>,
    pub upstream_debug_ssl_keylog: bool,
    pub max_blocking_threads: Option<usize>,
    pub blocking_threads_ttl_seconds: Option<u64>,
    pub daemon_wait_for_ready: bool,
    pub daemon_ready_timeout_seconds: Option<u64>,
    /// The private directory for the pid file and sockets; created with mode 0700 when the process starts.
    pub runtime_directory: PathBuf,
    /// Eight hex digits of the hash of the canonical configuration path: tells instances in one directory apart.
    pub instance: String,
}

/// When the configuration is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// When the process is told to.
    Signal,
    /// Also when a file that it comes from changes.
    Watch,
}

/// How the process stops, and what draining a backend must leave (`drain`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drain {
    /// From "not ready" to the closing of the listeners.
    pub delay: Duration,
    /// How long an idle keep-alive connection may wait for one more request.
    pub idle: Duration,
    /// How long tunnels may go on.
    pub tunnels: Duration,
    /// The share of an upstream's weight (0.0 to 1.0) that must stay usable where one backend is drained.
    pub floor: f64,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// TCP.
    Inet(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether the two cannot be had at once: a listener on all addresses of a port takes it from every other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inet(one), Self::Inet(other)) => {
                let any = one.ip().is_unspecified() || other.ip().is_unspecified();
                one == other || (any && one.port() == other.port() && one.is_ipv4() == other.is_ipv4())
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for ListenAddress {
    /// `127.0.0.1:8080`, or `unix:/run/roundel/http.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where clients are accepted.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The name in logs and metrics; by default the address as written.
    pub name: Arc<str>,
    /// Where to listen.
    pub address: ListenAddress,
    /// The protocols that clients may speak.
    pub protocols: Protocols,
    /// TLS toward clients; none: plain.
    pub tls: Option<Arc<ListenerTls>>,
    /// Where clients are sent instead; none: they are served.
    pub redirect: Option<ListenerRedirect>,
    /// The peers that must begin with the PROXY protocol; none: nobody may.
    pub proxy_protocol: Option<Arc<[IpNet]>>,
    /// Peers whose `X-Forwarded-For` and `Forwarded` are believed.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Connections at once; more are answered 503 and closed.
    pub max_connections: usize,
    /// Which way plain requests take.
    pub lane: Lane,
    /// Deadlines.
    pub timeouts: ListenerTimeouts,
    /// Bounds.
    pub limits: ListenerLimits,
    /// Own error pages, before those of the whole configuration.
    pub errors: ErrorPages,
}

/// Which way plain requests take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The direct lane where it fits.
    Auto,
    /// Pingora's proxy.
    Off,
}

/// Where a listener sends clients instead of serving them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRedirect {
    /// To the same host and path by HTTPS.
    Https,
}

/// The protocols that clients of a listener may speak. With both, ALPN decides over TLS, and the first bytes without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1.1 and HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
    /// Either.
    Both,
}

impl Protocols {
    /// Whether HTTP/1 is spoken.
    #[must_use]
    pub const fn http1(self) -> bool {
        matches!(self, Self::Http1 | Self::Both)
    }

    /// Whether HTTP/2 is spoken.
    #[must_use]
    pub const fn http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Both)
    }

    /// What is offered by ALPN (RFC 7301), most preferred first.
    #[must_use]
    pub const fn alpn(self) -> &'static [Alpn] {
        match self {
            Self::Http1 => &[Alpn::H1],
            Self::Http2 => &[Alpn::H2],
            Self::Both => &[Alpn::H2, Alpn::H1],
        }
    }
}

/// TLS toward the clients of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The certificates, at least one; the first answers clients that name no host, or one that none is for.
    pub certificates: Vec<CertificateFiles>,
    /// The certificates asked of clients; none: none are.
    pub client_auth: Option<ClientAuth>,
    /// The lowest version that is spoken.
    pub min_version: TlsVersion,
    /// The protocols offered by ALPN (RFC 7301), most preferred first.
    pub alpn: &'static [Alpn],
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// What the authority says of it (an OCSP response, DER), sent along.
    pub ocsp: Option<PathBuf>,
}

/// The certificates asked of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// The roots they are verified with, PEM.
    pub ca: PathBuf,
    /// Whether a client may come without one.
    pub mode: ClientAuthMode,
}

/// Whether a client may come without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// It may not.
    Required,
    /// It may.
    Optional,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// A protocol that is agreed upon during a TLS handshake (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

impl Alpn {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::H1 => "http/1.1",
            Self::H2 => "h2",
        }
    }
}

/// Deadlines of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// For the TLS handshake.
    pub tls_handshake: Duration,
    /// From the first byte of a head (or the accept) to its last.
    pub header: Duration,
    /// Between two reads of a request body.
    pub body_idle: Duration,
    /// Between two writes that the client accepts.
    pub write_idle: Duration,
    /// How long a tunnel may be without a byte in either direction.
    pub tunnel_idle: Duration,
    /// Between two requests on a connection.
    pub keepalive: Duration,
}

/// Bounds of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Bytes of a request's head, request line included; more: 431 (414 where the request line alone is longer).
    pub header_bytes: usize,
    /// Fields of a request's head; more: 431.
    pub header_count: usize,
    /// Bytes of a request's body; more: 413.
    pub body: Option<u64>,
    /// Requests on one connection, after which it is closed.
    pub keepalive_requests: u32,
    /// Streams at once on an HTTP/2 connection.
    pub h2_streams: u32,
    /// Connections at once from one client: an IPv4 address, or a /64 of IPv6.
    pub connections_per_client: Option<usize>,
}

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
    fn files(&self) -> impl Iterator<Item = &Path> {
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

/// Which requests go where.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// The hosts it serves; empty: all.
    pub hosts: Vec<HostPattern>,
    /// Any of these must match; never empty.
    pub matches: Vec<RouteMatch>,
    /// What is done to a request and its answer, in the fixed order.
    pub filters: Filters,
    /// All tries, waits and the answer.
    pub request_timeout: Option<Duration>,
    /// The body limit that replaces the listener's (`Some(None)`: no limit).
    pub body_limit: Option<Option<u64>>,
    /// Whether requests may become WebSockets (`upgrade`).
    pub websocket: bool,
    /// Own error pages, before those of the listener.
    pub errors: ErrorPages,
    /// What becomes of the request.
    pub action: Action,
}

/// A host that a route serves: lower case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host.
    Exact(Arc<str>),
    /// Any host that ends in this suffix, which begins with a dot (`*.example.org` is `.example.org`): one label or more.
    Wildcard(Arc<str>),
}

/// One way to match; all parts must hold.
#[derive(Debug, Clone, Default)]
pub struct RouteMatch {
    /// The path.
    pub path: PathPattern,
    /// The methods; empty: all.
    pub methods: Vec<Method>,
    /// Header fields and their exact values.
    pub headers: Vec<(HeaderName, String)>,
    /// Query parameters and their exact values.
    pub query: Vec<(String, String)>,
}

/// A pattern for the normalised path.
#[derive(Debug, Clone)]
pub enum PathPattern {
    /// The whole path.
    Exact(String),
    /// By path element; without a trailing slash (the root is the empty prefix).
    Prefix(String),
    /// A regular expression, not anchored unless written so.
    Regex(regex::Regex),
}

impl Default for PathPattern {
    fn default() -> Self {
        Self::Prefix(String::new())
    }
}

/// What a route does to a request and its answer, in the order it happens.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// Networks that are refused.
    pub deny: Option<Vec<IpNet>>,
    /// Networks beside which all else is refused.
    pub allow: Option<Vec<IpNet>>,
    /// Bounds on requests; all must let a request pass.
    pub rate_limits: Vec<RateLimit>,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
    /// The `users` file of HTTP basic authentication.
    pub auth_basic: Option<AuthBasic>,
    /// The rewrite of path and host.
    pub rewrite: Option<Rewrite>,
    /// Changes to the request's header fields.
    pub request_headers: Option<HeaderRules>,
    /// Compression of the answer.
    pub compress: Option<Compress>,
    /// Changes to the answer's header fields.
    pub response_headers: Option<HeaderRules>,
}

/// A bound on the requests that come in a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// What is counted by.
    pub key: RateKey,
    /// How many.
    pub rate: Rate,
    /// How many at once.
    pub burst: u32,
    /// How many keys are told apart.
    pub max_keys: usize,
    /// Whether answers to requests that pass tell of it.
    pub headers: bool,
    /// Whether it counts only, and refuses nothing.
    pub dry_run: bool,
}

/// How many in what time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least one.
    pub count: u32,
    /// In a second, a minute or an hour.
    pub per: Duration,
}

/// What requests are counted by. Written out as the configuration writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateKey {
    /// The client's address after trusted proxies, or its network.
    ClientIp {
        /// The bits of an IPv4 address that count.
        ipv4_prefix: u8,
        /// The bits of an IPv6 address that count.
        ipv6_prefix: u8,
    },
    /// The first value of a header field.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// The first value of a query parameter, decoded.
    Query(String),
    /// All requests of the route together.
    Route,
}

impl std::fmt::Display for RateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClientIp { .. } => f.write_str("client_ip"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Route => f.write_str("route"),
        }
    }
}

/// Cross-origin requests (the Fetch standard).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Origins as written; `*` alone: any.
    pub origins: Vec<String>,
    /// Methods allowed beyond the simple ones.
    pub methods: Vec<Method>,
    /// Request fields allowed.
    pub headers: Vec<HeaderName>,
    /// Whether credentials are allowed.
    pub credentials: bool,
    /// How long a preflight may be remembered.
    pub max_age: Duration,
}

/// A fact of a request that the value of a header field may speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // docs/filters.md tells what each holds.
pub enum Variable {
    ClientIp,
    RequestId,
    Scheme,
    Host,
    Method,
    Path,
    Query,
    Listener,
    Route,
    TlsVersion,
    TlsCipher,
    TlsSni,
    TlsClientSubject,
    TlsClientSans,
    TlsClientSerial,
    TlsClientFingerprint,
}

impl Variable {
    /// All of them with their names.
    pub const ALL: [(&'static str, Self); 16] = [
        ("client_ip", Self::ClientIp),
        ("request_id", Self::RequestId),
        ("scheme", Self::Scheme),
        ("host", Self::Host),
        ("method", Self::Method),
        ("path", Self::Path),
        ("query", Self::Query),
        ("listener", Self::Listener),
        ("route", Self::Route),
        ("tls_version", Self::TlsVersion),
        ("tls_cipher", Self::TlsCipher),
        ("tls_sni", Self::TlsSni),
        ("tls_client_subject", Self::TlsClientSubject),
        ("tls_client_sans", Self::TlsClientSans),
        ("tls_client_serial", Self::TlsClientSerial),
        ("tls_client_fingerprint", Self::TlsClientFingerprint),
    ];

    /// The fact of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, variable)| *variable)
    }
}

/// HTTP basic authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthBasic {
    /// An htpasswd file with bcrypt or argon2 hashes, re-read when it changes.
    pub users: PathBuf,
    /// The realm of the challenge.
    pub realm: String,
}

/// A rewrite of path and host before the request is sent to the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The new path.
    pub path: Option<PathRewrite>,
    /// The new host.
    pub host: Option<HeaderValue>,
}

/// A new path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// In place of the whole path; the query stays.
    Full(String),
    /// In place of the prefix that matched.
    Prefix(String),
}

/// Changes to header fields; values are templates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Replaces the field.
    pub set: Vec<(HeaderName, String)>,
    /// Adds a value to the field.
    pub add: Vec<(HeaderName, String)>,
    /// Removes the field.
    pub remove: Vec<HeaderName>,
}

/// Compression of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compress {
    /// In order of preference.
    pub algorithms: Vec<Algorithm>,
    /// The smallest body that is compressed, where its length is known.
    pub min_bytes: u64,
    /// Media types that are compressed (`text/*` and `application/json` forms).
    pub types: Vec<String>,
}

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Algorithm {
    Zstd,
    Brotli,
    Gzip,
}

/// What becomes of a request that a route has won.
#[derive(Debug, Clone)]
pub enum Action {
    /// It is sent to an upstream, or to one of several by weight.
    Forward(Vec<Split>),
    /// It is answered with a redirect.
    Redirect(Redirect),
    /// It is answered as written.
    Respond(Respond),
}

impl Action {
    /// The upstreams that the request may be sent to; none where it is answered by the proxy.
    #[must_use]
    pub fn splits(&self) -> &[Split] {
        match self {
            Self::Forward(splits) => splits,
            Self::Redirect(_) | Self::Respond(_) => &[],
        }
    }
}

/// One upstream of a weighted split.
#[derive(Clone)]
pub struct Split {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Its share.
    pub weight: u32,
}

/// Names the upstream, which the plan holds once: thousands of routes may lead to thousands of backends.
impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Split").field("upstream", &self.upstream.name).field("weight", &self.weight).finish()
    }
}

/// A redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The new scheme; none: the request's.
    pub scheme: Option<String>,
    /// The new host; none: the request's.
    pub host: Option<String>,
    /// The new port; none: the request's, or the scheme's own where the scheme changes.
    pub port: Option<u16>,
    /// The new path; none: the request's.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// An answer as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: bytes::Bytes,
    /// Its fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens beside the socket in the runtime directory; none: `admin: none`, nowhere at all.
    pub address: Option<ListenAddress>,
    /// The socket in the runtime directory, always served unless admin is off.
    pub socket: PathBuf,
    /// The file whose content is the token.
    pub token_file: Option<PathBuf>,
    /// Further `Host` values that are accepted.
    pub hosts: Vec<String>,
}

/// The access log.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Where lines go.
    pub path: LogPath,
    /// What a line looks like.
    pub format: LogFormat,
    /// The share of requests that are logged (0.0 to 1.0).
    pub sample: f64,
}

/// Where spans are sent, and of which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The host of the receiver.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path that spans are posted to.
    pub path: String,
    /// The share of requests that are traced (0.0 to 1.0); failures are traced all.
    pub sample: f64,
}

impl fmt::Display for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}{}", self.host, self.port, self.path),
            false => write!(f, "http://{}:{}{}", self.host, self.port, self.path),
        }
    }
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPath {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to and opened again on SIGUSR1.
    File(PathBuf),
}

/// What a line of the access log looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// The format of Apache and nginx that goes by this name.
    Combined,
    /// Text with `{field}` in it; `{{` and `}}` are braces.
    Template(Vec<TemplatePart>),
}

/// A part of a log line's template: text as it stands, or the value of a field of the access log; `-` where it has none.
pub type TemplatePart = Part<LogField>;

/// The fields of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // docs/access-log.md tells what each holds.
pub enum LogField {
    Time,
    RequestId,
    Client,
    Listener,
    Method,
    Scheme,
    Host,
    Path,
    Protocol,
    Status,
    Reason,
    DryRun,
    Route,
    Upstream,
    Backend,
    Attempts,
    DurationMs,
    ConnectMs,
    FirstByteMs,
    Reused,
    BytesIn,
    BytesOut,
    UserAgent,
    Referer,
    Tls,
    TraceId,
}

impl LogField {
    /// Every field with its name, in the order of a JSON line.
    pub const ALL: [(Self, &'static str); 26] = [
        (Self::Time, "time"),
        (Self::RequestId, "request_id"),
        (Self::Client, "client"),
        (Self::Listener, "listener"),
        (Self::Method, "method"),
        (Self::Scheme, "scheme"),
        (Self::Host, "host"),
        (Self::Path, "path"),
        (Self::Protocol, "protocol"),
        (Self::Status, "status"),
        (Self::Reason, "reason"),
        (Self::DryRun, "dry_run"),
        (Self::Route, "route"),
        (Self::Upstream, "upstream"),
        (Self::Backend, "backend"),
        (Self::Attempts, "attempts"),
        (Self::DurationMs, "duration_ms"),
        (Self::ConnectMs, "connect_ms"),
        (Self::FirstByteMs, "first_byte_ms"),
        (Self::Reused, "reused"),
        (Self::BytesIn, "bytes_in"),
        (Self::BytesOut, "bytes_out"),
        (Self::UserAgent, "user_agent"),
        (Self::Referer, "referer"),
        (Self::Tls, "tls"),
        (Self::TraceId, "trace_id"),
    ];
}

/// The process's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: log::LevelFilter,
}
