//! The edge: where bytes of a client become a request, or an answer that says why not.
//!
//! `connection` is the loop: accept → requests → park → close. `stream` is the connection as Pingora sees it, `h2` is
//! all that is different over HTTP/2, `limits` counts connections, `transport` is the sockets they come by.
//!
//! The parsers are pure functions over bytes: no input, no output, no clock, and no allocation for a request that is
//! well formed once a connection's parser has seen its first. They accept one reading of HTTP/1.1 (RFC 9110, RFC 9112) and
//! refuse all else, so that no two parsers on the way can take the same bytes for different requests.
//! `docs/conformance.md` lists every rule.

#[cfg(test)]
mod agreement;
pub mod connection;
pub mod fields;
pub mod framing;
mod grammar;
mod h2;
pub mod head;
mod known;
pub mod limits;
pub mod refusal;
pub mod stream;
pub mod target;
mod trailer;
pub mod transport;
