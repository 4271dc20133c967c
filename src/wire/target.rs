//! The request target (RFC 9112, 3.2) and the authority that `Host` and absolute targets share (RFC 3986, 3.2).
//!
//! A target keeps to RFC 3986, with one exception that the field has forced: browsers send a few characters bare that the
//! RFC wants escaped. We take exactly those that the WHATWG URL standard leaves bare: `[ ] | ^` in a path, and `{ } \` and
//! the backtick besides them in a query. HAProxy and Envoy (by default) take every visible character. We do not:
//! - `" < >` and, in a path, `{ } \` and the backtick: no browser sends them, and a backslash in a path is a slash to some
//!   servers (Envoy turns it into one), which would see another path than the one that was matched here;
//! - `#`, controls, space, DEL, bytes beyond ASCII, and a percent sign without two hex digits, which servers read differently.
//!
//! What is left also passes the `http` crate unchanged, so that every road behind the edge carries the same bytes.

use std::ops::Range;

use super::fields::Span;
use super::grammar::{self, HOST, PATH, QUERY};
use super::refusal::Refusal;
use crate::base::request::Scheme;

/// The longest host name of DNS, as text (RFC 1035, 2.3.4; RFC 3986, 3.2.2).
const MAX_HOST: usize = 255;

/// The form in which a target was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/path?query` (RFC 9112, 3.2.1).
    Origin,
    /// `http://authority/path?query` (RFC 9112, 3.2.2).
    Absolute(Scheme),
    /// `*`, for OPTIONS alone (RFC 9112, 3.2.4).
    Asterisk,
}

/// What a request is for. The fourth form of RFC 9112, `authority:port`, belongs to CONNECT, which is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'b> {
    form: Form,
    text: &'b str,
    path: &'b str,
    query: Option<&'b str>,
}

impl<'b> Target<'b> {
    /// The form in which it was written.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// The whole target as the client sent it.
    #[must_use]
    pub const fn as_str(&self) -> &'b str {
        self.text
    }

    /// The path as the client sent it, never decoded. The empty path of an absolute target is `/`, or `*` for OPTIONS
    /// without a query (RFC 9112, 3.2.1 and 3.2.4).
    #[must_use]
    pub const fn path(&self) -> &'b str {
        self.path
    }

    /// The query without its `?`, as the client sent it.
    #[must_use]
    pub const fn query(&self) -> Option<&'b str> {
        self.query
    }
}

/// Where the parts of a target stand in the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct TargetSpans {
    form: Form,
    text: Span,
    /// The authority of an absolute target.
    pub(super) authority: Option<Span>,
    path: Span,
    query: Option<Span>,
}

impl TargetSpans {
    /// The target, of a request with `method`.
    pub(super) fn of<'b>(&self, buffer: &'b [u8], method: &str) -> Target<'b> {
        let query = self.query.map(|query| grammar::ascii(query.of(buffer)));
        let path = match grammar::ascii(self.path.of(buffer)) {
            "" if method == "OPTIONS" && query.is_none() => "*",
            "" => "/",
            path => path,
        };
        Target { form: self.form, text: grammar::ascii(self.text.of(buffer)), path, query }
    }
}

/// Judges the target that stands at `text` of `buffer`.
pub(super) fn parse(buffer: &[u8], text: Span, method: &[u8]) -> Result<TargetSpans, Refusal> {
    const RULE: &str = "RFC 9112, 3.2";
    let bytes = text.of(buffer);
    match bytes {
        [] => Err(Refusal::malformed("the request target is empty; put exactly one space before and after it", RULE)),
        [b'/', ..] => origin(bytes, text),
        b"*" if method == b"OPTIONS" => {
            Ok(TargetSpans { form: Form::Asterisk, text, authority: None, path: text, query: None })
        }
        [b'*', ..] => Err(Refusal::malformed("the target * is for OPTIONS alone", "RFC 9112, 3.2.4")),
        _ => absolute(bytes, text),
    }
}

