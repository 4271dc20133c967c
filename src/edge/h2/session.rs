//! One stream of HTTP/2 as Pingora sees it.
//!
//! Pingora polls it all through a request, as it polls the client's connection over HTTP/1.1 (`edge/stream.rs`), and it does
//! the same: it enforces the idle deadlines of bodies and writes, the bound on the body, and the deadlines that the exchange
//! sets in its [`Watch`]. It is a session of our own because Pingora's has none of these, passes no 1xx on and does not end
//! a request that has trailers.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Response};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::{Instant, Sleep};

use crate::base::clock::{Clock, Moment};
use crate::config::plan;
use crate::exchange::Arrival;
use crate::exchange::watch::Watch;
use crate::telemetry::reason::Reason;

/// How much of a request's body is kept for another try; as much as Pingora keeps of one over HTTP/1.1.
const KEPT: usize = 64 * 1024;
/// How long the head of an answer waits for the first of its body: a backend that dies between the two shows it at once.
const HOLD: Duration = Duration::from_millis(20);
/// Fields that HTTP/2 does not have (RFC 9113, 8.2.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What a stream is, but for what was judged of its head.
pub(super) struct Raw {
    /// What comes of the request's body.
    pub(super) body: RecvStream,
    /// Where the answer goes.
    pub(super) respond: SendResponse<Bytes>,
}

/// One stream.
pub(super) struct H2Session {
    request: RequestHeader,
    body: RecvStream,
    body_ended: bool,
    body_read: usize,
    kept: Kept,
    respond: SendResponse<Bytes>,
    /// Where the answer's body goes, once its head is sent.
    send: Option<SendStream<Bytes>>,
    /// The answer's head, where it waits to be known for the whole answer.
    held: Option<Box<ResponseHeader>>,
    hold: Option<Pin<Box<Sleep>>>,
    written: Option<Box<ResponseHeader>>,
    /// The answer was sent to its end.
    ended: bool,
    body_sent: usize,
    /// Since when a read, or a write, has waited for the client.
    reading_since: Option<Moment>,
    writing_since: Option<Moment>,
    timer: Option<Pin<Box<Sleep>>>,
    timeouts: plan::ListenerTimeouts,
    clock: Clock,
    watch: Arc<Watch>,
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

/// An error on the client's side.
fn client_error(kind: ErrorType, what: &'static str) -> Box<Error> {
    Error::explain(kind, what).into_down()
}

fn gone(error: h2::Error) -> Box<Error> {
    Error::because(ErrorType::H2Error, "the client's stream", error).into_down()
}

impl H2Session {
    /// The session of a stream whose head was judged sound. The arrival lies in its digest.
    pub(super) fn new(raw: Raw, request: RequestHeader, arrival: Arrival, clock: Clock) -> Result<Self> {
        let (timeouts, watch) = (arrival.listener.timeouts, arrival.watch.clone());
        let handed = ProxyDigest::new(Box::new(ResponseHeader::build(200, Some(0))?), Some(Box::new(arrival)));
        Ok(Self {
            request,
            body_ended: raw.body.is_end_stream(),
            body: raw.body,
            body_read: 0,
            kept: Kept::default(),
            respond: raw.respond,
            send: None,
            held: None,
            hold: None,
            written: None,
            ended: false,
            body_sent: 0,
            reading_since: None,
            writing_since: None,
            timer: None,
            timeouts,
            clock,
            watch,
            digest: Digest { proxy_digest: Some(Arc::new(handed)), ..Digest::default() },
        })
    }

    fn body_is_done(&self) -> bool {
        self.body_ended || self.body.is_end_stream() || self.body_is_empty()
    }

    fn body_is_empty(&self) -> bool {
        let promises_none = || self.request.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
        self.body_read == 0 && (self.body_ended || self.body.is_end_stream() || promises_none())
    }

