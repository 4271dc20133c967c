//! The strict parser of answers' heads (RFC 9112, 4 and 5): bytes in; a borrowed [`Head`], a [`Refusal`] or "more, please" out.
//!
//! A head that two readers could frame differently is refused: a bare LF, a folded line, white space before a colon, a status
//! that is no status, a `Content-Length` beside a `Transfer-Encoding`, more than one of either. Like the parser of requests
//! (`head`) it works line by line, looks at no whole line twice, and keeps offsets, so that the bytes may move.

use super::fields::{self, FieldSpan, HeadFields, Span};
use super::framing::Framing;
use super::grammar;
use super::lines::{self, Lines};
use super::refusal::Refusal;
use crate::telemetry::reason::Reason;

/// The largest head of an answer, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// The most field lines of an answer.
const MAX_FIELDS: usize = 256;

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

/// The head of one answer, borrowed from the bytes of the backend.
#[derive(Debug, Clone, Copy)]
pub struct Head<'b> {
    /// The status, 100 to 599.
    pub status: u16,
    /// The reason phrase as it came; it may be empty.
    pub phrase: &'b [u8],
    /// How the end of the body is told, where the head tells it. What the request asked for may say otherwise: see [`Head::body`].
    pub declared: Option<Framing>,
    /// Whether the backend means to go on after this answer (RFC 9112, 9.3), and can be trusted to.
    pub persistent: bool,
    /// Whether `Connection` names a field besides `close` and `keep-alive`.
    pub names_fields: bool,
    /// Every field line.
    pub fields: HeadFields<'b>,
    /// How many bytes the head takes; the body begins after them.
    pub len: usize,
}

/// Where the body of an answer ends (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// As its head says.
    Framed(Framing),
    /// Where the connection ends.
    UntilClose,
}

impl Head<'_> {
    /// Where the body ends, for an answer to a request of this method.
    #[must_use]
    pub fn body(&self, method: &str) -> Body {
        match self.declared {
            _ if method == "HEAD" || matches!(self.status, 100..=199 | 204 | 304) => Body::Framed(Framing::None),
            Some(framing) => Body::Framed(framing),
            None => Body::UntilClose,
        }
    }
}

/// What the deciding fields have said so far.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    names_fields: bool,
}

/// The status line, taken apart.
#[derive(Debug, Clone, Copy)]
struct StatusLine {
    old: bool,
    status: u16,
    phrase: Span,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    StatusLine,
    Fields(StatusLine),
    Complete(StatusLine, usize),
    Refused(Refusal),
}

/// A parser for the heads of one connection, one after the other. It keeps room for fields from head to head.
#[derive(Debug)]
pub struct AnswerParser {
    stage: Stage,
    lines: Lines,
    known: Known,
    fields: Vec<FieldSpan>,
}

impl Default for AnswerParser {
    fn default() -> Self {
        Self { stage: Stage::StatusLine, lines: Lines::default(), known: Known::default(), fields: Vec::new() }
    }
}

impl AnswerParser {
    /// Begins the next head: the next buffer starts with its first byte.
    pub fn reset(&mut self) {
        self.stage = Stage::StatusLine;
        self.lines = Lines::default();
        self.known = Known::default();
        self.fields.clear();
    }

    /// Judges all bytes of the head so far: `buffer` holds what the last call saw, and more after it.
    pub fn parse<'b>(&'b mut self, buffer: &'b [u8]) -> Outcome<'b> {
        match self.advance(buffer) {
            Ok(()) => self.head(buffer).map_or(Outcome::Partial, Outcome::Complete),
            Err(refusal) => {
                self.stage = Stage::Refused(refusal);
                Outcome::Refused(refusal)
            }
        }
    }

    /// The complete head, borrowed from `buffer`, which holds the bytes that were parsed; none where it is not complete.
    #[must_use]
    pub fn head<'b>(&'b self, buffer: &'b [u8]) -> Option<Head<'b>> {
        let Stage::Complete(line, len) = self.stage else { return None };
        let bytes = buffer.get(..len)?;
        let declared = match self.known.length {
            _ if self.known.chunked => Some(Framing::Chunked),
            Some(length) => Some(Framing::Length(length)),
            None => None,
        };
        // A 204 that promises a body may send one, which must not become the answer to another request.
        let misleads = line.status == 204 && !matches!(declared, None | Some(Framing::Length(0)));
        let persistent = !self.known.close && (!line.old || self.known.keep_alive) && !misleads;
        Some(Head {
            status: line.status,
            phrase: line.phrase.of(bytes),
            declared,
            persistent,
            names_fields: self.known.names_fields,
            fields: HeadFields { buffer: bytes, spans: &self.fields },
            len,
        })
    }

