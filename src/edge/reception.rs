//! What happens between the accept and the first request: the client says who it is, and shakes hands.
//!
//! Every step has a deadline of its own. A client that fails one is sent away without a line in the access log: nothing that
//! could be a request has come from it, but for plain HTTP that is sent where TLS is spoken, which is answered so that
//! whoever tries it by hand sees what is wrong.

use std::io;
use std::sync::Arc;

use pingora_core::apps::HttpServerApp;
use tokio::time::timeout;

use super::connection::{Edge, Entrance};
use super::limits::Ticket;
use super::stream::ClientStream;
use super::transport::Transport;
use crate::config::plan;
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
    pub async fn receive(&self, transport: Transport, listener: Arc<plan::Listener>, ticket: Ticket) {
        // On the heap for as long as it takes, so that a connection that is served does not carry room for it along.
        let received = Box::pin(self.welcome(transport, &listener)).await;
        let clock = self.current.clock();
        match received {
            Ok(Received::Client(transport, tls)) => {
                let entrance = Entrance { peer: transport.peer(), listener, tls };
                let stream = ClientStream::new(transport, entrance.listener.timeouts, clock, ticket);
                self.serve(Box::new(stream), entrance).await;
            }
            Ok(Received::Plain(transport)) => {
                let entrance = Entrance { peer: transport.peer(), listener, tls: None };
                let mut stream = Box::new(ClientStream::new(transport, entrance.listener.timeouts, clock, ticket));
                let received = clock.now();
                // What has come is read for the log; what else comes is not waited for.
                if stream.read_more().await.is_ok() {
                    self.refuse(stream, &entrance, received, Reason::PlainHttp).await;
                }
            }
            Err(error) => log::debug!("no handshake: listener={} error=\"{error}\"", listener.name),
        }
    }

    async fn welcome(&self, transport: Transport, listener: &plan::Listener) -> io::Result<Received> {
        if listener.tls.is_none() {
            return Ok(Received::Client(transport, None));
        }
        let terminator = self.current.load().terminators.get(&listener.name).cloned();
        // A reload may just have taken the listener away.
        let terminator = terminator.ok_or(io::ErrorKind::ConnectionAborted)?;
        timeout(listener.timeouts.tls_handshake, shake_hands(transport, &terminator)).await?
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
