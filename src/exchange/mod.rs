//! One request on its way: what both roads know of it, and what they share.
//!
//! `snapshot` is what it is served by, `client` and `request_id` say whose it is, `admission` where it goes, `forward` what passes of its fields,
//! `attempt`,
//! `retry` and `rescue` what becomes of tries and their failures (`rescue` is the only place that turns an error into a
//! status), `reply` how answers of our own look, `grpc` what its calls ask for, `watch` what it tells its connection, `trail` and `tried` where it was tried, `record`
//! what is told of it at its end, `recent` and `why` what is remembered of it. `rehearsal` plays failures in
//! virtual time, by the same rules. The roads themselves are in `proxy` and `lane`.

pub mod admission;
pub mod attempt;
pub mod client;
pub mod counters;
pub mod explain;
pub mod forward;
pub mod grpc;
pub mod hops;
pub mod key;
mod news;
pub mod progress;
pub mod recent;
pub mod record;
pub mod refused;
pub mod rehearsal;
pub mod reply;
pub mod request_id;
pub mod rescue;
pub mod retry;
pub mod snapshot;
mod spans;
pub mod trail;
pub mod tried;
pub mod watch;
pub mod why;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::base::clock::Moment;
use crate::base::proxy_protocol::Ends;
use crate::base::request::{Fields, RequestView, Scheme};
use crate::config::plan;
use crate::exchange::client::Client;
use crate::exchange::reply::Style;
use crate::exchange::request_id::RequestId;
use crate::exchange::rescue::Failure;
use crate::exchange::snapshot::{RouteLive, Snapshot, Target};
use crate::exchange::trail::{Choice, Trail, Try};
use crate::exchange::tried::Tried;
use crate::exchange::watch::{Carried, Deadline, Watch};
use crate::filter::edit::Edit;
use crate::filter::headers::Variables;
use crate::telemetry::metrics::series::Attempt;
use crate::telemetry::reason::Reason;
use crate::telemetry::trace::Trace;
use crate::tls::Facts;
use crate::upstream::backend::BackendId;
use crate::upstream::idle::Afterwards;
use crate::upstream::lease::Lease;

/// Whether a connection may carry another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// As far as we are concerned.
    Allowed,
    /// This is its last.
    Last,
}

/// A request as the edge hands it over.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What it is served by, whatever is reloaded meanwhile.
    pub snapshot: Arc<Snapshot>,
    /// The listener it came in by.
    pub listener: Arc<plan::Listener>,
    /// The connection's other end; none on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Where the client connected to; none on a unix socket.
    pub local: Option<SocketAddr>,
    /// How the client reached us.
    pub scheme: Scheme,
    /// What its connection's TLS handshake has settled; none on a plain connection.
    pub tls: Option<Arc<Facts>>,
    /// When its head was complete.
    pub received: Moment,
    /// Whether its connection may carry another.
    pub keep_alive: KeepAlive,
    /// The length of its body, where its head says so (chunked bodies have none).
    pub body: Option<u64>,
    /// What it tells its connection, and what its connection tells it.
    pub watch: Arc<Watch>,
    /// What it takes along, where it is begun again.
    pub carried: Option<Carried>,
}

/// What a rewrite made of a request's path and host; none: they stay as they came.
#[derive(Debug, Clone, Default)]
pub struct Rewritten {
    /// The path, without the query.
    pub path: Option<String>,
    /// The host.
    pub host: Option<http::HeaderValue>,
}

/// What a client has been given of an answer that came from a backend; on the lane, of any answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given {
    /// The status; none before the head.
    pub status: Option<u16>,
    /// Bytes of body.
    pub bytes: u64,
}

