//! The general road's connections to backends of HTTP/1.1: the lane's, as a stream that Pingora can read from and write to.
//!
//! Pingora reads answers leniently. So it gets to see checked bytes only: a [`Link`] is asked for a connection where Pingora would
//! make one, takes a waiting one or has one made, and hands it out as a stream that passes every byte in both directions through
//! a [`Dialogue`]. Once that allows it, when both messages have passed whole, the connection waits for another request, however slow
//! the client still is; else it is closed. Pingora's own pool never holds one. Connections of HTTP/2 are Pingora's own: their codec is strict.

use std::future::Future;
use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::os::fd::RawFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_error::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::gate::Gate;
use crate::base::clock::Clock;
use crate::base::proxy_protocol::Ends;
use crate::config::plan::UpstreamProtocol;
use crate::exchange::Exchange;
use crate::exchange::snapshot::Target;
use crate::upstream::backend::{Backend, Tongue};
use crate::upstream::connection::{Connection, Connector, Fault, OUT_OF_DESCRIPTORS};
use crate::wire::dialogue::{Awaited, Dialogue};
use crate::wire::refusal::Refusal;

/// A backend that was taken to speak HTTP/1.1 has chosen HTTP/2 (or the other way round): nothing was sent, and it is asked again.
pub(super) const OTHER_TONGUE: ErrorType = ErrorType::Custom("the backend speaks another version of HTTP");

/// What is read at once of a head.
const READ: usize = 8 * 1024;

/// What gives one try its connection.
#[derive(Debug)]
pub(super) struct Link {
    connector: Arc<Connector>,
    place: Place,
    ends: Option<Ends>,
    may_reuse: bool,
    gate: Option<Gate>,
    given: OnceLock<Given>,
}

/// Where a connection belongs.
#[derive(Debug, Clone)]
struct Place {
    target: Arc<Target>,
    backend: Arc<Backend>,
    group: u64,
    clock: Clock,
}

/// The connection that a try was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given {
    /// Its descriptor.
    pub(super) descriptor: RawFd,
    /// Whether it had carried a request before.
    pub(super) reused: bool,
}

impl Link {
    /// The link for the present try, where its backend is spoken to in HTTP/1.1; what is read passes through `gate`, where there is
    /// one.
    pub(super) fn of(exchange: Option<&Exchange>, connector: &Arc<Connector>, gate: Option<Gate>) -> Option<Arc<Self>> {
        let exchange = exchange?;
        let (target, backend) = (exchange.target.as_ref()?, exchange.lease.as_ref()?.backend());
        let speaks_http_1 = match target.plan.protocol {
            UpstreamProtocol::Http1 => true,
            UpstreamProtocol::Http2 => false,
            UpstreamProtocol::Auto => !backend.tls() || backend.tongue() == Tongue::Http1,
        };
        let ends = exchange.ends();
        let place = Place {
            target: target.clone(),
            backend: backend.clone(),
            group: target.peers.group_of(ends),
            clock: exchange.arrival.snapshot.clock.clone(),
        };
        let may_reuse = exchange.may_reuse();
        let link = Self { connector: connector.clone(), place, ends, may_reuse, gate, given: OnceLock::new() };
        speaks_http_1.then(|| Arc::new(link))
    }

    /// The connection that it gave, once it has.
    pub(super) fn given(&self) -> Option<Given> {
        self.given.get().copied()
    }

    async fn connection(&self) -> Result<Connection> {
        let Place { target, backend, group, clock } = &self.place;
        let (now, idle) = (clock.now(), target.plan.keepalive.idle);
        let take = || backend.warm().take(*group, now, idle, Connection::is_quiet);
        let waiting = self.may_reuse.then(take).flatten();
        let reused = waiting.is_some();
        let connection = match waiting {
            Some(connection) => connection,
            None => {
                let within = target.plan.timeouts.connect;
                // On the heap, as it is rare and large: each request has room for all that it may come to wait for.
                let made = Box::pin(self.connector.connect(&target.peers, backend, self.ends, within)).await;
                made.map_err(|fault| Error::new_up(type_of(fault)))?
            }
        };
        if connection.speaks_http_2() {
            backend.speaks(Tongue::Http2);
            return Err(Error::new_up(OTHER_TONGUE));
        }
        // A link is asked once.
        let _ = self.given.set(Given { descriptor: connection.fd(), reused });
        Ok(connection)
    }
}

#[async_trait]
impl L4Connect for Link {
    async fn connect(&self, _: &SocketAddr) -> Result<Stream> {
        let checked = Checked {
            connection: Some(self.connection().await?),
            place: self.place.clone(),
            gate: self.gate.clone(),
            dialogue: Dialogue::default(),
            held: BytesMut::new(),
            cleared: 0,
        };
        Ok(VirtualSocketStream::new(Box::new(checked)).into())
    }
}

