//! Pingora's errors in our words.

use pingora_error::{Error, ErrorSource, ErrorType};

use super::link;
use crate::exchange::Exchange;
use crate::exchange::rescue::Failure;
use crate::telemetry::reason::Reason;
use crate::upstream::connection;

/// How a connect failed.
pub(super) fn of_connect(error: &Error) -> Failure {
    Failure::Connect(connection::fault_of(error).into())
}

/// How a request failed once a connection stood. What the connection to the client noted comes first: Pingora sees only
/// that a read or write of ours failed.
pub(super) fn of_request(error: &Error, exchange: &Exchange, answer_begun: bool) -> Failure {
    if let Some(reason) = exchange.arrival.watch.ended() {
        return match reason {
            Reason::HttpResponseTimeout => Failure::TooSlow,
            Reason::RequestTimeout => Failure::OutOfTime,
            reason => Failure::Client(reason),
        };
    }
    match error.esource() {
        ErrorSource::Upstream if is_unprocessed(error) => Failure::Unprocessed,
        ErrorSource::Upstream if timed_out(error) && exchange.out_of_time() => Failure::OutOfTime,
        ErrorSource::Upstream => of_backend(error, answer_begun),
        ErrorSource::Downstream => Failure::Client(of_client(error)),
        ErrorSource::Internal | ErrorSource::Unset => Failure::Internal,
    }
}

/// Whether a backend has refused a stream, or all streams from one on (RFC 9113, 8.7 and 6.8).
fn is_unprocessed(error: &Error) -> bool {
    let Some(cause) = error.root_cause().downcast_ref::<h2::Error>().filter(|cause| cause.is_remote()) else {
        return false;
    };
    match cause.reason() {
        Some(h2::Reason::REFUSED_STREAM) => cause.is_reset(),
        Some(h2::Reason::NO_ERROR) => cause.is_go_away(),
        _ => false,
    }
}

fn timed_out(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout)
}

fn of_backend(error: &Error, answer_begun: bool) -> Failure {
    match error.etype() {
        _ if timed_out(error) => Failure::TooSlow,
        _ if answer_begun => Failure::Incomplete,
        _ if link::refusal_in(error).is_some() => Failure::NotHttp,
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::H2Error | ErrorType::InvalidH2 => {
            Failure::NotHttp
        }
        _ => Failure::Closed,
    }
}

fn of_client(error: &Error) -> Reason {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Reason::ClientTimeout,
        ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed => Reason::ClientGone,
        _ => Reason::HttpRequestError,
    }
}