/// One request, from its head to its record.
#[derive(Debug)]
pub struct Exchange {
    /// How it came.
    pub arrival: Arrival,
    /// Whose it is.
    pub client: Client,
    /// Its id.
    pub id: RequestId,
    /// The route that won it.
    pub route: Option<Arc<RouteLive>>,
    /// The upstream it is sent to.
    pub target: Option<Arc<Target>>,
    /// What a rewrite made of its path and host.
    pub rewritten: Rewritten,
    /// Whether its method says that it may be sent more than once.
    pub idempotent: bool,
    /// The hash of its key, where the upstream balances by hash.
    pub hash: Option<u64>,
    /// How long its client waits, where it is a call of gRPC that says so.
    pub patience: Option<Duration>,
    /// How many more recipients it may pass, where it is one that counts them.
    pub hops: Option<u64>,
    /// The value of its sticky cookie.
    pub sticky: Option<String>,
    /// The backend it is at, or was at last.
    pub lease: Option<Lease>,
    /// The backends it was tried at.
    pub tried: Tried,
    /// How often it was sent, or a connect was made for it.
    pub attempts: u32,
    /// How often it was sent again.
    pub retries: u32,
    /// How long the next try has to wait.
    pub pause: Duration,
    /// Whether a proxy before this one is retrying it.
    pub marked: bool,
    /// When the present try began, and when its request was sent.
    pub try_began: Moment,
    /// When the request was sent to the backend.
    pub sent: Option<Moment>,
    /// How long the last connect took.
    pub connect: Option<Duration>,
    /// What becomes of the connection to the backend afterwards.
    pub afterwards: Afterwards,
    /// Whether the last connection had been used before.
    pub reused: Option<bool>,
    /// From the request sent to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// How the last try failed.
    pub failure: Option<Failure>,
    /// Why the proxy answered by itself, or why there was no whole answer.
    pub reason: Option<Reason>,
    /// What the client has been given of an answer.
    pub given: Given,
    /// Why it would have been refused, were a filter not on trial.
    pub dry_run: Option<Reason>,
    /// What its answer says of rate limits.
    pub limit_fields: Vec<(HeaderName, HeaderValue)>,
    /// Whether it is begun again, so that rate limits have counted it already.
    pub limited_before: bool,
    /// The tries that have ended.
    pub trail: Trail,
    /// The trace it belongs to; none where tracing is turned off.
    pub trace: Option<Trace>,
    /// The span of the present try.
    try_span: u64,
    /// Whether all was told of it: it is, at the latest when it is dropped.
    recorded: bool,
}

impl Exchange {
    /// A request that has just arrived.
    #[must_use]
    pub fn new(mut arrival: Arrival, fields: &dyn Fields) -> Self {
        let carried = arrival.carried.take();
        let peer = arrival.peer.map(|peer| peer.ip());
        let client = client::find(peer, &arrival.listener.trusted_proxies, fields);
        let id = carried.as_ref().map(|carried| carried.id.clone());
        let id = id.unwrap_or_else(|| RequestId::of(fields, client.via_trusted));
        let (attempts, retries) = carried.as_ref().map_or((0, 0), |carried| (carried.attempts, carried.retries));
        let pause = carried.as_ref().map_or(Duration::ZERO, |carried| carried.pause);
        let marked = client.via_trusted && fields.get(retry::MARK).is_some();
        let traced = carried.as_ref().and_then(|carried| carried.trace);
        let tracing = arrival.snapshot.plan.tracing.as_ref();
        let trace = traced.or_else(|| tracing.map(|plan| Trace::begin(fields, client.via_trusted, plan.sample)));
        let limited_before = carried.is_some();
        let (dry_run, limit_fields) =
            carried.as_ref().map(|carried| (carried.dry_run, carried.limit_fields.clone())).unwrap_or_default();
        let (tried, trail) = carried.map(|carried| (carried.tried, carried.trail)).unwrap_or_default();
        let try_began = arrival.received;
        Self {
            arrival,
            client,
            id,
            route: None,
            target: None,
            rewritten: Rewritten::default(),
            idempotent: false,
            hash: None,
            patience: None,
            hops: None,
            sticky: None,
            lease: None,
            tried,
            attempts,
            retries,
            pause,
            marked,
            try_began,
            sent: None,
            connect: None,
            afterwards: Afterwards::Keep,
            reused: None,
            first_byte: None,
            failure: None,
            reason: None,
            given: Given::default(),
            dry_run,
            limit_fields,
            limited_before,
            trail,
            trace,
            try_span: 0,
            recorded: false,
        }
    }

    /// The request goes another road, where it is told of.
    pub fn decline(&mut self) {
        self.recorded = true;
    }

    /// Begins the request again from its head: Pingora has taken an answer for begun of which nothing was sent.
    pub fn begin_again(&mut self) {
        // What is told of it is told by the exchange that goes on.
        self.recorded = true;
        self.arrival.watch.begin_again(Carried {
            id: self.id.clone(),
            tried: std::mem::take(&mut self.tried),
            trail: std::mem::take(&mut self.trail),
            trace: self.trace,
            attempts: self.attempts,
            retries: self.retries,
            dry_run: self.dry_run,
            limit_fields: std::mem::take(&mut self.limit_fields),
            pause: self.pause,
        });
    }

