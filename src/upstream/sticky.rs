//! Sticky sessions: a cookie that names a client's backend without telling its address.
//!
//! Pure. The token is a hash of the upstream's name and the backend's identity, so that it outlives restarts and is the
//! same at every instance with the same configuration. It is opaque, not secret: who can guess name and address can
//! compute it, and gains nothing by it but the choice of a backend that he might be given anyway. A token of a backend
//! that is gone or out is passed over, and the answer carries a new one.

use std::fmt;
use std::time::Duration;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::backend::BackendId;
use crate::base::request::Scheme;
use crate::config::plan::Sticky;

/// What the cookie says: 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// The token of a backend of the upstream `upstream`.
    #[must_use]
    pub fn of(upstream: &str, backend: BackendId) -> Self {
        Self(xxh3_64_with_seed(&backend.0.to_le_bytes(), xxh3_64(upstream.as_bytes())))
    }

    /// The token in a cookie's value; none where it is no token of ours.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let digits = value.len() == 16 && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u64::from_str_radix(value, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The value of the `Set-Cookie` field (RFC 6265) that binds a client to the backend of `token`: for the whole site, out
/// of reach of scripts, not sent along from other sites' forms, and over TLS only where the client came by TLS.
#[must_use]
pub fn set_cookie(sticky: &Sticky, token: Token, scheme: Scheme) -> String {
    let mut cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax", sticky.cookie);
    if let Some(max_age) = sticky.max_age.as_ref().map(Duration::as_secs) {
        cookie.push_str(&format!("; Max-Age={max_age}"));
    }
    if scheme == Scheme::Https {
        cookie.push_str("; Secure");
    }
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_who_without_saying_where_and_outlives_restarts() {
        let token = Token::of("web", BackendId(7));
        assert_eq!(Token::parse(&token.to_string()), Some(token));
        assert_eq!(token.to_string(), Token::of("web", BackendId(7)).to_string());
        assert_ne!(token, Token::of("web", BackendId(8)));
        assert_ne!(token, Token::of("api", BackendId(7)));
    }

    #[test]
    fn what_is_no_token_is_none() {
        for value in ["", "0", "xyz", "00000000000000000", "+000000000000001", "000000000000000G", "00000000 0000001"] {
            assert_eq!(Token::parse(value), None, "{value}");
        }
    }

    #[test]
    fn the_cookie_is_for_the_whole_site_and_secure_over_tls() {
        let sticky = |max_age| Sticky { cookie: "ROUNDEL".into(), max_age };
        let token = Token(0xab);
        assert_eq!(
            set_cookie(&sticky(None), token, Scheme::Http),
            "ROUNDEL=00000000000000ab; Path=/; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            set_cookie(&sticky(Some(Duration::from_secs(3600))), token, Scheme::Https),
            "ROUNDEL=00000000000000ab; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure"
        );
    }
}
