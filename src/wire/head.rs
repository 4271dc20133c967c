//! The strict parser of request heads (RFC 9112, 2 to 5): bytes in; a borrowed [`Head`], a [`Refusal`] or "more, please" out.
//!
//! It works line by line as the bytes arrive and never looks at a byte of a whole line twice, however small the pieces. It
//! keeps offsets, not slices, so that the caller may move the bytes elsewhere and borrow the head from there.
//! Reading, waiting and answering are the connection's; the body is `framing`'s.

use std::net::IpAddr;

use super::fields::{self, FieldSpan, HeadFields, Span};
use super::framing::Framing;
use super::grammar::{self, TOKEN};
use super::known::Known;
use super::lines::{self, Lines};
use super::refusal::Refusal;
use super::target::{self, Target, TargetSpans};
use crate::base::request::{RequestView, Scheme};
use crate::telemetry::reason::Reason;

/// The longest method, in bytes. The longest registered one has 17.
const MAX_METHOD: usize = 32;

/// The fields that there is room for from the start; browsers send about a dozen.
const USUAL: usize = 16;

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head, with its line ends and the empty line; more are answered with 431 (414 where the request
    /// line alone is longer). What exceeds `u32::MAX` counts as that.
    pub header_bytes: usize,
    /// Field lines; more are answered with 431.
    pub header_count: usize,
}

impl Default for Limits {
    /// 32 KiB and 100 fields.
    fn default() -> Self {
        Self { header_bytes: 32 * 1024, header_count: 100 }
    }
}

/// The version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

impl Version {
    /// `HTTP/1.0` or `HTTP/1.1`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// What the bytes so far amount to.
#[derive(Debug)]
pub enum Outcome<'b> {
    /// A head that has not ended; nothing in it is wrong yet.
    Partial,
    /// A whole head.
    Complete(Head<'b>),
    /// No head that we accept.
    Refused(Refusal),
}

/// The head of one request, borrowed from the bytes the client sent.
#[derive(Debug, Clone, Copy)]
pub struct Head<'b> {
    /// The method, at most 32 bytes; methods are case-sensitive (RFC 9110, 9.1).
    pub method: &'b str,
    /// What the request is for.
    pub target: Target<'b>,
    /// The version the client speaks.
    pub version: Version,
    /// The authority: that of `Host`, which agrees with the target's where that is absolute; empty only on HTTP/1.0.
    pub host: &'b str,
    /// How the end of the body is found.
    pub body: Framing,
    /// Whether the client means to go on after this request (RFC 9112, 9.3).
    pub persistent: bool,
    /// The `Upgrade` field, where `Connection` names it (RFC 9110, 7.8).
    pub upgrade: Option<&'b str>,
    /// Whether the client waits for a 100 before it sends its body (RFC 9110, 10.1.1).
    pub expect_continue: bool,
    /// Every field line, those told above included.
    pub fields: HeadFields<'b>,
    /// How many bytes the head takes; the body begins after them.
    pub len: usize,
}

impl Head<'_> {
    /// What routes and filters may see, for a client at `client` that came by `scheme`.
    #[must_use]
    pub fn view(&self, scheme: Scheme, client: Option<IpAddr>) -> RequestView<'_> {
        RequestView {
            method: self.method,
            scheme,
            host: self.host,
            path: self.target.path(),
            query: self.target.query(),
            client,
            fields: &self.fields,
        }
    }
}

/// The request line, taken apart.
#[derive(Debug, Clone, Copy)]
struct RequestLine {
    method: Span,
    target: TargetSpans,
    version: Version,
}

/// What the parser waits for.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The start of the request line; one empty line may still come before it unless `skipped`.
    Start { skipped: bool },
    /// The end of the request line, whose method is known.
    RequestLine { method: Span },
    /// The end of a field line, or the empty line.
    Fields(RequestLine),
    /// Nothing: the head is whole and this long.
    Complete(RequestLine, usize),
    /// Nothing: the bytes were refused.
    Refused(Refusal),
}

