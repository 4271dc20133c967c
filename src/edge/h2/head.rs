//! The head of a request over HTTP/2, judged by the rules that `wire/head.rs` has for HTTP/1.1, and turned into what both
//! roads know: a target in origin form, and the authority in `Host`.
//!
//! The codec has refused already, by resetting the stream, what RFC 9113, 8.2 and 8.3, call malformed: pseudo-fields that are
//! missing, repeated, unknown or late, names in capitals, control characters, and connection-specific fields. What is left
//! to judge here is what an HTTP/1.1 backend might read differently. Pure.

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri};
use pingora_http::RequestHeader;

use crate::telemetry::reason::Reason;
use crate::wire::head::Limits;
use crate::wire::refusal::Refusal;
use crate::wire::target;

/// The longest method, in bytes, as over HTTP/1.1.
const MAX_METHOD: usize = 32;
/// What a field takes besides its name and value over HTTP/1.1, which sizes are counted by.
const FIELD: usize = 4;

/// Whether a head is all there is of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// The head ended the stream.
    None,
    /// More may follow.
    Follows,
}

/// A head that was judged sound.
#[derive(Debug)]
pub(super) struct Head {
    /// The request, with its target in origin form (or `*`) and its authority in `Host`.
    pub(super) request: RequestHeader,
    /// The length of its body, where the head says so.
    pub(super) length: Option<u64>,
}

/// Judges a head.
///
/// # Errors
/// The rule that it breaks, with the reason that it is answered for.
pub(super) fn judge(mut parts: Parts, body: Body, limits: Limits) -> Result<Head, Refusal> {
    check_method(&parts.method)?;
    join_cookies(&mut parts.headers);
    check_size(&parts, limits)?;
    for value in parts.headers.values() {
        check_value(value)?;
    }
    let authority = authority(&parts.uri, &parts.headers)?;
    let path = path(&parts.uri, &parts.method)?;
    let length = length(&parts.headers, body)?;
    check_expectation(&parts.headers)?;
    parts.uri = Uri::from(path);
    parts.headers.insert(HOST, authority);
    Ok(Head { request: RequestHeader::from(parts), length })
}

/// The request line and the `Host` of a head, as they would stand in HTTP/1.1.
pub(super) fn first_lines(request: &RequestHeader) -> Vec<u8> {
    let target = request.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let host = request.headers.get(HOST).map_or(&b""[..], HeaderValue::as_bytes);
    [request.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/2.0\r\nhost: ", host, b"\r\n"].concat()
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    if *method == Method::CONNECT {
        return Err(Refusal {
            reason: Reason::MethodNotAllowed,
            detail: "CONNECT is not allowed: this is a reverse proxy",
            rule: "RFC 9110, 9.3.6",
        });
    }
    match method.as_str().len() {
        ..=MAX_METHOD => Ok(()),
        _ => Err(Refusal::malformed("the method is longer than 32 bytes", "RFC 9110, 9.1")),
    }
}

/// Crumbs of a cookie are one field to whoever does not speak HTTP/2 (RFC 9113, 8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut crumbs = fields.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        fields.insert(COOKIE, joined);
    }
}

/// Bounds a head as if it had come over HTTP/1.1: the same request is not let in by one and refused by the other.
fn check_size(parts: &Parts, limits: Limits) -> Result<(), Refusal> {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.header_bytes {
        let detail = "the target is longer than a whole head may be";
        return Err(Refusal { reason: Reason::UriTooLong, detail, rule: "limits.header_bytes" });
    }
    let authority = parts.uri.authority().map_or(0, |authority| HOST.as_str().len() + authority.as_str().len() + FIELD);
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + FIELD;
    let bytes = parts.method.as_str().len() + target + authority + parts.headers.iter().map(field).sum::<usize>();
    if bytes > limits.header_bytes {
        let detail = "the request's head is too large";
        return Err(Refusal { reason: Reason::HeaderBytes, detail, rule: "RFC 6585, 5; limits.header_bytes" });
    }
    if parts.headers.len() + usize::from(parts.uri.authority().is_some()) > limits.header_count {
        let detail = "the request has too many fields";
        return Err(Refusal { reason: Reason::HeaderCount, detail, rule: "RFC 6585, 5; limits.header_count" });
    }
    Ok(())
}

