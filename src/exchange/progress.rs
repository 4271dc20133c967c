//! How far a request has come at its backend: sent, and answered. What both roads note, and which deadlines begin with it.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::exchange::Exchange;
use crate::exchange::watch::Deadline;
use crate::telemetry::metrics::series::Attempt;
use crate::upstream;

/// The whole request has been sent: the answer's time begins.
pub fn sent(exchange: &mut Exchange) {
    let now = exchange.now();
    exchange.sent = Some(now);
    let first_byte = exchange.target.as_ref().map(|target| target.plan.timeouts.first_byte);
    exchange.arrival.watch.set_after(Deadline::FirstByte, now, first_byte);
}

/// The answer has begun with this status, and no more than `idle` may lie between its parts, where the road has no other
/// bound for that. When it was.
pub fn answered(exchange: &mut Exchange, status: u16, idle: Option<Duration>) -> Moment {
    let now = exchange.now();
    let watch = &exchange.arrival.watch;
    watch.clear(Deadline::FirstByte);
    if let Some(idle) = idle {
        watch.bound_answer(idle, now);
    }
    let latency = now.since(exchange.sent.unwrap_or(exchange.try_began));
    exchange.first_byte = Some(latency);
    let counters = &exchange.arrival.snapshot.counters;
    counters.first_byte(exchange, latency);
    counters.attempt(exchange, Attempt::Answered(status));
    if let Some(lease) = &mut exchange.lease {
        match status {
            502..=504 => lease.failed(upstream::Failure::Gateway, &format!("status {status}")),
            _ => lease.succeeded(latency),
        }
    }
    now
}