/// A parser for the heads of one connection, one after the other.
///
/// It allocates room for the fields of the first head and keeps it for the next ones. A parked connection needs none: drop
/// the parser, or share it between connections that are not in the middle of a head.
#[derive(Debug)]
pub struct HeadParser {
    limits: Limits,
    stage: Stage,
    lines: Lines,
    known: Known,
    fields: Vec<FieldSpan>,
}

impl HeadParser {
    /// A parser at the start of a head.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { header_bytes: limits.header_bytes.min(u32::MAX as usize), ..limits };
        let stage = Stage::Start { skipped: false };
        Self { limits, stage, lines: Lines::default(), known: Known::default(), fields: Vec::with_capacity(USUAL) }
    }

    /// Begins the next head: the next buffer starts with its first byte. Room for fields is kept.
    pub fn reset(&mut self) {
        self.stage = Stage::Start { skipped: false };
        self.lines = Lines::default();
        self.known = Known::default();
        self.fields.clear();
    }

    /// Whether no byte of a head has been seen, so that the connection is idle. An empty line is not yet a head.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Start { .. }) && self.lines.is_at_begin()
    }

    /// Judges all bytes of the head so far: `buffer` holds what the last call saw, and more after it. Bytes after the head
    /// are not looked at. What was refused stays refused, and what is complete stays complete, until [`Self::reset`].
    pub fn parse<'b>(&'b mut self, buffer: &'b [u8]) -> Outcome<'b> {
        match self.advance(buffer) {
            Ok(()) => self.head(buffer).map_or(Outcome::Partial, Outcome::Complete),
            Err(refusal) => {
                self.stage = Stage::Refused(refusal);
                Outcome::Refused(refusal)
            }
        }
    }

    /// The complete head, borrowed from `buffer`, which holds the bytes that were parsed, wherever they lie by now. None
    /// where the head is not complete or `buffer` too short for it.
    #[must_use]
    pub fn head<'b>(&'b self, buffer: &'b [u8]) -> Option<Head<'b>> {
        let Stage::Complete(line, len) = self.stage else { return None };
        let bytes = buffer.get(..len)?;
        let method = grammar::ascii(line.method.of(bytes));
        let host = self.known.host.or(line.target.authority);
        Some(Head {
            method,
            target: line.target.of(bytes, method),
            version: line.version,
            host: host.map_or("", |span| grammar::ascii(span.of(bytes))),
            body: self.known.body(),
            persistent: self.known.persistent(line.version),
            upgrade: self.known.upgrade(line.version).map(|span| grammar::ascii(span.of(bytes))),
            expect_continue: self.known.expect_continue(line.version),
            fields: HeadFields { buffer: bytes, spans: &self.fields },
            len,
        })
    }

    /// Goes as far as whole lines reach.
    fn advance(&mut self, buffer: &[u8]) -> Result<(), Refusal> {
        loop {
            let stage = match self.stage {
                Stage::Complete(..) => return Ok(()),
                Stage::Refused(refusal) => return Err(refusal),
                Stage::Start { skipped } => self.start(buffer, skipped)?,
                Stage::RequestLine { method } => self.request_line(buffer, method)?,
                Stage::Fields(line) => self.fields(buffer, line)?,
            };
            match stage {
                Some(stage) => self.stage = stage,
                None => return Ok(()),
            }
        }
    }

    /// At most one empty line before the request line is passed over (RFC 9112, 2.2). The method is judged before its line has
    /// ended, so that bytes of another protocol are refused at once.
    fn start(&mut self, buffer: &[u8], skipped: bool) -> Result<Option<Stage>, Refusal> {
        const RULE: &str = "RFC 9112, 2.2";
        let begin = self.lines.begin();
        let bytes = buffer.get(begin..).unwrap_or_default();
        match bytes {
            [] | [b'\r'] => Ok(self.wait(buffer)),
            [b'\r', b'\n', ..] if skipped => {
                Err(Refusal::malformed("more than one empty line comes before the request line", RULE))
            }
            [b'\r', b'\n', ..] => {
                self.lines.pass(2);
                Ok(Some(Stage::Start { skipped: true }))
            }
            [b'\r', ..] => Err(bare_cr()),
            [b'\n', ..] => Err(bare_lf()),
            _ => match method_len(bytes)? {
                Some(len) => Ok(Some(Stage::RequestLine { method: Span::new(begin, begin + len) })),
                None => Ok(self.wait(buffer)),
            },
        }
    }

    fn wait(&mut self, buffer: &[u8]) -> Option<Stage> {
        self.lines.wait(buffer);
        None
    }

    fn request_line(&mut self, buffer: &[u8], method: Span) -> Result<Option<Stage>, Refusal> {
        let Some(line) = self.next_line(buffer, too_long_line)? else { return Ok(None) };
        let start = method.range().end + 1;
        let rest = &buffer[start..line.range().end];
        let target = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        let version = version(method.of(buffer), rest.get(target + 1..))?;
        if method.of(buffer) == b"CONNECT" {
            return Err(Refusal {
                reason: Reason::MethodNotAllowed,
                detail: "CONNECT is not allowed: this is a reverse proxy",
                rule: "RFC 9110, 9.3.6",
            });
        }
        let target = target::parse(buffer, Span::new(start, start + target), method.of(buffer))?;
        Ok(Some(Stage::Fields(RequestLine { method, target, version })))
    }

    fn fields(&mut self, buffer: &[u8], request: RequestLine) -> Result<Option<Stage>, Refusal> {
        while let Some(line) = self.next_line(buffer, too_large)? {
            if line.range().is_empty() {
                self.known.check(request.version, request.target.authority, buffer)?;
                return Ok(Some(Stage::Complete(request, self.lines.begin())));
            }
            self.field(buffer, line)?;
        }
        Ok(None)
    }

    fn field(&mut self, buffer: &[u8], line: Span) -> Result<(), Refusal> {
        if self.fields.len() >= self.limits.header_count {
            return Err(Refusal {
                reason: Reason::HeaderCount,
                detail: "the request has too many fields",
                rule: "RFC 6585, 5; limits.header_count",
            });
        }
        let field = FieldSpan::parse(buffer, line).map_err(|fault| match fault {
            fields::Fault::Name(len) => bad_name(line.of(buffer), len, self.fields.is_empty()),
            fields::Fault::Value(name_len) => bad_value(&line.of(buffer)[name_len + 1..]),
        })?;
        self.known.note(field.name.of(buffer), field.value.of(buffer), field.value)?;
        self.fields.push(field);
        Ok(())
    }

    /// The next whole line; one that goes beyond the limit is refused with `beyond`.
    fn next_line(&mut self, buffer: &[u8], beyond: fn() -> Refusal) -> Result<Option<Span>, Refusal> {
        self.lines.next(buffer, self.limits.header_bytes).map_err(|fault| match fault {
            lines::Fault::Beyond => beyond(),
            lines::Fault::BareLf => bare_lf(),
        })
    }
}

