//! A borrowed view of one request: all that routes, filters and balancing may look at.
//!
//! The data path, `explain`, tests and the simulator fill it alike, without a copy of the request.

use std::net::IpAddr;

/// The header fields of a request, wherever they are stored. Names are compared without regard to case.
pub trait Fields {
    /// The first value of the field `name`.
    fn get(&self, name: &str) -> Option<&[u8]>;
    /// Calls `visit` with every value of the field `name`, in order.
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]));
}

/// The scheme by which the client reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What a decision may look at in a request.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    /// The method as the client sent it (methods are case-sensitive, RFC 9110, 9.1).
    pub method: &'a str,
    /// The scheme by which the client reached us.
    pub scheme: Scheme,
    /// The authority as the client sent it (`Host`, or `:authority`), with its port if it had one; empty if none.
    pub host: &'a str,
    /// The path as the client sent it, never decoded; `*` for `OPTIONS *`.
    pub path: &'a str,
    /// The query without its `?`, as the client sent it.
    pub query: Option<&'a str>,
    /// The client's address after trusted proxies (None on a unix socket without a trusted address).
    pub client: Option<IpAddr>,
    /// The header fields.
    pub fields: &'a dyn Fields,
}

impl Fields for http::HeaderMap {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(http::HeaderValue::as_bytes)
    }

    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        for value in self.get_all(name) {
            visit(value.as_bytes());
        }
    }
}
