//! The PROXY protocol, versions 1 and 2 (HAProxy, "The PROXY protocol", 2020-03-05): a header before all else on a connection
//! that says whose it really is. Bytes and values alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, with its line end (section 2.1).
const LONGEST_V1: usize = 107;
/// The first bytes of version 2 (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and length.
const FIXED_V2: usize = 16;
/// The longest header that is taken, with what senders append to the addresses of version 2.
pub const LONGEST: usize = 4096;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Whose a connection is: the client's address, and the address that it connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A header that has not ended: all bytes so far belong to it, and nothing in it is wrong yet.
    Partial,
    /// A whole header of `len` bytes. Without ends the connection is the sender's own (a check of its health), or comes from
    /// where no address is known.
    Complete {
        /// Its length in bytes.
        len: usize,
        /// What it says.
        ends: Option<Ends>,
    },
    /// No header, and why not.
    Refused(&'static str),
}

/// Reads a header at the beginning of `bytes`.
#[must_use]
pub fn parse(bytes: &[u8]) -> Outcome {
    let begins = |whole: &[u8]| bytes.iter().zip(whole).all(|(byte, other)| byte == other);
    if begins(&SIGNATURE) {
        return parse_v2(bytes);
    }
    if begins(b"PROXY ") { parse_v1(bytes) } else { Outcome::Refused("it does not begin with the PROXY protocol") }
}

fn parse_v1(bytes: &[u8]) -> Outcome {
    let window = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = memchr::memmem::find(window, b"\r\n") else {
        return match window.len() {
            LONGEST_V1 => Outcome::Refused("its line does not end"),
            _ => Outcome::Partial,
        };
    };
    let line = std::str::from_utf8(&window[..end]).unwrap_or_default();
    match line_v1(line) {
        Some(ends) => Outcome::Complete { len: end + 2, ends },
        None => Outcome::Refused("its line is malformed"),
    }
}

/// What a line of version 1 says; none where it is malformed.
fn line_v1(line: &str) -> Option<Option<Ends>> {
    let (family, rest) = line.strip_prefix("PROXY ")?.split_once(' ').unwrap_or((line.strip_prefix("PROXY ")?, ""));
    // What follows UNKNOWN must be ignored.
    if family == "UNKNOWN" {
        return Some(None);
    }
    let words: Vec<&str> = rest.split(' ').collect();
    let [source, destination, source_port, destination_port] = words.as_slice() else { return None };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    Some(Some(Ends {
        source: SocketAddr::new(address(source)?, port(source_port)?),
        destination: SocketAddr::new(address(destination)?, port(destination_port)?),
    }))
}

/// A port in decimal digits without leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn parse_v2(bytes: &[u8]) -> Outcome {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_V2) else { return Outcome::Partial };
    let command = fixed[12] & 0x0f;
    if fixed[12] >> 4 != 2 || command > 1 {
        return Outcome::Refused("its version or command is unknown");
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED_V2 + length > LONGEST {
        return Outcome::Refused("it is longer than 4096 bytes");
    }
    let Some(rest) = rest.get(..length) else { return Outcome::Partial };
    let len = FIXED_V2 + length;
    // The sender speaks for itself: what else stands there must be ignored.
    if command == 0 {
        return Outcome::Complete { len, ends: None };
    }
    match (fixed[13], rest.len()) {
        (0x11, 12..) => Outcome::Complete { len, ends: Some(ends_v4(rest)) },
        (0x21, 36..) => Outcome::Complete { len, ends: Some(ends_v6(rest)) },
        // Unspecified, or a unix socket: no address that we could use.
        (0x00, _) | (0x31, 216..) => Outcome::Complete { len, ends: None },
        (0x11 | 0x21 | 0x31, _) => Outcome::Refused("it is too short for its addresses"),
        _ => Outcome::Refused("its family is unknown, or not that of a stream"),
    }
}

/// Two IPv4 addresses and two ports: the first 12 bytes, which are there.
fn ends_v4(bytes: &[u8]) -> Ends {
    let end = |at: usize, port: usize| {
        let address = Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        SocketAddr::new(address.into(), u16::from_be_bytes([bytes[port], bytes[port + 1]]))
    };
    Ends { source: end(0, 8), destination: end(4, 10) }
}

/// Two IPv6 addresses and two ports: the first 36 bytes, which are there.
fn ends_v6(bytes: &[u8]) -> Ends {
    let end = |at: usize, port: usize| {
        let address: [u8; 16] = std::array::from_fn(|offset| bytes[at + offset]);
        SocketAddr::new(IpAddr::from(address), u16::from_be_bytes([bytes[port], bytes[port + 1]]))
    };
    Ends { source: end(0, 32), destination: end(16, 34) }
}

/// Writes a header. Without ends it says that the connection is our own (version 2), or from nowhere known (version 1).
#[must_use]
pub fn write(version: Version, ends: Option<Ends>) -> Vec<u8> {
    match version {
        Version::V1 => write_v1(ends).into_bytes(),
        Version::V2 => write_v2(ends),
    }
}

