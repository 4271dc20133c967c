//! Bytes on a connection: addresses, streams of either kind, and the framing of HTTP/1.1 messages (RFC 9112), strictly read.
//!
//! What a request or an answer means is left to the origin and the client.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::PATIENCE;

/// The largest head that the tests read.
const MAX_HEAD: usize = 4 << 20;

/// Where something listens. Displayed as the configuration writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// TCP on loopback.
    Inet(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The port.
    ///
    /// # Panics
    /// On a unix socket, which has none.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Inet(address) => address.port(),
            Self::Unix(path) => panic!("a unix socket has no port: {}", path.display()),
        }
    }

    /// What a client writes into `Host`.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Inet(address) => address.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

/// How a message failed to arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The peer closed before the first byte.
    Closed,
    /// The peer closed in the middle; with what had arrived of the body, if the head was whole.
    Cut(Vec<u8>),
    /// The connection broke (reset, refused, broken pipe).
    Broken(String),
    /// Nothing came for [`PATIENCE`].
    Late,
    /// It came, but is no HTTP/1.1.
    Malformed(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All until the peer closes.
    UntilClose,
}

/// A head: its start line and its fields as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// All bytes, the empty line included.
    pub(crate) raw: Vec<u8>,
    /// The first line without its end.
    pub(crate) start: String,
    /// Names and values as they came, in order.
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    fn parse(raw: Vec<u8>) -> Result<Self, Fault> {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .map(|line| match line.split_once(':') {
                Some((name, value)) if !name.is_empty() && !name.contains(' ') => {
                    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
                }
                _ => Err(Fault::Malformed(format!("no header field: {line:?}"))),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { raw, start, fields })
    }

    /// The first value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every value of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Whether a comma-separated field holds `token`.
    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).iter().flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// The framing that `Transfer-Encoding` or `Content-Length` declares.
    pub(crate) fn declared(&self) -> Result<Option<Framing>, Fault> {
        if self.has_token("transfer-encoding", "chunked") {
            return Ok(Some(Framing::Chunked));
        }
        self.field("content-length")
            .map(|value| value.parse().map(Framing::Length))
            .transpose()
            .map_err(|_| Fault::Malformed(format!("no content length: {:?}", self.field("content-length"))))
    }
}

/// A body and the trailers after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Body {
    /// Its bytes, chunks put together.
    pub(crate) bytes: Vec<u8>,
    /// Trailer fields of a chunked body.
    pub(crate) trailers: Vec<(String, String)>,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection and the bytes that have been read from it but not yet used.
pub(crate) struct Stream {
    duplex: Box<dyn Duplex>,
    // Kept beside the boxed stream so that a test can end the connection with a reset.
    linger: Option<socket2::Socket>,
    buffer: Vec<u8>,
}

impl Stream {
    /// Connects.
    pub(crate) async fn connect(address: &Address) -> Result<Self, Fault> {
        let connecting = async {
            match address {
                Address::Inet(address) => TcpStream::connect(address).await.map(Self::tcp),
                Address::Unix(path) => UnixStream::connect(path).await.map(Self::over),
            }
        };
        Ok(timeout(PATIENCE, connecting).await.map_err(|_| Fault::Late)??)
    }

