//! The strict parser of request heads (RFC 9112, 2 to 5): bytes in; a borrowed [`Head`], a [`Refusal`] or "more, please" out.
//!
//! It works line by line as the bytes arrive and never looks at a byte of a whole line twice, however small the pieces. It
//! keeps offsets, not slices, so that the caller may move the bytes elsewhere and borrow the head from there.
//! Reading, waiting and answering are the connection's; the body is `framing`'s.

use std::net::IpAddr;

use super::fields::{FieldSpan, HeadFields, Span};
use super::framing::Framing;
use super::grammar::{self, TOKEN};
use super::known::Known;
use super::refusal::Refusal;
use super::target::{self, Target, TargetSpans};
use crate::base::request::{RequestView, Scheme};
use crate::telemetry::reason::Reason;

/// The longest method, in bytes. The longest registered one has 17.
const MAX_METHOD: usize = 32;

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
    /// Where the line begins that has not ended yet.
    line: usize,
    /// Up to where that line is known to hold no line end.
    scanned: usize,
    known: Known,
    fields: Vec<FieldSpan>,
}

impl HeadParser {
    /// A parser at the start of a head.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { header_bytes: limits.header_bytes.min(u32::MAX as usize), ..limits };
        let stage = Stage::Start { skipped: false };
        Self { limits, stage, line: 0, scanned: 0, known: Known::default(), fields: Vec::new() }
    }

    /// Begins the next head: the next buffer starts with its first byte. Room for fields is kept.
    pub fn reset(&mut self) {
        self.stage = Stage::Start { skipped: false };
        self.line = 0;
        self.scanned = 0;
        self.known = Known::default();
        self.fields.clear();
    }

    /// Whether no byte of a head has been seen, so that the connection is idle. An empty line is not yet a head.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Start { .. }) && self.scanned == self.line
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
        let bytes = buffer.get(self.line..).unwrap_or_default();
        match bytes {
            [] | [b'\r'] => Ok(self.wait(buffer)),
            [b'\r', b'\n', ..] if skipped => {
                Err(Refusal::malformed("more than one empty line comes before the request line", RULE))
            }
            [b'\r', b'\n', ..] => {
                self.line += 2;
                self.scanned = self.line;
                Ok(Some(Stage::Start { skipped: true }))
            }
            [b'\r', ..] => Err(bare_cr()),
            [b'\n', ..] => Err(bare_lf()),
            _ => match method_len(bytes)? {
                Some(len) => Ok(Some(Stage::RequestLine { method: Span::new(self.line, self.line + len) })),
                None => Ok(self.wait(buffer)),
            },
        }
    }

    fn wait(&mut self, buffer: &[u8]) -> Option<Stage> {
        self.scanned = buffer.len().max(self.line);
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
                return Ok(Some(Stage::Complete(request, self.line)));
            }
            self.field(buffer, line)?;
        }
        Ok(None)
    }

    /// `name ":" OWS value OWS` (RFC 9112, 5).
    fn field(&mut self, buffer: &[u8], span: Span) -> Result<(), Refusal> {
        let line = span.of(buffer);
        if self.fields.len() >= self.limits.header_count {
            return Err(Refusal {
                reason: Reason::HeaderCount,
                detail: "the request has too many fields",
                rule: "RFC 6585, 5; limits.header_count",
            });
        }
        let name_len = grammar::run(line, TOKEN);
        if name_len == 0 || line.get(name_len) != Some(&b':') {
            return Err(bad_name(line, name_len, self.fields.is_empty()));
        }
        let rest = &line[name_len + 1..];
        if !grammar::is_value(rest) {
            return Err(bad_value(rest));
        }
        let trimmed = grammar::trimmed(rest);
        let (start, at) = (span.range().start, span.range().start + name_len + 1);
        let value = Span::new(at + trimmed.start, at + trimmed.end);
        self.known.note(&line[..name_len], &rest[trimmed], value)?;
        self.fields.push(FieldSpan { name: Span::new(start, start + name_len), value });
        Ok(())
    }

    /// The next whole line without its CRLF, or None where it has not ended. A line that goes beyond the limit is refused
    /// with `beyond`, ended or not.
    fn next_line(&mut self, buffer: &[u8], beyond: fn() -> Refusal) -> Result<Option<Span>, Refusal> {
        let unseen = buffer.get(self.scanned..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', unseen) else {
            self.wait(buffer);
            return if buffer.len() > self.limits.header_bytes { Err(beyond()) } else { Ok(None) };
        };
        let lf = self.scanned + at;
        if lf >= self.limits.header_bytes {
            return Err(beyond());
        }
        let start = std::mem::replace(&mut self.line, lf + 1);
        self.scanned = lf + 1;
        if buffer[start..lf].last() != Some(&b'\r') {
            return Err(bare_lf());
        }
        Ok(Some(Span::new(start, lf - 1)))
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
