//! Redirects: another place for the same request, by the rules of the Gateway API's `HTTPRequestRedirectFilter`.
//!
//! The `Location` is absolute wherever the host is known, so that no path can be taken for a host (`//evil.example`).

use std::fmt::Write as _;

use http::header;
use http::{HeaderName, HeaderValue};

use super::{Answer, BuildError, rewrite};
use crate::base::host;
use crate::base::path::NormalPath;
use crate::base::request::{RequestView, Scheme};
use crate::config::plan::{self, RouteMatch};

/// A redirect as planned.
#[derive(Debug)]
pub struct Redirect {
    plan: plan::Redirect,
}

impl Redirect {
    /// The redirect as planned.
    ///
    /// # Errors
    /// A path that no URL can carry, or a host or scheme that is none.
    pub fn build(plan: &plan::Redirect) -> Result<Self, BuildError> {
        plan.path.as_ref().map_or(Ok(()), rewrite::check)?;
        for text in [&plan.scheme, &plan.host].into_iter().flatten() {
            if text.is_empty() || !is_authority(text) {
                return Err(BuildError::NoHost { host: text.clone() });
            }
        }
        Ok(Self { plan: plan.clone() })
    }

    /// From plain HTTP to HTTPS, for good: host, path and query stay (`listeners.redirect: https`).
    #[must_use]
    pub fn to_https() -> Self {
        let scheme = Some(Scheme::Https.as_str().to_owned());
        Self { plan: plan::Redirect { scheme, host: None, port: None, path: None, status: 308 } }
    }

    /// The answer to `request`; none where the request names no host that a `Location` could be made of (it is malformed).
    #[must_use]
    pub fn answer(&self, request: &RequestView<'_>, path: &NormalPath<'_>, matched: &RouteMatch) -> Option<Answer> {
        let location =
            HeaderValue::from_maybe_shared(bytes::Bytes::from(self.location(request, path, matched)?)).ok()?;
        let fields: Vec<(HeaderName, HeaderValue)> =
            vec![(header::LOCATION, location), (header::CONTENT_LENGTH, HeaderValue::from_static("0"))];
        Some(Answer { status: self.plan.status, fields, body: bytes::Bytes::new() })
    }

    fn location(&self, request: &RequestView<'_>, path: &NormalPath<'_>, matched: &RouteMatch) -> Option<String> {
        let host = self.plan.host.as_deref().unwrap_or_else(|| host::without_port(request.host));
        if host.is_empty() || !is_authority(host) {
            return None;
        }
        let scheme = self.plan.scheme.as_deref().unwrap_or(request.scheme.as_str());
        let mut location = format!("{scheme}://{host}");
        if let Some(port) = self.port(request, scheme) {
            let _ = write!(location, ":{port}");
        }
        match &self.plan.path {
            // The target of `OPTIONS *` has no path.
            _ if request.path == "*" => {}
            Some(rewrite) => location.push_str(&rewrite::rewritten(rewrite, path, matched)),
            None if request.path.is_empty() => location.push('/'),
            None => location.push_str(request.path),
        }
        if let Some(query) = request.query {
            let _ = write!(location, "?{query}");
        }
        Some(location)
    }

    /// The port that `Location` must name: the written one, else the request's while the scheme is the same; never the one
    /// that the scheme implies.
    fn port(&self, request: &RequestView<'_>, scheme: &str) -> Option<u16> {
        let same_scheme = scheme == request.scheme.as_str();
        let port = self.plan.port.or_else(|| host::port(request.host).filter(|_| same_scheme))?;
        (Some(port) != default_port(scheme)).then_some(port)
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        _ if scheme == Scheme::Http.as_str() => Some(80),
        _ if scheme == Scheme::Https.as_str() => Some(443),
        _ => None,
    }
}