    /// A TCP connection.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        let linger = resettable(&stream);
        Self { linger, ..Self::over(stream) }
    }

    /// A TLS connection over `socket`.
    pub(crate) fn tls(stream: tokio_rustls::server::TlsStream<TcpStream>) -> Self {
        let linger = resettable(stream.get_ref().0);
        Self { linger, ..Self::over(stream) }
    }

    /// Any other connection.
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { duplex: Box::new(stream), linger: None, buffer: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let sending = async {
            self.duplex.write_all(bytes).await?;
            self.duplex.flush().await
        };
        Ok(timeout(PATIENCE, sending).await.map_err(|_| Fault::Late)??)
    }

    /// Ends our sending side and keeps reading.
    pub(crate) async fn finish(&mut self) -> Result<(), Fault> {
        Ok(self.duplex.shutdown().await?)
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub(crate) fn reset(self) {
        if let Some(socket) = &self.linger {
            // A failure means that the peer was faster.
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Reads until the peer closes and returns how it did: `Ok` with what still came, or how the connection broke.
    pub(crate) async fn drain(&mut self) -> Result<Vec<u8>, Fault> {
        while self.fill().await? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads a head; `None` where the peer closed before its first byte.
    pub(crate) async fn head(&mut self) -> Result<Option<Head>, Fault> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.buffer[searched..], b"\r\n\r\n") {
                let rest = self.buffer.split_off(searched + at + 4);
                return Head::parse(std::mem::replace(&mut self.buffer, rest)).map(Some);
            }
            searched = self.buffer.len().saturating_sub(3);
            if self.buffer.len() > MAX_HEAD {
                return Err(Fault::Malformed("head too large".to_owned()));
            }
            if self.fill().await? == 0 {
                let got = std::mem::take(&mut self.buffer);
                return if got.is_empty() { Ok(None) } else { Err(Fault::Cut(got)) };
            }
        }
    }

    /// Reads a body.
    pub(crate) async fn body(&mut self, framing: Framing) -> Result<Body, Fault> {
        let mut body = Body::default();
        match framing {
            Framing::None => {}
            Framing::Length(length) => self.take(length, &mut body.bytes).await?,
            Framing::UntilClose => body.bytes = self.drain().await?,
            Framing::Chunked => {
                loop {
                    let line = self.line(&body.bytes).await?;
                    let digits = line.split(';').next().unwrap_or_default();
                    let size = u64::from_str_radix(digits, 16)
                        .map_err(|_| Fault::Malformed(format!("no chunk size: {line:?}")))?;
                    if size == 0 {
                        break;
                    }
                    self.take(size, &mut body.bytes).await?;
                    let end = self.line(&body.bytes).await?;
                    if !end.is_empty() {
                        return Err(Fault::Malformed(format!("chunk longer than its size: {end:?}")));
                    }
                }
                loop {
                    let line = self.line(&body.bytes).await?;
                    let Some((name, value)) = line.split_once(':') else { break };
                    body.trailers.push((name.to_owned(), value.trim().to_owned()));
                }
            }
        }
        Ok(body)
    }

    /// Reads until these bytes have come, and drops them with all before them.
    pub(crate) async fn until(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        loop {
            if let Some(at) = find(&self.buffer, bytes) {
                self.buffer.drain(..at + bytes.len());
                return Ok(());
            }
            if self.fill().await? == 0 {
                return Err(Fault::Cut(std::mem::take(&mut self.buffer)));
            }
        }
    }

    /// Moves exactly `length` bytes to the end of `into`.
    async fn take(&mut self, length: u64, into: &mut Vec<u8>) -> Result<(), Fault> {
        let mut missing = usize::try_from(length).map_err(|_| Fault::Malformed(format!("{length} bytes")))?;
        loop {
            let now = missing.min(self.buffer.len());
            into.extend(self.buffer.drain(..now));
            missing -= now;
            if missing == 0 {
                return Ok(());
            }
            if self.fill().await? == 0 {
                return Err(Fault::Cut(std::mem::take(into)));
            }
        }
    }

    /// A line without its CRLF; `so_far` is what a cut reports.
    async fn line(&mut self, so_far: &[u8]) -> Result<String, Fault> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..at + 2).collect::<Vec<_>>();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.fill().await? == 0 {
                return Err(Fault::Cut(so_far.to_vec()));
            }
        }
    }

    async fn fill(&mut self) -> Result<usize, Fault> {
        self.buffer.reserve(16 << 10);
        Ok(timeout(PATIENCE, self.duplex.read_buf(&mut self.buffer)).await.map_err(|_| Fault::Late)??)
    }
}

fn resettable(stream: &TcpStream) -> Option<socket2::Socket> {
    // A small answer must not wait for Nagle in a test that counts requests.
    let _ = stream.set_nodelay(true);
    socket2::SockRef::from(stream).try_clone().ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
