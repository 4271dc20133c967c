//! Noticing that a client leaves while its request waits and nobody reads from it.

use std::time::Duration;

use pingora_core::protocols::SocketDigest;
use pingora_proxy::Session;
use tokio::time::{Instant, sleep};

use crate::exchange::watch::HALF_CLOSED;

/// How often a connection is looked at that must not be read from.
const LOOK: Duration = Duration::from_millis(100);

/// States of a connection, as Linux counts them: it is broken; the client has closed its side.
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;

/// Returns when the client has left, or a deadline of its request has passed.
pub(super) async fn of_client(session: &mut Session) {
    if session.is_body_done() {
        // The stream of the edge knows. What it says besides has its place in the watch.
        let _ = session.as_mut().read_body_or_idle(true).await;
        return;
    }
    match session.as_ref().digest().and_then(|digest| digest.socket_digest.clone()) {
        // The rest of the body must stay where it is, and a FIN may stand behind it: the system is asked.
        Some(socket) => broken(&socket).await,
        None => std::future::pending().await,
    }
}

/// On a unix socket nothing is seen; a request there waits no longer than it may anyway.
async fn broken(socket: &SocketDigest) {
    let mut closed_since = None;
    loop {
        match socket.tcp_info().map(|info| info.tcpi_state) {
            Some(CLOSE) => return,
            Some(CLOSE_WAIT) => {
                let since = *closed_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= HALF_CLOSED {
                    return;
                }
            }
            _ => closed_since = None,
        }
        sleep(LOOK).await;
    }
}
