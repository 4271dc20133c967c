//! Which request goes where, and what is done with it: `routes`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::{ErrorPages, Filters, PathRewrite, Upstream};

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
