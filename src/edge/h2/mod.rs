//! HTTP/2 (RFC 9113): a connection of many requests at once.
//!
//! `connection` is the loop: accept → streams → GOAWAY → close. `head` judges each request's head by the rules of HTTP/1.1 and
//! makes of it what both roads know. `stream` is one stream with its deadlines (`alarm` lends it a timer) and bounds; `client` is that as the lane
//! sees it, with heads as `text` of HTTP/1.1, and `session` as Pingora sees it. `pipe` lies under the codec (the `h2` crate), where `frames` finds every frame and `ledger` bounds
//! those that cost more than they are worth. `docs/http2.md` lists the bounds and what becomes of those who cross them.

mod alarm;
mod client;
mod connection;
mod frames;
mod head;
mod ledger;
mod pipe;
mod session;
mod stream;
mod text;

pub(super) use connection::{Came, serve};

/// What every HTTP/2 connection of a client begins with (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection that begins with `bytes` speaks HTTP/2; none: too few to tell.
pub(super) fn is_preface(bytes: &[u8]) -> Option<bool> {
    let len = bytes.len().min(PREFACE.len());
    match bytes[..len] == PREFACE[..len] {
        false => Some(false),
        true => (len == PREFACE.len()).then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_requests_of_http_1_are_told_from_a_preface() {
        assert_eq!(is_preface(b"GET / HTTP/1.0\r\n\r\n"), Some(false));
        assert_eq!(is_preface(b"PUT"), Some(false));
        assert_eq!(is_preface(b"PRI * HTTP/1.1\r\n"), Some(false));
        assert_eq!(is_preface(b""), None);
        assert_eq!(is_preface(b"P"), None);
        assert_eq!(is_preface(&PREFACE[..23]), None);
        assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"), Some(true));
    }
}