    fn advance(&mut self, buffer: &[u8]) -> Result<(), Refusal> {
        loop {
            let stage = match self.stage {
                Stage::Complete(..) => return Ok(()),
                Stage::Refused(refusal) => return Err(refusal),
                Stage::StatusLine => {
                    starts_like_http(buffer)?;
                    let Some(line) = self.next_line(buffer)? else { return Ok(()) };
                    Stage::Fields(status_line(buffer, line)?)
                }
                Stage::Fields(line) => match self.fields(buffer, line)? {
                    Some(len) => Stage::Complete(line, len),
                    None => return Ok(()),
                },
            };
            self.stage = stage;
        }
    }

    fn fields(&mut self, buffer: &[u8], line: StatusLine) -> Result<Option<usize>, Refusal> {
        while let Some(span) = self.next_line(buffer)? {
            if span.range().is_empty() {
                self.known.check(line.old)?;
                return Ok(Some(self.lines.begin()));
            }
            self.field(buffer, span)?;
        }
        Ok(None)
    }

    fn field(&mut self, buffer: &[u8], line: Span) -> Result<(), Refusal> {
        const RULE: &str = "RFC 9112, 5";
        if self.fields.len() >= MAX_FIELDS {
            return Err(faulty("the answer has more than 256 fields", RULE));
        }
        let field = FieldSpan::parse(buffer, line).map_err(|fault| match fault {
            fields::Fault::Name(_) => faulty("a field line does not begin with a name and a colon", RULE),
            fields::Fault::Value(_) => faulty("a field's value holds a control character", "RFC 9110, 5.5"),
        })?;
        self.known.note(field.name.of(buffer), field.value.of(buffer))?;
        self.fields.push(field);
        Ok(())
    }

    fn next_line(&mut self, buffer: &[u8]) -> Result<Option<Span>, Refusal> {
        self.lines.next(buffer, MAX_BYTES).map_err(|fault| match fault {
            lines::Fault::Beyond => faulty("the answer's head is larger than 256 KiB", "RFC 9112, 5"),
            lines::Fault::BareLf => faulty("a line ends with a bare LF", "RFC 9112, 2.2"),
        })
    }
}

impl Known {
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => self.note_connection(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.note_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.note_coding(value),
            _ => Ok(()),
        }
    }

    fn note_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        const RULE: &str = "RFC 9110, 8.6; RFC 9112, 6.3";
        if !(1..=19).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
            return Err(faulty("Content-Length is not one number of 1 to 19 digits", RULE));
        }
        // 19 digits are less than 2^64, so that nothing overflows.
        let length = value.iter().fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0'));
        match self.length.replace(length) {
            None if length <= i64::MAX as u64 => Ok(()),
            None => Err(faulty("Content-Length is beyond 2^63 - 1", RULE)),
            Some(_) => Err(faulty("there is more than one Content-Length", RULE)),
        }
    }

    fn note_coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        const RULE: &str = "RFC 9112, 6.1";
        if !value.eq_ignore_ascii_case(b"chunked") || std::mem::replace(&mut self.chunked, true) {
            return Err(faulty("the transfer coding is not chunked alone", RULE));
        }
        Ok(())
    }

    /// A list that is no list of tokens names no field of ours, and the field is dropped with it.
    fn note_connection(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()) {
            match option {
                _ if option.eq_ignore_ascii_case(b"close") => self.close = true,
                _ if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ => self.names_fields = true,
            }
        }
        Ok(())
    }

    /// Weighs what only the whole head can tell.
    fn check(&self, old: bool) -> Result<(), Refusal> {
        if self.chunked && old {
            return Err(faulty("a transfer coding on HTTP/1.0", "RFC 9112, 6.1"));
        }
        if self.chunked && self.length.is_some() {
            return Err(faulty("there are both a Transfer-Encoding and a Content-Length", "RFC 9112, 6.3"));
        }
        Ok(())
    }
}

/// Bytes of another protocol are refused before a line of them has ended.
fn starts_like_http(buffer: &[u8]) -> Result<(), Refusal> {
    const START: &[u8] = b"HTTP/1.";
    let len = buffer.len().min(START.len());
    if buffer[..len] == START[..len] { Ok(()) } else { Err(faulty("the answer is not HTTP/1", "RFC 9112, 4")) }
}

