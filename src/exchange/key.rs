//! What ties a request to a backend: the hash of its key, and its sticky cookie. Pure.

use std::net::IpAddr;

use xxhash_rust::xxh3::xxh3_64;

use crate::base::pairs;
use crate::base::request::{Fields, RequestView};
use crate::config::plan::{Balance, HashKey};

/// The hash by which an upstream that balances by hash chooses; none where it does not, or the request has no such key
/// (then any backend will do).
#[must_use]
pub fn hash(balance: &Balance, request: &RequestView<'_>) -> Option<u64> {
    let Balance::Hash { key, .. } = balance else { return None };
    match key {
        HashKey::ClientIp => request.client.map(|client| match client {
            IpAddr::V4(address) => xxh3_64(&address.octets()),
            IpAddr::V6(address) => xxh3_64(&address.octets()),
        }),
        HashKey::Path => Some(xxh3_64(request.path.as_bytes())),
        HashKey::Uri => Some(match request.query {
            None => xxh3_64(request.path.as_bytes()),
            Some(query) => xxh3_64(format!("{}?{query}", request.path).as_bytes()),
        }),
        HashKey::Header(name) => request.fields.get(name.as_str()).map(xxh3_64),
        HashKey::Cookie(name) => cookie(request.fields, name).map(|value| xxh3_64(value.as_bytes())),
        HashKey::Query(name) => parameter(request.query?, name).map(|value| xxh3_64(value.as_bytes())),
    }
}

/// The value of a cookie, as text.
#[must_use]
pub fn cookie(fields: &dyn Fields, name: &str) -> Option<String> {
    pairs::cookie(fields, name, |value| String::from_utf8(value.to_vec()).ok()).flatten()
}

/// The first value of a query parameter, as it was sent.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::request::Scheme;

    fn hash_of(key: HashKey, target: &'static str, cookies: &[&str]) -> Option<u64> {
        let mut fields = http::HeaderMap::new();
        for value in cookies {
            fields.append("cookie", value.parse().unwrap());
        }
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let client = Some([192, 0, 2, 1].into());
        let request =
            RequestView { method: "GET", scheme: Scheme::Http, host: "", path, query, client, fields: &fields };
        hash(&Balance::Hash { key, load_factor: None }, &request)
    }

    #[test]
    fn each_key_hashes_what_it_names() {
        let cookie = || HashKey::Cookie("sid".into());
        assert_eq!(hash_of(cookie(), "/", &["a=1; sid=x", "sid=y"]), hash_of(cookie(), "/other", &["sid=x"]));
        assert_ne!(hash_of(cookie(), "/", &["sid=x"]), hash_of(cookie(), "/", &["sid=y"]));
        assert_eq!(hash_of(cookie(), "/", &[]), None);
        let query = || HashKey::Query("q".into());
        assert_eq!(hash_of(query(), "/?a=1&q=7", &[]), hash_of(query(), "/b?q=7", &[]));
        assert_eq!(hash_of(HashKey::Path, "/a?b", &[]), hash_of(HashKey::Path, "/a", &[]));
        assert_ne!(hash_of(HashKey::Uri, "/a?b", &[]), hash_of(HashKey::Uri, "/a", &[]));
        assert!(hash_of(HashKey::ClientIp, "/", &[]).is_some());
    }
}
