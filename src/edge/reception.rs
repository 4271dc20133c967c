//! What happens between the accept and the first request: a proxy in front says whom it speaks for, the client is counted,
//! and shakes hands.
//!
//! Every step has a deadline of its own. A client that fails one is sent away without a line in the access log, but with one in
//! the process log: nothing that could be a request has come from it, but for plain HTTP that is sent where TLS is spoken, which is answered so that
//! whoever tries it by hand sees what is wrong.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::HttpServerApp;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::connection::{Audience, Edge};
use super::door::Entrance;
use super::limits::Ticket;
use super::stream::{ClientStream, leave};
use super::transport::Transport;
use crate::base::clock::Moment;
use crate::base::proxy_protocol::{self, Ends, Outcome};
use crate::config::plan;
use crate::exchange::refused::{Refused, Seen};
use crate::telemetry::metrics::series::Refusal;
use crate::telemetry::reason::Reason;
use crate::tls::{Facts, Terminator, failure};

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
    /// It has failed a step, and is gone or sent away.
    Gone(Refusal, io::Error),
    /// It has left without a word, as probes of the port do: nothing was refused.
    Silent,
}

/// What comes where the PROXY protocol is expected.
enum Introduced {
    As(Ends),
    ByItself,
    Nothing,
}

/// What a client speaks where TLS is expected.
enum Spoken {
    Tls(Transport, Facts),
    Plain(Transport),
    /// TLS, but not as it must be.
    Faulty(Transport, io::Error),
    Nothing,
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
                entrance.refused(Refusal::TlsHandshake);
                tell(&entrance, clock.now(), Refusal::TlsHandshake, &error);
                Box::pin(leave::linger(transport)).await;
            }
            Received::Gone(refusal, error) => {
                entrance.refused(refusal);
                tell(&entrance, clock.now(), refusal, &error);
            }
            Received::Silent => {}
        }
    }

    /// Tells a client that there is no room, and closes. Only so many clients are told at once: beyond that the connection is
    /// closed without a word, and so is one that expects TLS: the handshake would cost more than the request.
    pub fn turn_away(&self, transport: Transport, entrance: &Entrance, refusal: Refusal) {
        entrance.refused(refusal);
        let snapshot = self.current.load();
        let place = self.farewells.clone().try_acquire_owned().ok().filter(|_| entrance.terminator().is_none());
        let Some(place) = place else { return snapshot.counters.answered(Reason::ConnectionLimitReached) };
        let refused = Refused::new(&snapshot, &entrance.listener, Reason::ConnectionLimitReached);
        let answer = refused.answer(false).unwrap_or_default();
        if self.audience == Audience::Clients {
            refused.because(refusal.text()).record(entrance.peer, None, snapshot.clock.now(), Seen::default());
        }
        drop(tokio::spawn(async move {
            leave::farewell(transport, &answer).await;
            drop(place);
        }));
    }
}

/// Tells of a client that has failed a step. Anybody can provoke this, so that only so many lines are written.
fn tell(entrance: &Entrance, now: Moment, refusal: Refusal, error: &io::Error) {
    let Some(left_out) = entrance.may_tell(now) else { return };
    let listener = &entrance.listener.name;
    let client = entrance.peer.map_or_else(|| "unix:".to_owned(), |peer| peer.to_string());
    let more = if left_out == 0 { String::new() } else { format!(" left_out={left_out}") };
    if refusal == Refusal::TlsHandshake {
        let why = failure::why(error);
        log::info!("TLS handshake failed: listener={listener} client={client} why={why:?}{more}");
    } else {
        let why = no_introduction(error);
        log::info!("no PROXY header: listener={listener} client={client} why={why:?}{more}");
    }
}

fn no_introduction(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "it did not come in time (`timeouts.header`)".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed before its end".to_owned(),
        _ => error.to_string(),
    }
}

/// Finds out who the client is, in the order in which it says so.
async fn welcome(transport: Transport, entrance: &mut Entrance, ticket: &mut Ticket) -> Received {
    let mut transport = transport;
    let listener = entrance.listener.clone();
    if must_be_introduced(entrance.peer, listener.proxy_protocol.as_deref()) {
        match introduced(&mut transport, listener.timeouts.header).await {
            Ok(Introduced::ByItself) => {}
            Ok(Introduced::As(ends)) => (entrance.peer, entrance.local) = (Some(ends.source), Some(ends.destination)),
            Ok(Introduced::Nothing) => return Received::Silent,
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
        Ok(Spoken::Nothing) => Received::Silent,
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
async fn introduced(transport: &mut Transport, deadline: Duration) -> io::Result<Introduced> {
    let read = async {
        let mut header = Vec::new();
        let mut ahead = [0; 512];
        loop {
            let count = transport.peek(&mut ahead).await?;
            let before = header.len();
            if count == 0 {
                return if before == 0 { Ok(Introduced::Nothing) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            header.extend_from_slice(&ahead[..count]);
            let (taken, ends) = match proxy_protocol::parse(&header) {
                Outcome::Refused(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
                Outcome::Complete { len, ends } => (len - before, Some(ends)),
                Outcome::Partial => (count, None),
            };
            // All of it is there: it has been looked at.
            transport.read_exact(&mut ahead[..taken]).await?;
            if let Some(ends) = ends {
                return Ok(ends.map_or(Introduced::ByItself, Introduced::As));
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
        if count == 0 {
            return Ok(Spoken::Nothing);
        }
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
