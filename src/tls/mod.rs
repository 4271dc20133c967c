//! TLS toward clients: from certificate files to what a handshake needs, and what is known once it is done.
//!
//! `store` chooses a certificate by the name a client asks for, `terminator` is the TLS of one listener and reads its files
//! again when they change, `facts` is what a handshake has settled, `failure` why it was none. The bytes of connections are the edge's; PEM files are
//! read by `base::certificate`.

mod facts;
pub mod failure;
mod store;
mod terminator;

pub use facts::{ClientCertificate, Facts};
pub use terminator::{BuildError, Look, Serving, Terminator};
