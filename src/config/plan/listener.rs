//! Where clients are accepted: `listeners`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::ErrorPages;

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
