//! The client's socket as the HTTP/2 codec sees it: every frame is counted before the codec reads it.
//!
//! What the loop of the connection must know of the wire stands in its [`Signs`]: the codec owns the socket, and gives
//! nobody a look at it.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;
use super::frames::{Frame, Scanner, kind};
use super::ledger::{Abuse, Ledger};
use crate::base::clock::{Clock, Moment};
use crate::edge::stream::leave;
use crate::edge::transport::Transport;

/// What is seen on the wire of one connection. Times are nanoseconds of a moment; zero: not so.
#[derive(Debug)]
pub(super) struct Signs {
    read: AtomicU64,
    writing_since: AtomicU64,
    head_since: AtomicU64,
    abuse: AtomicU8,
}

impl Signs {
    fn new(now: Moment) -> Self {
        Self {
            read: AtomicU64::new(now.nanos()),
            writing_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            abuse: AtomicU8::new(0),
        }
    }

    /// When the client was last heard of.
    pub(super) fn heard(&self) -> Moment {
        Moment::from_nanos(self.read.load(Relaxed))
    }

    /// Since when the client has taken nothing of what waits for it.
    pub(super) fn writing_since(&self) -> Option<Moment> {
        time(&self.writing_since)
    }

    /// Since when a head, or a frame that others wait for, has begun and not ended.
    pub(super) fn head_since(&self) -> Option<Moment> {
        time(&self.head_since)
    }

    /// What the client has overdone. From then on nothing is read.
    pub(super) fn abuse(&self) -> Option<Abuse> {
        match self.abuse.load(Relaxed) {
            0 => None,
            1 => Some(Abuse::Control),
            _ => Some(Abuse::Resets),
        }
    }

    fn overdone(&self, abuse: Abuse) {
        self.abuse.store(
            match abuse {
                Abuse::Control => 1,
                Abuse::Resets => 2,
            },
            Relaxed,
        );
    }
}

fn time(since: &AtomicU64) -> Option<Moment> {
    Some(since.load(Relaxed)).filter(|nanos| *nanos != 0).map(Moment::from_nanos)
}

/// Begins at `now` where `is_so` has just become so.
fn begin_or_end(since: &AtomicU64, is_so: bool, now: Moment) {
    if !is_so {
        since.store(0, Relaxed);
    } else if since.load(Relaxed) == 0 {
        since.store(now.nanos().max(1), Relaxed);
    }
}

/// The socket under the codec.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Taken when the pipe is dropped, to linger.
    transport: Option<Transport>,
    /// Read before it was known that the client speaks HTTP/2.
    ahead: BytesMut,
    received: Scanner,
    sent: Scanner,
    /// Whether a block of fields has begun and not ended.
    block_open: bool,
    ledger: Ledger,
    signs: Arc<Signs>,
    clock: Clock,
    /// The client has closed its side.
    ended: bool,
}

impl Pipe {
    /// The pipe of a connection of which `ahead` was read already.
    pub(super) fn new(transport: Transport, ahead: BytesMut, clock: Clock) -> Self {
        let now = clock.now();
        Self {
            transport: Some(transport),
            ahead,
            received: Scanner::after(PREFACE.len()),
            sent: Scanner::after(0),
            block_open: false,
            ledger: Ledger::new(now),
            signs: Arc::new(Signs::new(now)),
            clock,
            ended: false,
        }
    }

    /// What is seen on its wire.
    pub(super) fn signs(&self) -> Arc<Signs> {
        self.signs.clone()
    }

    fn transport(&mut self) -> Result<Pin<&mut Transport>> {
        self.transport.as_mut().map(Pin::new).ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }

    /// Counts the frames in what was read. False: the client has overdone it, and the bytes must go no further.
    fn count(&mut self, bytes: &[u8]) -> bool {
        let now = self.clock.now();
        self.signs.read.store(now.nanos(), Relaxed);
        let (ledger, block_open) = (&mut self.ledger, &mut self.block_open);
        let (mut abuse, mut begun) = (None, false);
        self.received.feed(bytes, |frame: Frame| {
            *block_open = frame.leaves_block_open();
            begun |= frame.kind != kind::CONTINUATION;
            abuse = abuse.or(ledger.received(frame, now));
        });
        if begun {
            // What waits now is another frame than what waited before.
            self.signs.head_since.store(0, Relaxed);
        }
        begin_or_end(&self.signs.head_since, self.block_open || self.received.is_amid_frame(), now);
        if let Some(abuse) = abuse {
            self.signs.overdone(abuse);
        }
        abuse.is_none()
    }

    /// Counts the frames in what was written, or notes that the client takes nothing.
    fn written(&mut self, written: Poll<Result<usize>>, slices: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        if let Poll::Ready(Ok(count)) = &written {
            let now = self.clock.now();
            let (ledger, signs, mut left) = (&mut self.ledger, &self.signs, *count);
            for slice in slices {
                let taken = left.min(slice.len());
                left -= taken;
                self.sent.feed(&slice[..taken], |frame| {
                    if let Some(abuse) = ledger.sent(frame, now) {
                        signs.overdone(abuse);
                    }
                });
            }
        }
        begin_or_end(&self.signs.writing_since, written.is_pending(), self.clock.now());
        written
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if self.signs.abuse().is_some() {
            // The loop of the connection sees it once this returns, and ends the connection: there is nothing to wake it for.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if self.ahead.is_empty() {
            std::task::ready!(self.transport()?.poll_read(cx, buf))?;
        } else {
            let count = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..count]);
            self.ahead.advance(count);
            if self.ahead.is_empty() {
                self.ahead = BytesMut::new();
            }
        }
        if buf.filled().len() == before {
            self.ended = true;
        } else if !self.count(&buf.filled()[before..]) {
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = self.transport()?.poll_write(cx, bytes);
        self.written(written, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = self.transport()?.poll_write_vectored(cx, slices);
        self.written(written, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.transport()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.transport()?.poll_shutdown(cx)
    }
}

impl Drop for Pipe {
    /// Lingers where the client may still be sending: closing a socket with unread bytes resets the connection, and the client
    /// would lose the GOAWAY that says why.
    fn drop(&mut self) {
        let Some(transport) = self.transport.take().filter(|_| !self.ended && self.signs.writing_since().is_none())
        else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(leave::linger(transport));
        }
    }
}