/// Whether `text` can stand between `://` and the path, and be nothing but a host there.
fn is_authority(text: &str) -> bool {
    text.bytes().all(|byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b':' | b'[' | b']')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{PathPattern, PathRewrite};
    use http::HeaderMap;

    fn plan() -> plan::Redirect {
        plan::Redirect { scheme: None, host: None, port: None, path: None, status: 302 }
    }

    fn to(scheme: Option<&str>, host: Option<&str>, port: Option<u16>) -> plan::Redirect {
        plan::Redirect { scheme: scheme.map(Into::into), host: host.map(Into::into), port, ..plan() }
    }

    fn location(plan: &plan::Redirect, scheme: Scheme, host: &str, path: &str, prefix: &str) -> Option<String> {
        let fields = HeaderMap::new();
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let request = RequestView { method: "GET", scheme, host, path, query, client: None, fields: &fields };
        let matched = RouteMatch { path: PathPattern::Prefix(prefix.into()), ..RouteMatch::default() };
        let answer = Redirect::build(plan).unwrap().answer(&request, &NormalPath::new(path).unwrap(), &matched)?;
        assert_eq!(answer.status, plan.status);
        Some(answer.fields[0].1.to_str().unwrap().to_owned())
    }

    #[test]
    fn scheme_and_port_follow_the_conformance_suite() {
        let org = Some("example.org");
        for (request_scheme, host, redirect, expected) in [
            (Scheme::Http, "gw", to(None, org, None), "http://example.org/x"),
            (Scheme::Http, "gw", to(None, org, Some(80)), "http://example.org/x"),
            (Scheme::Http, "gw", to(None, org, Some(8080)), "http://example.org:8080/x"),
            (Scheme::Http, "gw", to(Some("https"), org, None), "https://example.org/x"),
            (Scheme::Http, "gw", to(Some("https"), org, Some(443)), "https://example.org/x"),
            (Scheme::Http, "gw", to(Some("https"), org, Some(8443)), "https://example.org:8443/x"),
            (Scheme::Http, "gw:8080", to(None, org, None), "http://example.org:8080/x"),
            (Scheme::Http, "gw:8080", to(None, org, Some(80)), "http://example.org/x"),
            (Scheme::Http, "gw:8080", to(Some("https"), org, None), "https://example.org/x"),
            (Scheme::Https, "gw:443", to(None, org, None), "https://example.org/x"),
            (Scheme::Https, "gw", to(None, org, Some(8443)), "https://example.org:8443/x"),
            (Scheme::Https, "gw", to(Some("http"), org, None), "http://example.org/x"),
            (Scheme::Https, "gw", to(Some("http"), org, Some(8080)), "http://example.org:8080/x"),
            (Scheme::Http, "[::1]:8080", to(None, None, None), "http://[::1]:8080/x"),
            (Scheme::Http, "a.org:80", to(Some("https"), None, None), "https://a.org/x"),
        ] {
            assert_eq!(location(&redirect, request_scheme, host, "/x", "").as_deref(), Some(expected), "{redirect:?}");
        }
    }

    #[test]
    fn paths_follow_the_conformance_suite_and_the_query_stays() {
        let with_path = |path| plan::Redirect { path: Some(path), ..plan() };
        let prefix = with_path(PathRewrite::Prefix("/replacement-prefix".into()));
        let full = with_path(PathRewrite::Full("/full-path-replacement".into()));
        for (redirect, path, matched, expected) in [
            (&prefix, "/original-prefix/lemon?a=1", "/original-prefix", "http://h/replacement-prefix/lemon?a=1"),
            (&full, "/full/path/original", "/full", "http://h/full-path-replacement"),
            (&plan(), "/a%2Fb/../c?x=%20", "", "http://h/a%2Fb/../c?x=%20"),
            (&plan(), "//evil.example/x", "", "http://h//evil.example/x"),
            (&plan(), "*", "", "http://h"),
        ] {
            assert_eq!(location(redirect, Scheme::Http, "h", path, matched).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_host_that_is_none_makes_no_location() {
        for host in ["", "a/b", "user@evil", "a b", "a\r\nb", "a?b", "a#b", "a\\b"] {
            assert_eq!(location(&plan(), Scheme::Http, host, "/", ""), None, "{host}");
        }
        assert!(Redirect::build(&to(None, Some("a/b"), None)).is_err());
    }

    #[test]
    fn a_path_that_would_split_the_header_makes_no_location() {
        assert_eq!(location(&plan(), Scheme::Http, "h", "/a\r\nx: 1", ""), None);
    }
}
