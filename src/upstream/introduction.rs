//! Connections to backends that begin with the PROXY protocol: before all else, and before TLS, the backend is told whose
//! request comes.

use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::ext::{connect, connect_uds};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType, OrErr, Result};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::base::proxy_protocol::{self, Ends, Version};

/// How a connection is made that begins with a header.
#[derive(Debug)]
pub(super) struct Introduction {
    header: Vec<u8>,
    /// Pingora's own bound on connects does not hold for connects that it does not make.
    patience: Duration,
}

impl Introduction {
    /// One that names the client's ends, or, without them, says that the connection is our own.
    pub(super) fn new(version: Version, ends: Option<Ends>, patience: Duration) -> Self {
        Self { header: proxy_protocol::write(version, ends), patience }
    }

    async fn introduced(&self, addr: &SocketAddr) -> Result<Stream> {
        let unsent = || "sending the header of the PROXY protocol";
        match addr {
            SocketAddr::Inet(addr) => {
                let mut socket = connect(addr, None).await?;
                socket.write_all(&self.header).await.or_err_with(ErrorType::ConnectError, unsent)?;
                Ok(socket.into())
            }
            SocketAddr::Unix(addr) => {
                let path = addr.as_pathname().ok_or_else(|| Error::new(ErrorType::ConnectError))?;
                let mut socket = connect_uds(path).await?;
                socket.write_all(&self.header).await.or_err_with(ErrorType::ConnectError, unsent)?;
                Ok(socket.into())
            }
        }
    }
}

#[async_trait]
impl L4Connect for Introduction {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let late = |_| Error::explain(ErrorType::ConnectTimedout, "the connect took too long");
        timeout(self.patience, self.introduced(addr)).await.map_err(late)?
    }
}
