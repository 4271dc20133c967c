//! One connection from a client: accept → requests → park → close.
//!
//! Reads each HTTP/1.1 head once, under a deadline and bounds. A head that breaks the grammar is answered here; every
//! other is handed to the app (Pingora's `HttpProxy`) with the connection itself, which comes back when it may carry another.

use std::future::poll_fn;
use std::os::fd::RawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures::FutureExt;
use futures::future::FusedFuture;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::base::clock::Moment;
use crate::config::plan;
use crate::edge::door::Entrance;
use crate::edge::h2;
use crate::edge::stream::ClientStream;
use crate::exchange::refused::{Refused, Scraps, Seen};
use crate::exchange::snapshot::Current;
use crate::exchange::watch::Carried;
use crate::exchange::{Arrival, KeepAlive};
use crate::lane::{Lane, Served};
use crate::telemetry::reason::Reason;
use crate::wire::framing::Framing;
use crate::wire::head::{HeadParser, Limits, Outcome};
use crate::wire::refusal::Refusal;

/// What all connections share.
pub struct Edge<A> {
    /// What serves the requests: Pingora's `HttpProxy` for clients, the admin API for operators.
    pub app: Arc<A>,
    /// Whether requests that never became one have a line in the access log.
    pub audience: Audience,
    /// The highest descriptor that a client's connection may have; those beyond it are turned away.
    pub highest_descriptor: RawFd,
    /// What requests are served by, swapped as a whole.
    pub current: Current,
    /// Places for clients that are told that there is no room.
    pub farewells: Arc<Semaphore>,
    /// What serves plain requests; none for operators.
    pub lane: Option<Lane>,
}

/// For whom an edge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Clients of the proxy: the access log tells of all they send.
    Clients,
    /// Operators: the access log is not about them.
    Operators,
}

/// A request whose head stands at the front of the inbox.
#[derive(Debug)]
struct Ready {
    framing: Framing,
    received: Moment,
    /// Whether the client means to go on after it.
    persistent: bool,
    /// What has read it.
    parser: HeadParser,
}

/// What a connection begins with.
enum Greeting {
    Http1,
    Http2,
    /// Nothing that is spoken here; the reason, where there was anything.
    Over(Option<Reason>),
}

/// How the wait for a head ended.
enum Awaited {
    Ready(Ready),
    /// What came is no request; since when it was coming.
    Refused(Refusal, Moment),
    /// The client left, or was too slow, in the middle of a head.
    Broken(Reason, Moment),
}

