//! Connections of HTTP/1.1 to backends, for both roads: how they are made, and what passes over them.
//!
//! A plain one is Tokio's own socket, because each layer between would cost every request. All else (TLS, a source
//! address, the PROXY protocol, connects on threads of their own) is made by Pingora's connector from the peer of the upstream's
//! template, so that a backend is trusted in HTTP/1.1 and HTTP/2 or in neither.

use std::future::Future;
use std::io::{ErrorKind, IoSlice, Result};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::tls::ALPN;
use pingora_core::server::configuration::ServerConf;
use pingora_error::ErrorType;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::backend::Backend;
use super::berths::Berth;
use super::doubt::Answer;
use super::peer::{self, PeerTemplate};
use crate::base::clock::Clock;
use crate::base::proxy_protocol::Ends;

/// A connection to a backend.
#[derive(Debug)]
pub enum Connection {
    /// TCP. The berth is free once the socket is closed.
    Tcp(TcpStream, Option<Berth>),
    /// A unix socket.
    Unix(UnixStream, Option<Berth>),
    /// Made by Pingora.
    Made(Stream),
}

/// How a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The backend refused it, or could not be reached.
    Refused,
    /// It took too long.
    TimedOut,
    /// The TLS handshake failed.
    Tls,
    /// The backend's certificate is not trusted.
    Certificate,
    /// This process, or the system, has no descriptor left. The backend was not asked.
    OutOfDescriptors,
}

/// [`Fault::OutOfDescriptors`], for Pingora.
pub const OUT_OF_DESCRIPTORS: ErrorType = ErrorType::Custom("there are no descriptors left");

/// Makes connections.
pub struct Connector {
    made: TransportConnector,
    /// Whether plain connections too need what Pingora's connector does.
    special: bool,
    clock: Clock,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("special", &self.special).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector with the settings of the process.
    #[must_use]
    pub fn new(conf: &ServerConf, clock: Clock) -> Self {
        let special = !conf.client_bind_to_ipv4.is_empty()
            || !conf.client_bind_to_ipv6.is_empty()
            || conf.upstream_connect_offload_threadpool().is_some();
        Self { made: TransportConnector::new(Some(ConnectorOptions::from_server_conf(conf))), special, clock }
    }

    /// Connects to a backend, TLS included, within the upstream's time for it; for the client with these ends alone, where the
    /// backend is told of them.
    ///
    /// # Errors
    /// How it failed.
    pub async fn connect(
        &self,
        peers: &PeerTemplate,
        backend: &Arc<Backend>,
        ends: Option<Ends>,
        within: Duration,
    ) -> std::result::Result<Connection, Fault> {
        let connect = async {
            if self.special || backend.tls() || peers.introduces() {
                // Where berths are few, most of the time may go by before the backend is asked.
                if backend.berths().most().is_some() {
                    return self.made(peers, backend, ends).await;
                }
                return self.knocking(peers, backend, self.made(peers, backend, ends)).await;
            }
            let berth = backend.berth().await;
            self.knocking(peers, backend, direct(backend.addr(), berth)).await
        };
        tokio::time::timeout(within, connect).await.unwrap_or(Err(Fault::TimedOut))
    }

    /// Connects so that others know how long it has been waited for.
    async fn knocking(
        &self,
        peers: &PeerTemplate,
        backend: &Backend,
        connect: impl Future<Output = std::result::Result<Connection, Fault>>,
    ) -> std::result::Result<Connection, Fault> {
        let knock = backend.knock(&self.clock, peers.patience());
        let result = connect.await;
        let unanswered = matches!(result, Err(Fault::TimedOut | Fault::OutOfDescriptors));
        knock.ended(if unanswered { Answer::None } else { Answer::Some });
        result
    }

