//! The sockets that clients come in by, with TLS or without, under one type.

use std::io::{Error, ErrorKind, IoSlice, Result, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nix::sys::socket::{MsgFlags, recv};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::Facts;

/// A connection from a client, before HTTP.
#[derive(Debug)]
pub enum Transport {
    /// TCP, and who is at the other end.
    Tcp(TcpStream, SocketAddr),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over one of the other two.
    Tls(Box<TlsStream<Self>>),
}

/// A connection from a client that no runtime watches, on its way from one to another.
#[derive(Debug)]
pub enum Unwatched {
    /// TCP, and who is at the other end.
    Tcp(std::net::TcpStream, SocketAddr),
    /// A unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Unwatched {
    /// Has the runtime watch it that this is called in.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn watch(self) -> Result<Transport> {
        match self {
            Self::Tcp(stream, peer) => Ok(Transport::Tcp(TcpStream::from_std(stream)?, peer)),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Transport::Unix),
        }
    }
}

impl Transport {
    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream, _) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Tls(stream) => stream.get_ref().0.fd(),
        }
    }

    /// The other end's address; none on a unix socket.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, peer) => Some(*peer),
            Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().0.peer(),
        }
    }

    /// Where the other end connected to; none on a unix socket.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream, _) => stream.local_addr().ok(),
            Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().0.local(),
        }
    }

    /// Lets the runtime forget the socket, so that another can watch it.
    ///
    /// # Errors
    /// What the system says, or the connection speaks TLS already.
    pub fn unwatch(self) -> Result<Unwatched> {
        match self {
            Self::Tcp(stream, peer) => Ok(Unwatched::Tcp(stream.into_std()?, peer)),
            Self::Unix(stream) => stream.into_std().map(Unwatched::Unix),
            Self::Tls(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Waits until the client has sent something, and says what comes first without taking it; zero: the client has closed.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn peek(&self, bytes: &mut [u8]) -> Result<usize> {
        let fd = self.fd();
        let look = || recv(fd, bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).map_err(Into::into);
        match self {
            Self::Tcp(stream, _) => stream.async_io(Interest::READABLE, look).await,
            Self::Unix(stream) => stream.async_io(Interest::READABLE, look).await,
            Self::Tls(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Shakes hands: what is said from now on is said over TLS.
    ///
    /// # Errors
    /// The client does not speak TLS, or not as it must; it has been told by an alert. The connection is given back: one that is
    /// closed while something of the client's is unread is reset, and the alert may be lost with it.
    pub async fn secure(self, config: Arc<ServerConfig>) -> std::result::Result<(Self, Facts), (Error, Self)> {
        let stream = TlsAcceptor::from(config).accept(self).into_fallible().await?;
        let facts = Facts::of(stream.get_ref().1);
        Ok((Self::Tls(Box::new(stream)), facts))
    }

    /// Tells the other end of a TLS connection that nothing more comes (RFC 8446, 6.1), as far as that goes without waiting.
    pub fn take_leave(&mut self) {
        if let Self::Tls(stream) = self {
            let (transport, connection) = stream.get_mut();
            connection.send_close_notify();
            // A client that takes nothing more now, or is gone, misses nothing.
            let _ = connection.write_tls(&mut Hasty(transport));
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream, _) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

/// A plain transport that is written to once, and never waited for.
struct Hasty<'a>(&'a Transport);

impl Write for Hasty<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self.0 {
            Transport::Tcp(stream, _) => stream.try_write(bytes),
            Transport::Unix(stream) => stream.try_write(bytes),
            Transport::Tls(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
