//! Connections to backends that Pingora cannot make by itself: those that are counted (`berths`), and those that begin with the
//! PROXY protocol: before all else, and before TLS, the backend is told whose request comes.

use std::future::Future;
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
use super::berths::Mooring;

/// How a connection is made.
#[derive(Debug)]
pub(super) struct Dial {
    /// What the backend is told first: the header of the PROXY protocol, or nothing.
    pub(super) header: Vec<u8>,
    /// Where it is counted, where that is bounded.
    pub(super) counted: Option<(Arc<Backend>, Mooring)>,
    /// The address that it comes from, where the process has one of its own for that.
    pub(super) from: Option<std::net::SocketAddr>,
    /// Pingora's own bound on connects does not hold for connects that it does not make.
    pub(super) patience: Duration,
}

impl Dial {
    async fn dial(&self, addr: &SocketAddr) -> Result<Stream> {
        match addr {
            SocketAddr::Inet(addr) => {
                let from = self.source();
                self.counted(async { connect(addr, from.as_ref()).await }).await
            }
            SocketAddr::Unix(addr) => {
                let path = addr.as_pathname().ok_or_else(|| Error::new(ErrorType::ConnectError))?;
                self.counted(connect_uds(path)).await
            }
        }
    }

    async fn counted<S>(&self, connected: impl Future<Output = Result<S>>) -> Result<Stream>
    where
        S: AsyncWrite + Unpin + AsRawFd + Into<Stream>,
    {
        let berth = match &self.counted {
            Some((backend, _)) => backend.berth().await,
            None => None,
        };
        let mut socket = connected.await?;
        let unsent = || "sending the header of the PROXY protocol";
        socket.write_all(&self.header).await.or_err_with(ErrorType::ConnectError, unsent)?;
        if let Some(((_, mooring), berth)) = self.counted.as_ref().zip(berth) {
            mooring.moor(socket.as_raw_fd(), berth);
        }
        Ok(socket.into())
    }

    fn source(&self) -> Option<BindTo> {
        let mut source = BindTo::default();
        source.addr = Some(self.from?);
        Some(source)
    }
}

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let late = |_| Error::explain(ErrorType::ConnectTimedout, "the connect took too long");
        timeout(self.patience, self.dial(addr)).await.map_err(late)?
    }
}
