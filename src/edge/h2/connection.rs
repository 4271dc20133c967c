//! One HTTP/2 connection from a client: handshake → requests → GOAWAY → close.
//!
//! The loop drives the codec, hands each request to the app in a task of its own, and ends the connection: when it is idle for
//! too long, when the process drains or the connection has carried its last request, when the client is too slow or has gone
//! silent, and when it asks for more than it may (`ledger`).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::task::AtomicWaker;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason as Code, RecvStream};
use http::{Request, Response};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_http::RequestHeader;
use tokio::time::{Instant, timeout};

use super::alarm::Alarms;
use super::client::H2Client;
use super::head::{self, Body, Head};
use super::ledger::Abuse;
use super::pipe::{Pipe, Signs};
use super::session::H2Session;
use super::stream::{self, Raw, Stream};
use crate::base::clock::{Clock, Moment};
use crate::base::request::Scheme;
use crate::config::plan;
use crate::edge::connection::Audience;
use crate::edge::door::Entrance;
use crate::edge::limits::Ticket;
use crate::edge::timer::Timer;
use crate::edge::transport::Transport;
use crate::exchange::refused::{Refused, Seen};
use crate::exchange::snapshot::Current;
use crate::exchange::watch::Watch;
use crate::exchange::{Arrival, KeepAlive};
use crate::lane::{Lane, Served};
use crate::telemetry::reason::Reason;
use crate::tls::Facts;
use crate::wire::head::Limits;
use crate::wire::refusal::Refusal;

/// What a client may send on one stream before we have read it: enough for 5 MB a second over 50 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What it may send on all streams together: the most that its uploads hold here.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// What waits of an answer for the client to take it, for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that the client may reset between two looks at what has come.
const PENDING_RESETS: usize = 100;
/// Streams that the client may make us reset, by breaking the rules, on one connection (CVE-2025-8671).
const MADE_RESETS: usize = 100;
/// How long a client with requests under way may be silent before it is asked whether it is there, and how long it has to say so.
const SILENCE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a connection that has been told to go may take for it once nothing is under way.
const FAREWELL: Duration = Duration::from_secs(2);

type Codec = Connection<Pipe, Bytes>;
type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// How a connection came, up to where it is known to speak HTTP/2.
pub(in crate::edge) struct Came {
    /// The socket.
    pub(in crate::edge) transport: Transport,
    /// What was read of it.
    pub(in crate::edge) ahead: BytesMut,
    /// Its place among the open connections.
    pub(in crate::edge) ticket: Ticket,
    /// What it came in by.
    pub(in crate::edge) entrance: Entrance,
}

/// What all streams of a connection share.
struct Shared<A> {
    app: Arc<A>,
    lane: Option<Lane>,
    audience: Audience,
    current: Current,
    draining: ShutdownWatch,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    tls: Option<Arc<Facts>>,
    scheme: Scheme,
    places: Places,
    alarms: Arc<Alarms>,
    /// Given up with the last stream, so that a drain waits for it.
    _ticket: Ticket,
}

/// The streams that are being served.
struct Places {
    taken: AtomicUsize,
    /// Nanoseconds of the moment since when none is.
    empty_since: AtomicU64,
    emptied: AtomicWaker,
    clock: Clock,
}

/// One stream that is being served, until this is dropped.
struct Place<A>(Arc<Shared<A>>);

impl<A> Drop for Place<A> {
    fn drop(&mut self) {
        let places = &self.0.places;
        places.empty_since.store(places.clock.now().nanos(), Release);
        if places.taken.fetch_sub(1, AcqRel) == 1 {
            places.emptied.wake();
        }
    }
}

/// What the loop has to see to.
enum Event {
    Request(Box<Accepted>),
    Overdone(Abuse),
    Drain,
    Late(Late),
    Closed,
}

/// Whose time is over.
#[derive(Clone, Copy)]
enum Late {
    /// A head has not come to its end.
    Head,
    /// The client takes nothing of what is sent.
    Write,
    /// Nothing is under way.
    Idle,
    /// The client is silent while requests are under way.
    Silent,
    /// The client has been told to go.
    Going,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy)]
enum End {
    /// It goes on.
    None,
    /// No further requests are wanted; it closes once nothing has been under way for so long.
    Going { since: Moment, patience: Duration },
    /// It closes as soon as the last word is sent.
    Closing { since: Moment },
}

