//! How a client's connection ends: with all that was to be sent, and where its answer can still be read.

use std::io::Result;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ClientStream, Remains};
use crate::edge::transport::Transport;

/// How long, and for how many bytes, a closed connection still listens, so that the client can read the answer it got
/// before the system resets the connection for the bytes nobody read (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

impl Drop for ClientStream {
    /// Sends what is left of an answer that broke off, so that the client sees that it did, and lingers where the client
    /// may still be sending: closing a socket with unread bytes resets the connection, and the client would lose the answer.
    fn drop(&mut self) {
        let (Some(mut transport), Some(ticket)) = (self.transport.take(), self.ticket.take()) else { return };
        if self.watch.begins_again() {
            let (head, inbox) = (std::mem::take(&mut self.head), std::mem::take(&mut self.inbox));
            *self.remains.lock() = Some(Remains { transport, ticket, head, inbox });
            return;
        }
        let done = self.body.ended() && self.inbox.is_empty() && self.outbox.is_empty();
        if done || self.waits.is_writing() || self.watch.is_tunnel() {
            return transport.take_leave();
        }
        let rest = std::mem::take(&mut self.outbox);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                farewell(transport, &rest).await;
                drop(ticket);
            });
        }
    }
}

/// Sends an answer on a connection that is not served at all, and closes it.
pub(in crate::edge) async fn farewell(mut transport: Transport, answer: &[u8]) {
    if let Ok(Ok(())) = tokio::time::timeout(LINGER, transport.write_all(answer)).await {
        linger(transport).await;
    }
}

/// Closes for writing, and reads what still comes until the client has closed too, within bounds.
pub(in crate::edge) async fn linger(mut transport: Transport) {
    let discard = async {
        transport.shutdown().await?;
        let mut sink = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match transport.read(&mut sink).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Result::Ok(())
    };
    // Whatever happens to a connection that is being closed changes nothing for anybody.
    let _ = tokio::time::timeout(LINGER, discard).await;
}
