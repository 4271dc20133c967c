//! One stream of HTTP/2 as Pingora sees it.
//!
//! It is a session of our own because Pingora's has none of the deadlines and bounds that [`Stream`] has, passes no 1xx on and does not
//! end a request that has trailers.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Sleep;

use super::stream::{Fault, Stream};
use super::text;
use crate::exchange::Arrival;
use crate::telemetry::reason::Reason;

/// How much of a request's body is kept for another try; as much as Pingora keeps of one over HTTP/1.1.
const KEPT: usize = 64 * 1024;
/// How long the head of an answer waits for the first of its body: a backend that dies between the two shows it at once.
const HOLD: Duration = Duration::from_millis(20);

/// One stream.
pub(super) struct H2Session {
    request: RequestHeader,
    stream: Stream,
    kept: Kept,
    /// The answer's head, where it waits to be known for the whole answer.
    held: Option<Box<ResponseHeader>>,
    hold: Option<Pin<Box<Sleep>>>,
    written: Option<Box<ResponseHeader>>,
    digest: Digest,
}

/// What is kept of a request's body for another try.
#[derive(Default)]
struct Kept {
    bytes: Option<BytesMut>,
    cut: bool,
}

impl Kept {
    fn keep(&mut self, data: &[u8]) {
        let Some(bytes) = self.bytes.as_mut().filter(|_| !self.cut) else { return };
        if bytes.len() + data.len() > KEPT {
            self.cut = true;
            *bytes = BytesMut::new();
        } else {
            bytes.extend_from_slice(data);
        }
    }
}

impl From<Fault> for Box<Error> {
    fn from(fault: Fault) -> Self {
        let of_client = |kind, what: &'static str| Error::explain(kind, what).into_down();
        match fault {
            Fault::Codec(error) => Error::because(ErrorType::H2Error, "the client's stream", error).into_down(),
            Fault::Reset => of_client(ErrorType::H2Error, "the client has reset the stream"),
            Fault::TooLarge => of_client(ErrorType::ReadError, "the body is larger than its bound"),
            Fault::Late(reason) => of_client(ErrorType::ReadTimedout, reason.map_or("in time", Reason::as_str)),
            Fault::Answered => of_client(ErrorType::ReadError, "answered before the body has ended"),
            Fault::Order(what) => of_client(ErrorType::H2Error, what),
        }
    }
}

impl H2Session {
    /// The session of a stream whose head was judged sound. The arrival lies in its digest.
    pub(super) fn new(stream: Stream, request: RequestHeader, arrival: Arrival) -> Result<Self> {
        let handed = ProxyDigest::new(Box::new(ResponseHeader::build(200, Some(0))?), Some(Box::new(arrival)));
        Ok(Self {
            request,
            stream,
            kept: Kept::default(),
            held: None,
            hold: None,
            written: None,
            digest: Digest { proxy_digest: Some(Arc::new(handed)), ..Digest::default() },
        })
    }

    fn body_is_done(&self) -> bool {
        self.stream.body_is_done() || self.body_is_empty()
    }

    fn body_is_empty(&self) -> bool {
        let promises_none = || self.request.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.stream.body_read() == 0 && (self.stream.body_is_done() || promises_none())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let data = ready!(self.stream.poll_body(cx))?;
        if let Some(data) = &data {
            self.kept.keep(data);
        }
        Poll::Ready(Ok(data))
    }

    /// Takes the head of an answer. It is sent with what follows it, so that an answer without a body is one frame.
    fn take_head(&mut self, header: Box<ResponseHeader>) -> Result<()> {
        if header.status.is_informational() {
            return if self.written.is_none() { Ok(self.stream.inform(of_http2(&header))?) } else { Ok(()) };
        }
        if self.written.is_none() && !self.stream.is_ended() {
            self.held = Some(header);
        }
        Ok(())
    }

    /// Sends the head that is held.
    fn send_head(&mut self, end: bool) -> Result<()> {
        let Some(header) = self.held.take() else { return Ok(()) };
        self.hold = None;
        let mut response = of_http2(&header);
        // A recipient with a clock dates what came undated (RFC 9110, 6.6.1).
        if !response.headers().contains_key(DATE)
            && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
        {
            response.headers_mut().insert(DATE, date);
        }
        self.stream.send_head(response, end)?;
        self.written = Some(header);
        Ok(())
    }

    /// Whether the head still waits for its body: not for long, because a client may wait for the head alone.
    fn is_held(&mut self, cx: &mut Context<'_>) -> bool {
        if self.held.is_none() || !self.stream.watch().is_holding() {
            return false;
        }
        let hold = self.hold.get_or_insert_with(|| Box::pin(tokio::time::sleep(HOLD)));
        if hold.as_mut().poll(cx).is_pending() {
            return true;
        }
        self.stream.watch().release();
        false
    }

