//! Connections to backends that Pingora cannot make by itself: those that are counted (`berths`), those that may become
//! tunnels (`gate`), and those that begin with the PROXY protocol: before all else, and before TLS, the backend is told whose
//! request comes.

use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::connectors::l4::BindTo;
use pingora_core::protocols::l4::ext::{connect, connect_uds};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::VirtualSocketStream;
use pingora_error::{Error, ErrorType, OrErr, Result};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::backend::Backend;
use super::berths::{Berth, Keeper, Mooring, Reach};
use super::gate::{Gate, Gated, Socket};

/// How a connection is made.
#[derive(Debug)]
pub(super) struct Dial {
    /// What the backend is told first: the header of the PROXY protocol, or nothing.
    pub(super) header: Vec<u8>,
    /// Where it is counted, where that is bounded.
    pub(super) counted: Option<Counted>,
    /// What holds its reads back, where it may become a tunnel.
    pub(super) gate: Option<Gate>,
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

    fn moor(&self, descriptor: RawFd, berth: Berth) {
        let keeper = if self.reach.is_some() { Keeper::Pingora } else { Keeper::Lane };
        self.mooring.moor(descriptor, berth, keeper);
    }
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
        S: Socket + AsRawFd + Into<Stream>,
    {
        let berth = match &self.counted {
            Some(counted) => counted.berth().await,
            None => None,
        };
        let mut socket = connected.await?;
        let unsent = || "sending the header of the PROXY protocol";
        socket.write_all(&self.header).await.or_err_with(ErrorType::ConnectError, unsent)?;
        if let Some((counted, berth)) = self.counted.as_ref().zip(berth) {
            counted.moor(socket.as_raw_fd(), berth);
        }
        Ok(match &self.gate {
            Some(gate) => VirtualSocketStream::new(Box::new(Gated::new(socket, gate.clone()))).into(),
            None => socket.into(),
        })
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
