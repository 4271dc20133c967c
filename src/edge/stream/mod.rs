//! The client's connection below both roads.
//!
//! Whoever serves a request is handed this in place of the socket, and so never reads a byte that the edge has not checked: the head
//! that was parsed, then the body as far as its framing holds, and nothing of the next request, which waits here. It enforces
//! the idle deadlines of bodies, writes and tunnels, the bound on the body, and the deadlines that the exchange sets in its
//! [`Watch`]. What it is to Pingora, `general` knows, what it is to the lane, `lane`, and how it ends, `leave`.

mod general;
mod lane;
pub(super) mod leave;

use std::future::{Future, poll_fn};
use std::io::{Error, ErrorKind, Result};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use parking_lot::Mutex;
use pingora_core::protocols::SocketDigest;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep};

use crate::base::clock::{Clock, Moment};
use crate::config::plan;
use crate::edge::limits::Ticket;
use crate::edge::spare;
use crate::edge::timer::Timer;
use crate::edge::transport::Transport;
use crate::edge::waits::{Rules, Waits};
use crate::exchange::watch::{HALF_CLOSED, Watch};
use crate::telemetry::reason::Reason;
use crate::wire::framing::{BodyCheck, Framing};
use crate::wire::refusal::Refusal;

/// The room that is made for what continues what is there already.
const MORE: usize = 4096;

/// The client's connection, with what has been read of it and not yet handed on.
#[derive(Debug)]
pub struct ClientStream {
    /// Taken when the stream is dropped, to linger.
    transport: Option<Transport>,
    /// Read from the client and not yet handed on.
    inbox: BytesMut,
    /// How many bytes at the front of `inbox` belong to the present request and have passed the check.
    cleared: usize,
    body: BodyCheck,
    /// Written by Pingora and not yet sent.
    outbox: BytesMut,
    /// The read and the write that wait for the client.
    waits: Waits,
    /// Since when the client's side is closed, where it has closed it after the whole request.
    half_closed_since: Option<Moment>,
    timer: Timer,
    timeouts: plan::ListenerTimeouts,
    clock: Clock,
    watch: Arc<Watch>,
    digest: Arc<SocketDigest>,
    ticket: Option<Ticket>,
    /// The head of the present request, for it to be begun again.
    head: Vec<u8>,
    /// How long the head of the present request is.
    head_len: usize,
    /// Whether the lane has the head, and with it all that the inbox held.
    lent: bool,
    /// How long the answer's head waits for its body.
    held: Option<Pin<Box<Sleep>>>,
    /// Where the connection is left when its request is begun again.
    remains: Arc<Mutex<Option<Remains>>>,
}

/// What is left of a connection whose request is begun again.
#[derive(Debug)]
pub struct Remains {
    transport: Transport,
    ticket: Ticket,
    /// The head of the request.
    head: Vec<u8>,
    /// What has been read after it.
    inbox: BytesMut,
}

impl ClientStream {
    /// The stream of a connection that has just been accepted.
    #[must_use]
    pub fn new(transport: Transport, timeouts: plan::ListenerTimeouts, clock: Clock, ticket: Ticket) -> Self {
        let digest = Arc::new(SocketDigest::from_raw_fd(transport.fd()));
        Self {
            transport: Some(transport),
            inbox: BytesMut::new(),
            cleared: 0,
            body: BodyCheck::new(Framing::None),
            outbox: BytesMut::new(),
            waits: Waits::default(),
            half_closed_since: None,
            timer: Timer::default(),
            timeouts,
            clock,
            watch: Arc::new(Watch::default()),
            digest,
            ticket: Some(ticket),
            head: Vec::new(),
            head_len: 0,
            lent: false,
            held: None,
            remains: Arc::default(),
        }
    }

    /// Where the connection is left when its request is begun again.
    #[must_use]
    pub const fn remains(&self) -> &Arc<Mutex<Option<Remains>>> {
        &self.remains
    }

    /// The stream of a connection whose request is begun again: its head stands in the inbox as if it had just come.
    #[must_use]
    pub fn revive(remains: Remains, timeouts: plan::ListenerTimeouts, clock: Clock) -> Self {
        let mut stream = Self::new(remains.transport, timeouts, clock, remains.ticket);
        stream.inbox.extend_from_slice(&remains.head);
        stream.inbox.extend_from_slice(&remains.inbox);
        stream.cleared = remains.head.len();
        stream.head = remains.head;
        stream
    }

