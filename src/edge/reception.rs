//! What happens between the accept and the first request: a proxy in front says whom it speaks for, the client is counted,
//! and shakes hands.
//!
//! Every step has a deadline of its own. A client that fails one is sent away without a line in the access log: nothing that
//! could be a request has come from it, but for plain HTTP that is sent where TLS is spoken, which is answered so that
//! whoever tries it by hand sees what is wrong.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::HttpServerApp;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::connection::Edge;
use super::door::Entrance;
use super::limits::Ticket;
use super::stream::{self, ClientStream};
use super::transport::Transport;
use crate::base::proxy_protocol::{self, Ends, Outcome};
use crate::config::plan;
use crate::exchange::refused::Refused;
use crate::telemetry::metrics::series::Refusal;
use crate::telemetry::reason::Reason;
use crate::tls::{Facts, Terminator};

/// What becomes of a client.
enum Received {
    /// It may send requests.
    Welcome(Transport),
    /// It sends plain HTTP where TLS is spoken.
    Plain(Transport),
    /// There is no room for another connection of it.
    Full(Transport),
    /// Its handshake has failed, and it has been told why by an alert.
    Alerted(Transport, io::Error),
    /// It is gone, or is sent away.
    Gone(Refusal, io::Error),
}

/// What a client speaks where TLS is expected.
enum Spoken {
    Tls(Transport, Facts),
    Plain(Transport),
    /// TLS, but not as it must be.
    Faulty(Transport, io::Error),
}

impl<A: HttpServerApp + Send + Sync + 'static> Edge<A> {
    /// Receives a connection that has just been accepted, and serves it until either side closes it.
    pub async fn receive(&self, transport: Transport, mut entrance: Entrance, mut ticket: Ticket) {
        // On the heap for as long as it takes, so that a connection that is served does not carry room for it along.
        let received = Box::pin(welcome(transport, &mut entrance, &mut ticket)).await;
        let (timeouts, clock) = (entrance.listener.timeouts, self.current.clock());
        match received {
            Received::Welcome(transport) => {
                self.serve(Box::new(ClientStream::new(transport, timeouts, clock.clone(), ticket)), entrance).await;
            }
            Received::Plain(transport) => {
                let mut stream = Box::new(ClientStream::new(transport, timeouts, clock.clone(), ticket));
                let received = clock.now();
                // What has come is read for the log; what else comes is not waited for.
                if stream.read_more().await.is_ok() {
                    Box::pin(self.refuse(stream, &entrance, received, Reason::PlainHttp, Reason::PlainHttp.text()))
                        .await;
                }
            }
            Received::Full(transport) => self.turn_away(transport, &entrance, Refusal::ConnectionsPerClient),
            Received::Alerted(transport, error) => {
                send_away(&entrance, Refusal::TlsHandshake, &error);
                Box::pin(stream::linger(transport)).await;
            }
            Received::Gone(refusal, error) => send_away(&entrance, refusal, &error),
        }
    }

    /// Tells a client that there is no room, and closes. Only so many clients are told at once: beyond that the connection is
    /// closed without a word, and so is one that expects TLS: the handshake would cost more than the request.
    pub fn turn_away(&self, transport: Transport, entrance: &Entrance, refusal: Refusal) {
        entrance.refused(refusal);
        let snapshot = self.current.load();
        snapshot.counters.answered(Reason::ConnectionLimitReached);
        if entrance.terminator().is_some() {
            return;
        }
        let answer = Refused::new(&snapshot, &entrance.listener, Reason::ConnectionLimitReached).answer(false);
        if let (Some(answer), Ok(place)) = (answer, self.farewells.clone().try_acquire_owned()) {
            drop(tokio::spawn(async move {
                stream::farewell(transport, &answer).await;
                drop(place);
            }));
        }
    }
}

fn send_away(entrance: &Entrance, refusal: Refusal, error: &io::Error) {
    entrance.refused(refusal);
    log::debug!("not received: listener={} error=\"{error}\"", entrance.listener.name);
}

/// Finds out who the client is, in the order in which it says so.
async fn welcome(transport: Transport, entrance: &mut Entrance, ticket: &mut Ticket) -> Received {
    let mut transport = transport;
    let listener = entrance.listener.clone();
    if must_be_introduced(entrance.peer, listener.proxy_protocol.as_deref()) {
        match introduced(&mut transport, listener.timeouts.header).await {
            Ok(None) => {}
            Ok(Some(ends)) => (entrance.peer, entrance.local) = (Some(ends.source), Some(ends.destination)),
            Err(error) => return Received::Gone(Refusal::ProxyProtocol, error),
        }
    }
    if let (Some(peer), Some(most)) = (entrance.peer, listener.limits.connections_per_client)
        && !ticket.count_for(peer.ip(), most)
    {
        return Received::Full(transport);
    }
    let Some(terminator) = entrance.terminator() else { return Received::Welcome(transport) };
    match shaken_hands(transport, &terminator, &listener.timeouts).await {
        Ok(Spoken::Tls(transport, facts)) => {
            entrance.tls = Some(Arc::new(facts));
            Received::Welcome(transport)
        }
        Ok(Spoken::Plain(transport)) => Received::Plain(transport),
        Ok(Spoken::Faulty(transport, error)) => Received::Alerted(transport, error),
        Err(error) => Received::Gone(Refusal::TlsHandshake, error),
    }
}

/// Whether a peer must say whom it speaks for. Of a unix socket only its permissions can tell who may connect.
fn must_be_introduced(peer: Option<SocketAddr>, from: Option<&[ipnet::IpNet]>) -> bool {
    from.is_some_and(|from| {
        peer.is_none_or(|peer| from.iter().any(|network| network.contains(&peer.ip().to_canonical())))
    })
}

/// Reads the PROXY protocol's header, and not a byte more.
async fn introduced(transport: &mut Transport, deadline: Duration) -> io::Result<Option<Ends>> {
    let read = async {
        let mut header = Vec::new();
        let mut ahead = [0; 512];
        loop {
            let count = transport.peek(&mut ahead).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let before = header.len();
            header.extend_from_slice(&ahead[..count]);
            let (taken, ends) = match proxy_protocol::parse(&header) {
                Outcome::Refused(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
                Outcome::Complete { len, ends } => (len - before, Some(ends)),
                Outcome::Partial => (count, None),
            };
            // All of it is there: it has been looked at.
            transport.read_exact(&mut ahead[..taken]).await?;
            if let Some(ends) = ends {
                return Ok(ends);
            }
        }
    };
    timeout(deadline, read).await?
}

async fn shaken_hands(
    transport: Transport,
    terminator: &Terminator,
    timeouts: &plan::ListenerTimeouts,
) -> io::Result<Spoken> {
    let shake = async {
        let mut first = [0; 1];
        let count = transport.peek(&mut first).await?;
        if first[..count].first().is_some_and(u8::is_ascii_uppercase) {
            return Ok(Spoken::Plain(transport));
        }
        Ok(match transport.secure(terminator.config()).await {
            Ok((transport, facts)) => Spoken::Tls(transport, facts),
            Err((error, transport)) => Spoken::Faulty(transport, error),
        })
    };
    timeout(timeouts.tls_handshake, shake).await?
}