fn check_value(value: &HeaderValue) -> Result<(), Refusal> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    match value.as_bytes() {
        bytes if is_space(bytes.first()) || is_space(bytes.last()) => {
            Err(Refusal::malformed("a field value begins or ends with white space", "RFC 9113, 8.2.1"))
        }
        bytes if bytes.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) => {
            Err(Refusal::malformed("a field value holds a line end or a NUL", "RFC 9113, 8.2.1"))
        }
        _ => Ok(()),
    }
}

/// The one authority that `:authority` and `Host` must agree on (RFC 9113, 8.3.1).
fn authority(uri: &Uri, fields: &HeaderMap) -> Result<HeaderValue, Refusal> {
    const RULE: &str = "RFC 9113, 8.3.1";
    let mut hosts = fields.get_all(HOST).iter();
    let (host, other) = (hosts.next(), hosts.next());
    if other.is_some() {
        return Err(Refusal::malformed("the request has more than one Host", RULE));
    }
    let named = uri.authority().map(|authority| authority.as_str().as_bytes());
    let authority = match (named, host.map(HeaderValue::as_bytes)) {
        (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => {
            return Err(Refusal::malformed("the Host differs from :authority", RULE));
        }
        (Some(named), _) => named,
        (None, Some(host)) => host,
        (None, None) => return Err(Refusal::malformed("the request has neither :authority nor Host", RULE)),
    };
    target::check_authority(authority)?;
    HeaderValue::from_bytes(authority).map_err(|_| Refusal::malformed("the authority cannot be a field value", RULE))
}

/// The path: `/...`, or `*` for OPTIONS, by the grammar of HTTP/1.1.
fn path(uri: &Uri, method: &Method) -> Result<PathAndQuery, Refusal> {
    let path = uri.path_and_query().filter(|path| !is_absent(path));
    let text = path.map_or("", PathAndQuery::as_str);
    target::check_path(text.as_bytes(), method.as_str().as_bytes())?;
    path.cloned().ok_or_else(|| Refusal::malformed("the request has no :path", "RFC 9113, 8.3.1"))
}

/// Whether there was no `:path`. The codec lets a head without one pass where it has no `:authority` either, and what is then read
/// as a slash is none.
fn is_absent(path: &PathAndQuery) -> bool {
    path.as_str() == "/" && *path != PathAndQuery::from_static("/")
}

/// The codec holds a body to its length; a head alone must not promise one (RFC 9113, 8.1.1).
fn length(fields: &HeaderMap, body: Body) -> Result<Option<u64>, Refusal> {
    const RULE: &str = "RFC 9110, 8.6; RFC 9113, 8.1.1";
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok((body == Body::None).then_some(0)) };
    if lengths.next().is_some() {
        return Err(Refusal::malformed("the request has more than one Content-Length", RULE));
    }
    let digits = first.as_bytes();
    let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    match number.and_then(|number| number.parse::<u64>().ok()).filter(|length| i64::try_from(*length).is_ok()) {
        None => Err(Refusal::malformed("the Content-Length is not one number below 2^63", RULE)),
        Some(1..) if body == Body::None => {
            Err(Refusal::malformed("the request promises a body and ends without one", RULE))
        }
        length => Ok(length),
    }
}