    async fn made(
        &self,
        peers: &PeerTemplate,
        backend: &Arc<Backend>,
        ends: Option<Ends>,
    ) -> std::result::Result<Connection, Fault> {
        let peer = peers.counted_peer(backend, ends);
        self.made.new_stream(&peer).await.map(Connection::Made).map_err(|error| fault_of(&error))
    }
}

async fn direct(to: &SocketAddr, berth: Option<Berth>) -> std::result::Result<Connection, Fault> {
    match to {
        SocketAddr::Inet(address) => {
            let stream = plain(TcpStream::connect(*address)).await?;
            tcp(stream, berth).map_err(|_| Fault::Refused)
        }
        SocketAddr::Unix(address) => {
            let path = address.as_pathname().ok_or(Fault::Refused)?;
            Ok(Connection::Unix(plain(UnixStream::connect(path)).await?, berth))
        }
    }
}

async fn plain<S>(connect: impl Future<Output = Result<S>>) -> std::result::Result<S, Fault> {
    connect.await.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => Fault::TimedOut,
        _ if is_out_of_descriptors(&error) => Fault::OutOfDescriptors,
        _ => Fault::Refused,
    })
}

/// What is sent leaves at once, and a peer that is silently gone is found out.
fn tcp(stream: TcpStream, berth: Option<Berth>) -> Result<Connection> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(peer::TCP_KEEPALIVE.idle)
        .with_interval(peer::TCP_KEEPALIVE.interval)
        .with_retries(u32::try_from(peer::TCP_KEEPALIVE.count).unwrap_or(u32::MAX));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(Connection::Tcp(stream, berth))
}

/// How a connect by Pingora's connector failed.
#[must_use]
pub fn fault_of(error: &pingora_error::Error) -> Fault {
    match error.root_etype() {
        kind if *kind == OUT_OF_DESCRIPTORS => Fault::OutOfDescriptors,
        _ if cause_of(error).is_some_and(is_out_of_descriptors) => Fault::OutOfDescriptors,
        ErrorType::InvalidCert => Fault::Certificate,
        _ if mentions_certificate(error) => Fault::Certificate,
        ErrorType::TLSHandshakeFailure | ErrorType::TLSWantX509Lookup | ErrorType::HandshakeError => Fault::Tls,
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Fault::TimedOut,
        _ => Fault::Refused,
    }
}

fn cause_of(error: &pingora_error::Error) -> Option<&std::io::Error> {
    error.root_cause().downcast_ref()
}

fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Pingora turns what rustls says of a certificate into text, so that the words of the chain are all there is to go by.
fn mentions_certificate(error: &pingora_error::Error) -> bool {
    let text = error.to_string();
    ["invalid peer certificate", "UnknownIssuer", "NotValidForName", "Expired"].iter().any(|sign| text.contains(sign))
}

impl Connection {
    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream, _) => stream.as_raw_fd(),
            Self::Unix(stream, _) => stream.as_raw_fd(),
            Self::Made(stream) => stream.id(),
        }
    }

    /// Whether the backend has chosen HTTP/2 for it.
    #[must_use]
    pub fn speaks_http_2(&self) -> bool {
        matches!(self, Self::Made(stream) if stream.selected_alpn_proto() == Some(ALPN::H2))
    }

    /// Whether a connection that waits may carry a request: the other side has neither closed it nor said anything unasked.
    /// It costs a system call only where something has happened.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        match self {
            Self::Tcp(stream, _) => would_block(&stream.try_read(&mut byte)),
            Self::Unix(stream, _) => would_block(&stream.try_read(&mut byte)),
            Self::Made(stream) => {
                Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer).is_pending()
            }
        }
    }
}

fn would_block(read: &Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Made(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Self::Made(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Unix(stream, _) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Made(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream, _) => stream.is_write_vectored(),
            Self::Unix(stream, _) => stream.is_write_vectored(),
            Self::Made(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            // Sockets hold nothing back.
            Self::Tcp(..) | Self::Unix(..) => Poll::Ready(Ok(())),
            Self::Made(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Made(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