/// Judges the `:path` of HTTP/2: the origin form, or `*` for OPTIONS (RFC 9113, 8.3.1).
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn check_path(bytes: &[u8], method: &[u8]) -> Result<(), Refusal> {
    match bytes {
        b"*" if method == b"OPTIONS" => Ok(()),
        [b'/', ..] => path_and_query(bytes, 0).map(|_| ()),
        _ => Err(Refusal::malformed("the path does not begin with a slash", "RFC 9113, 8.3.1")),
    }
}

fn origin(bytes: &[u8], text: Span) -> Result<TargetSpans, Refusal> {
    let (path, query) = path_and_query(bytes, text.range().start)?;
    Ok(TargetSpans { form: Form::Origin, text, authority: None, path, query })
}

fn absolute(bytes: &[u8], text: Span) -> Result<TargetSpans, Refusal> {
    const RULE: &str = "RFC 9112, 3.2.2";
    let Some((scheme, authority)) = scheme_and_authority(bytes) else {
        return Err(Refusal::malformed("the target is neither a path nor an http or https address", RULE));
    };
    check_authority(&bytes[authority.clone()])?;
    let start = text.range().start;
    let (path, query) = path_and_query(&bytes[authority.end..], start + authority.end)?;
    let authority = Some(Span::new(start + authority.start, start + authority.end));
    Ok(TargetSpans { form: Form::Absolute(scheme), text, authority, path, query })
}

/// The scheme of an absolute target, and where its authority stands.
fn scheme_and_authority(bytes: &[u8]) -> Option<(Scheme, Range<usize>)> {
    let starts_with =
        |prefix: &str| bytes.get(..prefix.len()).is_some_and(|b| b.eq_ignore_ascii_case(prefix.as_bytes()));
    let schemes = [(Scheme::Http, "http://"), (Scheme::Https, "https://")];
    let (scheme, prefix) = schemes.into_iter().find(|(_, prefix)| starts_with(prefix))?;
    let rest = &bytes[prefix.len()..];
    let len = memchr::memchr3(b'/', b'?', b'#', rest).unwrap_or(rest.len());
    Some((scheme, prefix.len()..prefix.len() + len))
}

/// The authority of a target that was judged sound; none where its form has none.
pub(crate) fn authority(target: &[u8]) -> Option<&str> {
    let (_, authority) = scheme_and_authority(target)?;
    Some(grammar::ascii(&target[authority]))
}

/// Splits `bytes`, which stand at `start` of the buffer, at the first `?`.
fn path_and_query(bytes: &[u8], start: usize) -> Result<(Span, Option<Span>), Refusal> {
    let path = run_with_escapes(bytes, PATH)?;
    let span = Span::new(start, start + path);
    match bytes.get(path) {
        None => Ok((span, None)),
        Some(b'?') => {
            let query = path + 1;
            match query + run_with_escapes(&bytes[query..], QUERY)? {
                end if end == bytes.len() => Ok((span, Some(Span::new(start + query, start + end)))),
                end => Err(bad_character(bytes[end])),
            }
        }
        Some(&bad) => Err(bad_character(bad)),
    }
}

/// The length of the longest start of `bytes` of characters of `class` and percent escapes.
fn run_with_escapes(bytes: &[u8], class: u8) -> Result<usize, Refusal> {
    let mut at = 0;
    loop {
        at += grammar::run(&bytes[at..], class);
        match bytes[at..] {
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => at += 3,
            [b'%', ..] => {
                let detail =
                    "a percent sign in the target is not followed by two hex digits; write %25 for the sign itself";
                return Err(Refusal::malformed(detail, "RFC 3986, 2.1"));
            }
            _ => return Ok(at),
        }
    }
}

#[cold]
fn bad_character(byte: u8) -> Refusal {
    let detail = match byte {
        b'#' => "the target holds a fragment; a fragment is never sent",
        0 => "the target holds a NUL",
        1..=32 | 127 => "the target holds a space or a control character; percent-encode it",
        33..=126 => "the target holds a character that must be percent-encoded",
        _ => "the target holds a byte beyond ASCII; percent-encode it",
    };
    Refusal::malformed(detail, "RFC 9112, 3.2; RFC 3986, 3.3 and 3.4")
}

