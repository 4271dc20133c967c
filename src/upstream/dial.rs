//! Connections to backends that Pingora cannot make by itself: those that are counted (`berths`), and those that begin with the
//! PROXY protocol: before all else, and before TLS, the backend is told whose request comes.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::connectors::l4::BindTo;
use pingora_core::protocols::l4::ext::{connect, connect_uds};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType, OrErr, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::backend::Backend;
use super::berths::{Berth, Keeper, Mooring, Reach};

/// How a connection is made.
#[derive(Debug)]
pub(super) struct Dial {
    /// What the backend is told first: the header of the PROXY protocol, or nothing.
    pub(super) header: Vec<u8>,
    /// Where it is counted, where that is bounded.
    pub(super) counted: Option<Counted>,
    /// The address that it comes from, where the process has one of its own for that.
    pub(super) from: Option<std::net::SocketAddr>,
    /// Pingora's own bound on connects does not hold for connects that it does not make.
    pub(super) patience: Duration,
}

/// Where a connection is counted.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) backend: Arc<Backend>,
    pub(super) mooring: Mooring,
    /// Whose request it is for, where Pingora had none for it among those that it keeps.
    pub(super) reach: Option<Reach>,
}

impl Counted {
    async fn berth(&self) -> Option<Berth> {
        if let Some(reach) = &self.reach {
            reach.end();
        }
        self.backend.berth().await
    }

    fn moor(&self, stream: &Stream, berth: Berth) {
        let keeper = if self.reach.is_some() { Keeper::Pingora } else { Keeper::Lane };
        self.mooring.moor(stream.as_raw_fd(), berth, keeper);
    }
}

impl Dial {
    async fn dial(&self, addr: &SocketAddr) -> Result<Stream> {
        let berth = match &self.counted {
            Some(counted) => counted.berth().await,
            None => None,
        };
        let stream: Stream = match addr {
            SocketAddr::Inet(addr) => self.introduced(connect(addr, self.source().as_ref()).await?).await?.into(),
            SocketAddr::Unix(addr) => {
                let path = addr.as_pathname().ok_or_else(|| Error::new(ErrorType::ConnectError))?;
                self.introduced(connect_uds(path).await?).await?.into()
            }
        };
        if let Some((counted, berth)) = self.counted.as_ref().zip(berth) {
            counted.moor(&stream, berth);
        }
        Ok(stream)
    }

    fn source(&self) -> Option<BindTo> {
        let mut source = BindTo::default();
        source.addr = Some(self.from?);
        Some(source)
    }

    async fn introduced<S: AsyncWrite + Unpin>(&self, mut socket: S) -> Result<S> {
        let unsent = || "sending the header of the PROXY protocol";
        socket.write_all(&self.header).await.or_err_with(ErrorType::ConnectError, unsent)?;
        Ok(socket)
    }
}

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let late = |_| Error::explain(ErrorType::ConnectTimedout, "the connect took too long");
        timeout(self.patience, self.dial(addr)).await.map_err(late)?
    }
}
