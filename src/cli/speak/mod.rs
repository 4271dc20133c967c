//! How commands speak to a running proxy: its admin API, by the socket in the runtime directory or by an address.
//!
//! What is asked, and what is made of the answer, is each command's own. `http` reads the answers.

mod http;

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use self::http::Body;
use crate::config::plan::{self, ListenAddress};
use crate::config::{self, Diagnostics};

/// How long a connection to the admin listener may take, and a usual answer may pause.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// More than the status of a very large configuration.
const LONGEST_ANSWER: u64 = 256 * 1024 * 1024;

/// Which running proxy is meant.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "proxy", required = true, multiple = true)]
pub(super) struct Which {
    /// The configuration that the proxy runs: its admin socket is asked, else its admin address
    #[arg(short, long, value_name = "FILE", value_parser = a_file)]
    pub(super) conf: Option<PathBuf>,
    /// The proxy's admin listener, HOST:PORT or unix:PATH, in place of the one that the configuration names
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The file of the admin listener's token, where `--admin` needs one
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
}

/// The way to a running proxy. Each question goes over a connection of its own.
#[derive(Debug, Clone)]
pub(super) struct Line {
    way: Way,
    token: Option<String>,
}

#[derive(Debug, Clone)]
enum Way {
    Unix(PathBuf),
    /// The address, and the `Host` under which it is asked.
    Tcp(SocketAddr, String),
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// Its status.
    pub(super) status: u16,
    /// Its body.
    pub(super) body: Vec<u8>,
}

/// An answer that goes on: `Read` ends where it ends.
pub(super) type Stream = BufReader<Body<Connection>>;

impl Which {
    /// Finds the way. Where the configuration is named, the socket in the runtime directory comes first: it needs no token, and
    /// no fault in the file keeps an operator from a proxy that runs.
    ///
    /// # Errors
    /// No proxy can be reached; the error is one line with the remedy.
    pub(super) fn find(&self) -> io::Result<Line> {
        match (&self.admin, &self.conf) {
            (Some(address), _) => {
                let token = self.token_file.as_deref().map(read_token).transpose()?;
                Ok(Line { way: Way::read(address)?, token })
            }
            (None, Some(conf)) => by_configuration(conf),
            (None, None) => Err(io::Error::other("which proxy? write `-c FILE` or `--admin ADDRESS`")),
        }
    }
}

/// A running proxy is known by the path of its configuration.
fn a_file(text: &str) -> Result<PathBuf, &'static str> {
    match text {
        "-" => Err("a running proxy is found by the path of its file (write that, or `--admin ADDRESS`)"),
        path => Ok(path.into()),
    }
}

fn by_configuration(conf: &Path) -> io::Result<Line> {
    let socket = config::admin_socket(conf, &config::process_environment);
    if UnixStream::connect(&socket).is_ok() {
        return Ok(Line { way: Way::Unix(socket), token: None });
    }
    let loaded =
        config::load(conf, &config::process_environment).map_err(|faults| unreadable(conf, &socket, &faults))?;
    Line::of(&loaded.plan.admin)
}

fn unreadable(conf: &Path, socket: &Path, faults: &Diagnostics) -> io::Error {
    let first = faults.iter().next().map_or_else(String::new, |fault| format!(": {}", fault.message));
    io::Error::other(format!(
        "nobody answers at {}, and {} does not say where else to ask{first} (run `roundel check -c {}`)",
        socket.display(),
        conf.display(),
        conf.display()
    ))
}

impl Line {
    /// The way to a proxy by its admin section: the socket where it can be reached, else the address.
    ///
    /// # Errors
    /// The admin listener is turned off, or its token cannot be read.
    pub(super) fn of(admin: &plan::Admin) -> io::Result<Self> {
        let Some(address) = &admin.address else {
            return Err(io::Error::other("the admin listener is turned off (`admin: none`): nothing can be asked"));
        };
        if UnixStream::connect(&admin.socket).is_ok() {
            return Ok(Self { way: Way::Unix(admin.socket.clone()), token: None });
        }
        let way = match address {
            ListenAddress::Unix(path) => Way::Unix(path.clone()),
            ListenAddress::Inet(inet) => Way::tcp(*inet),
        };
        Ok(Self { way, token: admin.token_file.as_deref().map(read_token).transpose()? })
    }

