//! The sentences of `roundel why`.

use std::time::Duration;

use crate::exchange::recent::Past;
use crate::exchange::rescue::Failure;
use crate::telemetry::reason::Reason;

/// Milliseconds with at most three decimals.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A duration in a sentence: `850 µs`, `12.3 ms`, `2.50 s`.
pub(super) fn span(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ ..1_000 => format!("{micros} µs"),
        micros @ ..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        micros => format!("{:.2} s", micros as f64 / 1e6),
    }
}

/// The version as it stands on the wire.
pub(super) fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// The whole story in one sentence.
pub(super) fn verdict(past: &Past) -> String {
    let took = span(past.duration);
    let Some(reason) = past.reason else { return answered(past, &took) };
    let cause = cause(past, reason);
    match past.answered {
        false => format!("ended after {took} without an answer: {cause}"),
        true if past.status == reason.status() => {
            format!("answered {} by the proxy after {took}: {cause}", past.status)
        }
        true => format!("answered {} but not to the end, after {took}: {cause}", past.status),
    }
}

fn answered(past: &Past, took: &str) -> String {
    match (past.trail.last(), past.trail.len()) {
        (Some(last), 1) => format!("answered {} by {} after {took}", past.status, last.backend),
        (Some(last), tries) => {
            format!("answered {} by {} after {took}, at try {tries}", past.status, last.backend)
        }
        (None, _) if past.answered => format!("answered {} by the route itself after {took}", past.status),
        (None, _) => format!("ended after {took} without an answer"),
    }
}

/// Why it ended as it did.
fn cause(past: &Past, reason: Reason) -> String {
    let tries = past.trail.len();
    let last = past.trail.last().and_then(|last| Some((last, failed(last.failure?))));
    match (last, tries) {
        (Some((last, how)), 1) if names_backend(reason) => format!("{} {how}", last.backend),
        (Some((last, how)), _) if names_backend(reason) => {
            format!("{tries} tries failed, the last one: {} {how}", last.backend)
        }
        _ => own(past, reason),
    }
}

/// Whether the reason speaks of a backend, so that the trail says more than the reason.
fn names_backend(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectionRefused
            | Reason::ConnectionTimeout
            | Reason::TlsProtocolError
            | Reason::TlsCertificateError
            | Reason::ConnectionTerminated
            | Reason::HttpResponseIncomplete
            | Reason::HttpProtocolError
            | Reason::HttpResponseTimeout
    )
}

fn own(past: &Past, reason: Reason) -> String {
    match (reason, past.roll.as_deref()) {
        (Reason::DestinationUnavailable, Some(roll)) if roll.members > 0 && roll.present == 0 => {
            format!("none of the {} backends was usable", roll.members)
        }
        (Reason::PendingTimeout, _) => {
            format!("it waited for a place at upstream {} and got none within `limits.pending_timeout`", upstream(past))
        }
        (Reason::ConnectionLimitReached, _) if is_for_want_of_a_place(past) => {
            format!("no place at upstream {} was free, and no more requests may wait for one", upstream(past))
        }
        _ => past.detail.unwrap_or(reason.text()).to_owned(),
    }
}

fn upstream(past: &Past) -> &str {
    past.upstream.as_deref().unwrap_or_default()
}

/// Whether it ended before a try, at the limits of its upstream, and not at a limit of the proxy's own.
fn is_for_want_of_a_place(past: &Past) -> bool {
    past.upstream.is_some() && past.roll.is_some()
}

/// How a try failed, after the name of its backend.
pub(super) fn failed(failure: Failure) -> String {
    match (failure, failure.against_backend()) {
        (Failure::Status { status, .. }, _) => format!("answered {status}, which `retry.statuses` wants tried again"),
        (Failure::Grpc { status, .. }, _) => {
            format!("answered the gRPC status {status}, which `retry.grpc_statuses` wants tried again")
        }
        (_, Some(words)) => format!("failed: {words}"),
        (_, None) => format!("was cut short: {}", failure.reason().text()),
    }
}