/// Serves a connection until either side closes it.
pub(in crate::edge) async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    app: &Arc<A>,
    lane: Option<&Lane>,
    audience: Audience,
    current: &Current,
    came: Came,
) {
    let clock = current.clock();
    let listener = came.entrance.listener.clone();
    let pipe = Pipe::new(came.transport, came.ahead, clock.clone());
    let signs = pipe.signs();
    let shared = Arc::new(Shared {
        app: app.clone(),
        lane: lane.cloned(),
        audience,
        current: current.clone(),
        draining: came.entrance.draining.clone(),
        peer: came.entrance.peer,
        local: came.entrance.local,
        tls: came.entrance.tls.clone(),
        scheme: came.entrance.scheme(),
        places: Places {
            taken: AtomicUsize::new(0),
            empty_since: AtomicU64::new(clock.now().nanos()),
            emptied: AtomicWaker::new(),
            clock: clock.clone(),
        },
        alarms: Arc::default(),
        _ticket: came.ticket,
    });
    let handshake = options(&listener.limits).handshake(pipe);
    match timeout(listener.timeouts.header, handshake).await {
        Ok(Ok(codec)) => Loop::new(codec, signs, shared, came.entrance).run().await,
        // The client has not begun to speak HTTP/2, so that there is nobody to tell.
        Ok(Err(_)) => {}
        Err(_) => shared.lost(&listener, Reason::ClientTimeout),
    }
}

fn options(limits: &plan::ListenerLimits) -> Builder {
    let mut options = Builder::new();
    // The codec counts 32 bytes more for each field than we do, and answers what is beyond its bound without a word of ours:
    // so it gets twice the room.
    let list = limits.header_bytes.saturating_mul(2).saturating_add(limits.header_count.saturating_mul(64));
    options
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(MADE_RESETS));
    options
}

/// The loop of one connection.
struct Loop<A> {
    codec: Codec,
    signs: Arc<Signs>,
    shared: Arc<Shared<A>>,
    entrance: Entrance,
    clock: Clock,
    pings: Option<PingPong>,
    /// What the client was last heard of when it was asked whether it is there.
    asked: Option<Moment>,
    draining: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    timer: Timer,
    /// What the clock said when the timer fired last.
    seen: Moment,
    requests: u32,
    end: End,
}

