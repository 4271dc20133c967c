//! Another path and host for the backend, by the rules of the Gateway API's `HTTPURLRewriteFilter`.
//!
//! A path is rewritten in the form in which it was matched, its normal form (the one that the client sent, unless that had
//! dots to resolve or escapes to decode): a cut through any other form could fall in the middle of what was matched.

use std::borrow::Cow;

use http::HeaderValue;

use super::BuildError;
use crate::base::path::{NormalPath, after_prefix};
use crate::config::plan::{self, PathPattern, PathRewrite, RouteMatch};

/// What the backend is asked in place of what the client asked.
#[derive(Debug)]
pub struct Rewrite {
    path: Option<PathRewrite>,
    host: Option<HeaderValue>,
}

impl Rewrite {
    /// The rewrite as planned.
    ///
    /// # Errors
    /// A path that no request line can carry.
    pub fn build(plan: &plan::Rewrite) -> Result<Self, BuildError> {
        plan.path.as_ref().map_or(Ok(()), check)?;
        Ok(Self { path: plan.path.clone(), host: plan.host.clone() })
    }

    /// The path for the backend (the query stays as it is); none where it stays as the client sent it.
    #[must_use]
    pub fn path<'a>(&'a self, path: &'a NormalPath<'_>, matched: &RouteMatch) -> Option<Cow<'a, str>> {
        self.path.as_ref().map(|rewrite| rewritten(rewrite, path, matched))
    }

    /// The `Host` (or `:authority`) for the backend; none where it stays as the client sent it.
    #[must_use]
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }
}

/// Whether a request line can carry the path that `rewrite` writes.
pub(super) fn check(rewrite: &PathRewrite) -> Result<(), BuildError> {
    let (path, may_be_empty) = match rewrite {
        PathRewrite::Full(path) => (path, false),
        PathRewrite::Prefix(path) => (path, true),
    };
    let is_path =
        path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    if is_path || (may_be_empty && path.is_empty()) { Ok(()) } else { Err(BuildError::NoPath { path: path.clone() }) }
}

/// The path that `rewrite` makes of `path`, which was won through `matched`.
///
/// A prefix is replaced by element, and the replacement's trailing slash does not count (the table of the Gateway API's
/// `ReplacePrefixMatch`). Where the match was an exact path, that path is the prefix; where it was a regular expression,
/// the prefix is empty. The `*` of `OPTIONS *` is no path and stays.
pub(super) fn rewritten<'a>(rewrite: &'a PathRewrite, path: &'a NormalPath<'_>, matched: &RouteMatch) -> Cow<'a, str> {
    let path = path.as_str();
    match rewrite {
        _ if path == "*" => path.into(),
        PathRewrite::Full(full) => full.into(),
        PathRewrite::Prefix(replacement) => {
            let replaced = format!("{}{}", replacement.trim_end_matches('/'), rest(path, matched));
            if replaced.is_empty() { "/".into() } else { replaced.into() }
        }
    }
}

/// What follows the part of `path` that was matched.
fn rest<'p>(path: &'p str, matched: &RouteMatch) -> &'p str {
    match &matched.path {
        PathPattern::Exact(_) => "",
        PathPattern::Prefix(prefix) => after_prefix(path, prefix).unwrap_or(path),
        PathPattern::Regex(_) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix_match(prefix: &str) -> RouteMatch {
        RouteMatch { path: PathPattern::Prefix(prefix.trim_end_matches('/').into()), ..RouteMatch::default() }
    }

    fn path(raw: &str, rewrite: &PathRewrite, matched: &RouteMatch) -> String {
        rewritten(rewrite, &NormalPath::new(raw).unwrap(), matched).into_owned()
    }

    #[test]
    fn the_prefix_table_of_the_gateway_api_holds() {
        for (raw, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // HTTPRouteRewritePath of the conformance suite.
            ("/prefix/one/two", "/prefix/one", "/one", "/one/two"),
            ("/strip-prefix/three", "/strip-prefix", "/", "/three"),
            // What the table leaves open.
            ("/x", "/", "/api", "/api/x"),
            ("/", "/", "/api", "/api/"),
            ("//foo//a/../bar", "/foo", "/xyz", "/xyz/bar"),
            ("/%66oo/a%2Fb", "/foo", "/xyz", "/xyz/a%2Fb"),
            ("*", "/", "/api", "*"),
        ] {
            let made = path(raw, &PathRewrite::Prefix(replacement.into()), &prefix_match(prefix));
            assert_eq!(made, expected, "{raw} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_full_rewrite_takes_the_place_of_all() {
        assert_eq!(path("/full/one/two", &PathRewrite::Full("/one".into()), &prefix_match("/full")), "/one");
    }

    #[test]
    fn without_a_prefix_the_whole_path_or_none_of_it_is_replaced() {
        let exact = RouteMatch { path: PathPattern::Exact("/a/b".into()), ..RouteMatch::default() };
        assert_eq!(path("/a/b", &PathRewrite::Prefix("/x".into()), &exact), "/x");
        let regex = RouteMatch { path: PathPattern::Regex(regex::Regex::new("b").unwrap()), ..RouteMatch::default() };
        assert_eq!(path("/a/b", &PathRewrite::Prefix("/x".into()), &regex), "/x/a/b");
    }

    #[test]
    fn a_path_that_no_request_can_carry_is_refused() {
        for bad in ["x", "/a b", "/a?b", "/a#b", "/ä", "/a\r\n"] {
            assert!(check(&PathRewrite::Full(bad.into())).is_err(), "{bad}");
            assert!(check(&PathRewrite::Prefix(bad.into())).is_err(), "{bad}");
        }
        assert!(check(&PathRewrite::Full(String::new())).is_err());
        assert!(check(&PathRewrite::Prefix(String::new())).is_ok());
    }

    proptest! {
        #[test]
        fn a_rewritten_path_begins_with_one_slash(raw in "/([a./]|%2e){0,16}", replacement in "(/[a-z]{1,3}){0,2}/?") {
            if let Ok(normal) = NormalPath::new(&raw) {
                let rewrite = PathRewrite::Prefix(replacement);
                let made = rewritten(&rewrite, &normal, &prefix_match(""));
                prop_assert!(made.starts_with('/') && !made.contains("//"), "{made}");
            }
        }
    }
}
