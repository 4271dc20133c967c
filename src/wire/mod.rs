//! HTTP/1.1 as bytes: where a message begins and ends, and what it says.
//!
//! The parsers are pure functions over bytes: no input, no output, no clock, and no allocation for a message that is
//! well formed once a connection's parser has seen its first. They accept one reading of HTTP/1.1 (RFC 9110, RFC 9112) and
//! refuse all else, so that no two parsers on the way can take the same bytes for different messages.
//! `docs/conformance.md` lists every rule.
//!
//! `head` reads the heads of requests, `answer` those of answers, `framing` follows bodies, `dialogue` both
//! directions of a connection to a backend. Reading sockets is the edge's and the lane's part.

#[cfg(test)]
mod agreement;
pub mod answer;
pub mod dialogue;
pub mod fields;
pub mod framing;
mod grammar;
pub mod head;
mod known;
mod lines;
pub mod refusal;
pub mod target;
mod trailer;