    /// Reads the next of the body; none at its end. Trailers of a request are read and go no further: Pingora has no way to
    /// pass them on.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if self.ended && self.watch.let_go() {
            return Poll::Ready(Err(client_error(ErrorType::ReadError, "answered before the body has ended")));
        }
        loop {
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.reading_since = None;
                    let released = self.body.flow_control().release_capacity(data.len());
                    released.map_err(gone)?;
                    self.body_read += data.len();
                    self.check_bound()?;
                    self.kept.keep(&data);
                    // An empty part is not handed on: it would be written to an HTTP/1.1 backend as the chunk that ends all.
                    if !data.is_empty() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.broken(error))),
                Poll::Ready(None) => {
                    if let Err(error) = ready!(self.body.poll_trailers(cx)) {
                        return Poll::Ready(Err(self.broken(error)));
                    }
                    self.body_ended = true;
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => {
                    let since = *self.reading_since.get_or_insert_with(|| self.clock.now());
                    let own = (since + self.timeouts.body_idle, Reason::ClientTimeout);
                    return self.poll_deadline(cx, Some(own)).map(Err);
                }
            }
        }
    }

    fn check_bound(&self) -> Result<()> {
        if self.watch.body_within_limit(self.body_read as u64) {
            return Ok(());
        }
        self.watch.end(Reason::BodyTooLarge);
        Err(client_error(ErrorType::ReadError, "the body is larger than its bound"))
    }

    /// Only the end of the stream is of interest.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        if let Poll::Ready(reset) = reset {
            self.watch.end(Reason::ClientGone);
            return Poll::Ready(match reset {
                Ok(_) => client_error(ErrorType::H2Error, "the client has reset the stream"),
                Err(error) => gone(error),
            });
        }
        self.poll_deadline(cx, None)
    }

    /// Notes why the client's side has failed: it left, or the body broke its promise, for which the codec has reset the
    /// stream.
    fn broken(&self, error: h2::Error) -> Box<Error> {
        let ours = error.is_library() && error.is_reset();
        self.watch.end(if ours { Reason::HttpRequestError } else { Reason::ClientGone });
        gone(error)
    }

    /// Pending until the soonest of the exchange's deadlines, that of a write under way, and `own` has passed; then the error
    /// that ends the request.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, own: Option<(Moment, Reason)>) -> Poll<Box<Error>> {
        loop {
            let theirs = self.watch.next().map(|(at, deadline)| (at, deadline.reason()));
            let write = self.writing_since.map(|since| (since + self.timeouts.write_idle, Reason::ClientTimeout));
            let Some((at, reason)) = [own, theirs, write].into_iter().flatten().min_by_key(|(at, _)| *at) else {
                return Poll::Pending;
            };
            if self.clock.now() >= at {
                self.watch.end(reason);
                return Poll::Ready(client_error(ErrorType::ReadTimedout, reason.as_str()));
            }
            let at = Instant::from_std(self.clock.instant(at));
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    /// Takes the head of an answer. It is sent with what follows it, so that an answer without a body is one frame.
    fn take_head(&mut self, header: Box<ResponseHeader>) -> Result<()> {
        if header.status.is_informational() {
            return self.inform(&header);
        }
        if self.written.is_none() && !self.ended {
            self.held = Some(header);
        }
        Ok(())
    }

    /// Passes a 1xx on (RFC 9113, 8.1). There is no 101 over HTTP/2.
    fn inform(&mut self, header: &ResponseHeader) -> Result<()> {
        if self.written.is_some() || header.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let mut response = Response::new(());
        *response.status_mut() = header.status;
        *response.headers_mut() = of_http2(header);
        self.respond.send_informational(response).map_err(gone)
    }

    /// Sends the head that is held.
    fn send_head(&mut self, end: bool) -> Result<()> {
        let Some(header) = self.held.take() else { return Ok(()) };
        self.hold = None;
        let mut response = Response::new(());
        *response.status_mut() = header.status;
        *response.headers_mut() = of_http2(&header);
        // A recipient with a clock dates what came undated (RFC 9110, 6.6.1).
        if !response.headers().contains_key(DATE)
            && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
        {
            response.headers_mut().insert(DATE, date);
        }
        self.send = Some(self.respond.send_response(response, end).map_err(gone)?);
        self.written = Some(header);
        self.ended = end;
        self.moved();
        Ok(())
    }

    /// Something of the answer has gone out.
    fn moved(&mut self) {
        self.writing_since = None;
        // A stream is idle only while nothing moves in either direction.
        self.reading_since = None;
        self.watch.went_out();
        self.watch.answer_moved(self.clock.now());
    }

    /// Whether the head still waits for its body: not for long, because a client may wait for the head alone.
    fn is_held(&mut self, cx: &mut Context<'_>) -> bool {
        if self.held.is_none() || !self.watch.is_holding() {
            return false;
        }
        let hold = self.hold.get_or_insert_with(|| Box::pin(tokio::time::sleep(HOLD)));
        if hold.as_mut().poll(cx).is_pending() {
            return true;
        }
        self.watch.release();
        false
    }

    /// Sends a part of the body as the client's window lets it.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes, end: bool) -> Poll<Result<()>> {
        loop {
            let Some(send) = &mut self.send else {
                return Poll::Ready(Err(client_error(ErrorType::H2Error, "a body before its head")));
            };
            send.reserve_capacity(data.len());
            if send.capacity() == 0 {
                match send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.broken(error))),
                    Poll::Ready(None) => {
                        self.watch.end(Reason::ClientGone);
                        return Poll::Ready(Err(client_error(ErrorType::H2Error, "the client has reset the stream")));
                    }
                    Poll::Pending => {
                        self.writing_since.get_or_insert_with(|| self.clock.now());
                        self.watch.answer_held_up();
                        return self.poll_deadline(cx, None).map(Err);
                    }
                }
            }
            let part = data.split_to(send.capacity().min(data.len()));
            let sent = part.len();
            let last = end && data.is_empty();
            if let Err(error) = send.send_data(part, last) {
                return Poll::Ready(Err(self.broken(error)));
            }
            self.body_sent += sent;
            self.ended |= last;
            self.moved();
            if data.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    async fn send_body(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        if self.ended || (data.is_empty() && !end) {
            return Ok(());
        }
        self.send_head(end && data.is_empty())?;
        if data.is_empty() {
            return self.end();
        }
        poll_fn(|cx| self.poll_send(cx, &mut data, end)).await
    }

    fn send_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.send_head(false)?;
        if self.ended {
            return Ok(());
        }
        let Some(send) = &mut self.send else {
            return Err(client_error(ErrorType::H2Error, "trailers before their head"));
        };
        send.send_trailers(trailers).map_err(gone)?;
        self.ended = true;
        self.moved();
        Ok(())
    }

    /// Ends the answer; where there is none, the stream is reset once the session is dropped.
    fn end(&mut self) -> Result<()> {
        self.send_head(true)?;
        if let Some(send) = self.send.as_mut().filter(|_| !self.ended) {
            send.send_data(Bytes::new(), true).map_err(gone)?;
            self.ended = true;
            self.moved();
        }
        Ok(())
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

/// The fields of a head without those that HTTP/2 does not have.
fn of_http2(header: &ResponseHeader) -> HeaderMap {
    let mut fields = header.headers.clone();
    for name in OF_CONNECTIONS {
        fields.remove(name);
    }
    fields
}

impl Drop for H2Session {
    /// An answer that broke off must not look whole.
    fn drop(&mut self) {
        match &mut self.send {
            _ if self.ended => {}
            Some(send) => send.send_reset(Code::INTERNAL_ERROR),
            None => self.respond.send_reset(Code::INTERNAL_ERROR),
        }
    }
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
                return self.poll_gone(cx).map(Err);
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
        } else if self.held.is_some() && !self.watch.is_holding() {
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
        if !self.ended {
            self.respond.send_reset(Code::INTERNAL_ERROR);
            self.ended = true;
        }
    }

    fn is_body_done(&mut self) -> bool {
        self.body_is_done()
    }

    fn is_body_empty(&mut self) -> bool {
        self.body_is_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.body_sent
    }

    fn body_bytes_read(&self) -> usize {
        self.body_read
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
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
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
