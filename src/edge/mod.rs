//! The edge: where bytes of a client become a request, or an answer that says why not.
//!
//! `connection` is the loop: accept → requests → park → close. `door` is the listener it came in by, `stream` is the
//! connection as Pingora sees it, `limits` counts connections, `transport` is the sockets they come by. The parsers are in
//! `wire`.

pub mod connection;
pub mod door;
pub mod limits;
pub mod stream;
pub mod transport;
