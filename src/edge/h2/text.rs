//! Heads of HTTP/2 as text of HTTP/1.1, which the lane reads and writes, and back. Pure.

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{Response, StatusCode};
use pingora_http::RequestHeader;

use crate::wire::framing::Framing;

/// Fields that HTTP/2 does not have (RFC 9113, 8.2.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// The fields that there is room for from the start.
const USUAL: usize = 16;

/// Writes the head of a request that was judged sound, whose body is to be framed so.
pub(super) fn request(head: &RequestHeader, framing: Framing, out: &mut BytesMut) {
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    if framing == Framing::Chunked {
        out.put_slice(b"transfer-encoding: chunked\r\n");
    }
    out.put_slice(b"\r\n");
}

/// Reads the head of an answer as the lane writes it: of `name: value` lines and nothing else. What belongs to a connection of
/// HTTP/1.1 stays behind. None where it is no such head.
pub(super) fn answer(text: &[u8]) -> Option<Response<()>> {
    let (line, lines) = split(text)?;
    let status = line.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_bytes(status).ok()?;
    *response.headers_mut() = fields(lines)?;
    Some(response)
}

/// Drops the fields that HTTP/2 does not have.
pub(super) fn without_connection(fields: &mut HeaderMap) {
    for name in OF_CONNECTIONS {
        fields.remove(name);
    }
}

/// The first line, and what follows it.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\r', text)?;
    Some((&text[..end], text.get(end + 2..)?))
}

/// Reads field lines up to the empty one: those of a head, or a section of trailers that has passed the check of its grammar. None
/// where they are no such lines.
pub(super) fn fields(mut lines: &[u8]) -> Option<HeaderMap> {
    let mut fields = HeaderMap::with_capacity(USUAL);
    loop {
        let (line, rest) = split(lines)?;
        if line.is_empty() {
            return Some(fields);
        }
        lines = rest;
        let colon = memchr::memchr(b':', line)?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        if !OF_CONNECTIONS.contains(&name) {
            fields.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::head::{HeadParser, Limits, Outcome};

    fn head(fields: &[(&str, &str)]) -> RequestHeader {
        let mut request = Request::builder().method("POST").uri("/a?b=c").header("host", "x");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0.into()
    }

    fn written(head: &RequestHeader, framing: Framing) -> BytesMut {
        let mut text = BytesMut::new();
        request(head, framing, &mut text);
        text
    }

    #[test]
    fn a_request_is_written_as_http_1_has_it() {
        let text = written(&head(&[("a", "1"), ("a", "2")]), Framing::Chunked);
        let expected = "POST /a?b=c HTTP/1.1\r\nhost: x\r\na: 1\r\na: 2\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(text, expected);
        assert!(!written(&head(&[]), Framing::None).windows(8).any(|part| part == b"transfer"));
    }

    #[test]
    fn an_answer_is_read_without_what_belongs_to_a_connection() {
        let text = b"HTTP/1.1 404 Not Here\r\nServer: x\r\na:\t1 \r\na: 2\r\nTransfer-Encoding: chunked\r\nconnection: close\r\n\r\n";
        let response = answer(text).unwrap();
        assert_eq!(response.status(), 404);
        let fields: Vec<_> = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("server", &b"x"[..]), ("a", b"1"), ("a", b"2")]);
    }

    #[test]
    fn what_is_no_head_is_none() {
        for text in ["", "HTTP/1.1 200 OK", "HTTP/1.1 2\r\n\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\na\r\n\r\n"]
        {
            assert!(answer(text.as_bytes()).is_none(), "{text:?} was read");
        }
        assert!(answer(b"HTTP/1.1 200 OK\r\n a: b\r\n\r\n").is_none());
    }

    #[test]
    fn trailers_are_read_from_their_section() {
        assert_eq!(fields(b"X-Sum: 1\r\n\r\n").unwrap()["x-sum"], "1");
        assert!(fields(b"\r\n").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_the_strict_parser_reads(
            fields in prop::collection::vec(("x-[a-z]{1,8}", "[!-~\\x80-\\xff]([\\t -~\\x80-\\xff]{0,12}[!-~])?"), 0..9),
        ) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let head = head(&fields);
            let text = written(&head, Framing::None);
            let mut parser = HeadParser::new(Limits::default());
            let Outcome::Complete(read) = parser.parse(&text) else { panic!("{text:?}") };
            let read: Vec<_> = read.fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let sent: Vec<_> = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
            prop_assert_eq!(read, sent);
        }
    }
}
