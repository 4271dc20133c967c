//! Addresses in the file: where to listen, where backends are.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::leaf::titled;
use super::term::{Decoder, Scope, Term, shortened};
use crate::base::address::{Host, HostPort, parse_host_port};
use crate::base::units::Misread;
use crate::config::plan::{self, Target};
use crate::config::read::Node;

/// An address to listen on, and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// As written.
    pub written: String,
    /// The address.
    pub address: plan::ListenAddress,
}

impl Term for ListenAddress {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.text(node, "an address", "write it like `0.0.0.0:8080` or `unix:/run/roundel.sock`")?;
        let read = match text.strip_prefix("unix:") {
            Some(path) => {
                unix_path(path).map(|path| decoder.marks.directory(node.at).join(path)).map(plan::ListenAddress::Unix)
            }
            None => inet(text).map(plan::ListenAddress::Inet),
        };
        match read {
            Ok(address) => Some(Self { written: text.to_owned(), address }),
            Err(misread) => {
                decoder.misread(node.at, misread);
                None
            }
        }
    }

    fn describe(_: &Scope) -> Json {
        titled(json!({ "type": "string", "pattern": "^unix:.|:[0-9]+$|\\$\\{" }), "an address")
    }

    fn written(&self) -> Option<Json> {
        Some(json!(self.written))
    }
}

fn inet(text: &str) -> Result<SocketAddr, Misread> {
    for (any, address) in [("*:", "0.0.0.0:"), (":", "0.0.0.0:"), ("localhost:", "127.0.0.1:")] {
        if let Some(port) = text.strip_prefix(any).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(Misread::new(format!("`{text}` is not an IP address"), format!("write \"{address}{port}\"")));
        }
    }
    match parse_host_port(text)? {
        HostPort { host: Host::Ip(ip), port } => Ok(SocketAddr::new(ip, port)),
        HostPort { host: Host::Name(name), port } => Err(Misread::new(
            format!("`{name}` is a name, and only IP addresses can be listened on"),
            format!("write \"0.0.0.0:{port}\" for all addresses"),
        )),
    }
}

/// The longest path of a unix socket that the system takes (`sun_path`, with its closing NUL).
pub(in crate::config) const LONGEST_SOCKET: usize = 107;

fn unix_path(path: &str) -> Result<PathBuf, Misread> {
    match path {
        "" => Err(Misread::new("path missing", "write \"unix:/run/app.sock\"")),
        _ if path.contains('\0') => Err(Misread::new("this is not a path", "write \"unix:/run/app.sock\"")),
        _ if path.len() > LONGEST_SOCKET => {
            Err(Misread::new("the path is too long for a socket", format!("write at most {LONGEST_SOCKET} bytes")))
        }
        _ => Ok(PathBuf::from(path)),
    }
}

/// The address of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendAddress {
    /// As written.
    pub written: String,
    /// Where it is.
    pub target: Target,
    /// What the written scheme says of TLS; none where no scheme is written.
    pub tls: Option<bool>,
}

impl Term for BackendAddress {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.text(node, "a backend's address", "write it like `10.0.0.7:8080`")?;
        match backend(text) {
            Ok(Self { target: Target::Unix(path), tls, written }) => {
                Some(Self { target: Target::Unix(decoder.marks.directory(node.at).join(path)), tls, written })
            }
            Ok(address) => Some(address),
            Err(misread) => {
                decoder.misread(node.at, misread);
                None
            }
        }
    }

    fn describe(_: &Scope) -> Json {
        titled(json!({ "type": "string", "pattern": "^unix:.|:[0-9]+$|\\$\\{" }), "an address")
    }
}

/// Reads `host:port`, `http://host:port`, `https://host:port` or `unix:/path`.
fn backend(text: &str) -> Result<BackendAddress, Misread> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(BackendAddress { written: text.to_owned(), target: Target::Unix(unix_path(path)?), tls: None });
    }
    let (rest, tls) = match text.split_once("://") {
        Some(("http", rest)) => (rest, Some(false)),
        Some(("https", rest)) => (rest, Some(true)),
        Some((scheme, _)) => {
            let what = format!("`{}` is not a scheme for backends", shortened(scheme));
            return Err(Misread::new(what, "write `http://`, `https://` or `unix:`"));
        }
        None => (text, None),
    };
    if let Some((authority, path)) = rest.split_once('/') {
        let scheme = &text[..text.len() - rest.len()];
        let what = format!("`/{}` is a path, and a backend is an address", shortened(path));
        return Err(Misread::new(what, format!("write \"{scheme}{authority}\"")));
    }
    let HostPort { host, port } = parse_host_port(rest)?;
    let target = match host {
        Host::Ip(ip) => Target::Inet(SocketAddr::new(ip, port)),
        Host::Name(name) => Target::Name(name.into(), port),
    };
    Ok(BackendAddress { written: text.to_owned(), target, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_in_every_written_form() {
        let inet = Target::Inet("10.0.0.1:80".parse().unwrap());
        for (text, target, tls) in [
            ("10.0.0.1:80", inet.clone(), None),
            ("http://10.0.0.1:80", inet.clone(), Some(false)),
            ("https://10.0.0.1:80", inet, Some(true)),
            ("Web:80", Target::Name("web".into(), 80), None),
            ("unix:/run/a.sock", Target::Unix("/run/a.sock".into()), None),
        ] {
            let read = backend(text).unwrap();
            assert_eq!((read.target, read.tls, read.written.as_str()), (target, tls, text));
        }
    }

    #[test]
    fn a_backend_is_an_address_and_no_more() {
        assert_eq!(backend("http://a:80/x").unwrap_err().remedy, "write \"http://a:80\"");
        assert_eq!(backend("ftp://a:80").unwrap_err().remedy, "write `http://`, `https://` or `unix:`");
        assert_eq!(inet(":8080").unwrap_err().remedy, "write \"0.0.0.0:8080\"");
        assert_eq!(inet("localhost:80").unwrap_err().remedy, "write \"127.0.0.1:80\"");
    }
}
