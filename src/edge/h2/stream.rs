//! One stream of HTTP/2 below both roads: what comes of the body, what goes of the answer, and the deadlines of both.
//!
//! It enforces what `edge/stream.rs` enforces over HTTP/1.1: the idle deadlines of bodies and writes, the bound on the body, and the
//! deadlines that the exchange sets in its [`Watch`]. Framing and windows are the codec's.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode};
use tokio::time::timeout;

use super::alarm::{Alarm, Alarms};
use crate::base::clock::{Clock, Moment};
use crate::config::plan;
use crate::edge::waits::{Rules, Waits};
use crate::exchange::watch::Watch;
use crate::telemetry::reason::Reason;
use crate::wire::refusal::Refusal;

/// Why a stream goes no further. The watch knows the reason that the request ends for.
#[derive(Debug)]
pub(super) enum Fault {
    /// The client's side has failed, or breaks the rules of the protocol.
    Codec(h2::Error),
    /// The client has reset the stream.
    Reset,
    /// The body is larger than its bound.
    TooLarge,
    /// A deadline has passed; none where it is the caller's own.
    Late(Option<Reason>),
    /// The answer was sent before the body has ended, so that the rest of it is not read.
    Answered,
    /// Something is sent that does not follow what was sent before.
    Order(&'static str),
}

/// Waits for the end of a body that has promised to hold nothing, `patience` at most for each frame.
///
/// # Errors
/// What it is refused for: the end does not come, or the codec has reset the stream because something else came.
pub(super) async fn end_of_nothing(body: &mut RecvStream, patience: Duration) -> Result<(), Refusal> {
    const RULE: &str = "RFC 9113, 8.1.1";
    loop {
        let (reason, detail) = match timeout(patience, body.data()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(empty))) if empty.is_empty() => continue,
            Ok(Some(Err(error))) if !(error.is_library() && error.is_reset()) => {
                (Reason::ClientGone, "the client left")
            }
            Ok(Some(_)) => (Reason::HttpRequestError, "the request promises no body and has one"),
            Err(_) => (Reason::ClientTimeout, "the request took too long to arrive"),
        };
        return Err(Refusal { reason, detail, rule: RULE });
    }
}

/// What a stream is made of, besides its head.
pub(super) struct Raw {
    /// What comes of the request's body.
    pub(super) body: RecvStream,
    /// Where the answer goes.
    pub(super) respond: SendResponse<Bytes>,
    /// Its listener's.
    pub(super) timeouts: plan::ListenerTimeouts,
    /// What tells the time.
    pub(super) clock: Clock,
    /// What the request and its stream tell each other.
    pub(super) watch: Arc<Watch>,
    /// Where it borrows a timer.
    pub(super) alarms: Arc<Alarms>,
}

/// One stream.
pub(super) struct Stream {
    body: RecvStream,
    body_ended: bool,
    body_read: u64,
    respond: SendResponse<Bytes>,
    /// Where the answer's body goes, once its head is sent.
    send: Option<SendStream<Bytes>>,
    /// The answer was sent to its end.
    ended: bool,
    body_sent: u64,
    /// The read and the write that wait for the client.
    waits: Waits,
    alarm: Alarm,
    timeouts: plan::ListenerTimeouts,
    clock: Clock,
    watch: Arc<Watch>,
}