    /// Has other deadlines from now on: its listener's have changed between two requests.
    pub fn bound(&mut self, timeouts: plan::ListenerTimeouts) {
        self.timeouts = timeouts;
    }

    /// The socket, what was read of it, and its place: for a connection that speaks another protocol.
    pub(super) fn into_parts(mut self) -> Option<(Transport, BytesMut, Ticket)> {
        Some((self.transport.take()?, std::mem::take(&mut self.inbox), self.ticket.take()?))
    }

    /// What the connection and the exchange tell each other.
    #[must_use]
    pub const fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// What has been read and not yet handed on: between requests, the next one's beginning.
    #[must_use]
    pub fn inbox(&self) -> &[u8] {
        &self.inbox
    }

    /// Reads more of the next head; zero: the client has closed its side.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn read_more(&mut self) -> Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// The same until `deadline`; none where nothing has come by then.
    pub async fn read_until(&mut self, deadline: Moment) -> Option<Result<usize>> {
        poll_fn(|cx| match self.poll_fill(cx) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => self.poll_until(cx, deadline).map(|()| None),
        })
        .await
    }

    /// Pending until `deadline`.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Moment) -> Poll<()> {
        loop {
            ready!(self.timer.poll(cx, Instant::from_std(self.clock.instant(deadline))));
            if self.clock.now() >= deadline {
                return Poll::Ready(());
            }
        }
    }

    /// Begins a request whose head is the first `head` bytes of the inbox and whose body is framed so.
    ///
    /// # Errors
    /// What came of the body with the head breaks the framing.
    pub fn begin(&mut self, head: usize, framing: Framing) -> std::result::Result<(), Refusal> {
        self.watch.reset();
        self.cleared = head;
        self.head_len = head;
        self.held = None;
        self.body = BodyCheck::new(framing);
        self.waits.has_read();
        self.waits.has_flushed();
        self.half_closed_since = None;
        self.advance_body()?;
        self.watch.note_body(self.body.decoded());
        Ok(())
    }

    /// Keeps the head of the present request, for it to be told of where it is cut off, and to be begun again where it has no
    /// body: Pingora gives no head back.
    pub fn keep_head(&mut self, framing: Framing) {
        let head = &self.inbox[..self.head_len];
        self.watch.note_head(head);
        self.head.clear();
        if framing.length() == Some(0) {
            self.head.extend_from_slice(head);
        }
    }

    /// The request whose head was kept is over.
    pub fn forget_head(&mut self) {
        self.head = Vec::new();
        drop(self.watch.take_head());
    }

    /// Sends what is left of an answer, where something is.
    ///
    /// # Errors
    /// What the socket says, or that the client does not take it in time.
    pub async fn settle(&mut self) -> Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let transport = self.transport.as_mut().ok_or(ErrorKind::NotConnected)?;
        let send = async {
            transport.write_all_buf(&mut self.outbox).await?;
            transport.flush().await
        };
        tokio::time::timeout(self.timeouts.write_idle, send).await?
    }

    /// Gives back what an idle connection does not need.
    pub fn rest(&mut self) {
        if self.inbox.is_empty() {
            spare::put(std::mem::take(&mut self.inbox));
        }
        if self.outbox.is_empty() {
            self.outbox = BytesMut::new();
        }
        self.held = None;
    }

    /// Sends an answer of our own and closes the connection for writing. Gives up after `write_idle`.
    pub async fn send_and_close(&mut self, bytes: &[u8]) {
        let deadline = self.timeouts.write_idle;
        let Some(transport) = self.transport.as_mut() else { return };
        let send = async {
            transport.write_all(bytes).await?;
            transport.shutdown().await
        };
        // A client that does not take the answer has no use for an error either.
        let _ = tokio::time::timeout(deadline, send).await;
    }

    fn transport(&mut self) -> Result<Pin<&mut Transport>> {
        self.transport.as_mut().map(Pin::new).ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Reads from the socket into the inbox, which has room only where something has come.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        let transport = self.transport.as_mut().ok_or(ErrorKind::NotConnected)?;
        if !self.inbox.is_empty() {
            self.inbox.reserve(MORE);
            return pin!(transport.read_buf(&mut self.inbox)).poll(cx);
        }
        if self.inbox.capacity() > 0 {
            spare::put(std::mem::take(&mut self.inbox));
        }
        let mut buffer = spare::take();
        let read = pin!(transport.read_buf(&mut buffer)).poll(cx);
        match buffer.is_empty() {
            true => spare::put(buffer),
            false => self.inbox = buffer,
        }
        read
    }

    /// Passes what stands in the inbox through the check of the body's framing and bound.
    fn check_body(&mut self) -> Result<()> {
        self.advance_body().map_err(|refusal| {
            self.watch.end(refusal.reason);
            Error::new(ErrorKind::InvalidData, refusal.detail)
        })?;
        if self.watch.body_within_limit(self.body.decoded()) {
            return Ok(());
        }
        self.watch.end(Reason::BodyTooLarge);
        Err(Error::new(ErrorKind::InvalidData, "the body is larger than its bound"))
    }

    fn advance_body(&mut self) -> std::result::Result<(), Refusal> {
        self.cleared += self.body.advance(&self.inbox[self.cleared..])?.taken;
        Ok(())
    }

    /// Pending as [`Waits::poll`] is; then the error that ends the request.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, own: Option<(Moment, Option<Reason>)>) -> Poll<Error> {
        let rules = Rules { watch: &self.watch, clock: &self.clock, timeouts: &self.timeouts };
        let late = self.waits.poll(cx, rules, own, |cx, at| self.timer.poll(cx, at));
        late.map(|reason| Error::new(ErrorKind::TimedOut, reason.map_or("in time", Reason::as_str)))
    }

    /// The request's body has been read, or it had none: only the end of the connection is of interest.
    fn poll_closed(&mut self, cx: &mut Context<'_>, until: Option<Moment>) -> Poll<Result<()>> {
        // What stands in the inbox is of this request, and waits for a backend.
        if self.inbox.len() == self.cleared && self.half_closed_since.is_none() {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => self.half_closed_since = Some(self.clock.now()),
                Poll::Ready(Err(error)) => {
                    self.watch.end(Reason::ClientGone);
                    return Poll::Ready(Err(error));
                }
                // The next request has begun. It waits in the inbox until this one is answered.
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
        }
        let gone = self.half_closed_since.map(|since| (since + HALF_CLOSED, Some(Reason::ClientGone)));
        let first = [gone, until.map(|at| (at, None))].into_iter().flatten().min_by_key(|(at, _)| *at);
        self.poll_deadline(cx, first).map(Err)
    }

    /// Reads until there is something of the body that has passed the check, or until its end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if self.cleared == 0 && !self.inbox.is_empty() && !self.body.ended() {
                self.check_body()?;
            }
            if self.cleared > 0 || self.body.ended() {
                self.waits.has_read();
                return Poll::Ready(Ok(()));
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    self.watch.end(Reason::ClientGone);
                    return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    self.watch.end(Reason::ClientGone);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.waits.reads(&self.clock);
                    return self.poll_deadline(cx, None).map(Err);
                }
            }
        }
    }

    /// Passes on what TLS has taken and not yet given to the socket. A socket alone holds nothing back.
    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !matches!(self.transport, Some(Transport::Tls(_))) {
            return Poll::Ready(Ok(()));
        }
        match self.transport()?.poll_flush(cx) {
            Poll::Pending => self.poll_written(cx, Poll::Pending).map_ok(drop),
            passed => {
                self.waits.has_flushed();
                passed
            }
        }
    }

    /// Accounts for a write, or waits with it as long as the client may take.
    fn poll_written(&mut self, cx: &mut Context<'_>, written: Poll<Result<usize>>) -> Poll<Result<usize>> {
        match written {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => {
                self.waits.has_written(Rules { watch: &self.watch, clock: &self.clock, timeouts: &self.timeouts });
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => {
                self.watch.end(Reason::ClientGone);
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                self.waits.writes(Rules { watch: &self.watch, clock: &self.clock, timeouts: &self.timeouts });
                self.poll_deadline(cx, None).map(Err)
            }
        }
    }
}
