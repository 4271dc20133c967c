//! The edge: where bytes of a client become a request, or an answer that says why not.
//!
//! `reception` is what comes before the first request (PROXY protocol, TLS), `connection` the loop: requests → park → close. `door` is the
//! listener it came in by, `stream` is the
//! connection as Pingora sees it, with its `timer` and its `spare` buffers, `waits` are those for the client on either, `h2` is all that is different over HTTP/2, `limits` counts connections, `transport` is the sockets they come by. The parsers are in
//! `wire`.

pub mod connection;
pub mod door;
mod h2;
pub mod limits;
pub mod reception;
mod spare;
pub mod stream;
mod timer;
pub mod transport;
mod waits;