/// Judges `host[:port]` of `Host` or of an absolute target.
///
/// Narrower than RFC 3986: a name keeps to letters, digits and `-._~`, as section 3.2.2 asks of names that are looked up in DNS.
/// Percent escapes, commas, semicolons and the like never occur in served names, and parsers differ over where such a name
/// ends. Of IP literals, IPv6 without a zone is taken. A port, where a colon announces one, is 1 to 65535.
pub(crate) fn check_authority(bytes: &[u8]) -> Result<(), Refusal> {
    const RULE: &str = "RFC 9110, 7.2; RFC 3986, 3.2";
    let (host, rest) = match bytes {
        [b'[', ..] => bytes.split_at(check_ip_literal(bytes)?),
        _ => bytes.split_at(grammar::run(bytes, HOST)),
    };
    if host.is_empty() && rest.is_empty() {
        return Err(Refusal::malformed("the host is empty; name the host that the request is for", RULE));
    }
    if host.is_empty() && rest[0] == b':' {
        return Err(Refusal::malformed("the host is empty before its port", RULE));
    }
    if host.len() > MAX_HOST {
        return Err(Refusal::malformed("the host is longer than 255 bytes", RULE));
    }
    match rest {
        [] => Ok(()),
        [b':', port @ ..] => check_port(port),
        _ if rest.contains(&b'@') => {
            Err(Refusal::malformed("the host holds user information; remove all up to the @", "RFC 9110, 4.2.4"))
        }
        [b',', ..] => Err(Refusal::malformed("the host is a list; name exactly one", RULE)),
        [b'/' | b'?', ..] => Err(Refusal::malformed("the host holds a path; only host:port belongs there", RULE)),
        _ => Err(Refusal::malformed("the host holds a character that no host name has", RULE)),
    }
}

/// The length of the IPv6 literal that `bytes` begins with, brackets included.
fn check_ip_literal(bytes: &[u8]) -> Result<usize, Refusal> {
    let close = memchr::memchr(b']', bytes).unwrap_or(0);
    let address = bytes.get(1..close).and_then(|inner| std::str::from_utf8(inner).ok()).unwrap_or_default();
    match address.parse::<std::net::Ipv6Addr>() {
        Ok(_) => Ok(close + 1),
        Err(_) => Err(Refusal::malformed("the host in brackets is not an IPv6 address", "RFC 3986, 3.2.2")),
    }
}