/// The length of the method that `bytes` begin with, or None where it has not ended (RFC 9112, 3.1).
fn method_len(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    const RULE: &str = "RFC 9112, 3.1";
    match bytes.iter().take(MAX_METHOD + 1).position(|&byte| !grammar::is(byte, TOKEN)) {
        None if bytes.len() > MAX_METHOD => Err(Refusal::malformed("the method is longer than 32 bytes", RULE)),
        None => Ok(None),
        Some(0) => Err(Refusal::malformed("the request does not begin with a method", RULE)),
        Some(len) if bytes[len] == b' ' => Ok(Some(len)),
        Some(_) => Err(Refusal::malformed("the method is not a token followed by one space", RULE)),
    }
}

/// The version (RFC 9112, 2.3): what follows the second space of the request line, if there is one.
fn version(method: &[u8], text: Option<&[u8]>) -> Result<Version, Refusal> {
    const RULE: &str = "RFC 9112, 2.3";
    match text {
        Some(b"HTTP/1.1") => Ok(Version::Http11),
        Some(b"HTTP/1.0") => Ok(Version::Http10),
        None => Err(Refusal::malformed("the request line has no version; HTTP/0.9 is not spoken here", "RFC 9112, 3")),
        Some(b"HTTP/2.0") if method == b"PRI" => {
            Err(Refusal::malformed("this is the HTTP/2 preface; this listener speaks HTTP/1 only", "RFC 9113, 3.4"))
        }
        Some(text) if text.first() == Some(&b' ') || text.contains(&b' ') => {
            Err(Refusal::malformed("the parts of the request line are not divided by exactly one space", "RFC 9112, 3"))
        }
        Some(_) => Err(Refusal::malformed("the version is neither HTTP/1.1 nor HTTP/1.0", RULE)),
    }
}

