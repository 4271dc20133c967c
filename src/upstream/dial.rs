//! Connections to backends that Pingora's own connect does not make: those that begin with the PROXY protocol, before all
//! else and before TLS, and those that may become tunnels.

use std::future::Future;
use std::net::{IpAddr, SocketAddr as InetSocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::connectors::l4::BindTo;
use pingora_core::protocols::l4::ext::{connect, connect_uds};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::VirtualSocketStream;
use pingora_error::{Error, ErrorType, OrErr, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::gate::{Gate, Gated, Socket};
use crate::base::proxy_protocol::{self, Ends, Version};
use crate::config::plan;
use crate::upstream::backend::Backend;

/// The addresses that connections come from (`server.client_bind_to_ipv4`, `client_bind_to_ipv6`).
#[derive(Debug, Default)]
pub struct Sources {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl Sources {
    /// Those of the plan, which the configuration has checked to be addresses.
    #[must_use]
    pub fn new(server: &plan::Server) -> Self {
        let parsed = |written: &[String]| written.iter().filter_map(|address| address.parse().ok()).collect();
        Self { v4: parsed(&server.client_bind_to_ipv4), v6: parsed(&server.client_bind_to_ipv6) }
    }

    /// One for a connection to `backend`, at random; none: the system chooses.
    #[must_use]
    pub fn choose(&self, backend: &Backend) -> Option<IpAddr> {
        let SocketAddr::Inet(to) = backend.addr() else { return None };
        fastrand::choice(if to.is_ipv4() { &self.v4 } else { &self.v6 }).copied()
    }
}

/// How a connection is made.
#[derive(Debug)]
pub(super) struct Dial {
    /// What it begins with.
    introduction: Vec<u8>,
    /// What holds its reads back.
    gate: Option<Gate>,
    /// Where it comes from; none: the system chooses.
    source: Option<IpAddr>,
    /// Pingora's own bound on connects does not hold for connects that it does not make.
    patience: Duration,
}

impl Dial {
    /// One that takes no longer than `patience`.
    pub(super) const fn within(patience: Duration) -> Self {
        Self { introduction: Vec::new(), gate: None, source: None, patience }
    }

    /// It begins with a header that names the client's ends, or, without them, says that the connection is our own.
    pub(super) fn introduced(self, version: Version, ends: Option<Ends>) -> Self {
        Self { introduction: proxy_protocol::write(version, ends), ..self }
    }

    /// Its reads wait for the gate, and it comes from `source`.
    pub(super) fn gated(self, gate: Gate, source: Option<IpAddr>) -> Self {
        Self { gate: Some(gate), source, ..self }
    }

    async fn dialled(&self, addr: &SocketAddr) -> Result<Stream> {
        match addr {
            SocketAddr::Inet(addr) => {
                let from = self.source.map(bound);
                self.made(async { connect(addr, from.as_ref()).await }).await
            }
            SocketAddr::Unix(addr) => {
                let path = addr.as_pathname().ok_or_else(|| Error::new(ErrorType::ConnectError))?;
                self.made(connect_uds(path)).await
            }
        }
    }

    async fn made<S>(&self, connected: impl Future<Output = Result<S>>) -> Result<Stream>
    where
        S: Socket + AsyncWrite + Into<Stream>,
    {
        let mut socket = connected.await?;
        let unsent = || "sending the header of the PROXY protocol";
        socket.write_all(&self.introduction).await.or_err_with(ErrorType::ConnectError, unsent)?;
        Ok(match &self.gate {
            Some(gate) => VirtualSocketStream::new(Box::new(Gated::new(socket, gate.clone()))).into(),
            None => socket.into(),
        })
    }
}

fn bound(source: IpAddr) -> BindTo {
    let mut to = BindTo::default();
    to.addr = Some(InetSocketAddr::new(source, 0));
    to
}

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let late = |_| Error::explain(ErrorType::ConnectTimedout, "the connect took too long");
        timeout(self.patience, self.dialled(addr)).await.map_err(late)?
    }
}
