//! Whether the head of a backend's answer is one that everybody reads alike.
//!
//! Answers of HTTP/1.1 come through `link`, which has read their bytes strictly; what is left to judge of them is whether they
//! switch protocols as they were asked to. Answers of HTTP/2 come from a codec that knows no framing fields, and what another reader
//! (the client, a cache behind it) might take for framing is refused here.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{StatusCode, Version};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

/// Whether the request asked to leave HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// For an answer.
    Answer,
    /// For a WebSocket.
    WebSocket,
}

/// Checks an answer's head before anything of it is passed on, 1xx included.
///
/// # Errors
/// An upstream error of type `InvalidHTTPHeader` that says what is wrong.
pub(super) fn check(header: &ResponseHeader, asked: Asked) -> Result<()> {
    match fault(header, asked) {
        None => Ok(()),
        Some(fault) => Err(Error::explain(ErrorType::InvalidHTTPHeader, fault).into_up()),
    }
}

fn fault(header: &ResponseHeader, asked: Asked) -> Option<&'static str> {
    let status = header.status;
    if status.as_u16() > 599 {
        return Some("the status is beyond 599 (RFC 9110, 15)");
    }
    if status == StatusCode::SWITCHING_PROTOCOLS && !switches_as_asked(header, asked) {
        return Some("the answer switches to a protocol that the request did not ask for (RFC 9110, 15.2.2)");
    }
    if header.headers.values().any(|value| value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))) {
        return Some("the value of a field holds a line end or a NUL (RFC 9110, 5.5)");
    }
    framing_fault(header)
}

fn switches_as_asked(header: &ResponseHeader, asked: Asked) -> bool {
    asked == Asked::WebSocket
        && header.version == Version::HTTP_11
        && header.headers.get(UPGRADE).is_none_or(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn framing_fault(header: &ResponseHeader) -> Option<&'static str> {
    let mut codings = header.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Some("the transfer coding is not chunked alone (RFC 9112, 6.1)");
        }
        if header.version == Version::HTTP_10 {
            return Some("a transfer coding on HTTP/1.0 (RFC 9112, 6.1)");
        }
    }
    let mut lengths = header.headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next()?;
    if lengths.next().is_some() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
        return Some("Content-Length is not one number (RFC 9110, 8.6)");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut header = ResponseHeader::build(status, None).unwrap();
        header.set_version(Version::HTTP_11);
        for (name, value) in fields {
            header.append_header(*name, *value).unwrap();
        }
        header
    }

    #[test]
    fn what_is_framed_in_one_way_passes() {
        for header in [
            head(200, &[]),
            head(200, &[("content-length", "5")]),
            head(200, &[("transfer-encoding", "Chunked")]),
            head(103, &[("link", "</x>")]),
            head(599, &[]),
        ] {
            assert_eq!(fault(&header, Asked::Answer), None, "{header:?}");
        }
    }

    #[test]
    fn what_two_readers_may_frame_differently_is_refused() {
        for header in [
            head(600, &[]),
            head(200, &[("content-length", "5"), ("content-length", "5")]),
            head(200, &[("content-length", "5, 5")]),
            head(200, &[("content-length", "+5")]),
            head(200, &[("transfer-encoding", "gzip")]),
            head(200, &[("transfer-encoding", "gzip, chunked")]),
            head(200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
        ] {
            assert!(fault(&header, Asked::Answer).is_some(), "{header:?}");
        }
        let mut old = head(200, &[("transfer-encoding", "chunked")]);
        old.set_version(Version::HTTP_10);
        assert!(fault(&old, Asked::Answer).is_some());
    }

    #[test]
    fn protocols_are_switched_only_as_asked() {
        let websocket = head(101, &[("upgrade", "WebSocket")]);
        assert_eq!(fault(&websocket, Asked::WebSocket), None);
        assert_eq!(fault(&head(101, &[]), Asked::WebSocket), None);
        assert!(fault(&websocket, Asked::Answer).is_some());
        assert!(fault(&head(101, &[("upgrade", "h2c")]), Asked::WebSocket).is_some());
        let mut old = websocket;
        old.set_version(Version::HTTP_10);
        assert!(fault(&old, Asked::WebSocket).is_some());
    }
}