impl<A: HttpServerApp + Send + Sync + 'static> Loop<A> {
    fn new(mut codec: Codec, signs: Arc<Signs>, shared: Arc<Shared<A>>, entrance: Entrance) -> Self {
        let mut draining = entrance.draining.clone();
        Self {
            pings: codec.ping_pong(),
            codec,
            signs,
            clock: shared.places.clock.clone(),
            entrance,
            asked: None,
            draining: Some(Box::pin(async move {
                // The sender lives as long as the connection has its entrance.
                let _ = draining.wait_for(|draining| *draining).await;
            })),
            shared,
            timer: Timer::default(),
            seen: Moment::START,
            requests: 0,
            end: End::None,
        }
    }

    async fn run(mut self) {
        loop {
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Request(accepted) => self.take(*accepted),
                Event::Overdone(abuse) => self.calm(abuse),
                Event::Drain => {
                    let idle = self.shared.current.load().plan.drain.idle;
                    self.go(idle);
                }
                Event::Late(Late::Idle) => self.go(FAREWELL),
                Event::Late(Late::Head) => {
                    self.lost(Reason::ClientTimeout);
                    self.close(Code::NO_ERROR);
                }
                Event::Late(Late::Silent) if self.ask() => {}
                Event::Late(Late::Silent | Late::Write | Late::Going) | Event::Closed => return,
            }
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.codec.poll_accept(cx) {
            Poll::Ready(Some(Ok(accepted))) => return Poll::Ready(Event::Request(Box::new(accepted))),
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Event::Closed),
            Poll::Pending => {}
        }
        if !matches!(self.end, End::Closing { .. }) {
            if let Some(abuse) = self.signs.abuse() {
                return Poll::Ready(Event::Overdone(abuse));
            }
            if let Some(draining) = &mut self.draining
                && draining.as_mut().poll(cx).is_ready()
            {
                self.draining = None;
                return Poll::Ready(Event::Drain);
            }
        }
        // Registered before the look, so that a stream that ends in between is not missed.
        self.shared.places.emptied.register(cx.waker());
        loop {
            let (at, late) = self.deadline();
            if self.seen < at {
                ready!(self.timer.poll(cx, Instant::from_std(self.clock.instant(at))));
                self.seen = self.clock.now();
            }
            if self.seen >= at {
                return Poll::Ready(Event::Late(late));
            }
        }
    }

    /// The next deadline.
    fn deadline(&self) -> (Moment, Late) {
        let timeouts = &self.entrance.listener.timeouts;
        if let End::Closing { since } = self.end {
            return (since + FAREWELL, Late::Going);
        }
        let head = self.signs.head_since().map(|since| (since + timeouts.header, Late::Head));
        let write = self.signs.writing_since().map(|since| (since + timeouts.write_idle, Late::Write));
        let rest = match (self.shared.empty_since(), self.end) {
            (Some(empty), End::Going { since, patience }) => (empty.max(since) + patience, Late::Going),
            (Some(empty), _) => (empty + timeouts.keepalive, Late::Idle),
            (None, _) => self.silence(),
        };
        let sooner = [head, write].into_iter().flatten().min_by_key(|(at, _)| *at);
        sooner.into_iter().chain([rest]).min_by_key(|(at, _)| *at).unwrap_or(rest)
    }

    fn silence(&self) -> (Moment, Late) {
        let heard = self.signs.heard();
        let patience = if self.asked == Some(heard) { SILENCE + PATIENCE } else { SILENCE };
        (heard + patience, Late::Silent)
    }

    /// Asks a silent client whether it is there; false where it was asked already.
    fn ask(&mut self) -> bool {
        let heard = self.signs.heard();
        if self.asked == Some(heard) {
            return false;
        }
        self.asked = Some(heard);
        // One that is under way already asks as well.
        let asked = self.pings.as_mut().map(|pings| pings.send_ping(Ping::opaque()));
        asked.is_some()
    }

    /// Lets no further requests come.
    fn go(&mut self, patience: Duration) {
        self.codec.graceful_shutdown();
        self.end = End::Going { since: self.clock.now(), patience };
    }

    /// Ends the connection at once.
    fn close(&mut self, code: Code) {
        self.codec.abrupt_shutdown(code);
        self.end = End::Closing { since: self.clock.now() };
    }

    fn calm(&mut self, abuse: Abuse) {
        log::debug!("client overdoes it: listener={} what={abuse:?}", self.entrance.listener.name);
        self.lost(Reason::EnhanceYourCalm);
        self.close(Code::ENHANCE_YOUR_CALM);
    }

    fn lost(&self, reason: Reason) {
        self.shared.lost(&self.entrance.listener, reason);
    }

    /// Takes a request: it is served in a task of its own, or refused.
    fn take(&mut self, (request, mut respond): Accepted) {
        self.entrance.follow();
        let listener = self.entrance.listener.clone();
        let limits = &listener.limits;
        self.requests += 1;
        if self.requests >= limits.keepalive_requests && matches!(self.end, End::None) {
            self.go(FAREWELL);
        }
        // A task may live on for a while after its client has reset the stream.
        if self.shared.places.taken.load(Acquire) >= 2 * limits.h2_streams as usize {
            respond.send_reset(Code::REFUSED_STREAM);
            return;
        }
        self.shared.places.taken.fetch_add(1, AcqRel);
        let place = Place(self.shared.clone());
        // On the heap before the runtime moves it about: it is large.
        drop(tokio::spawn(Box::pin(async move { place.0.serve(listener, request, respond).await })));
    }
}

impl<A: HttpServerApp> Shared<A> {
    /// Since when no stream is being served.
    fn empty_since(&self) -> Option<Moment> {
        (self.places.taken.load(Acquire) == 0).then(|| Moment::from_nanos(self.places.empty_since.load(Acquire)))
    }

