//! What a route does to its requests and answers: `filters`.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

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
