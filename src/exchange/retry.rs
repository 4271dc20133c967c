//! Whether a failed try is followed by another: the one place that decides.
//!
//! A connect that fails has sent nothing, and goes to another backend whatever the method. Once a request has been sent, it
//! is sent again only where its method is idempotent (RFC 9110, 9.2.2), its body is still whole, and nothing of an answer
//! was passed on. Pure.

use crate::config::plan;
use crate::exchange::rescue::Failure;

/// What is known of a request when a try has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether its method is idempotent.
    pub idempotent: bool,
    /// Whether its body, as far as it was read, can be sent again.
    pub replayable: bool,
    /// Whether anything of an answer was passed on to the client.
    pub answer_begun: bool,
    /// How often it was tried again after a try that had sent something.
    pub retries: u32,
    /// Whether there is a backend that has not been tried.
    pub backends_left: bool,
}

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to another backend. Nothing was sent, so that this is no retry and is not counted as one.
    Failover,
    /// It is sent again, to another backend if there is one.
    Retry,
    /// It fails.
    GiveUp,
}

/// Decides what follows a failed try.
#[must_use]
pub fn after(failure: Failure, standing: Standing, retry: &plan::Retry) -> Verdict {
    if standing.answer_begun {
        return Verdict::GiveUp;
    }
    match failure {
        // The body has not been read before a connection stands, so that it is whole.
        Failure::Connect(_) => {
            if standing.backends_left {
                Verdict::Failover
            } else {
                Verdict::GiveUp
            }
        }
        Failure::Unprocessed => {
            if standing.replayable && standing.retries < retry.attempts {
                Verdict::Retry
            } else {
                Verdict::GiveUp
            }
        }
        Failure::Closed | Failure::NotHttp | Failure::TooSlow => {
            if standing.idempotent && standing.replayable && standing.retries < retry.attempts {
                Verdict::Retry
            } else {
                Verdict::GiveUp
            }
        }
        Failure::Incomplete | Failure::OutOfTime | Failure::Client(_) | Failure::Internal => Verdict::GiveUp,
    }
}

/// Whether a method is idempotent (RFC 9110, 9.2.2). An unknown method is not.
#[must_use]
pub fn is_idempotent(method: &http::Method) -> bool {
    method.is_idempotent()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::rescue::Connect;
    use crate::telemetry::reason::Reason;

    const RETRY: plan::Retry = plan::Retry { attempts: 1, body: 65_536 };
    const FRESH: Standing =
        Standing { idempotent: true, replayable: true, answer_begun: false, retries: 0, backends_left: true };

    #[test]
    fn a_failed_connect_goes_to_another_backend_whatever_the_method() {
        let failure = Failure::Connect(Connect::Refused);
        let post = Standing { idempotent: false, retries: 9, ..FRESH };
        assert_eq!(after(failure, post, &RETRY), Verdict::Failover);
        assert_eq!(after(failure, Standing { backends_left: false, ..post }, &RETRY), Verdict::GiveUp);
    }

    #[test]
    fn only_an_idempotent_whole_unanswered_request_is_sent_again() {
        assert_eq!(after(Failure::Closed, FRESH, &RETRY), Verdict::Retry);
        for standing in [
            Standing { idempotent: false, ..FRESH },
            Standing { replayable: false, ..FRESH },
            Standing { answer_begun: true, ..FRESH },
            Standing { retries: 1, ..FRESH },
        ] {
            assert_eq!(after(Failure::Closed, standing, &RETRY), Verdict::GiveUp);
        }
    }

    #[test]
    fn what_a_backend_has_not_begun_with_is_sent_again_whatever_the_method() {
        let post = Standing { idempotent: false, ..FRESH };
        assert_eq!(after(Failure::Unprocessed, post, &RETRY), Verdict::Retry);
        assert_eq!(after(Failure::Unprocessed, Standing { replayable: false, ..post }, &RETRY), Verdict::GiveUp);
        assert_eq!(after(Failure::Unprocessed, Standing { retries: 1, ..post }, &RETRY), Verdict::GiveUp);
    }

    #[test]
    fn what_is_no_fault_of_a_backend_is_never_tried_again() {
        for failure in [Failure::Client(Reason::ClientGone), Failure::OutOfTime, Failure::Internal] {
            assert_eq!(after(failure, FRESH, &RETRY), Verdict::GiveUp);
        }
    }

    #[test]
    fn the_idempotent_methods_are_those_of_the_rfc() {
        for (method, idempotent) in
            [("GET", true), ("HEAD", true), ("OPTIONS", true), ("TRACE", true), ("PUT", true), ("DELETE", true)]
                .into_iter()
                .chain([("POST", false), ("PATCH", false), ("PURGE", false), ("get", false)])
        {
            assert_eq!(is_idempotent(&http::Method::from_bytes(method.as_bytes()).unwrap()), idempotent, "{method}");
        }
    }
}
