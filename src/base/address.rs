//! Addresses as people write them: `10.0.0.1:8080`, `[::1]:8080`, `web.internal:8080`.
//!
//! Reads text only; nothing is resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::base::units::Misread;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// An IP address or a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A host name: lower case, without a trailing dot.
    Name(String),
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Reads `host:port`, with IPv6 addresses in brackets (RFC 3986, 3.2.2).
///
/// # Errors
/// Where the host or the port is missing or malformed, or the port is 0.
pub fn parse_host_port(text: &str) -> Result<HostPort, Misread> {
    let (host, port) = split_port(text)?;
    Ok(HostPort { host: parse_host(host)?, port: parse_port(port)? })
}

/// Reads a host: an IP address (IPv6 with or without brackets) or a host name.
///
/// # Errors
/// Where it is neither.
pub fn parse_host(text: &str) -> Result<Host, Misread> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(bare) = bare {
        let wrong = |_| Misread::new(format!("`{bare}` is not an IPv6 address"), "write it like `[::1]:8080`");
        return bare.parse::<Ipv6Addr>().map(|ip| Host::Ip(ip.into())).map_err(wrong);
    }
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(Host::Ip(ip)),
        Err(_) => parse_host_name(text).map(Host::Name),
    }
}

/// Reads a host name (RFC 1123, 2.1, with the underscore that is seen in practice): in lower case, without a trailing dot.
///
/// # Errors
/// Where the name is empty, longer than 253 bytes, or has a label that is none. Names whose last label is a number are
/// refused, as they are mistyped IPv4 addresses (WHATWG URL, host parsing).
pub fn parse_host_name(text: &str) -> Result<String, Misread> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric_end = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(Misread::new(format!("`{text}` is not a host name"), "write letters, digits, `-` and `.` only"));
    }
    if numeric_end {
        return Err(Misread::new(format!("`{text}` is not an IP address"), "write it like `10.0.0.7`"));
    }
    Ok(name)
}

fn split_port(text: &str) -> Result<(&str, &str), Misread> {
    let missing = |host: &str| Misread::new("port missing", format!("write \"{host}:8080\""));
    if text.is_empty() {
        return Err(Misread::new("address missing", "write \"10.0.0.7:8080\""));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Misread::new("address missing", format!("write \"127.0.0.1:{text}\"")));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(missing(&format!("[{text}]")));
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
            Err(Misread::new(format!("`{text}` is not an address"), "write an IPv6 address like \"[::1]:8080\""))
        }
        Some((host, port)) if !port.contains(']') => Ok((host, port)),
        _ => Err(missing(text)),
    }
}

fn parse_port(text: &str) -> Result<u16, Misread> {
    match text.parse::<u16>() {
        Ok(0) => Err(Misread::new("port 0 is not a port", "write a port from 1 to 65535")),
        Ok(port) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ if text.is_empty() => Err(Misread::new("port missing", "write a port from 1 to 65535 after the colon")),
        _ => Err(Misread::new(format!("`{text}` is not a port"), "write a port from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_as_the_manual_writes_them() {
        for (text, expected) in [
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("[::1]:80", "[::1]:80"),
            ("Web.Internal.:8080", "web.internal:8080"),
            ("my_app:1", "my_app:1"),
        ] {
            assert_eq!(parse_host_port(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn every_refusal_says_what_to_write() {
        for (text, remedy) in [
            ("10.0.0.7", "write \"10.0.0.7:8080\""),
            ("::1", "write \"[::1]:8080\""),
            ("[::1]", "write \"[::1]:8080\""),
            ("::1:80:zz", "write an IPv6 address like \"[::1]:8080\""),
            ("web:0", "write a port from 1 to 65535"),
            ("web:+1", "write a port from 1 to 65535"),
            ("web:70000", "write a port from 1 to 65535"),
            ("10.0.0.256:80", "write it like `10.0.0.7`"),
            ("we b:80", "write letters, digits, `-` and `.` only"),
            ("", "write \"10.0.0.7:8080\""),
        ] {
            assert_eq!(parse_host_port(text).unwrap_err().remedy, remedy, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_address_written_is_read_back(ip: IpAddr, port in 1..=u16::MAX) {
            let address = HostPort { host: Host::Ip(ip), port };
            prop_assert_eq!(parse_host_port(&address.to_string()), Ok(address));
        }

        #[test]
        fn no_text_makes_an_address_panic(text in ".*") {
            let _ = parse_host_port(&text);
        }
    }
}