/// `HTTP-version SP status-code [ SP reason-phrase ]`: RFC 9112, 4, wants the second space where many a backend has none.
fn status_line(buffer: &[u8], span: Span) -> Result<StatusLine, Refusal> {
    const RULE: &str = "RFC 9112, 4";
    let line = span.of(buffer);
    let (version, rest) = line.split_at_checked(9).unwrap_or((line, b""));
    let old = match version {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return Err(faulty("the version of the answer is neither HTTP/1.1 nor HTTP/1.0", RULE)),
    };
    let (digits, phrase) = rest.split_at_checked(3).unwrap_or((rest, b""));
    let status = match digits {
        [hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            u16::from(hundreds - b'0') * 100 + u16::from(tens - b'0') * 10 + u16::from(ones - b'0')
        }
        _ => return Err(faulty("the status is not a number from 100 to 599", "RFC 9110, 15")),
    };
    if !(phrase.is_empty() || phrase[0] == b' ' && grammar::is_value(phrase)) {
        return Err(faulty("the status is not followed by a space and a phrase", RULE));
    }
    let phrase = Span::new(span.range().start + 13.min(line.len()), span.range().end);
    Ok(StatusLine { old, status, phrase })
}

/// An answer that breaks a rule.
pub(super) const fn faulty(detail: &'static str, rule: &'static str) -> Refusal {
    Refusal { reason: Reason::HttpProtocolError, detail, rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = (u16, Option<Framing>, bool, usize);

    fn parse(text: &str) -> Option<Result<Told, &'static str>> {
        let mut parser = AnswerParser::default();
        match parser.parse(text.as_bytes()) {
            Outcome::Partial => None,
            Outcome::Complete(head) => Some(Ok((head.status, head.declared, head.persistent, head.len))),
            Outcome::Refused(refusal) => Some(Err(refusal.detail)),
        }
    }

    #[test]
    fn what_everybody_frames_alike_passes() {
        for (text, declared, persistent) in [
            ("HTTP/1.1 200 OK\r\n\r\n", None, true),
            ("HTTP/1.1 200 \r\n\r\n", None, true),
            ("HTTP/1.1 200\r\n\r\n", None, true),
            ("HTTP/1.1 200 Fine & caf\u{e9}\r\nContent-Length: 5\r\n\r\n", Some(Framing::Length(5)), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding:\tChunked \r\n\r\n", Some(Framing::Chunked), true),
            ("HTTP/1.1 200 OK\r\nConnection: x, close\r\n\r\n", None, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", Some(Framing::Length(0)), false),
            ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", Some(Framing::Length(0)), true),
        ] {
            assert_eq!(parse(text), Some(Ok((200, declared, persistent, text.len()))), "{text:?}");
        }
    }

    #[test]
    fn what_two_readers_may_frame_differently_is_refused() {
        for text in [
            "nonsense\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/1.1 600 No\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200\tOK\r\n\r\n",
            "HTTP/1.1 200 O\0K\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200 OK\r\nx: 1\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\rb: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx y: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: 1\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnocolon\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775808\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert!(matches!(parse(text), Some(Err(_))), "{text:?}: {:?}", parse(text));
        }
    }

    #[test]
    fn pieces_do_not_matter() {
        let text = "HTTP/1.1 206 Partial\r\nContent-Length: 5\r\nx:\r\nConnection: close\r\n\r\nhello";
        let whole = parse(text);
        let mut parser = AnswerParser::default();
        for end in 0..text.len() {
            match parser.parse(&text.as_bytes()[..end]) {
                Outcome::Partial => assert!(end < text.len() - 5),
                Outcome::Complete(head) => {
                    assert_eq!(Some(Ok((head.status, head.declared, head.persistent, head.len))), whole);
                    assert_eq!((head.phrase, head.fields.get("x")), (&b"Partial"[..], Some(&b""[..])));
                }
                Outcome::Refused(refusal) => panic!("{refusal}"),
            }
        }
    }

    #[test]
    fn a_head_is_bounded() {
        let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(matches!(parse(&fields(256)), Some(Ok(_))));
        assert!(matches!(parse(&fields(257)), Some(Err(_))));
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(MAX_BYTES));
        assert!(matches!(parse(&long), Some(Err(_))));
    }

    #[test]
    fn what_was_asked_decides_whether_there_is_a_body() {
        let body = |status: &str, method| {
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
            AnswerParser::default().parse(text.as_bytes()).complete().unwrap().body(method)
        };
        assert_eq!(body("200 OK", "GET"), Body::Framed(Framing::Length(5)));
        assert_eq!(body("200 OK", "HEAD"), Body::Framed(Framing::None));
        for status in ["103 Early", "204 No", "304 Not"] {
            assert_eq!(body(status, "GET"), Body::Framed(Framing::None));
        }
    }

    impl<'b> Outcome<'b> {
        fn complete(self) -> Option<Head<'b>> {
            if let Self::Complete(head) = self { Some(head) } else { None }
        }
    }
}
