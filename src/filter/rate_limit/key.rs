//! What requests are counted by.

use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::net::IpAddr;

use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use super::table::Fingerprint;
use crate::base::pairs;
use crate::base::request::RequestView;
use crate::config::plan::RateKey;

/// The fingerprint of what a request is counted by; none where it does not have it, and is not counted.
///
/// Clients without an address (on a unix socket) are counted together. Of an IPv6 address the network counts, for whoever has
/// one address has all of a /64 (RFC 4291, 2.5.4); an IPv4 address inside an IPv6 one (4291, 2.5.5.2) is an IPv4 address.
pub(super) fn fingerprint(key: &RateKey, request: &RequestView<'_>, secret: [u64; 2]) -> Option<Fingerprint> {
    let mut hasher = SipHasher13::new_with_keys(secret[0], secret[1]);
    match key {
        RateKey::Route => {}
        RateKey::ClientIp { ipv4_prefix, ipv6_prefix } => match request.client.map(|client| client.to_canonical()) {
            Some(IpAddr::V4(client)) => hasher.write_u32(client.to_bits() & u32_mask(*ipv4_prefix)),
            Some(IpAddr::V6(client)) => hasher.write_u128(client.to_bits() & u128_mask(*ipv6_prefix)),
            None => {}
        },
        RateKey::Header(name) => hasher.write(request.fields.get(name.as_str())?),
        RateKey::Cookie(name) => pairs::cookie(request.fields, name, |value| hasher.write(value))?,
        RateKey::Query(name) => pairs::parameter(request.query, name)?.for_each(|byte| hasher.write_u8(byte)),
    }
    Some(Fingerprint(hasher.finish()))
}

/// What a request is counted by, as an operator reads it; none where it is not counted.
#[must_use]
pub fn counted_by(key: &RateKey, request: &RequestView<'_>) -> Option<String> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    match key {
        RateKey::Route => Some("all requests of the route".to_owned()),
        RateKey::ClientIp { ipv4_prefix, ipv6_prefix } => {
            Some(match request.client.map(|client| client.to_canonical()) {
                Some(client) => {
                    let prefix = if client.is_ipv4() { *ipv4_prefix } else { *ipv6_prefix };
                    IpNet::new(client, prefix)
                        .map_or_else(|_| client.to_string(), |network| network.trunc().to_string())
                }
                None => "clients without an address".to_owned(),
            })
        }
        RateKey::Header(name) => Some(format!("`{name}: {}`", text(request.fields.get(name.as_str())?))),
        RateKey::Cookie(name) => Some(format!("the cookie `{name}={}`", pairs::cookie(request.fields, name, text)?)),
        RateKey::Query(name) => {
            let value: Vec<u8> = pairs::parameter(request.query, name)?.collect();
            Some(format!("the query parameter `{name}={}`", text(&value)))
        }
    }
}

fn u32_mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn u128_mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

/// The name of a key as a String of RFC 9651, 3.3.3, with its number where there are several of the kind.
pub(super) fn quoted(key: &RateKey, nth: usize) -> String {
    let mut quoted = "\"".to_owned();
    for character in key.to_string().chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push('_'),
        }
    }
    if nth > 0 {
        // Writing to a `String` cannot fail.
        let _ = write!(quoted, "-{}", nth + 1);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};
    use proptest::prelude::*;

    use super::*;
    use crate::base::request::Scheme;

    fn view<'a>(client: Option<IpAddr>, query: Option<&'a str>, fields: &'a HeaderMap) -> RequestView<'a> {
        RequestView { method: "GET", scheme: Scheme::Http, host: "h", path: "/", query, client, fields }
    }

    fn of_client(client: &str, ipv4_prefix: u8, ipv6_prefix: u8) -> Option<Fingerprint> {
        let (fields, key) = (HeaderMap::new(), RateKey::ClientIp { ipv4_prefix, ipv6_prefix });
        fingerprint(&key, &view(client.parse().ok(), None, &fields), [1, 2])
    }

    #[test]
    fn addresses_of_one_network_count_as_one() {
        assert_eq!(of_client("2001:db8::1", 32, 64), of_client("2001:db8::ffff:0:0:1", 32, 64));
        assert_ne!(of_client("2001:db8::1", 32, 64), of_client("2001:db8:0:1::1", 32, 64));
        assert_ne!(of_client("2001:db8::1", 32, 128), of_client("2001:db8::2", 32, 128));
        assert_ne!(of_client("192.0.2.1", 32, 64), of_client("192.0.2.2", 32, 64));
        assert_eq!(of_client("192.0.2.1", 24, 64), of_client("192.0.2.2", 24, 64));
        assert_eq!(of_client("::ffff:192.0.2.1", 32, 64), of_client("192.0.2.1", 32, 64));
        assert_eq!(of_client("none", 32, 64), of_client("none", 32, 64));
        assert_ne!(of_client("0.0.0.0", 32, 64), of_client("::", 32, 64));
    }

    #[test]
    fn another_process_counts_by_other_fingerprints() {
        let (fields, key) = (HeaderMap::new(), RateKey::ClientIp { ipv4_prefix: 32, ipv6_prefix: 64 });
        let view = view("192.0.2.1".parse().ok(), None, &fields);
        assert_ne!(fingerprint(&key, &view, [1, 2]), fingerprint(&key, &view, [1, 3]));
    }

    #[test]
    fn what_a_request_does_not_have_it_is_not_counted_by() {
        let mut fields = HeaderMap::new();
        let keys = [
            RateKey::Header(HeaderName::from_static("x-key")),
            RateKey::Cookie("sid".to_owned()),
            RateKey::Query("k".to_owned()),
        ];
        for key in &keys {
            let request = view(None, Some("a=1"), &fields);
            assert_eq!((fingerprint(key, &request, [1, 2]), counted_by(key, &request)), (None, None));
        }
        fields.insert("x-key", "a".parse().unwrap());
        fields.insert("cookie", "sid=b".parse().unwrap());
        let told = keys.each_ref().map(|key| counted_by(key, &view(None, Some("k=%63"), &fields)).unwrap());
        assert_eq!(told, ["`x-key: a`", "the cookie `sid=b`", "the query parameter `k=c`"]);
    }

    #[test]
    fn a_parameter_cannot_change_its_looks() {
        let (fields, key) = (HeaderMap::new(), RateKey::Query("k".to_owned()));
        let of = |query| fingerprint(&key, &view(None, Some(query), &fields), [1, 2]);
        assert_eq!(of("k=ab"), of("%6b=%61b"));
        assert_ne!(of("k=ab"), of("k=b"));
    }

    #[test]
    fn names_are_strings_of_structured_fields() {
        assert_eq!(quoted(&RateKey::Route, 0), "\"route\"");
        assert_eq!(quoted(&RateKey::Query("a\"\\ä".to_owned()), 1), "\"query:a\\\"\\\\_-2\"");
    }

    proptest! {
        #[test]
        fn every_prefix_keeps_its_bits(address: u128, prefix in 0..=128_u8) {
            let kept = address & u128_mask(prefix);
            prop_assert_eq!(kept, IpNet::new(IpAddr::V6(address.into()), prefix).map(|net| match net.trunc().addr() {
                IpAddr::V6(address) => address.to_bits(),
                IpAddr::V4(_) => 0,
            }).unwrap());
        }
    }
}