    /// Serves one request.
    async fn serve(&self, listener: Arc<plan::Listener>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let received = self.current.clock().now();
        let (parts, mut body) = request.into_parts();
        let (method, target) = (parts.method.clone(), parts.uri.clone());
        let limits = &listener.limits;
        let limits = Limits { header_bytes: limits.header_bytes, header_count: limits.header_count };
        let follows = if body.is_end_stream() { Body::None } else { Body::Follows };
        let mut judged = head::judge(parts, follows, limits);
        if follows == Body::Follows && judged.as_ref().is_ok_and(|head| head.length == Some(0)) {
            // To a backend over HTTP/1.1 it is whole with its head: what is malformed must be found before (RFC 9113, 8.1.1).
            let ended = stream::end_of_nothing(&mut body, listener.timeouts.body_idle).await;
            judged = judged.and_then(|head| ended.map(|()| head));
        }
        let head = match judged {
            Ok(head) => head,
            Err(refusal) => {
                let path = target.path_and_query().map_or("", |target| target.as_str());
                let seen = Seen {
                    method: Some(method.as_str().as_bytes()),
                    target: Some(path.as_bytes()),
                    host: target.authority().map(|authority| authority.as_str().as_bytes()),
                    version: Some(http::Version::HTTP_2),
                    ..Seen::default()
                };
                return self.refuse(&listener, respond, received, refusal, seen);
            }
        };
        let watch = Arc::<Watch>::default();
        let stream = Stream::new(Raw {
            body,
            respond,
            timeouts: listener.timeouts,
            clock: self.current.clock().clone(),
            watch: watch.clone(),
            alarms: self.alarms.clone(),
        });
        let arrival = || self.arrival(listener.clone(), &head, received, watch.clone());
        let lane = self.lane.as_ref().filter(|_| listener.lane == plan::Lane::Auto);
        let left = match lane {
            Some(lane) => self.direct(lane, stream, &head, arrival()).await,
            None => Some(stream),
        };
        if let Some(stream) = left {
            let arrival = arrival();
            Box::pin(self.hand_over(stream, head.request, arrival)).await;
        }
    }

    /// Lets the lane serve a request. What it does not fit is left as it came.
    async fn direct(&self, lane: &Lane, stream: Stream, head: &Head, arrival: Arrival) -> Option<Stream> {
        let mut client = H2Client::new(stream, &head.request, head.length);
        let served = match client.parser() {
            Some(parser) => lane.serve(&mut client, arrival, &parser, &self.draining).await,
            None => Served::Declined,
        };
        let stream = client.into_stream();
        (served == Served::Declined).then_some(stream)
    }

    /// Hands a request to Pingora.
    async fn hand_over(&self, stream: Stream, request: RequestHeader, arrival: Arrival) {
        // A request that is cut off is told by what is noted here: its session is gone by then.
        arrival.watch.note_head(&head::first_lines(&request));
        // A head that was judged sound makes a session: only a status that is none could fail.
        let Ok(session) = H2Session::new(stream, request, arrival) else { return };
        self.app.process_new_http(ServerSession::new_custom(Box::new(session)), &self.draining).await;
    }

    fn arrival(&self, listener: Arc<plan::Listener>, head: &Head, received: Moment, watch: Arc<Watch>) -> Arrival {
        Arrival {
            snapshot: self.current.load(),
            listener,
            peer: self.peer,
            local: self.local,
            scheme: self.scheme,
            tls: self.tls.clone(),
            received,
            keep_alive: KeepAlive::Allowed,
            body: head.length,
            watch,
            carried: None,
        }
    }

    /// Answers a request whose head breaks the rules, and writes its line.
    fn refuse(
        &self,
        listener: &plan::Listener,
        mut respond: SendResponse<Bytes>,
        received: Moment,
        refusal: Refusal,
        seen: Seen<'_>,
    ) {
        let snapshot = self.current.load();
        let refused = Refused::new(&snapshot, listener, refusal.reason);
        let answer = refused.parts();
        let mut response = Response::new(());
        *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or(http::StatusCode::BAD_REQUEST);
        response.headers_mut().extend(answer.headers.iter().cloned());
        response.headers_mut().insert(http::header::CONTENT_LENGTH, answer.body.len().into());
        response.headers_mut().extend(refused.date());
        let bodiless = seen.method == Some(b"HEAD");
        if let Ok(mut send) = respond.send_response(response, bodiless)
            && !bodiless
        {
            // An answer of a few hundred bytes waits in the codec for the client's window, and goes with the connection.
            let _ = send.send_data(answer.body.clone(), true);
        }
        if self.audience == Audience::Clients {
            refused.because(refusal.detail).record(self.peer, self.tls.as_deref(), received, seen);
        }
    }

    /// Writes the line of a connection that ends for what the client did outside of any request.
    fn lost(&self, listener: &plan::Listener, reason: Reason) {
        if self.audience == Audience::Clients {
            let snapshot = self.current.load();
            let now = self.current.clock().now();
            let seen = Seen { version: Some(http::Version::HTTP_2), ..Seen::default() };
            let refused = Refused::new(&snapshot, listener, reason);
            refused.because(reason.text()).record(self.peer, self.tls.as_deref(), now, seen);
        }
    }
}