/// The refusal of a dialogue that an error of Pingora's goes back to.
pub(super) fn refusal_in(error: &Error) -> Option<&Refusal> {
    error.root_cause().downcast_ref::<IoError>()?.get_ref()?.downcast_ref()
}

/// What `upstream::connection::fault_of` reads back.
fn type_of(fault: Fault) -> ErrorType {
    match fault {
        Fault::Refused => ErrorType::ConnectRefused,
        Fault::TimedOut => ErrorType::ConnectTimedout,
        Fault::Tls => ErrorType::TLSHandshakeFailure,
        Fault::Certificate => ErrorType::InvalidCert,
        Fault::OutOfDescriptors => OUT_OF_DESCRIPTORS,
    }
}

/// A connection whose bytes are checked as they pass.
#[derive(Debug)]
struct Checked {
    /// None once it waits for another request or is shut.
    connection: Option<Connection>,
    place: Place,
    gate: Option<Gate>,
    dialogue: Dialogue,
    /// What was read while a head was awaited.
    held: BytesMut,
    /// How much of it may pass.
    cleared: usize,
}

impl Checked {
    fn connection(&mut self) -> IoResult<Pin<&mut Connection>> {
        self.connection.as_mut().map(Pin::new).ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Passes on what of the held bytes may pass. Whether there was something.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let count = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        self.cleared -= count;
        count > 0
    }

    /// Gathers a head until it is whole, and judges what has come with it. Whether the backend has closed the connection instead.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<IoResult<bool>> {
        loop {
            if let Some(len) = self.dialogue.head(&self.held[self.cleared..]).map_err(refused)? {
                self.cleared += len;
                if self.dialogue.awaited() != Awaited::Head {
                    self.cleared += self.dialogue.body(&self.held[self.cleared..]).map_err(refused)?;
                    self.let_wait();
                }
                return Poll::Ready(Ok(false));
            }
            self.held.reserve(READ);
            let connection = self.connection.as_mut().ok_or(ErrorKind::NotConnected)?;
            if ready!(pin!(connection.read_buf(&mut self.held)).poll(cx))? == 0 {
                return Poll::Ready(Ok(true));
            }
        }
    }

    /// Lets the connection wait for another request, where it may.
    fn let_wait(&mut self) {
        let Place { target, backend, group, clock } = &self.place;
        if let Some(connection) = self.connection.take_if(|_| self.dialogue.may_carry_another()) {
            backend.warm().put(connection, *group, clock.now(), &target.plan.keepalive);
        }
    }

    /// Reads a part of a body to where it is wanted.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<IoResult<()>> {
        let before = buf.filled().len();
        ready!(self.connection()?.poll_read(cx, buf))?;
        match self.dialogue.body(&buf.filled()[before..]) {
            Ok(passed) => {
                buf.set_filled(before + passed);
                self.let_wait();
                Poll::Ready(Ok(()))
            }
            Err(refusal) => {
                buf.set_filled(before);
                Poll::Ready(Err(refused(refusal)))
            }
        }
    }
}

impl AsyncRead for Checked {
    /// After the answer nothing is read. Pingora takes that for a closed connection, and does not keep it.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<IoResult<()>> {
        let this = self.get_mut();
        if let Some(gate) = &this.gate {
            ready!(gate.poll_passed(cx));
        }
        loop {
            if this.give(buf) || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.dialogue.awaited() {
                Awaited::Nothing => return Poll::Ready(Ok(())),
                Awaited::Body => return this.poll_body(cx, buf),
                Awaited::Head if ready!(this.poll_head(cx))? => return Poll::Ready(Ok(())),
                Awaited::Head => {}
            }
        }
    }
}

impl AsyncWrite for Checked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<IoResult<usize>> {
        let this = self.get_mut();
        this.dialogue.sending(bytes).map_err(refused)?;
        let count = ready!(this.connection()?.poll_write(cx, bytes))?;
        this.dialogue.sent(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        // Once the connection waits, all was sent.
        self.get_mut().connection.as_mut().map_or(Poll::Ready(Ok(())), |connection| Pin::new(connection).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        let this = self.get_mut();
        let Some(connection) = &mut this.connection else { return Poll::Ready(Ok(())) };
        let shut = ready!(Pin::new(connection).poll_shutdown(cx));
        this.connection = None;
        Poll::Ready(shut)
    }
}

impl VirtualSocket for Checked {
    /// The connector has set what there is to set.
    fn set_socket_option(&self, _: VirtualSockOpt) -> IoResult<()> {
        Ok(())
    }
}

impl Drop for Checked {
    /// The request may have ended after its answer.
    fn drop(&mut self) {
        self.let_wait();
    }
}

fn refused(refusal: Refusal) -> IoError {
    IoError::new(ErrorKind::InvalidData, refusal)
}
