//! The fields that decide how a request is read: Host, Content-Length, Transfer-Encoding, Connection, Expect, Upgrade.
//!
//! They are noted line by line as they pass, and weighed together once the head is whole.

use super::fields::Span;
use super::framing::Framing;
use super::grammar::{self, TOKEN};
use super::head::Version;
use super::refusal::Refusal;
use super::target;
use crate::telemetry::reason::Reason;

/// What the deciding fields of a head have said so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) host: Option<Span>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade: Option<Span>,
    connection_upgrade: bool,
    expect_continue: bool,
}

impl Known {
    /// Takes note of one field line.
    #[inline]
    pub(super) fn note(&mut self, name: &[u8], value: &[u8], span: Span) -> Result<(), Refusal> {
        // Six lengths hold all names that matter, so that most fields are passed over by one jump.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.note_host(value, span),
            6 if name.eq_ignore_ascii_case(b"expect") => self.note_expect(value),
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.note_upgrade(value, span),
            10 if name.eq_ignore_ascii_case(b"connection") => self.note_connection(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.note_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.note_coding(value),
            _ => Ok(()),
        }
    }

    /// RFC 9112, 3.2: exactly one Host, with a valid value.
    fn note_host(&mut self, value: &[u8], span: Span) -> Result<(), Refusal> {
        target::check_authority(value)?;
        match self.host.replace(span) {
            None => Ok(()),
            Some(_) => Err(Refusal::malformed("the request has more than one Host", "RFC 9112, 3.2")),
        }
    }

    /// RFC 9112, 6.3. A list of equal lengths may be taken by that section; we refuse it, since nobody sends one in good faith.
    fn note_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        const RULE: &str = "RFC 9110, 8.6; RFC 9112, 6.3";
        if !(1..=19).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::malformed("the Content-Length is not one number of 1 to 19 digits", RULE));
        }
        // 19 digits are less than 2^64, so that nothing overflows.
        let length = value.iter().fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0'));
        if length > i64::MAX as u64 {
            return Err(Refusal::malformed("the Content-Length is beyond 2^63 - 1", RULE));
        }
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Refusal::malformed("the request has more than one Content-Length", RULE)),
        }
    }

    /// RFC 9112, 6.1: `chunked` once, and nothing else that would have to be understood to find the end of the body.
    fn note_coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        const RULE: &str = "RFC 9112, 6.1";
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::malformed("the Transfer-Encoding is not exactly chunked", RULE));
        }
        match std::mem::replace(&mut self.chunked, true) {
            false => Ok(()),
            true => Err(Refusal::malformed("the request has more than one Transfer-Encoding", RULE)),
        }
    }

    /// RFC 9110, 7.6.1. A sender may not name fields that are meant for all on the way; naming the ones that frame or route the
    /// request would make the next hop lose them.
    fn note_connection(&mut self, value: &[u8]) -> Result<(), Refusal> {
        const RULE: &str = "RFC 9110, 7.6.1";
        for element in value.split(|&byte| byte == b',') {
            let option = &element[grammar::trimmed(element)];
            if grammar::run(option, TOKEN) != option.len() {
                return Err(Refusal::malformed("the Connection field is not a list of tokens", RULE));
            }
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            self.close |= is("close");
            self.keep_alive |= is("keep-alive");
            self.connection_upgrade |= is("upgrade");
            if is("host") || is("content-length") || is("transfer-encoding") {
                return Err(Refusal::malformed(
                    "the Connection field names a field that frames or routes the request",
                    RULE,
                ));
            }
        }
        Ok(())
    }

    /// RFC 9110, 10.1.1: 417 for any expectation but one.
    fn note_expect(&mut self, value: &[u8]) -> Result<(), Refusal> {
        self.expect_continue = value.eq_ignore_ascii_case(b"100-continue");
        match self.expect_continue {
            true => Ok(()),
            false => Err(Refusal {
                reason: Reason::ExpectationFailed,
                detail: "the only expectation that can be met is 100-continue",
                rule: "RFC 9110, 10.1.1",
            }),
        }
    }

    /// RFC 9110, 7.8: protocols are `token ["/" token]`, in a list. One line of them is enough for everybody.
    fn note_upgrade(&mut self, value: &[u8], span: Span) -> Result<(), Refusal> {
        const RULE: &str = "RFC 9110, 7.8";
        let is_protocol = |byte: &u8| grammar::is(*byte, TOKEN) || matches!(byte, b'/' | b',' | b' ' | b'\t');
        if value.is_empty() || !value.iter().all(is_protocol) {
            return Err(Refusal::malformed("the Upgrade field is not a list of protocols", RULE));
        }
        match self.upgrade.replace(span) {
            None => Ok(()),
            Some(_) => Err(Refusal::malformed("the request has more than one Upgrade", RULE)),
        }
    }

    /// Weighs what only the whole head can tell: `authority` is that of an absolute target.
    pub(super) fn check(&self, version: Version, authority: Option<Span>, buffer: &[u8]) -> Result<(), Refusal> {
        if self.chunked && version == Version::Http10 {
            return Err(Refusal::malformed("HTTP/1.0 has no Transfer-Encoding", "RFC 9112, 6.1"));
        }
        if self.chunked && self.length.is_some() {
            let detail = "the request has both a Transfer-Encoding and a Content-Length";
            return Err(Refusal::malformed(detail, "RFC 9112, 6.1 and 6.3"));
        }
        match (self.host, authority) {
            (None, _) if version == Version::Http11 => {
                Err(Refusal::malformed("the request has no Host; HTTP/1.1 requires one", "RFC 9112, 3.2"))
            }
            (Some(host), Some(authority)) if !host.of(buffer).eq_ignore_ascii_case(authority.of(buffer)) => {
                Err(Refusal::malformed("the Host differs from the host of the target", "RFC 9112, 3.2.2"))
            }
            _ => Ok(()),
        }
    }

    /// How the body is framed (RFC 9112, 6.3).
    pub(super) const fn body(&self) -> Framing {
        match self.length {
            _ if self.chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::None,
        }
    }

    /// Whether the client means to send another request after this one (RFC 9112, 9.3).
    pub(super) const fn persistent(&self, version: Version) -> bool {
        match version {
            _ if self.close => false,
            Version::Http11 => true,
            Version::Http10 => self.keep_alive,
        }
    }

    /// The protocols that the client would rather speak: only where `Connection` says so too, and never on HTTP/1.0
    /// (RFC 9110, 7.8).
    pub(super) const fn upgrade(&self, version: Version) -> Option<Span> {
        match version {
            Version::Http11 if self.connection_upgrade => self.upgrade,
            _ => None,
        }
    }

    /// Whether the client waits for a 100 before it sends its body; never on HTTP/1.0 (RFC 9110, 10.1.1), and never
    /// where there is no body to wait for.
    pub(super) fn expect_continue(&self, version: Version) -> bool {
        self.expect_continue && version == Version::Http11 && !matches!(self.body(), Framing::None | Framing::Length(0))
    }
}