fn check_expectation(fields: &HeaderMap) -> Result<(), Refusal> {
    match fields.get_all(EXPECT).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        true => Ok(()),
        false => Err(Refusal {
            reason: Reason::ExpectationFailed,
            detail: "the only expectation that can be met is 100-continue",
            rule: "RFC 9110, 10.1.1",
        }),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn judged(uri: &str, fields: &[(&str, &str)]) -> Result<Head, Refusal> {
        judge(parts("GET", uri, fields), Body::None, Limits::default())
    }

    fn detail(uri: &str, fields: &[(&str, &str)]) -> &'static str {
        judged(uri, fields).unwrap_err().detail
    }

    #[test]
    fn a_head_without_a_path_is_refused() {
        let mut head = parts("GET", "/", &[("host", "a")]);
        head.uri = Uri::default();
        assert!(judge(head, Body::None, Limits::default()).is_ok());
        let mut head = parts("GET", "/", &[("host", "a")]);
        head.uri = Uri::from_parts(http::uri::Parts::default()).unwrap();
        assert_eq!(judge(head, Body::None, Limits::default()).unwrap_err().rule, "RFC 9113, 8.3.1");
    }

    #[test]
    fn the_authority_becomes_host_and_the_target_a_path() {
        let head = judged("http://a.example:8080/x?y=1", &[]).unwrap();
        assert_eq!(head.request.headers[HOST], "a.example:8080");
        assert_eq!(head.request.raw_path(), b"/x?y=1");
        assert_eq!(head.length, Some(0));
        assert_eq!(judged("/x", &[("host", "a")]).unwrap().request.headers[HOST], "a");
    }

    #[test]
    fn there_is_exactly_one_authority() {
        assert_eq!(detail("/", &[]), "the request has neither :authority nor Host");
        assert_eq!(detail("http://a/", &[("host", "b")]), "the Host differs from :authority");
        assert_eq!(detail("http://a/", &[("host", "a"), ("host", "a")]), "the request has more than one Host");
        assert!(judged("http://A/", &[("host", "a")]).is_ok());
        assert!(judged("http://u@a/", &[]).is_err());
        assert!(judged("/", &[("host", "a/b")]).is_err());
    }

    #[test]
    fn a_path_keeps_to_the_grammar_of_http_1() {
        for bad in ["http://a/a\"b", "http://a/{x}", "http://a/%zz"] {
            assert!(judged(bad, &[]).is_err(), "{bad}");
        }
        assert!(judge(parts("OPTIONS", "*", &[("host", "a")]), Body::None, Limits::default()).is_ok());
        assert!(judge(parts("GET", "*", &[("host", "a")]), Body::None, Limits::default()).is_err());
    }

    #[test]
    fn crumbs_of_a_cookie_become_one_field() {
        let head = judged("http://a/", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]).unwrap();
        let cookies: Vec<_> = head.request.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_length_is_one_number_and_kept() {
        let of = |value, body| judge(parts("POST", "http://a/", &[("content-length", value)]), body, Limits::default());
        assert_eq!(of("5", Body::Follows).unwrap().length, Some(5));
        for (value, body) in [("5", Body::None), ("+5", Body::Follows), ("5,5", Body::Follows), ("", Body::Follows)] {
            assert!(of(value, body).is_err(), "{value}");
        }
        assert!(of("9223372036854775808", Body::Follows).is_err());
        let twice = parts("POST", "http://a/", &[("content-length", "5"), ("content-length", "5")]);
        assert!(judge(twice, Body::Follows, Limits::default()).is_err());
    }

    #[test]
    fn bounds_are_those_of_http_1() {
        let long = "x".repeat(40_000);
        assert_eq!(judged("http://a/", &[("x", &long)]).unwrap_err().reason, Reason::HeaderBytes);
        assert_eq!(judged(&format!("http://a/{long}"), &[]).unwrap_err().reason, Reason::UriTooLong);
        let many: Vec<_> = (0..100).map(|n| format!("x-{n}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "1")).collect();
        assert_eq!(judged("http://a/", &many).unwrap_err().reason, Reason::HeaderCount);
        assert!(judged("http://a/", &many[..99]).is_ok());
    }

    #[test]
    fn connect_and_unknown_expectations_are_refused() {
        let connect = judge(parts("CONNECT", "a:80", &[]), Body::Follows, Limits::default()).unwrap_err();
        assert_eq!(connect.reason, Reason::MethodNotAllowed);
        assert_eq!(judged("http://a/", &[("expect", "gold")]).unwrap_err().reason, Reason::ExpectationFailed);
        assert!(judged("http://a/", &[("expect", "100-continue")]).is_ok());
    }

    proptest! {
        #[test]
        fn what_passes_is_one_line_of_http_1(
            uri in "http://[a-z]{1,3}(:[0-9]{0,6})?/[ -~]{0,20}",
            name in "[a-z-]{1,8}",
            value in "[\\t -~\\x80-\\xff]{0,12}",
        ) {
            let Ok(request) = Request::builder().uri(uri).header(name, value).body(()) else { return Ok(()) };
            if let Ok(head) = judge(request.into_parts().0, Body::None, Limits::default()) {
                let target = head.request.raw_path();
                prop_assert!(target.starts_with(b"/"));
                prop_assert!(target.iter().all(|byte| (33..127).contains(byte)));
                prop_assert_eq!(head.request.headers.get_all(HOST).iter().count(), 1);
            }
        }
    }
}