    /// Whether the answer has no content, whatever its backend sends after its head (RFC 9110, 6.4.1). To HEAD the codec takes none.
    fn is_bodiless(&self) -> bool {
        let head = self.held.as_ref().or(self.written.as_ref());
        head.is_some_and(|head| matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED))
    }

    async fn send_body(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        if self.is_bodiless() {
            data.clear();
        }
        if self.stream.is_ended() || (data.is_empty() && !end) {
            return Ok(());
        }
        self.send_head(end && data.is_empty())?;
        while !data.is_empty() {
            let room = poll_fn(|cx| self.stream.poll_room(cx, data.len())).await?;
            let part = data.split_to(room);
            self.stream.send_part(part, end && data.is_empty())?;
        }
        if end { self.end() } else { Ok(()) }
    }

    fn send_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.send_head(false)?;
        Ok(self.stream.send_trailers(trailers)?)
    }

    /// Ends the answer; where there is none, the stream is reset once the session is dropped.
    fn end(&mut self) -> Result<()> {
        self.send_head(true)?;
        Ok(self.stream.end()?)
    }

    async fn send_task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(header, end) => {
                let is_final = !header.status.is_informational();
                self.take_head(header)?;
                if end && is_final {
                    self.send_head(true)?;
                }
                Ok(end && is_final)
            }
            HttpTask::Body(data, end) => {
                self.send_body(data.unwrap_or_default(), end).await?;
                Ok(end)
            }
            HttpTask::Trailer(trailers) => {
                match trailers {
                    Some(trailers) => self.send_trailers(*trailers)?,
                    None => self.end()?,
                }
                Ok(true)
            }
            HttpTask::Done => self.end().map(|()| true),
            HttpTask::UpgradedBody(..) => {
                Err(Error::explain(ErrorType::InternalError, "a tunnel in an answer over HTTP/2").into_in())
            }
            HttpTask::Failed(error) => Err(error),
        }
    }
}

/// A head without the fields that HTTP/2 does not have.
fn of_http2(header: &ResponseHeader) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = header.status;
    *response.headers_mut() = header.headers.clone();
    text::without_connection(response.headers_mut());
    response
}

#[async_trait]
impl Session for H2Session {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        if self.body_is_done() {
            return Ok(None);
        }
        poll_fn(|cx| self.poll_body(cx)).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        while self.read_body_bytes().await?.is_some() {}
        Ok(())
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        poll_fn(|cx| {
            if self.held.is_some() && !self.is_held(cx) {
                self.send_head(false)?;
            }
            if no_body_expected || self.body_is_done() {
                return self.stream.poll_gone(cx, None).map(|fault| Err(fault.into()));
            }
            self.poll_body(cx)
        })
        .await
    }

    async fn write_response_header(&mut self, header: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.take_head(header)?;
        if end { self.send_head(true) } else { Ok(()) }
    }

    async fn write_response_header_ref(&mut self, header: &ResponseHeader, end: bool) -> Result<()> {
        self.write_response_header(Box::new(header.clone()), end).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.send_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.send_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended |= self.send_task(task).await?;
        }
        if ended {
            self.end()?;
        } else if self.held.is_some() && !self.stream.watch().is_holding() {
            self.send_head(false)?;
        }
        Ok(ended)
    }

    /// A head that is held can still be taken back: nothing of the answer has been sent.
    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()
    }

    async fn shutdown(&mut self, _code: u32, _why: &str) {
        self.stream.break_off();
    }

    fn is_body_done(&mut self) -> bool {
        self.body_is_done()
    }

    fn is_body_empty(&mut self) -> bool {
        self.body_is_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        usize::try_from(self.stream.body_sent()).unwrap_or(usize::MAX)
    }

    fn body_bytes_read(&self) -> usize {
        usize::try_from(self.stream.body_read()).unwrap_or(usize::MAX)
    }

    fn enable_retry_buffering(&mut self) {
        self.kept.bytes.get_or_insert_default();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.kept.cut
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        let bytes = self.kept.bytes.as_ref().filter(|bytes| !self.kept.cut && !bytes.is_empty())?;
        Some(Bytes::copy_from_slice(bytes))
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Some(&mut self.digest)
    }

    // The arrival knows both ends, and nobody asks here.
    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.request.method, self.request.uri)
    }

    // Subrequests are made of these bytes, and there are none.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    // Deadlines are those of the listener and of the watch; Pingora's would be a second set that nobody configured.
    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    // HTTP/2 has no messages beside requests and answers.
    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn futures::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
