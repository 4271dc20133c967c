//! What is told of a request at its end: its line in the access log, its counts, and what `roundel why` remembers of it.

use std::time::Duration;

use crate::base::request::Fields;
use crate::base::text;
use crate::exchange::recent::Past;
use crate::exchange::trail::Trail;
use crate::exchange::{Exchange, refused, spans};
use crate::telemetry::access_log::Record;
use crate::telemetry::metrics::series::Bodies;
use crate::telemetry::reason::Reason;

/// What only the road knows of a request when it ends.
#[derive(Clone, Copy)]
pub struct End<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The authority.
    pub host: &'a [u8],
    /// Path and query as the client sent them.
    pub target: &'a [u8],
    /// The version of HTTP.
    pub version: http::Version,
    /// The request's fields.
    pub fields: &'a dyn Fields,
    /// The status that was sent; none where the request ended without an answer.
    pub status: Option<u16>,
    /// Bytes of body written to the client.
    pub bytes_out: u64,
}

/// How a request ended.
struct Outcome {
    status: u16,
    duration: Duration,
}

/// Tells of a request that has ended. It frees its backend first, so that who reads the log finds the counts settled.
pub fn write(exchange: &mut Exchange, end: End<'_>) {
    exchange.recorded = true;
    let now = exchange.now();
    exchange.try_ended(None, now);
    exchange.lease = None;
    let unanswered = exchange.reason.unwrap_or(Reason::ClientGone).status();
    let duration = now.since(exchange.arrival.received);
    let outcome = Outcome { status: end.status.unwrap_or(unanswered), duration };

    let counters = &exchange.arrival.snapshot.counters;
    if let Some(reason) = exchange.reason {
        counters.answered(reason);
    }
    let bodies = Bodies { received: exchange.arrival.watch.body_received(), sent: end.bytes_out };
    counters.request(exchange, outcome.status, duration, bodies);
    write_line(exchange, &end, &outcome);
    spans::tell(exchange, &end, outcome.status, now);
    remember(exchange, &end, &outcome);
}

/// Tells of a request whose task was dropped before it ended, where that is not told yet: the process did not wait for it any
/// longer, or it panicked.
pub fn write_cut(exchange: &mut Exchange, end: End<'_>) {
    if exchange.recorded {
        return;
    }
    let reason = if std::thread::panicking() { Reason::ProxyInternalError } else { Reason::ProxyShutdown };
    exchange.reason.get_or_insert(reason);
    write(exchange, end);
}

/// The same where nobody holds the request's head: what its watch has noted of it is all that is known.
pub(super) fn write_cut_off(exchange: &mut Exchange) {
    let head = exchange.arrival.watch.take_head();
    let (method, target) = refused::request_line(&head);
    let end = End {
        method: method.unwrap_or_default(),
        host: refused::host(&head),
        target: target.unwrap_or_default(),
        version: refused::version(&head),
        fields: &refused::NoFields,
        status: exchange.given.status,
        bytes_out: exchange.given.bytes,
    };
    write_cut(exchange, end);
}

fn write_line(exchange: &Exchange, end: &End<'_>, outcome: &Outcome) {
    let snapshot = &exchange.arrival.snapshot;
    let Some(log) = &snapshot.access_log else { return };
    if !log.wants(fastrand::u64(..)) {
        return;
    }
    let last = exchange.trail.last();
    let trace_id = exchange.trace.map(|trace| text::hex(trace.id));
    log.write(&Record {
        time: snapshot.clock.wall(exchange.arrival.received),
        request_id: exchange.id.as_str(),
        client: exchange.client_address(),
        listener: &exchange.arrival.listener.name,
        method: (!end.method.is_empty()).then_some(end.method),
        scheme: exchange.arrival.scheme,
        host: (!end.host.is_empty()).then_some(end.host),
        path: (!end.target.is_empty()).then_some(end.target),
        query: None,
        protocol: Some(end.version),
        status: outcome.status,
        reason: exchange.reason,
        dry_run: exchange.dry_run,
        route: exchange.route.as_ref().map(|route| &*route.plan.name),
        upstream: exchange.target.as_ref().map(|target| &*target.plan.name),
        backend: last.map(|last| &*last.backend),
        attempts: exchange.target.is_some().then_some(exchange.attempts),
        duration: outcome.duration,
        connect: last.and_then(|last| last.connect),
        first_byte: last.and_then(|last| last.first_byte),
        reused: last.and_then(|last| last.reused),
        bytes_in: exchange.arrival.watch.body_received(),
        bytes_out: end.bytes_out,
        user_agent: end.fields.get("user-agent"),
        referer: end.fields.get("referer"),
        tls: exchange.arrival.tls.as_deref().map(|facts| facts.version),
        trace_id: trace_id.as_ref().and_then(|digits| text::ascii(digits)),
    });
}

/// Keeps for `roundel why` what cannot be found out afterwards.
fn remember(exchange: &mut Exchange, end: &End<'_>, outcome: &Outcome) {
    let trail: Trail = std::mem::take(&mut exchange.trail);
    let name = |name: &std::sync::Arc<str>| Some(name.clone());
    let is_for_want = exchange.reason.is_some() && exchange.attempts == trail.len();
    let roll = exchange.target.as_ref().filter(|_| is_for_want).map(|target| target.pool.roll());
    exchange.arrival.snapshot.recent.keep(outcome.status, exchange.reason, |past: &mut Past| {
        past.id.set(exchange.id.as_str().as_bytes());
        past.method.set(end.method);
        past.host.set(end.host);
        past.path.set(end.target);
        past.version = Some(end.version);
        past.scheme = Some(exchange.arrival.scheme);
        past.client = exchange.client_address();
        past.generation = exchange.arrival.snapshot.generation;
        past.listener = name(&exchange.arrival.listener.name);
        past.route = exchange.route.as_ref().and_then(|route| name(&route.plan.name));
        past.upstream = exchange.target.as_ref().and_then(|target| name(&target.plan.name));
        past.received = exchange.arrival.received;
        past.duration = outcome.duration;
        past.status = outcome.status;
        past.answered = end.status.is_some();
        past.reason = exchange.reason;
        past.detail = None;
        past.on_trial = exchange.dry_run;
        past.bytes_in = exchange.arrival.watch.body_received();
        past.bytes_out = end.bytes_out;
        past.trail = trail;
        past.trace = exchange.trace.map(|trace| trace.id);
        past.roll = roll;
    });
}