fn write_v1(ends: Option<Ends>) -> String {
    let Some(ends) = ends.map(Ends::of_one_family) else { return "PROXY UNKNOWN\r\n".to_owned() };
    let family = if ends.source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source, destination) = (ends.source, ends.destination);
    format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
}

fn write_v2(ends: Option<Ends>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    match ends.map(Ends::of_one_family) {
        None => header.extend([0x20, 0x00, 0, 0]),
        Some(ends) => {
            let addresses = [ends.source.ip(), ends.destination.ip()].map(octets).concat();
            let family = if ends.source.is_ipv4() { 0x11 } else { 0x21 };
            header.extend([0x21, family, 0, if ends.source.is_ipv4() { 12 } else { 36 }]);
            header.extend(addresses);
            header.extend(ends.source.port().to_be_bytes());
            header.extend(ends.destination.port().to_be_bytes());
        }
    }
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Ends {
    /// The same ends as one family: IPv4 where both are, else IPv6 with the other one mapped into it (RFC 4291, 2.5.5.2).
    fn of_one_family(self) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let (source, destination) = (canonical(self.source), canonical(self.destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return Self { source, destination };
        }
        let mapped = |end: SocketAddr| match end.ip() {
            IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), end.port()),
            IpAddr::V6(_) => end,
        };
        Self { source: mapped(source), destination: mapped(destination) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn a_line_of_version_1_names_both_ends() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET / HTTP/1.1\r\n";
        let both = ends("192.0.2.1:56324", "198.51.100.2:443");
        assert_eq!(parse(line), Outcome::Complete { len: 45, ends: Some(both) });
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n";
        let both = ends("[2001:db8::1]:0", "[2001:db8::2]:65535");
        assert_eq!(parse(line), Outcome::Complete { len: line.len(), ends: Some(both) });
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff:f...f whatever 1\r\n"] {
            assert_eq!(parse(line.as_bytes()), Outcome::Complete { len: line.len(), ends: None });
        }
    }

    #[test]
    fn what_breaks_the_grammar_of_version_1_is_refused() {
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(120));
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXX ",
            "PROXY\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2  1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 a.example b.example 1 2\r\n",
            &endless,
        ] {
            assert!(matches!(parse(line.as_bytes()), Outcome::Refused(_)), "{line}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_of_version_2_is_refused() {
        let header = |tail: &[u8]| [&SIGNATURE[..], tail].concat();
        for tail in [
            &[0x11, 0x11, 0, 12][..],
            &[0x22, 0x11, 0, 12],
            &[0x21, 0x11, 0x10, 0],
            &[0x21, 0x11, 0, 4, 1, 2, 3, 4],
            &[0x21, 0x21, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x21, 0x12, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x21, 0x31, 0, 2, 0, 0],
        ] {
            assert!(matches!(parse(&header(tail)), Outcome::Refused(_)), "{tail:?}");
        }
    }

    #[test]
    fn what_stands_behind_the_addresses_of_version_2_is_skipped() {
        let mut header = write(Version::V2, Some(ends("192.0.2.1:1", "192.0.2.2:2")));
        header[15] += 5;
        header.extend([0x04, 0, 2, 0, 0]);
        header.extend(b"GET /");
        assert_eq!(parse(&header), Outcome::Complete { len: 33, ends: Some(ends("192.0.2.1:1", "192.0.2.2:2")) });
    }

    #[test]
    fn ends_of_two_families_become_ipv6_and_mapped_ones_ipv4() {
        let mixed = write(Version::V1, Some(ends("192.0.2.1:1", "[2001:db8::2]:2")));
        assert_eq!(mixed, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n");
        let mapped = write(Version::V1, Some(ends("[::ffff:192.0.2.1]:1", "192.0.2.2:2")));
        assert_eq!(mapped, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
        assert_eq!(write(Version::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(write(Version::V2, None)[12..], [0x20, 0, 0, 0]);
    }

    fn family() -> impl Strategy<Value = Ends> {
        let v4 = (any::<[[u8; 4]; 2]>(), any::<[u16; 2]>()).prop_map(|(ips, ports)| Ends {
            source: (ips[0], ports[0]).into(),
            destination: (ips[1], ports[1]).into(),
        });
        let v6 = (any::<[[u8; 16]; 2]>(), any::<[u16; 2]>()).prop_map(|(ips, ports)| Ends {
            source: (ips[0], ports[0]).into(),
            destination: (ips[1], ports[1]).into(),
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_in_pieces_too(both in family(), v2: bool, tail: Vec<u8>) {
            let version = if v2 { Version::V2 } else { Version::V1 };
            let header = write(version, Some(both));
            for end in 0..header.len() {
                prop_assert_eq!(parse(&header[..end]), Outcome::Partial);
            }
            let whole = Outcome::Complete { len: header.len(), ends: Some(both.of_one_family()) };
            prop_assert_eq!(parse(&[header, tail].concat()), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(signed: bool, tail: Vec<u8>) {
            let head = if signed { &SIGNATURE[..] } else { b"PROXY " };
            let bytes = [head, &tail].concat();
            if let Outcome::Complete { len, .. } = parse(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