    /// Asks, and waits for the whole answer; no pause of it may be longer than `patience`.
    ///
    /// # Errors
    /// No proxy answers there, or what answers is none.
    pub(super) fn ask(&self, method: &str, target: &str, patience: Duration) -> io::Result<Reply> {
        let (status, body) = self.open(method, target, Some(patience))?;
        let mut bytes = Vec::new();
        body.take(LONGEST_ANSWER).read_to_end(&mut bytes).map_err(|error| self.unreachable(&error))?;
        Ok(Reply { status, body: bytes })
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// As [`Line::ask`], and where the proxy refuses: in its words.
    pub(super) fn get(&self, target: &str) -> io::Result<Value> {
        self.ask("GET", target, PATIENCE)?.json()
    }

    /// Asks for what goes on without end, to be read as it comes.
    ///
    /// # Errors
    /// As [`Line::get`].
    pub(super) fn follow(&self, target: &str) -> io::Result<Stream> {
        let (status, body) = self.open("GET", target, None)?;
        if status == 200 {
            return Ok(BufReader::new(body));
        }
        let mut bytes = Vec::new();
        body.take(LONGEST_ANSWER).read_to_end(&mut bytes)?;
        Err(Reply { status, body: bytes }.refusal())
    }

    fn open(&self, method: &str, target: &str, patience: Option<Duration>) -> io::Result<(u16, Body<Connection>)> {
        let opened = self.connect(patience).and_then(|mut connection| {
            connection.write_all(self.head(method, target).as_bytes())?;
            http::read(connection)
        });
        opened.map_err(|error| self.unreachable(&error))
    }

    fn head(&self, method: &str, target: &str) -> String {
        let host = match &self.way {
            Way::Unix(_) => "localhost",
            Way::Tcp(_, host) => host,
        };
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{token}{length}Connection: close\r\n\r\n")
    }

    fn connect(&self, patience: Option<Duration>) -> io::Result<Connection> {
        match &self.way {
            Way::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Connection::Unix(stream))
            }
            Way::Tcp(address, _) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Connection::Tcp(stream))
            }
        }
    }

    fn unreachable(&self, error: &io::Error) -> io::Error {
        let place = match &self.way {
            Way::Unix(path) => path.display().to_string(),
            Way::Tcp(address, _) => address.to_string(),
        };
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it took too long".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("no proxy answers at {place}: {why} (is it running?)"))
    }
}

impl Way {
    fn read(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let fault =
            |why: String| io::Error::other(format!("--admin {text}: {why} (write 127.0.0.1:9901 or unix:/PATH)"));
        let mut addresses = text.to_socket_addrs().map_err(|error| fault(error.to_string()))?;
        let address = addresses.next().ok_or_else(|| fault("the name has no address".into()))?;
        Ok(Self::Tcp(reachable(address), text.to_owned()))
    }

    fn tcp(address: SocketAddr) -> Self {
        let address = reachable(address);
        Self::Tcp(address, address.to_string())
    }
}

/// A listener on all addresses is asked by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn read_token(path: &Path) -> io::Result<String> {
    let fault = |why: String| io::Error::other(format!("token file {}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    match text.trim() {
        "" => Err(fault("is empty".into())),
        token if token.contains(|c: char| c.is_ascii_control()) => Err(fault("is more than one line".into())),
        token => Ok(token.to_owned()),
    }
}

impl Reply {
    /// Its JSON.
    ///
    /// # Errors
    /// It is a refusal, told in the proxy's words, or no JSON.
    pub(super) fn json(&self) -> io::Result<Value> {
        if !(200..300).contains(&self.status) {
            return Err(self.refusal());
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| io::Error::other(format!("what answers is no Roundel: {error}")))
    }

    /// The refusal that it is, in the proxy's words: the `detail` of its problem (RFC 9457), else its text.
    pub(super) fn refusal(&self) -> io::Error {
        let problem: Option<Value> = serde_json::from_slice(&self.body).ok();
        let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str().map(str::to_owned));
        let text = detail.unwrap_or_else(|| String::from_utf8_lossy(&self.body).trim().to_owned());
        io::Error::other(if text.is_empty() { format!("the proxy answered {}", self.status) } else { text })
    }
}

/// A connection to an admin listener.
#[derive(Debug)]
pub(super) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buf),
            Self::Tcp(stream) => stream.read(buf),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buf),
            Self::Tcp(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
        }
    }
}

/// A name as one segment of a path.
pub(super) fn segment(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_by_loopback() {
        for (written, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(reachable(written.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_proxy() {
        let reply = |body: &str| Reply { status: 404, body: body.into() };
        assert_eq!(
            reply(r#"{"detail": "there is no such endpoint"}"#).refusal().to_string(),
            "there is no such endpoint"
        );
        assert_eq!(reply("not ready: draining\n").refusal().to_string(), "not ready: draining");
        assert_eq!(reply("").refusal().to_string(), "the proxy answered 404");
    }

    #[test]
    fn a_backend_of_any_name_is_one_segment() {
        assert_eq!(segment("unix:/run/a.sock"), "unix%3A%2Frun%2Fa%2Esock");
    }
}
