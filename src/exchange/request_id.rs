//! The request's id: kept where a trusted proxy sent one, else made.

use crate::base::request::Fields;
use crate::base::text;

/// The longest id that is kept.
const LONGEST: usize = 128;

/// An id that tells one request from all others in logs, in headers and in `why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Id);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Id {
    Made([u8; 32]),
    Kept(Box<str>),
}

impl RequestId {
    /// The id of a request: that of `X-Request-Id` where the peer is trusted and the id is fit for a log line, else a new one.
    #[must_use]
    pub fn of(fields: &dyn Fields, via_trusted: bool) -> Self {
        via_trusted.then(|| fields.get("x-request-id")).flatten().and_then(Self::kept).unwrap_or_else(Self::new)
    }

    /// A new id: 32 hex digits, random.
    #[must_use]
    pub fn new() -> Self {
        Self(Id::Made(text::hex(fastrand::u128(..))))
    }

    fn kept(value: &[u8]) -> Option<Self> {
        let fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
        let text = std::str::from_utf8(value).ok()?;
        ((1..=LONGEST).contains(&value.len()) && value.iter().all(fit)).then(|| Self(Id::Kept(text.into())))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Id::Made(digits) => text::ascii(digits).unwrap_or_default(),
            Id::Kept(id) => id,
        }
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_id(value: &[u8]) -> http::HeaderMap {
        let mut map = http::HeaderMap::new();
        map.insert("x-request-id", http::HeaderValue::from_bytes(value).unwrap());
        map
    }

    #[test]
    fn an_id_is_kept_only_from_a_trusted_peer() {
        assert_eq!(RequestId::of(&with_id(b"abc-1"), true).as_str(), "abc-1");
        assert_ne!(RequestId::of(&with_id(b"abc-1"), false).as_str(), "abc-1");
    }

    #[test]
    fn an_id_that_is_unfit_for_a_log_line_is_replaced() {
        for bad in [&b"a b"[..], b"", b"\xff", "a\"b".as_bytes(), &[b'a'; 129]] {
            assert_eq!(RequestId::of(&with_id(bad), true).as_str().len(), 32);
        }
    }
}
