//! One try at one backend: the request goes over, the answer comes back. Each poll moves whatever can move, in both directions.

use std::future::Future;
use std::io::{ErrorKind, IoSlice, Result as IoResult, Write as _};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::client::Client;
use super::work::{READ, Set};
use crate::base::clock::Moment;
use crate::exchange::rescue::Failure;
use crate::exchange::{Exchange, progress};
use crate::telemetry::reason::Reason;
use crate::upstream::connection::Connection;
use crate::wire::answer::{Body, Outcome};
use crate::wire::framing::{BodyCheck, Framing, Parts};

/// How long the head of an answer waits for the first of its body: a backend that dies between the two shows it at once.
const HOLD: Duration = Duration::from_millis(20);
/// The most 1xx answers before the final one.
const MOST_INFORMATIONAL: u8 = 32;
/// Beyond what is kept of a body for another try, the bytes that its chunks may take.
const CHUNK_LINES: u64 = 64 * 1024;

/// A section of trailers without any.
const NO_TRAILERS: &[u8] = b"\r\n";

/// How far the request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upload {
    /// It is being sent.
    UnderWay,
    /// All of it was sent.
    Done,
    /// The backend takes no more of it. It may have answered already.
    Broken,
}

/// One try, on a connection that stands.
#[derive(Debug)]
pub(super) struct Crossing {
    /// None once it waits for another request.
    connection: Option<Connection>,
    upload: Upload,
    /// How much of the request's buffer was sent.
    sent: usize,
    /// Since when the backend takes nothing.
    stuck_since: Option<Moment>,
    informational: u8,
    /// Where the answer's body ends; none before its head.
    body: Option<Download>,
}

/// The answer's body on its way.
#[derive(Debug)]
struct Download {
    framing: Ends,
    /// How much of the answer's buffer has left.
    written: usize,
    /// How much of what was received may leave as it is.
    cleared: usize,
    ended: bool,
    /// Until when the head waits for the body.
    held_until: Option<Moment>,
    /// When something came last.
    read_at: Moment,
    /// Whether it was told that all of it has come.
    told: bool,
}

/// How far the answer's body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// All of it has come from the backend, which is done with the request.
    Received,
    /// All of it has gone to the client.
    Passed,
}

/// How the end of the answer's body is found.
#[derive(Debug)]
enum Ends {
    /// As its framing says.
    Framed(BodyCheck, Framing),
    /// With the connection; so many bytes have come.
    WithConnection(u64),
}

/// Content and trailers of a body in chunks, taken apart.
struct Apart<'w> {
    content: &'w mut BytesMut,
    trailers: &'w mut Vec<u8>,
}

impl Parts for Apart<'_> {
    fn content(&mut self, bytes: &[u8]) {
        self.content.extend_from_slice(bytes);
    }

    fn trailer(&mut self, byte: u8) {
        self.trailers.push(byte);
    }
}

