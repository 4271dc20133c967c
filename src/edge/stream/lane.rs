//! The stream as the lane has it, which moves bytes by itself: nothing is held back on their way.

use std::io::{IoSlice, Result};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::ClientStream;
use crate::base::clock::Moment;
use crate::edge::spare;
use crate::lane::Client;

/// Up to so many bytes, two parts are written as one: the kernel takes one buffer for less than two, by more than a copy costs.
const JOINED: usize = 1024;

impl Client for ClientStream {
    const VERSION: http::Version = http::Version::HTTP_11;
    const BARE: bool = false;

    fn lend_head(&mut self) -> BytesMut {
        self.lent = self.inbox.len() == self.head_len;
        if self.lent {
            return std::mem::take(&mut self.inbox);
        }
        let mut head = spare::take();
        head.extend_from_slice(&self.inbox[..self.head_len]);
        head
    }

    fn take_back(&mut self, head: BytesMut) {
        match std::mem::take(&mut self.lent) {
            true => self.inbox = head,
            false => spare::put(head),
        }
    }

    fn accept(&mut self) {
        match std::mem::take(&mut self.lent) {
            true => self.cleared = 0,
            false => self.consume(self.head_len),
        }
    }

    fn body(&self) -> &[u8] {
        &self.inbox[..self.cleared]
    }

    fn consume(&mut self, count: usize) {
        self.inbox.advance(count);
        self.cleared -= count;
    }

    fn body_ended(&self) -> bool {
        self.body.ended()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_more(cx)
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, head: &[u8], body: &[u8], _last: bool) -> Poll<Result<usize>> {
        let transport = self.transport()?;
        let mut joined = [0; JOINED];
        let written = match (head.len(), body.len()) {
            (_, 0) => transport.poll_write(cx, head),
            (0, _) => transport.poll_write(cx, body),
            (of_head, of_body) if of_head + of_body <= JOINED => {
                let (first, rest) = joined.split_at_mut(of_head);
                first.copy_from_slice(head);
                rest[..of_body].copy_from_slice(body);
                transport.poll_write(cx, &joined[..of_head + of_body])
            }
            _ => transport.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)]),
        };
        self.poll_written(cx, written)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.transport()?.poll_flush(cx)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, _trailers: &[u8]) -> Poll<Result<()>> {
        Client::poll_flush(self, cx)
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>, until: Option<Moment>) -> Poll<()> {
        if self.body.ended() {
            return self.poll_closed(cx, until).map(drop);
        }
        self.poll_deadline(cx, until.map(|at| (at, None))).map(drop)
    }
}
