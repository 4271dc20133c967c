//! Who the client is: one address, found once, the same in logs, limits, hashes and access rules.
//!
//! The peer of the connection is the client unless it is a trusted proxy. Then the addresses that the proxies wrote down
//! are read from the right, and the first that is not itself a trusted proxy is the client: what stands further left was
//! written by somebody nobody trusts. Pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::base::request::Fields;

/// How many addresses of a chain are looked at: a longer chain is cut where it stops being read.
const LONGEST_CHAIN: usize = 64;

/// The client's address and whether the peer may speak for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The address; none on a unix socket whose peer told no address.
    pub address: Option<IpAddr>,
    /// Whether the peer is a trusted proxy, so that what it says of the request (`X-Forwarded-Proto`, `X-Request-Id`) is kept.
    pub via_trusted: bool,
}

/// Finds the client of a request. `peer` is the connection's other end, none on a unix socket: a unix socket's peer is
/// trusted where any proxy is, because only the socket's permissions can tell who may connect.
#[must_use]
pub fn find(peer: Option<IpAddr>, trusted: &[IpNet], fields: &dyn Fields) -> Client {
    let peer = peer.map(|address| address.to_canonical());
    let via_trusted = match peer {
        Some(peer) => is_trusted(peer, trusted),
        None => !trusted.is_empty(),
    };
    if !via_trusted {
        return Client { address: peer, via_trusted };
    }
    Client { address: rightmost_untrusted(fields, trusted).or(peer), via_trusted }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// The first address from the right that is no trusted proxy; where all are trusted, the leftmost. Reading stops at what
/// is no address, because what stands left of it cannot be relied on.
fn rightmost_untrusted(fields: &dyn Fields, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut last = None;
    for entry in chain(fields).iter().rev().take(LONGEST_CHAIN) {
        let Some(address) = entry else { break };
        last = Some(*address);
        if !is_trusted(*address, trusted) {
            break;
        }
    }
    last
}

/// The chain of addresses as the proxies wrote it, left to right: `X-Forwarded-For` where there is one, else `Forwarded`.
fn chain(fields: &dyn Fields) -> Vec<Option<IpAddr>> {
    let mut chain = Vec::new();
    fields.each("x-forwarded-for", &mut |value| {
        chain.extend(value.split(|byte| *byte == b',').map(parse_node));
    });
    if chain.is_empty() {
        fields.each("forwarded", &mut |value| {
            chain.extend(value.split(|byte| *byte == b',').map(|element| forwarded_for(element).and_then(parse_node)));
        });
    }
    chain
}

/// The `for` parameter of one element of `Forwarded` (RFC 7239, 4).
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    element.split(|byte| *byte == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        let (name, value) = pair.split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    })
}

/// An address with or without a port, brackets and quotes: `192.0.2.1`, `192.0.2.1:80`, `"[2001:db8::1]:80"`.
fn parse_node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> http::HeaderMap {
        let mut map = http::HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        let map = headers(&[("x-forwarded-for", "1.2.3.4")]);
        let client = find(Some(ip("192.0.2.9")), &trusted(), &map);
        assert_eq!(client, Client { address: Some(ip("192.0.2.9")), via_trusted: false });
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        let map = headers(&[("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.1.1.1"), ("x-forwarded-for", "10.2.2.2")]);
        assert_eq!(find(Some(ip("10.0.0.1")), &trusted(), &map).address, Some(ip("1.2.3.4")));
    }

    #[test]
    fn where_all_are_trusted_the_leftmost_is_the_client() {
        let map = headers(&[("x-forwarded-for", "10.3.3.3, 10.2.2.2")]);
        assert_eq!(find(Some(ip("10.0.0.1")), &trusted(), &map).address, Some(ip("10.3.3.3")));
    }

    #[test]
    fn reading_stops_at_what_is_no_address() {
        let map = headers(&[("x-forwarded-for", "1.2.3.4, unknown, 10.2.2.2")]);
        assert_eq!(find(Some(ip("10.0.0.1")), &trusted(), &map).address, Some(ip("10.2.2.2")));
        let map = headers(&[("x-forwarded-for", "rubbish")]);
        assert_eq!(find(Some(ip("10.0.0.1")), &trusted(), &map).address, Some(ip("10.0.0.1")));
    }

    #[test]
    fn forwarded_is_read_with_quotes_brackets_and_ports() {
        let map = headers(&[("forwarded", "for=6.6.6.6, For=\"[2001:db8::7]:4711\";proto=https, for=10.9.9.9:80")]);
        assert_eq!(find(Some(ip("10.0.0.1")), &trusted(), &map).address, Some(ip("2001:db8::7")));
    }

    #[test]
    fn addresses_mapped_into_ipv6_are_ipv4() {
        let map = headers(&[("x-forwarded-for", "::ffff:1.2.3.4")]);
        assert_eq!(find(Some(ip("::ffff:10.0.0.1")), &trusted(), &map).address, Some(ip("1.2.3.4")));
    }

    #[test]
    fn a_unix_peer_is_trusted_only_where_some_proxy_is() {
        let map = headers(&[("x-forwarded-for", "1.2.3.4")]);
        assert_eq!(find(None, &trusted(), &map).address, Some(ip("1.2.3.4")));
        assert_eq!(find(None, &[], &map).address, None);
    }
}