impl<A: HttpServerApp + Send + Sync + 'static> Edge<A> {
    /// Serves a connection until either side closes it.
    ///
    /// An idle connection costs as much memory as the largest of what it may come to wait for. So a request is on the heap for as long
    /// as it takes, and so is what is rare.
    pub async fn serve(&self, mut stream: Box<ClientStream>, mut entrance: Entrance) {
        let accepted = self.current.clock().now();
        let mut drained = pin!(drained(entrance.draining.clone()).fuse());
        // One that never speaks is idle as well: it must not hold up a drain.
        let first = accepted + entrance.listener.timeouts.header;
        let is_silent = stream.inbox().is_empty() && !entrance.agreed_on_http2();
        if is_silent && !matches!(self.park(&mut stream, first, drained.as_mut()).await, Some(Ok(1..))) {
            return;
        }
        match self.greet(&mut stream, &entrance).await {
            Greeting::Http1 => {}
            Greeting::Http2 => return Box::pin(self.serve_http2(*stream, entrance)).await,
            Greeting::Over(None) => return,
            Greeting::Over(Some(reason)) => {
                let received = self.current.clock().now();
                return Box::pin(self.refuse(stream, &entrance, received, reason, reason.text())).await;
            }
        }
        // A connection that has just been accepted has its header deadline from the start.
        let mut began = Some(accepted);
        for number in 1_u32.. {
            let deadline = || self.current.clock().now() + entrance.listener.timeouts.keepalive;
            if stream.inbox().is_empty()
                && !matches!(self.park(&mut stream, deadline(), drained.as_mut()).await, Some(Ok(1..)))
            {
                return;
            }
            if entrance.follow() {
                stream.bound(entrance.listener.timeouts);
            }
            match self.next_head(&mut stream, &entrance.listener, began.take()).await {
                Awaited::Ready(ready) => match Box::pin(self.direct(&mut stream, &entrance, &ready, number)).await {
                    Served::Again => {}
                    Served::Last => return,
                    Served::Declined => match Box::pin(self.hand_over(stream, &entrance, &ready, number)).await {
                        Some(back) => stream = back,
                        None => return,
                    },
                },
                Awaited::Refused(refusal, began) => {
                    return Box::pin(self.refuse(stream, &entrance, began, refusal.reason, refusal.detail)).await;
                }
                Awaited::Broken(reason, began) => {
                    return Box::pin(self.refuse(stream, &entrance, began, reason, reason.text())).await;
                }
            }
        }
    }

    /// Finds out what a connection speaks: over TLS that was agreed upon, without TLS its first bytes tell.
    async fn greet(&self, stream: &mut ClientStream, entrance: &Entrance) -> Greeting {
        let listener = &entrance.listener;
        match &entrance.tls {
            Some(_) if entrance.agreed_on_http2() => return Greeting::Http2,
            Some(_) if listener.protocols.http1() => return Greeting::Http1,
            _ if !listener.protocols.http2() => return Greeting::Http1,
            _ => {}
        }
        let deadline = Instant::now() + listener.timeouts.header;
        loop {
            match h2::is_preface(stream.inbox()) {
                Some(true) => return Greeting::Http2,
                Some(false) if listener.protocols.http1() => return Greeting::Http1,
                Some(false) => return Greeting::Over(Some(Reason::HttpRequestError)),
                None => {}
            }
            match timeout_at(deadline, stream.read_more()).await {
                Ok(Ok(1..)) => {}
                _ if stream.inbox().is_empty() => return Greeting::Over(None),
                Ok(_) => return Greeting::Over(Some(Reason::ClientGone)),
                Err(_) => return Greeting::Over(Some(Reason::ClientTimeout)),
            }
        }
    }

    async fn serve_http2(&self, stream: ClientStream, entrance: Entrance) {
        let Some((transport, ahead, ticket)) = stream.into_parts() else { return };
        let came = h2::Came { transport, ahead, ticket, entrance };
        h2::serve(&self.app, self.lane.as_ref(), self.audience, &self.current, came).await;
    }

    /// Reads the next head, which has begun: at `began`, or else now.
    async fn next_head(
        &self,
        stream: &mut ClientStream,
        listener: &plan::Listener,
        mut began: Option<Moment>,
    ) -> Awaited {
        let limits = Limits { header_bytes: listener.limits.header_bytes, header_count: listener.limits.header_count };
        let mut parser = HeadParser::new(limits);
        // Asked for only where the head is not here at once.
        let now = || self.current.clock().now();
        loop {
            match parser.parse(stream.inbox()) {
                Outcome::Complete(head) => {
                    let (framing, len, persistent) = (head.body, head.len, head.persistent);
                    // What came of the body with the head is known to be sound before anyone else hears of the request.
                    return match stream.begin(len, framing) {
                        Ok(()) => Awaited::Ready(Ready { framing, received: now(), persistent, parser }),
                        Err(refusal) => Awaited::Refused(refusal, began.unwrap_or_else(now)),
                    };
                }
                Outcome::Refused(refusal) => return Awaited::Refused(refusal, began.unwrap_or_else(now)),
                Outcome::Partial => {}
            }
            let since = *began.get_or_insert_with(now);
            match stream.read_until(since + listener.timeouts.header).await {
                Some(Ok(1..)) => {}
                None => return Awaited::Broken(Reason::ClientTimeout, since),
                Some(_) => return Awaited::Broken(Reason::ClientGone, since),
            }
        }
    }

    /// An idle connection waits here, holding next to nothing, until the client speaks, its time is over at `deadline`, or its
    /// listener drains and it stays idle for `drain.idle`.
    async fn park(
        &self,
        stream: &mut ClientStream,
        mut deadline: Moment,
        mut drained: Pin<&mut impl FusedFuture<Output = ()>>,
    ) -> Option<std::io::Result<usize>> {
        stream.rest();
        let mut draining = false;
        poll_fn(|cx| {
            if let Poll::Ready(read) = stream.poll_fill(cx) {
                return Poll::Ready(Some(read));
            }
            if !draining && (drained.is_terminated() || drained.as_mut().poll(cx).is_ready()) {
                draining = true;
                deadline = deadline.min(self.current.clock().now() + self.current.load().plan.drain.idle);
            }
            stream.poll_until(cx, deadline).map(|()| None)
        })
        .await
    }

    /// Lets the lane serve a request, where the listener has one and the request fits.
    async fn direct(&self, stream: &mut ClientStream, entrance: &Entrance, ready: &Ready, number: u32) -> Served {
        match &self.lane {
            Some(lane) if entrance.listener.lane == plan::Lane::Auto => {
                let arrival = self.arrival(stream, entrance, ready, number, None);
                lane.serve(stream, arrival, &ready.parser, &entrance.draining).await
            }
            _ => Served::Declined,
        }
    }

    /// Hands a request to Pingora, and takes the connection back where it may carry another.
    ///
    /// A request may come back to be begun again, where a backend died after its answer's head and before anything was sent
    /// to the client: Pingora cannot take a head back, and so the whole request is handed over once more.
    async fn hand_over(
        &self,
        mut stream: Box<ClientStream>,
        entrance: &Entrance,
        ready: &Ready,
        number: u32,
    ) -> Option<Box<ClientStream>> {
        let mut carried = None;
        stream.keep_head(ready.framing);
        loop {
            let (watch, remains) = (stream.watch().clone(), stream.remains().clone());
            let arrival = self.arrival(&stream, entrance, ready, number, carried.take());
            let mut session = ServerSession::new_http1(stream);
            session.set_connection_user_context(Some(Box::new(arrival)));
            if let Some(back) = self.app.process_new_http(session, &entrance.draining).await {
                let mut stream = back.consume().0.into_any().downcast::<ClientStream>().ok()?;
                stream.forget_head();
                return stream.settle().await.ok().map(|()| stream);
            }
            carried = Some(watch.take_carried()?);
            let remains = remains.lock().take()?;
            stream = Box::new(ClientStream::revive(remains, entrance.listener.timeouts, self.current.clock().clone()));
        }
    }

    fn arrival(
        &self,
        stream: &ClientStream,
        entrance: &Entrance,
        ready: &Ready,
        number: u32,
        carried: Option<Carried>,
    ) -> Arrival {
        // One reading of `Connection` for both roads: Pingora's takes the first of several lines for all.
        let last = !ready.persistent || number >= entrance.listener.limits.keepalive_requests || entrance.is_draining();
        Arrival {
            snapshot: self.current.load(),
            listener: entrance.listener.clone(),
            peer: entrance.peer,
            local: entrance.local,
            scheme: entrance.scheme(),
            tls: entrance.tls.clone(),
            received: ready.received,
            keep_alive: if last { KeepAlive::Last } else { KeepAlive::Allowed },
            body: ready.framing.length(),
            watch: stream.watch().clone(),
            carried,
        }
    }

    /// Answers what never became a request, writes its line, and closes.
    pub(super) async fn refuse(
        &self,
        mut stream: Box<ClientStream>,
        entrance: &Entrance,
        received: Moment,
        reason: Reason,
        detail: &'static str,
    ) {
        let snapshot = self.current.load();
        stream.watch().reset();
        let refused = Refused::to(&snapshot, &entrance.listener, reason, &Scraps(stream.inbox()));
        if let Some(answer) = refused.answer(Seen::of(stream.inbox()).method == Some(b"HEAD")) {
            stream.send_and_close(&answer).await;
        }
        if self.audience == Audience::Clients {
            let refused = refused.because(detail);
            refused.record(entrance.peer, entrance.tls.as_deref(), received, Seen::of(stream.inbox()));
        }
    }
}

/// Ready once the listener drains.
async fn drained(mut draining: ShutdownWatch) {
    // The sender lives as long as the connection has its entrance.
    let _ = draining.wait_for(|draining| *draining).await;
}