    /// What the time is.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.arrival.snapshot.clock.now()
    }

    /// Whether its own time is over.
    #[must_use]
    pub fn out_of_time(&self) -> bool {
        self.arrival.watch.at(Deadline::Request).is_some_and(|at| self.now() >= at)
    }

    /// The client's address.
    #[must_use]
    pub fn client_address(&self) -> Option<IpAddr> {
        self.client.address
    }

    /// Whose it is, for backends that are told by the PROXY protocol. The port is known only of a client that came directly.
    #[must_use]
    pub fn ends(&self) -> Option<Ends> {
        let (source, destination) = (self.client_address()?, self.arrival.local?);
        let port = self.arrival.peer.filter(|peer| peer.ip().to_canonical() == source).map_or(0, |peer| peer.port());
        Some(Ends { source: SocketAddr::new(source, port), destination })
    }

    /// The bound on its body: the route's where it has one, else the listener's.
    #[must_use]
    pub fn body_limit(&self) -> Option<u64> {
        let listener = self.arrival.listener.limits.body;
        self.route.as_ref().and_then(|route| route.plan.body_limit).unwrap_or(listener)
    }

    /// Whether its answer was sent to the end, so that nothing that happens now is a failure.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.arrival.watch.is_answered()
    }

    /// Whether its body, as long as it says it is and as much as has come of it, is little enough to be kept for another try.
    #[must_use]
    pub fn body_is_kept(&self) -> bool {
        let most = self.target.as_ref().map_or(0, |target| target.plan.retry.body);
        self.arrival.body.unwrap_or_default().max(self.arrival.watch.body_received()) <= most
    }

    /// How answers of our own to it look.
    #[must_use]
    pub fn style(&self) -> Style<'_> {
        Style {
            pages: [
                self.route.as_ref().map(|route| &route.plan.errors),
                Some(&self.arrival.listener.errors),
                Some(&self.arrival.snapshot.plan.errors),
            ],
            expose_reason: self.arrival.snapshot.plan.expose_reason,
        }
    }

    /// The changes to the fields of its answer: what rate limits say, then what its route's filters change.
    #[must_use]
    pub fn response_edits(&self, request: &RequestView<'_>, facts: &Variables<'_>) -> Vec<Edit> {
        let limits = self.limit_fields.iter().map(|(name, value)| Edit::Add(name.clone(), value.clone()));
        let route = self.route.as_ref().map(|route| route.filters.response_edits(request, facts));
        limits.chain(route.unwrap_or_default()).collect()
    }

    /// Whether the present try may be sent on a connection that waits at its backend. The one that follows a connection that was
    /// closed on it may not: where a backend closes one waiting connection it closes others too, and the try would be spent on
    /// finding that out.
    #[must_use]
    pub fn may_reuse(&self) -> bool {
        self.failure != Some(Failure::Closed)
    }

    /// Notes the connection that a try has got.
    pub fn connected(&mut self, connection: RawFd, reused: bool) {
        self.reused = Some(reused);
        self.connect = (!reused).then(|| self.now().since(self.try_began));
        if let (Some(target), Some(lease)) = (&self.target, &self.lease) {
            self.afterwards = lease.backend().uses().count(connection, reused, &target.plan.keepalive);
        }
        self.arrival.snapshot.counters.connected(self);
    }

    /// Notes how the try at the present backend went wrong, and tells the backend's health where it speaks against it.
    pub fn try_failed(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.arrival.snapshot.counters.attempt(self, Attempt::Failed(failure.reason()));
        self.try_ended(Some(failure), self.now());
        if let Some(lease) = &mut self.lease {
            failure.tell(lease);
        }
    }

    /// Adds the try at the present backend to the trail, where it is not there yet.
    fn try_ended(&mut self, failure: Option<Failure>, now: Moment) {
        let Some(lease) = self.lease.as_ref().filter(|_| self.trail.len() < self.attempts) else { return };
        let backend = lease.backend();
        let choice = Choice {
            by_cookie: self.is_bound_to(backend.id()),
            hashed: self.hash.is_some(),
            backup: backend.backup(),
            trial: lease.is_trial(),
        };
        self.trail.add(Try {
            backend: backend.address().clone(),
            began: self.try_began,
            took: now.since(self.try_began),
            connect: self.connect.take(),
            reused: self.reused.take(),
            first_byte: self.first_byte.take(),
            failure,
            choice,
            roll: lease.roll().clone(),
            span: std::mem::take(&mut self.try_span),
        });
    }

    /// What the backend is told of the trace, where there is one.
    #[must_use]
    pub fn traceparent(&self) -> Option<[u8; 55]> {
        Some(self.trace?.traceparent(self.try_span))
    }

    fn is_bound_to(&self, backend: BackendId) -> bool {
        let (Some(cookie), Some(target)) = (&self.sticky, &self.target) else { return false };
        target.pool.backends().stuck_to(cookie).is_some_and(|bound| bound.id() == backend)
    }
}

impl Drop for Exchange {
    /// A request whose task is dropped has its line too.
    fn drop(&mut self) {
        if !self.recorded {
            record::write_cut_off(self);
        }
    }
}