#[cold]
fn too_long_line() -> Refusal {
    let detail = "the request line is longer than a whole head may be";
    Refusal { reason: Reason::UriTooLong, detail, rule: "RFC 9112, 3; limits.header_bytes" }
}

#[cold]
fn too_large() -> Refusal {
    let detail = "the request's head is too large";
    Refusal { reason: Reason::HeaderBytes, detail, rule: "RFC 6585, 5; limits.header_bytes" }
}

/// RFC 9112, 2.2, lets a recipient take a single LF for a line end. We do not: two parsers that differ over it see two
/// different requests.
#[cold]
const fn bare_lf() -> Refusal {
    Refusal::malformed("a line ends with a bare LF; end lines with CRLF", "RFC 9112, 2.2")
}

#[cold]
const fn bare_cr() -> Refusal {
    Refusal::malformed("a CR stands without its LF", "RFC 9112, 2.2")
}

#[cold]
fn bad_name(line: &[u8], name_len: usize, first: bool) -> Refusal {
    const NAME: &str = "RFC 9112, 5.1";
    match line.get(name_len) {
        Some(b' ' | b'\t') if name_len == 0 && first => {
            Refusal::malformed("white space comes before the first field", "RFC 9112, 2.2")
        }
        Some(b' ' | b'\t') if name_len == 0 => {
            Refusal::malformed("a field is folded over several lines; write it on one", "RFC 9112, 5.2")
        }
        Some(b' ' | b'\t') => Refusal::malformed("white space stands in a field's name or before its colon", NAME),
        Some(b':') => Refusal::malformed("a field has no name", NAME),
        None => Refusal::malformed("a field line has no colon", NAME),
        Some(_) => Refusal::malformed("a field's name is not a token", "RFC 9110, 5.1"),
    }
}