impl Stream {
    pub(super) fn new(raw: Raw) -> Self {
        Self {
            body_ended: raw.body.is_end_stream(),
            body: raw.body,
            body_read: 0,
            respond: raw.respond,
            send: None,
            ended: false,
            body_sent: 0,
            waits: Waits::default(),
            alarm: Alarm::new(raw.alarms),
            timeouts: raw.timeouts,
            clock: raw.clock,
            watch: raw.watch,
        }
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether nothing more comes of the body.
    pub(super) fn body_is_done(&self) -> bool {
        self.body_ended || self.body.is_end_stream()
    }

    /// Bytes of the body that have come.
    pub(super) const fn body_read(&self) -> u64 {
        self.body_read
    }

    /// Whether the answer was sent to its end.
    pub(super) const fn is_ended(&self) -> bool {
        self.ended
    }

    /// Bytes of the answer's body that were sent.
    pub(super) const fn body_sent(&self) -> u64 {
        self.body_sent
    }

    /// Reads the next of the body, within its time; none at its end. Trailers of a request are read and go no further: Pingora has
    /// no way to pass them on.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        match self.poll_data(cx) {
            Poll::Pending => self.poll_deadline(cx, None).map(Err),
            read => read,
        }
    }

    /// The same without a look at the time.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if self.ended && self.watch.let_go() {
            return Poll::Ready(Err(Fault::Answered));
        }
        loop {
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.waits.has_read();
                    self.body.flow_control().release_capacity(data.len()).map_err(Fault::Codec)?;
                    self.body_read += data.len() as u64;
                    if !self.watch.body_within_limit(self.body_read) {
                        self.watch.end(Reason::BodyTooLarge);
                        return Poll::Ready(Err(Fault::TooLarge));
                    }
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
                    self.waits.has_read();
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => {
                    self.waits.reads(&self.clock);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Pending as long as the client is there and no deadline has passed, nor `until`. Of the client only the end of the stream is
    /// of interest.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>, until: Option<Moment>) -> Poll<Fault> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        if let Poll::Ready(reset) = reset {
            self.watch.end(Reason::ClientGone);
            return Poll::Ready(reset.map_or_else(Fault::Codec, |_| Fault::Reset));
        }
        self.poll_deadline(cx, until)
    }

    /// Notes why the client's side has failed: it left, or the body broke its promise, for which the codec has reset the
    /// stream.
    fn broken(&self, error: h2::Error) -> Fault {
        let ours = error.is_library() && error.is_reset();
        self.watch.end(if ours { Reason::HttpRequestError } else { Reason::ClientGone });
        Fault::Codec(error)
    }

    /// Pending as [`Waits::poll`] is; then what ends the request. At `until` nothing ends.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, until: Option<Moment>) -> Poll<Fault> {
        let rules = Rules { watch: &self.watch, clock: &self.clock, timeouts: &self.timeouts };
        let own = until.map(|at| (at, None));
        self.waits.poll(cx, rules, own, |cx, at| self.alarm.poll(cx, at)).map(Fault::Late)
    }

    /// Passes a 1xx on (RFC 9113, 8.1). There is no 101 over HTTP/2.
    pub(super) fn inform(&mut self, response: Response<()>) -> Result<(), Fault> {
        if self.send.is_some() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        self.respond.send_informational(response).map_err(Fault::Codec)
    }

    /// Sends the final head; with `end` it is all of the answer.
    pub(super) fn send_head(&mut self, response: Response<()>, end: bool) -> Result<(), Fault> {
        self.send = Some(self.respond.send_response(response, end).map_err(Fault::Codec)?);
        self.ended = end;
        self.moved();
        Ok(())
    }

    /// How many bytes of `wanted` the client's windows have room for: at least one.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Fault>> {
        loop {
            let Some(send) = &mut self.send else { return Poll::Ready(Err(Fault::Order("a body before its head"))) };
            send.reserve_capacity(wanted);
            match send.capacity() {
                0 => match send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.broken(error))),
                    Poll::Ready(None) => {
                        self.watch.end(Reason::ClientGone);
                        return Poll::Ready(Err(Fault::Reset));
                    }
                    Poll::Pending => {
                        self.waits.writes(Rules { watch: &self.watch, clock: &self.clock, timeouts: &self.timeouts });
                        return self.poll_deadline(cx, None).map(Err);
                    }
                },
                room => return Poll::Ready(Ok(room.min(wanted))),
            }
        }
    }

    /// Sends a part of the body for which there is room.
    pub(super) fn send_part(&mut self, part: Bytes, end: bool) -> Result<(), Fault> {
        let len = part.len() as u64;
        let Some(send) = &mut self.send else { return Err(Fault::Order("a body before its head")) };
        send.send_data(part, end).map_err(|error| self.broken(error))?;
        self.body_sent += len;
        self.ended |= end;
        self.moved();
        Ok(())
    }

    /// Ends the answer, whose head was sent.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        if let Some(send) = self.send.as_mut().filter(|_| !self.ended) {
            send.send_data(Bytes::new(), true).map_err(Fault::Codec)?;
            self.ended = true;
            self.moved();
        }
        Ok(())
    }

    /// Ends the answer with trailers.
    pub(super) fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Fault> {
        if self.ended {
            return Ok(());
        }
        let Some(send) = &mut self.send else { return Err(Fault::Order("trailers before their head")) };
        send.send_trailers(trailers).map_err(Fault::Codec)?;
        self.ended = true;
        self.moved();
        Ok(())
    }

    /// Something of the answer has gone out.
    fn moved(&mut self) {
        self.waits.has_written(Rules { watch: &self.watch, clock: &self.clock, timeouts: &self.timeouts });
    }

    /// Breaks the answer off, unless it was sent to its end.
    pub(super) fn break_off(&mut self) {
        match &mut self.send {
            _ if self.ended => return,
            Some(send) => send.send_reset(Code::INTERNAL_ERROR),
            None => self.respond.send_reset(Code::INTERNAL_ERROR),
        }
        self.ended = true;
    }
}

impl Drop for Stream {
    /// An answer that broke off must not look whole.
    fn drop(&mut self) {
        self.break_off();
    }
}
