//! What happens between the accept and the first request: the client says who it is, and shakes hands.
//!
//! Every step has a deadline of its own. A client that fails one is sent away without a line in the access log: nothing that
//! could be a request has come from it, but for plain HTTP that is sent where TLS is spoken, which is answered so that
//! whoever tries it by hand sees what is wrong.

use std::io;
use std::sync::Arc;

use pingora_core::apps::HttpServerApp;
use tokio::time::timeout;

use super::connection::Edge;
use super::door::Entrance;
use super::limits::Ticket;
use super::stream::ClientStream;
use super::transport::Transport;
use crate::telemetry::reason::Reason;
use crate::tls::{Facts, Terminator};

/// What a client has turned out to be.
enum Received {
    /// It may send requests.
    Client(Transport, Option<Arc<Facts>>),
    /// It sends plain HTTP where TLS is spoken.
    Plain(Transport),
}

impl<A: HttpServerApp> Edge<A> {
    /// Receives a connection that has just been accepted, and serves it until either side closes it.
    pub async fn receive(&self, transport: Transport, mut entrance: Entrance, ticket: Ticket) {
        // On the heap for as long as it takes, so that a connection that is served does not carry room for it along.
        let received = Box::pin(self.welcome(transport, &entrance)).await;
        let (timeouts, clock) = (entrance.listener.timeouts, self.current.clock());
        match received {
            Ok(Received::Client(transport, tls)) => {
                entrance.tls = tls;
                self.serve(Box::new(ClientStream::new(transport, timeouts, clock, ticket)), entrance).await;
            }
            Ok(Received::Plain(transport)) => {
                let mut stream = Box::new(ClientStream::new(transport, timeouts, clock, ticket));
                let received = clock.now();
                // What has come is read for the log; what else comes is not waited for.
                if stream.read_more().await.is_ok() {
                    self.refuse(stream, &entrance, received, Reason::PlainHttp, Reason::PlainHttp.text()).await;
                }
            }
            Err(error) => log::debug!("no handshake: listener={} error=\"{error}\"", entrance.listener.name),
        }
    }

    async fn welcome(&self, transport: Transport, entrance: &Entrance) -> io::Result<Received> {
        match entrance.terminator() {
            None => Ok(Received::Client(transport, None)),
            Some(terminator) => {
                timeout(entrance.listener.timeouts.tls_handshake, shake_hands(transport, &terminator)).await?
            }
        }
    }
}

async fn shake_hands(transport: Transport, terminator: &Terminator) -> io::Result<Received> {
    let mut first = [0; 1];
    let count = transport.peek(&mut first).await?;
    if first[..count].first().is_some_and(u8::is_ascii_uppercase) {
        return Ok(Received::Plain(transport));
    }
    let (transport, facts) = transport.secure(terminator.config()).await?;
    Ok(Received::Client(transport, Some(Arc::new(facts))))
}