impl Crossing {
    /// A try on `connection`; `request` in the work set holds the head, and of the body what was kept.
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection: Some(connection),
            upload: Upload::UnderWay,
            sent: 0,
            stuck_since: None,
            informational: 0,
            body: None,
        }
    }

    /// Sends the request, and reads until a head of an answer is whole: the work set's parser has it.
    pub(super) fn poll_head<C: Client>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        work: &mut Set,
        exchange: &mut Exchange,
    ) -> Poll<Result<(), Failure>> {
        loop {
            self.advance_upload(cx, client, work, exchange)?;
            if !work.received.is_empty() {
                match work.parser.parse(&work.received) {
                    Outcome::Complete(_) => return Poll::Ready(Ok(())),
                    Outcome::Refused(_) => return Poll::Ready(Err(Failure::NotHttp)),
                    Outcome::Partial => {}
                }
            }
            match self.poll_receive(cx, work) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Err(Failure::Closed)),
                Poll::Pending => {
                    if let Some(failure) = ready!(self.poll_wait(cx, client, exchange, None)) {
                        return Poll::Ready(Err(failure));
                    }
                }
            }
        }
    }

    /// Takes a 1xx off what was received, so that the next head can be read. Too many are no answer.
    pub(super) fn pass_informational(&mut self, work: &mut Set, len: usize) -> Result<(), Failure> {
        work.received.advance(len);
        work.parser.reset();
        self.informational += 1;
        if self.informational > MOST_INFORMATIONAL { Err(Failure::NotHttp) } else { Ok(()) }
    }

    /// Whether the whole request was sent.
    pub(super) fn request_is_sent(&self) -> bool {
        self.upload == Upload::Done
    }

    /// The head of the answer, of `len` bytes, was taken over; its body is what follows. With `hold` the head waits a moment
    /// for it.
    pub(super) fn begin_body(&mut self, work: &mut Set, len: usize, body: Body, hold: bool, now: Moment) {
        work.received.advance(len);
        let framing = match body {
            Body::Framed(framing) => Ends::Framed(BodyCheck::new(framing), framing),
            Body::UntilClose => Ends::WithConnection(0),
        };
        let ended = matches!(&framing, Ends::Framed(check, _) if check.ended());
        let held_until = (hold && work.received.is_empty() && !ended).then(|| now + HOLD);
        self.body = Some(Download { framing, written: 0, cleared: 0, ended, held_until, read_at: now, told: false });
    }

    /// Passes the answer on to its end: what stands in the work set's answer first, then the body. Before the last of it goes to
    /// the client it is told that all has come, so that a slow client does not keep the backend's connection.
    pub(super) fn poll_body<C: Client>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        work: &mut Set,
        exchange: &mut Exchange,
    ) -> Poll<Result<Step, Failure>> {
        loop {
            let Some(download) = &mut self.body else { return Poll::Ready(Err(Failure::Internal)) };
            if let Err(failure) = download.check(work, C::BARE) {
                return Poll::Ready(Err(if exchange.arrival.watch.is_on_wire() {
                    Failure::Incomplete
                } else {
                    failure
                }));
            }
            if download.ended && !std::mem::replace(&mut download.told, true) {
                return Poll::Ready(Ok(Step::Received));
            }
            if download.held_until.is_none() && download.has_something(work) {
                match download.poll_give(cx, client, work, &mut exchange.given.bytes) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(by_client(exchange))),
                    Poll::Pending => {
                        // The rest of the request may go on meanwhile.
                        self.advance_upload(cx, client, work, exchange)?;
                        return Poll::Pending;
                    }
                }
            }
            if download.ended {
                let ended = client.poll_end(cx, &work.trailers);
                return ended.map(|ended| ended.map(|()| Step::Passed).map_err(|_| by_client(exchange)));
            }
            self.advance_upload(cx, client, work, exchange)?;
            match self.poll_receive(cx, work) {
                Poll::Ready(Ok(1..)) => {
                    let now = exchange.now();
                    exchange.arrival.watch.answer_moved(now);
                    if let Some(download) = &mut self.body {
                        download.read_at = now;
                    }
                }
                Poll::Ready(read) => self.end_of_connection::<C>(read, work, exchange)?,
                Poll::Pending => match ready!(self.poll_wait(cx, client, exchange, self.held_until())) {
                    Some(failure) => return Poll::Ready(Err(failure)),
                    None => self.release(),
                },
            }
        }
    }

    /// When something of the answer came last.
    pub(super) fn last_read(&self) -> Moment {
        self.body.as_ref().map_or(Moment::START, |download| download.read_at)
    }

    fn held_until(&self) -> Option<Moment> {
        self.body.as_ref().and_then(|download| download.held_until)
    }

    /// The head has waited long enough for its body.
    fn release(&mut self) {
        if let Some(download) = &mut self.body {
            download.held_until = None;
        }
    }

    /// The backend has closed the connection in the body of its answer.
    fn end_of_connection<C: Client>(
        &mut self,
        read: IoResult<usize>,
        work: &mut Set,
        exchange: &Exchange,
    ) -> Result<(), Failure> {
        let cut = if exchange.arrival.watch.is_on_wire() { Failure::Incomplete } else { Failure::Closed };
        let Some(download) = &mut self.body else { return Err(cut) };
        match (&download.framing, read) {
            (Ends::WithConnection(_), Ok(_)) => {
                download.ended = true;
                download.held_until = None;
                if !C::BARE {
                    work.answer.extend_from_slice(b"0\r\n\r\n");
                }
                Ok(())
            }
            _ => Err(cut),
        }
    }

    /// The connection, where it may carry another request: both messages were read to their end, and nothing came after them.
    pub(super) fn take_reusable(&mut self, work: &Set) -> Option<Connection> {
        let whole = |body: &Download| {
            matches!(body.framing, Ends::Framed(..)) && body.ended && body.cleared == work.received.len()
        };
        let reusable = self.upload == Upload::Done && self.body.as_ref().is_some_and(whole);
        self.connection.take_if(|_| reusable)
    }

    /// Reads from the backend.
    fn poll_receive(&mut self, cx: &mut Context<'_>, work: &mut Set) -> Poll<IoResult<usize>> {
        if work.received.is_empty() {
            work.received.clear();
        }
        work.received.reserve(if work.received.is_empty() { READ } else { READ / 4 });
        let connection = self.connection.as_mut().ok_or(ErrorKind::NotConnected)?;
        pin!(connection.read_buf(&mut work.received)).poll(cx)
    }

    /// Waits for the client to leave, a deadline of the request, or `until`, in which case there is no failure; and for the
    /// backend to take more of the request.
    fn poll_wait<C: Client>(
        &self,
        cx: &mut Context<'_>,
        client: &mut C,
        exchange: &Exchange,
        until: Option<Moment>,
    ) -> Poll<Option<Failure>> {
        let stuck_until =
            self.stuck_since.zip(exchange.target.as_ref()).map(|(since, target)| since + target.plan.timeouts.idle);
        let first = [until, stuck_until].into_iter().flatten().min();
        ready!(client.poll_wait(cx, first));
        Poll::Ready(match exchange.arrival.watch.ended() {
            Some(_) => Some(by_client(exchange)),
            None => (stuck_until.is_some() && stuck_until == first).then_some(Failure::TooSlow),
        })
    }

    /// Sends of the request what the backend takes now.
    fn advance_upload<C: Client>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        work: &mut Set,
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        while self.upload == Upload::UnderWay {
            let Some(connection) = &mut self.connection else { return Ok(()) };
            let (head, body) = (&work.request[self.sent..], client.body());
            if head.is_empty() && body.is_empty() {
                if !client.body_ended() {
                    match client.poll_body(cx) {
                        Poll::Ready(Ok(())) => continue,
                        Poll::Ready(Err(_)) => return Err(by_client(exchange)),
                        Poll::Pending => {}
                    }
                }
                match Pin::new(connection).poll_flush(cx) {
                    Poll::Ready(Ok(())) if !client.body_ended() => return Ok(()),
                    Poll::Ready(Ok(())) => {
                        self.upload = Upload::Done;
                        if self.body.is_none() {
                            progress::sent(exchange);
                        }
                    }
                    Poll::Ready(Err(_)) => self.upload = Upload::Broken,
                    Poll::Pending => return Ok(()),
                }
                continue;
            }
            let connection = Pin::new(connection);
            let written = match body.is_empty() {
                true => connection.poll_write(cx, head),
                false if head.is_empty() => connection.poll_write(cx, body),
                false => connection.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)]),
            };
            match written {
                Poll::Ready(Ok(count @ 1..)) => self.account(count, client, work, exchange),
                Poll::Ready(_) => self.upload = Upload::Broken,
                Poll::Pending => {
                    self.stuck_since.get_or_insert_with(|| exchange.now());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// So many bytes more were sent: first of the head, then of the body, which is kept as long as it may have to be sent again.
    fn account<C: Client>(&mut self, count: usize, client: &mut C, work: &mut Set, exchange: &Exchange) {
        self.stuck_since = None;
        let of_head = count.min(work.request.len() - self.sent);
        self.sent += of_head;
        let of_body = count - of_head;
        if of_body == 0 {
            return;
        }
        let most = exchange.target.as_ref().map_or(0, |target| target.plan.retry.body) + CHUNK_LINES;
        if !work.lost && exchange.body_is_kept() && (work.kept.len() + of_body) as u64 <= most {
            work.kept.extend_from_slice(&client.body()[..of_body]);
        } else {
            work.lost = true;
        }
        client.consume(of_body);
    }
}

impl Download {
    /// Whether something waits to be written to the client.
    fn has_something(&self, work: &Set) -> bool {
        self.cleared > 0 || self.written < work.answer.len() || !work.content.is_empty()
    }

    /// Judges what was received and not yet judged, and takes it apart for a client that gets it bare.
    fn check(&mut self, work: &mut Set, bare: bool) -> Result<(), Failure> {
        if self.ended || work.received.len() == self.cleared {
            return Ok(());
        }
        match &mut self.framing {
            Ends::Framed(check, Framing::Chunked) if bare => {
                let mut parts = Apart { content: &mut work.content, trailers: &mut work.trailers };
                let progress = check.take_apart(&work.received, &mut parts).map_err(|_| Failure::NotHttp)?;
                work.received.advance(progress.taken);
                self.ended = progress.ended;
            }
            Ends::Framed(check, _) => {
                let progress = check.advance(&work.received[self.cleared..]).map_err(|_| Failure::NotHttp)?;
                self.cleared += progress.taken;
                self.ended = progress.ended;
            }
            Ends::WithConnection(count) if bare => {
                *count += (work.received.len() - self.cleared) as u64;
                self.cleared = work.received.len();
            }
            Ends::WithConnection(count) => {
                *count += work.received.len() as u64;
                // Writing into a Vec cannot fail.
                let _ = write!(work.answer, "{:x}\r\n", work.received.len());
                work.answer.extend_from_slice(&work.received);
                work.answer.extend_from_slice(b"\r\n");
                work.received.clear();
            }
        }
        self.held_until = None;
        Ok(())
    }

    /// Writes to the client what may leave.
    fn poll_give<C: Client>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        work: &mut Set,
        bytes_out: &mut u64,
    ) -> Poll<IoResult<()>> {
        let head = &work.answer[self.written..];
        let bare = !work.content.is_empty();
        let body = if bare { &work.content[..] } else { &work.received[..self.cleared] };
        let last = self.ended && work.trailers.len() <= NO_TRAILERS.len();
        let count = ready!(client.poll_give(cx, head, body, last))?;
        let of_head = count.min(head.len());
        self.written += of_head;
        match bare {
            true => work.content.advance(count - of_head),
            false => {
                work.received.advance(count - of_head);
                self.cleared -= count - of_head;
            }
        }
        if self.written == work.answer.len() {
            work.answer.clear();
            self.written = 0;
        }
        *bytes_out = match &self.framing {
            Ends::Framed(check, Framing::Chunked) => check.decoded(),
            Ends::Framed(..) => *bytes_out + (count - of_head) as u64,
            Ends::WithConnection(count) => *count,
        };
        Poll::Ready(Ok(()))
    }
}

/// The failure that the watch has noted; without a note it is the client's connection that broke.
pub(super) fn by_client(exchange: &Exchange) -> Failure {
    match exchange.arrival.watch.ended() {
        Some(Reason::HttpResponseTimeout) => Failure::TooSlow,
        Some(Reason::RequestTimeout) => Failure::OutOfTime,
        Some(reason) => Failure::Client(reason),
        None => Failure::Client(Reason::ClientGone),
    }
}
