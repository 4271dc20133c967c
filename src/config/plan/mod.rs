//! The plan: the configuration as it will run.
//!
//! Everything a default fills is filled, every pattern is compiled, every reference between sections is checked. Rooms are
//! built from these values and from nothing else; they never see the file. A plan holds no live state and starts nothing.

mod filter;
mod health;
mod listener;
mod log;
mod process;
mod route;
mod upstream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::filter::{
    Algorithm, AuthBasic, Compress, Cors, Filters, HeaderRules, PathRewrite, Rate, RateKey, RateLimit, Rewrite,
    Variable,
};
pub use self::health::{HealthCheck, HttpProbe, Outlier, Probe, Start, StatusSet, WhenNoneHealthy};
pub use self::listener::{
    Alpn, CertificateFiles, ClientAuth, ClientAuthMode, Lane, ListenAddress, Listener, ListenerLimits,
    ListenerRedirect, ListenerTimeouts, ListenerTls, Protocols, TlsVersion,
};
pub use self::log::{AccessLog, Log, LogField, LogFormat, LogPath, TemplatePart, Tracing};
pub use self::process::{Drain, Reload, Server};
pub use self::route::{Action, HostPattern, PathPattern, Redirect, Respond, Route, RouteMatch, Split};
pub use self::upstream::{
    Backend, Balance, Discovery, HashKey, Keepalive, Retry, Sticky, Target, Upstream, UpstreamLimits, UpstreamProtocol,
    UpstreamTimeouts, UpstreamTls,
};

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
