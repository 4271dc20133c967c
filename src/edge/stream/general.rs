//! The stream as the general road has it: Pingora reads and writes it in place of the socket.

use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Buf;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::ClientStream;
use crate::edge::transport::Transport;
use crate::lane::Client;

/// Answers up to this size leave in one write with their head.
const OUTBOX: usize = 16 * 1024;
/// How long the head of an answer waits for the first of its body: a backend that dies between the two shows it at once.
const HOLD: Duration = Duration::from_millis(20);

impl ClientStream {
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        ready!(self.poll_more(cx))?;
        if self.cleared == 0 {
            return self.poll_closed(cx, None);
        }
        let count = self.cleared.min(buf.remaining());
        buf.put_slice(&self.inbox[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }

    /// Bytes pass as they are; a tunnel without a byte in either direction ends after `tunnel_idle`.
    fn poll_tunnel(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if !self.inbox.is_empty() {
            let count = self.inbox.len().min(buf.remaining());
            buf.put_slice(&self.inbox[..count]);
            self.inbox.advance(count);
            self.watch.tunnelled(count as u64);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match self.transport()?.poll_read(cx, buf) {
            Poll::Ready(result) => {
                let count = buf.filled().len() - before;
                if count > 0 {
                    self.waits.has_read();
                    self.watch.tunnelled(count as u64);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.waits.reads(&self.clock);
                self.poll_deadline(cx, None).map(Err)
            }
        }
    }

    /// Whether the answer's head still waits for its body: not for long, because a client may wait for the head alone.
    fn is_held(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.watch.is_holding() || self.outbox.is_empty() {
            return false;
        }
        let held = self.held.get_or_insert_with(|| Box::pin(tokio::time::sleep(HOLD)));
        if held.as_mut().poll(cx).is_pending() {
            return true;
        }
        self.held = None;
        self.watch.release();
        false
    }

    /// Sends the outbox.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.outbox.is_empty() {
            let transport = self.transport.as_mut().ok_or(ErrorKind::NotConnected)?;
            let written = Pin::new(transport).poll_write(cx, &self.outbox);
            let count = ready!(self.poll_written(cx, written))?;
            self.outbox.advance(count);
        }
        self.poll_pass_on(cx)
    }
}

impl AsyncRead for ClientStream {
    /// Who reads has nothing to write for now, so that the outbox is sent first: Pingora flushes no body of a known length
    /// before its end, and a backend may take its time with it.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let sent = !self.is_held(cx)
            && match self.poll_send(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                sent => sent.is_ready(),
            };
        if !self.watch.is_tunnel() {
            if sent && !self.body.ended() && self.watch.let_go() {
                return Poll::Ready(Err(Error::new(
                    ErrorKind::ConnectionAborted,
                    "answered before the body has ended",
                )));
            }
            return self.poll_body(cx, buf);
        }
        if let Some(ticket) = &mut self.ticket {
            ticket.becomes_tunnel();
        }
        self.poll_tunnel(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.outbox.len() + bytes.len() <= OUTBOX {
            self.outbox.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_send(cx))?;
        if bytes.len() < OUTBOX {
            self.outbox.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = self.transport()?.poll_write(cx, bytes);
        self.poll_written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.is_held(cx) {
            // Pingora reads next, and with that the head goes out once it has waited long enough.
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(cx))?;
        self.transport()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_send(cx))?;
        self.transport()?.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // The peer may be gone already; then there is nothing left to close.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> RawFd {
        self.transport.as_ref().map_or(-1, Transport::fd)
    }
}

impl Ssl for ClientStream {}

impl Peek for ClientStream {}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}
