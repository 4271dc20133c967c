//! `roundel healthcheck`: asks a running proxy whether it is ready.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{Conf, check, complain, print};
use crate::config::plan::{Admin, ListenAddress};

/// How long the proxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than any answer of `/readyz` needs.
const LONGEST_ANSWER: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    conf: Conf,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let plan = match check::load(&args.conf.conf) {
        Ok(loaded) => loaded.plan,
        Err(status) => return Ok(status),
    };
    let answer = ask(&plan.admin)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        return print(format_args!("{}\n", body.trim_end()));
    }
    complain(body.trim_end());
    Ok(ExitCode::FAILURE)
}

/// Asks by the private socket where it can be reached, else by the address.
fn ask(admin: &Admin) -> io::Result<String> {
    let Some(address) = &admin.address else {
        return Err(io::Error::other("the admin listener is turned off (`admin: none`): nothing can be asked"));
    };
    if let Ok(stream) = connect_unix(&admin.socket) {
        return exchange(stream);
    }
    let unreachable = |error: io::Error| io::Error::other(format!("no proxy answers at {address}: {error}"));
    match address {
        ListenAddress::Unix(path) => exchange(connect_unix(path).map_err(unreachable)?),
        ListenAddress::Inet(inet) => exchange(connect_tcp(*inet).map_err(unreachable)?),
    }
}

fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A listener on all addresses is asked by loopback.
fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let address = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    };
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(mut stream: impl Read + Write) -> io::Result<String> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
