//! One stream of HTTP/2 as the lane sees it: heads are text of HTTP/1.1, a request's body is framed for it, an answer's is bare.

use std::io::{Error, ErrorKind, Result, Write as _};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pingora_http::RequestHeader;

use super::stream::{Fault, Stream};
use super::text;
use crate::base::clock::Moment;
use crate::edge::spare;
use crate::lane::Client;
use crate::telemetry::reason::Reason;
use crate::wire::framing::Framing;
use crate::wire::head::{HeadParser, Limits, Outcome};

/// The last chunk, and no trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// One stream that the lane may serve.
pub(super) struct H2Client {
    stream: Stream,
    head: BytesMut,
    framing: Framing,
    /// What has come of the body, framed.
    inbox: BytesMut,
    body_ended: bool,
    /// How the body has failed before anyone asked for it, and the reason that was noted.
    fault: Option<(Fault, Option<Reason>)>,
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Codec(_) | Fault::Reset => ErrorKind::ConnectionReset.into(),
            Fault::TooLarge | Fault::Order(_) => ErrorKind::InvalidData.into(),
            Fault::Late(_) => ErrorKind::TimedOut.into(),
            Fault::Answered => ErrorKind::ConnectionAborted.into(),
        }
    }
}

impl H2Client {
    /// A stream whose head was judged sound, and says that its body has this length.
    pub(super) fn new(stream: Stream, request: &RequestHeader, length: Option<u64>) -> Self {
        let framing = match length {
            _ if stream.body_is_done() => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let mut head = spare::take();
        text::request(request, framing, &mut head);
        let body_ended = framing.length() == Some(0);
        Self { stream, head, framing, inbox: BytesMut::new(), body_ended, fault: None }
    }

    /// The parser that has read the head; none where HTTP/1.1 could not have it.
    pub(super) fn parser(&self) -> Option<HeadParser> {
        // Its bounds are those of HTTP/2, and it was held to them.
        let limits = Limits { header_bytes: usize::MAX, header_count: usize::MAX };
        let mut parser = HeadParser::new(limits);
        let whole = matches!(parser.parse(&self.head), Outcome::Complete(head) if head.len == self.head.len());
        whole.then_some(parser)
    }

    /// The stream, for the other road.
    pub(super) fn into_stream(mut self) -> Stream {
        spare::put(std::mem::take(&mut self.head));
        self.stream
    }

    /// Frames what has come of the body; none: its end.
    fn take_in(&mut self, data: Option<Bytes>) {
        self.body_ended = data.is_none() || self.stream.body_is_done();
        let in_chunks = self.framing == Framing::Chunked;
        if let Some(data) = data {
            if in_chunks {
                // Writing into a buffer that grows cannot fail.
                let _ = write!((&mut self.inbox).writer(), "{:x}\r\n", data.len());
            }
            self.inbox.extend_from_slice(&data);
            if in_chunks {
                self.inbox.extend_from_slice(b"\r\n");
            }
        }
        if in_chunks && self.body_ended {
            self.inbox.extend_from_slice(LAST_CHUNK);
        }
    }

    fn give(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        body: &[u8],
        last: bool,
    ) -> Poll<std::result::Result<usize, Fault>> {
        if !head.is_empty() {
            let Some(response) = text::answer(head) else {
                return Poll::Ready(Err(Fault::Order("no head of an answer")));
            };
            if response.status().is_informational() {
                self.stream.inform(response)?;
                return Poll::Ready(Ok(head.len()));
            }
            self.stream.send_head(response, last && body.is_empty())?;
            if body.is_empty() {
                return Poll::Ready(Ok(head.len()));
            }
        }
        let room = match self.stream.poll_room(cx, body.len()) {
            Poll::Ready(room) => room?,
            // The head has left, which is not told again.
            Poll::Pending if !head.is_empty() => return Poll::Ready(Ok(head.len())),
            Poll::Pending => return Poll::Pending,
        };
        self.stream.send_part(Bytes::copy_from_slice(&body[..room]), last && room == body.len())?;
        Poll::Ready(Ok(head.len() + room))
    }

    fn end(&mut self, trailers: &[u8]) -> std::result::Result<(), Fault> {
        match text::fields(trailers) {
            Some(trailers) if !trailers.is_empty() => self.stream.send_trailers(trailers),
            _ => self.stream.end(),
        }
    }
}

impl Client for H2Client {
    const VERSION: http::Version = http::Version::HTTP_2;
    const BARE: bool = true;

    fn lend_head(&mut self) -> BytesMut {
        std::mem::take(&mut self.head)
    }

    fn take_back(&mut self, head: BytesMut) {
        self.head = head;
    }

    /// What is there already of the body leaves with the head.
    fn accept(&mut self) {
        if self.body_ended {
            return;
        }
        match self.stream.poll_data(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(data)) => self.take_in(data),
            Poll::Ready(Err(fault)) => self.fault = Some((fault, self.stream.watch().ended())),
            Poll::Pending => {}
        }
    }

    fn body(&self) -> &[u8] {
        &self.inbox
    }

    fn consume(&mut self, count: usize) {
        self.inbox.advance(count);
    }

    fn body_ended(&self) -> bool {
        self.body_ended
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some((fault, reason)) = self.fault.take() {
            // What was noted before a try is forgotten when it begins.
            if let Some(reason) = reason {
                self.stream.watch().end(reason);
            }
            return Poll::Ready(Err(fault.into()));
        }
        let data = ready!(self.stream.poll_body(cx))?;
        self.take_in(data);
        Poll::Ready(Ok(()))
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, head: &[u8], body: &[u8], last: bool) -> Poll<Result<usize>> {
        self.give(cx, head, body, last).map_err(Error::from)
    }

    /// The codec sends by itself.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, _cx: &mut Context<'_>, trailers: &[u8]) -> Poll<Result<()>> {
        Poll::Ready(self.end(trailers).map_err(Error::from))
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>, until: Option<Moment>) -> Poll<()> {
        self.stream.poll_gone(cx, until).map(drop)
    }
}