fn check_port(digits: &[u8]) -> Result<(), Refusal> {
    let number = match digits.len() {
        1..=5 if digits.iter().all(u8::is_ascii_digit) => digits.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0')),
        _ => 0,
    };
    match number {
        1..=65535 => Ok(()),
        _ => Err(Refusal::malformed("the host's port is not a number from 1 to 65535", "RFC 3986, 3.2.3")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form, the path, the query and the authority.
    type Parts = (Form, String, Option<String>, Option<String>);

    fn target(method: &str, text: &str) -> Result<Parts, &'static str> {
        let spans = parse(text.as_bytes(), Span::new(0, text.len()), method.as_bytes()).map_err(|r| r.detail)?;
        let target = spans.of(text.as_bytes(), method);
        assert_eq!(target.as_str(), text);
        let authority = spans.authority.map(|span| text[span.range()].to_owned());
        Ok((target.form(), target.path().to_owned(), target.query().map(str::to_owned), authority))
    }

    #[test]
    fn each_form_is_taken_apart() {
        let absolute = Form::Absolute(Scheme::Http);
        for (method, text, form, path, query, authority) in [
            ("GET", "/", Form::Origin, "/", None, None),
            ("GET", "/a/b?c=d?e", Form::Origin, "/a/b", Some("c=d?e"), None),
            ("GET", "//a//b?", Form::Origin, "//a//b", Some(""), None),
            ("GET", "/%2F%c3%A9;x=1,2:@!$&'()*+~-._=", Form::Origin, "/%2F%c3%A9;x=1,2:@!$&'()*+~-._=", None, None),
            ("GET", "/[a]|^?[b]|^{c}\\`", Form::Origin, "/[a]|^", Some("[b]|^{c}\\`"), None),
            ("OPTIONS", "*", Form::Asterisk, "*", None, None),
            ("GET", "http://a.example:81/x?y", absolute, "/x", Some("y"), Some("a.example:81")),
            ("GET", "hTTp://[::1]", absolute, "/", None, Some("[::1]")),
            ("GET", "http://a?q", absolute, "/", Some("q"), Some("a")),
            ("OPTIONS", "http://a", absolute, "*", None, Some("a")),
            ("OPTIONS", "http://a?q", absolute, "/", Some("q"), Some("a")),
            ("GET", "https://a/", Form::Absolute(Scheme::Https), "/", None, Some("a")),
        ] {
            let expected = (form, path.to_owned(), query.map(str::to_owned), authority.map(str::to_owned));
            assert_eq!(target(method, text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_target_outside_the_grammar_is_refused() {
        let long = format!("http://{}/", "a".repeat(256));
        for text in [
            "",
            "a",
            "a/b",
            "?q",
            "*",
            "*/",
            "/#f",
            "/?#f",
            "/\0",
            "/a\tb",
            "/a\"b",
            "/<a>",
            "/{a}",
            "/a\\b",
            "/`",
            "/\x7f",
            "/é",
            "/?é",
            "/%",
            "/%2",
            "/%zz",
            "/?%",
            "/?%0g",
            "/%%41",
            "/?\"",
            "/?<",
            "/?>",
            "ftp://a/",
            "http:/a",
            "http://",
            "http:///a",
            "http://?a",
            "http://a@b/",
            "http://a:b@c/",
            "http://a:/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:8o/",
            "http://a,b/",
            "http://a#f",
            "http://[::1/",
            "http://[::g]/",
            "http://[fe80::1%25eth0]/",
            "http://[v1.a]/",
            "http://[127.0.0.1]/",
            "http://[::1]x/",
            "http://%61/",
            "urn:a",
            &long,
        ] {
            assert!(target("GET", text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for host in [
            "a",
            "a.example",
            "A.Example.",
            "a_b",
            "xn--bcher-kva.example",
            "127.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:8080",
            "[::ffff:1.2.3.4]",
            "a:1",
            "a:65535",
            "a:00080",
        ] {
            assert_eq!(check_authority(host.as_bytes()), Ok(()), "{host}");
        }
        for host in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:000080",
            "a:+1",
            "a:-1",
            "a:8 0",
            "a b",
            "a/b",
            "a/",
            "a?b",
            "a#b",
            "a,b",
            "a, b",
            "u@a",
            "u:p@a",
            "a%41",
            "a;b",
            "a'b",
            "[::1",
            "::1",
            "[]",
            "[::1]a",
            "[::1]:",
            "[1.2.3.4]",
            "a\\b",
            "a\0",
            "é",
            "http://a",
        ] {
            assert!(check_authority(host.as_bytes()).is_err(), "{host:?} was taken");
        }
    }

    #[test]
    fn the_detail_names_what_is_wrong_with_a_host() {
        for (host, word) in [
            ("u@a", "user information"),
            ("a,b", "list"),
            ("a/b", "path"),
            ("", "empty"),
            (":1", "empty before"),
            ("a:x", "port"),
        ] {
            let refusal = check_authority(host.as_bytes()).unwrap_err();
            assert!(refusal.detail.contains(word), "{host:?}: {refusal}");
        }
    }

    #[test]
    fn every_character_we_take_passes_the_http_crate_unchanged() {
        for byte in 0..=127u8 {
            for text in [format!("/{}", byte as char), format!("/?{}", byte as char)] {
                if target("GET", &text).is_ok() {
                    assert_eq!(text.parse::<http::Uri>().unwrap().to_string(), text);
                }
            }
        }
    }
}