#[cold]
fn bad_value(value: &[u8]) -> Refusal {
    match value[grammar::run(value, grammar::VALUE)..].first() {
        Some(b'\r') => bare_cr(),
        Some(0) => Refusal::malformed("a field's value holds a NUL", "RFC 9110, 5.5"),
        _ => Refusal::malformed("a field's value holds a control character", "RFC 9110, 5.5"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::request::Fields;

    /// The refusal of `bytes`, or None where they are taken or may still become a head.
    fn refusal(bytes: &[u8]) -> Option<Refusal> {
        match HeadParser::new(Limits::default()).parse(bytes) {
            Outcome::Refused(refusal) => Some(refusal),
            Outcome::Partial | Outcome::Complete(_) => None,
        }
    }

    fn with_head<T>(bytes: &[u8], look: impl FnOnce(Head<'_>) -> T) -> T {
        match HeadParser::new(Limits::default()).parse(bytes) {
            Outcome::Complete(head) => look(head),
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }

    fn fields(lines: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")
    }

    #[test]
    fn a_plain_head_is_taken_apart() {
        let bytes =
            b"GET /x?y=1 HTTP/1.1\r\nHost: a.example:81\r\nX-A:\t1 2 \r\nx-a:\r\nX-B: caf\xe9\t!\r\n\r\nGET /next";
        with_head(bytes, |head| {
            assert_eq!((head.method, head.target.path(), head.target.query()), ("GET", "/x", Some("y=1")));
            assert_eq!((head.version, head.host, head.body), (Version::Http11, "a.example:81", Framing::None));
            assert!(head.persistent && head.upgrade.is_none() && !head.expect_continue);
            assert_eq!(head.len, bytes.len() - "GET /next".len());
            let all: Vec<_> = head.fields.iter().collect();
            let expected: [(&str, &[u8]); 4] =
                [("Host", b"a.example:81"), ("X-A", b"1 2"), ("x-a", b""), ("X-B", b"caf\xe9\t!")];
            assert_eq!(all, expected);
            assert_eq!(head.fields.get("x-b"), Some(&b"caf\xe9\t!"[..]));
            assert_eq!(head.fields.all("X-a").collect::<Vec<_>>(), [&b"1 2"[..], b""]);
            assert_eq!((head.fields.get("x"), head.fields.len(), head.fields.is_empty()), (None, 4, false));
        });
    }

    #[test]
    fn rules_and_filters_see_the_head_without_a_copy() {
        with_head(b"GET http://a/p?q HTTP/1.1\r\nHost: A\r\nX: 1\r\nX: 2\r\n\r\n", |head| {
            let view = head.view(Scheme::Https, None);
            assert_eq!((view.method, view.host, view.path, view.query), ("GET", "A", "/p", Some("q")));
            let mut seen = Vec::new();
            view.fields.each("x", &mut |value| seen.push(value.to_vec()));
            assert_eq!(seen, [b"1", b"2"]);
            assert_eq!(Fields::get(&head.fields, "HOST"), Some(&b"A"[..]));
        });
    }

    #[test]
    fn request_lines_outside_the_grammar_are_refused() {
        for (line, word) in [
            ("GET / HTTP/1.1 ", "exactly one space"),
            ("GET  / HTTP/1.1", "exactly one space"),
            ("GET /  HTTP/1.1", "exactly one space"),
            ("GET /a b HTTP/1.1", "exactly one space"),
            (" GET / HTTP/1.1", "begin with a method"),
            ("GET\t/ HTTP/1.1", "token"),
            ("GET /\tHTTP/1.1", "no version"),
            ("GET /\tx HTTP/1.1", "control character"),
            ("G(T / HTTP/1.1", "token"),
            ("\x16\x03\x01", "begin with a method"),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1", "longer than 32"),
            ("GET /", "HTTP/0.9"),
            ("GET / ", "version"),
            ("GET  HTTP/1.1", "empty"),
            ("GET / HTTP/1.2", "version"),
            ("GET / HTTP/2.0", "version"),
            ("GET / HTTP/0.9", "version"),
            ("GET / http/1.1", "version"),
            ("GET / HTTP/1.10", "version"),
            ("GET / HTTP/01.1", "version"),
            ("PRI * HTTP/2.0", "HTTP/2 preface"),
            ("GET * HTTP/1.1", "OPTIONS"),
            ("GET a HTTP/1.1", "neither a path nor"),
            ("GET /\0 HTTP/1.1", "NUL"),
            ("GET /\r HTTP/1.1", "control character"),
            ("GET / HTTP/1.1\r", "version"),
        ] {
            let refusal =
                refusal(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).unwrap_or_else(|| panic!("{line:?}"));
            assert_eq!(refusal.reason, Reason::HttpRequestError, "{line:?}");
            assert!(refusal.detail.contains(word), "{line:?}: {refusal}");
        }
    }

    #[test]
    fn connect_is_answered_405_in_every_form() {
        for target in ["a:443", "/", "http://a/"] {
            let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: a:443\r\n\r\n");
            assert_eq!(refusal(bytes.as_bytes()).unwrap().reason.status(), 405);
        }
    }

    #[test]
    fn lines_end_with_crlf_alone() {
        for bytes in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\n",
            "\rGET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n",
        ] {
            assert!(refusal(bytes.as_bytes()).is_some(), "{bytes:?} was taken");
        }
    }

    #[test]
    fn one_empty_line_before_the_request_is_passed_over() {
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        with_head(format!("\r\n{request}").as_bytes(), |head| {
            assert_eq!((head.method, head.len), ("GET", request.len() + 2));
        });
        assert!(refusal(format!("\r\n\r\n{request}").as_bytes()).is_some());
    }

    #[test]
    fn field_lines_outside_the_grammar_are_refused() {
        for (line, word) in [
            ("X : 1", "before its colon"),
            ("X\t: 1", "before its colon"),
            ("X Y: 1", "white space"),
            ("X", "no colon"),
            (": 1", "no name"),
            ("X(: 1", "not a token"),
            ("X\0: 1", "not a token"),
            ("\u{e9}: 1", "not a token"),
            ("X: 1\0", "NUL"),
            ("X: 1\x0b", "control"),
            ("X: 1\x7f", "control"),
            ("X: 1\r", "CR"),
            ("X: 1\r\n 2", "folded"),
            ("X: 1\r\n\t2", "folded"),
            ("X: 1\r\n ", "folded"),
            ("Content-Length\x0b: 1", "not a token"),
            ("Transfer-Encoding : chunked", "before its colon"),
        ] {
            let refusal = refusal(fields(line).as_bytes()).unwrap_or_else(|| panic!("{line:?}"));
            assert!(refusal.detail.contains(word), "{line:?}: {refusal}");
        }
        let first = refusal(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n").unwrap();
        assert!(first.detail.contains("before the first field"), "{first}");
    }

    #[test]
    fn exactly_one_valid_host_is_required_on_http_11() {
        let request = |version: &str, hosts: &[&str]| {
            let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
            refusal(format!("GET / HTTP/{version}\r\n{hosts}\r\n").as_bytes()).is_none()
        };
        assert!(request("1.1", &["a"]) && request("1.0", &["a"]) && request("1.0", &[]));
        for version in ["1.0", "1.1"] {
            for hosts in
                [&["a", "a"][..], &["a", "b"], &[""], &["a/b"], &["a, b"], &["u@a"], &["a:x"], &["a b"], &["[::g]"]]
            {
                assert!(!request(version, hosts), "{version} {hosts:?}");
            }
        }
        assert!(!request("1.1", &[]));
    }

    #[test]
    fn the_host_agrees_with_an_absolute_target() {
        let head = |target: &str, version: &str, host: &str| {
            let bytes = format!("GET {target} HTTP/{version}\r\n{host}\r\n");
            match HeadParser::new(Limits::default()).parse(bytes.as_bytes()) {
                Outcome::Complete(head) => Some(head.host.to_owned()),
                _ => None,
            }
        };
        assert_eq!(head("http://a.b:80/", "1.1", "Host: A.B:80\r\n").as_deref(), Some("A.B:80"));
        assert_eq!(head("http://a/", "1.0", "").as_deref(), Some("a"));
        assert_eq!(head("/", "1.0", "").as_deref(), Some(""));
        for host in ["Host: b\r\n", "Host: a:80\r\n", ""] {
            assert_eq!(head("http://a/", "1.1", host), None, "{host:?}");
        }
    }

    #[test]
    fn the_framing_of_the_body_has_one_reading() {
        for (lines, body) in [
            ("X: 1", Framing::None),
            ("Content-Length: 0", Framing::Length(0)),
            ("content-length:\t007 ", Framing::Length(7)),
            ("Content-Length: 9223372036854775807", Framing::Length(i64::MAX as u64)),
            ("Transfer-Encoding: Chunked", Framing::Chunked),
        ] {
            with_head(fields(lines).as_bytes(), |head| assert_eq!(head.body, body, "{lines}"));
        }
        for lines in [
            "Content-Length:",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 1,1",
            "Content-Length: 1, 1",
            "Content-Length: 1 1",
            "Content-Length: 0x1",
            "Content-Length: 1e1",
            "Content-Length: 9223372036854775808",
            "Content-Length: 00000000000000000001",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding:",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunked;a=b",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked,",
        ] {
            let refusal = refusal(fields(lines).as_bytes()).unwrap_or_else(|| panic!("{lines:?} was taken"));
            assert_eq!(refusal.reason, Reason::HttpRequestError, "{lines:?}");
        }
        assert!(refusal(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_some());
    }

    #[test]
    fn connections_persist_as_rfc_9112_says() {
        for (version, lines, persistent) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x , CLOSE\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.1", "Connection: closed\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
            ("1.1", "Connection: ,, \r\n", true),
        ] {
            let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
            with_head(bytes.as_bytes(), |head| assert_eq!(head.persistent, persistent, "{version} {lines:?}"));
        }
        for value in
            ["close keep-alive", "close;a", "\"close\"", "a=b", "Host", "x, content-length", "Transfer-Encoding"]
        {
            assert!(refusal(fields(&format!("Connection: {value}")).as_bytes()).is_some(), "{value:?} was taken");
        }
    }

    #[test]
    fn an_upgrade_counts_only_where_connection_names_it() {
        for (version, lines, upgrade) in [
            ("1.1", "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n", Some("websocket")),
            ("1.1", "Connection: upgrade\r\nUpgrade: h2c, foo/1.0\r\n", Some("h2c, foo/1.0")),
            ("1.1", "Upgrade: websocket\r\n", None),
            ("1.1", "Connection: upgrade\r\n", None),
            ("1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n", None),
        ] {
            let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
            with_head(bytes.as_bytes(), |head| assert_eq!(head.upgrade, upgrade, "{version} {lines:?}"));
        }
        for lines in ["Upgrade:", "Upgrade: \"a\"", "Upgrade: caf\u{e9}", "Upgrade: a\r\nUpgrade: b"] {
            assert!(refusal(fields(lines).as_bytes()).is_some(), "{lines:?} was taken");
        }
    }

    #[test]
    fn only_one_expectation_can_be_met() {
        for (version, lines, waits) in [
            ("1.1", "Expect: 100-Continue\r\nContent-Length: 1\r\n", true),
            ("1.1", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", true),
            ("1.1", "Expect: 100-continue\r\n", false),
            ("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
            ("1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
        ] {
            let bytes = format!("PUT / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
            with_head(bytes.as_bytes(), |head| assert_eq!(head.expect_continue, waits, "{version} {lines:?}"));
        }
        for value in ["", "200-ok", "100-continue, x", "100-continue;a"] {
            assert_eq!(
                refusal(fields(&format!("Expect: {value}")).as_bytes()).unwrap().reason.status(),
                417,
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_head_is_bounded_whether_or_not_it_ends() {
        let status = |bytes: &str| refusal(bytes.as_bytes()).map(|refusal| refusal.reason.status());
        let head = |pad: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(pad));
        let fits = 32 * 1024 - head(0).len();
        assert_eq!(status(&head(fits)), None);
        assert_eq!(status(&head(fits + 1)), Some(431));
        assert_eq!(status(&head(33 * 1024)), Some(431));
        assert_eq!(status(head(33 * 1024).trim_end()), Some(431));
        let path = format!("GET /{}", "x".repeat(33 * 1024));
        assert_eq!(status(&path), Some(414));
        assert_eq!(status(&format!("{path} HTTP/1.1\r\nHost: a\r\n\r\n")), Some(414));
        let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(count - 1));
        assert_eq!(status(&many(100)), None);
        assert_eq!(status(&many(101)), Some(431));
        with_head(format!("{}{}", head(0), "x".repeat(64 * 1024)).as_bytes(), |taken| {
            assert_eq!(taken.len, head(0).len())
        });
    }

    #[test]
    fn a_head_may_be_borrowed_from_where_its_bytes_have_gone() {
        let bytes = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut parser = HeadParser::new(Limits::default());
        assert!(parser.head(bytes).is_none(), "nothing was parsed yet");
        let Outcome::Complete(head) = parser.parse(bytes) else { panic!("refused") };
        let moved = bytes[..head.len].to_vec();
        assert_eq!(parser.head(&moved).unwrap().target.path(), "/a");
        assert!(parser.head(&moved[1..]).is_none(), "too short to be the head");
    }

    #[test]
    fn a_parser_serves_one_head_after_the_other() {
        let mut parser = HeadParser::new(Limits::default());
        assert!(parser.is_idle());
        assert!(matches!(parser.parse(b"\r\n"), Outcome::Partial) && parser.is_idle());
        assert!(matches!(parser.parse(b"\r\nG"), Outcome::Partial) && !parser.is_idle());
        parser.reset();
        assert!(matches!(
            parser.parse(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"),
            Outcome::Complete(_)
        ));
        parser.reset();
        assert!(parser.is_idle());
        let Outcome::Complete(head) = parser.parse(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n") else { panic!("refused") };
        assert_eq!((head.host, head.body, head.fields.len()), ("b", Framing::None, 1));
        parser.reset();
        assert!(matches!(parser.parse(b"\n"), Outcome::Refused(_)));
        assert!(matches!(parser.parse(b""), Outcome::Refused(_)), "what was refused stays refused");
    }
}
