//! What is told of a request at its end: its line in the access log, and its counts.

use crate::base::request::Fields;
use crate::exchange::Exchange;
use crate::telemetry::access_log::Record;
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

/// Tells of a request that has ended. It frees its backend first, so that who reads the log finds the counts settled.
pub fn write(exchange: &mut Exchange, end: End<'_>) {
    let snapshot = &exchange.arrival.snapshot;
    let status = end.status.unwrap_or(Reason::ClientGone.status());
    let duration = snapshot.clock.now().since(exchange.arrival.received);
    let backend = exchange.lease.take().map(|lease| lease.backend().address().clone());

    if let Some(reason) = exchange.reason {
        snapshot.counters.answered(reason);
    }
    snapshot.counters.request(exchange, status, duration);

    let Some(log) = &snapshot.access_log else { return };
    if !log.wants(fastrand::u64(..)) {
        return;
    }
    log.write(&Record {
        time: snapshot.clock.wall(exchange.arrival.received),
        request_id: exchange.id.as_str(),
        client: exchange.client_address(),
        listener: &exchange.arrival.listener.name,
        method: Some(end.method),
        scheme: exchange.arrival.scheme,
        host: (!end.host.is_empty()).then_some(end.host),
        path: Some(end.target),
        query: None,
        protocol: Some(end.version),
        status,
        reason: exchange.reason,
        route: exchange.route.as_ref().map(|route| &*route.plan.name),
        upstream: exchange.target.as_ref().map(|target| &*target.plan.name),
        backend: backend.as_deref(),
        attempts: exchange.target.is_some().then_some(exchange.attempts),
        duration,
        connect: exchange.connect,
        first_byte: exchange.first_byte,
        reused: exchange.reused,
        bytes_in: exchange.arrival.watch.body_received(),
        bytes_out: end.bytes_out,
        user_agent: end.fields.get("user-agent"),
        referer: end.fields.get("referer"),
        tls: exchange.arrival.tls.as_deref().map(|facts| facts.version),
        trace_id: None,
    });
}
