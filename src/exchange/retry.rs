//! Whether a failed try is followed by another: the one place that decides.
//!
//! A connect that fails has sent nothing, and goes to another backend whatever the method. Once a request has been sent, it
//! is sent again only where its method is idempotent (RFC 9110, 9.2.2), its body is still whole, and nothing of an answer
//! was passed on; and only by the first proxy on its way that retries. Pure; the retry budget is the pool's.

use std::time::{Duration, SystemTime};

use crate::base::request::Fields;
use crate::config::plan;
use crate::exchange::grpc::{self, Pushback};
use crate::exchange::rescue::Failure;

/// The field that a request carries when it is sent again: the number of the retry. A proxy behind this one that believes it
/// retries nothing, so that tries are not multiplied from layer to layer.
pub const MARK: &str = "x-roundel-attempt";

/// What is known of a request when a try has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether its method is idempotent.
    pub idempotent: bool,
    /// Whether its body, as far as it was read, can be sent again.
    pub replayable: bool,
    /// Whether anything of an answer was passed on to the client.
    pub answer_begun: bool,
    /// Whether a proxy before this one is retrying it.
    pub marked: bool,
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
    /// It is sent again, to another backend if there is one, and not before this time has passed.
    Retry(Duration),
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
        Failure::Unprocessed => again(Standing { idempotent: true, ..standing }, retry, Duration::ZERO),
        Failure::Closed | Failure::NotHttp | Failure::TooSlow => again(standing, retry, Duration::ZERO),
        Failure::Status { status, after } => {
            // An answer that asks for more patience than we have is the client's to act on.
            let wait = after.unwrap_or_default();
            match retry.statuses.contains(status) && wait <= retry.max_backoff {
                true => again(standing, retry, wait),
                false => Verdict::GiveUp,
            }
        }
        // Who names a status says that calls which end so were not carried out: the method of all of them is POST.
        Failure::Grpc { status, pushback } if retry.grpc_statuses.contains(&status) => {
            let standing = Standing { idempotent: true, ..standing };
            match pushback {
                Pushback::Unsaid => again(standing, retry, Duration::ZERO),
                Pushback::After(wait) if wait <= retry.max_backoff => again(standing, retry, wait),
                Pushback::After(_) | Pushback::Never => Verdict::GiveUp,
            }
        }
        Failure::Grpc { .. } | Failure::Incomplete | Failure::OutOfTime | Failure::Client(_) | Failure::Internal => {
            Verdict::GiveUp
        }
    }
}

fn again(standing: Standing, retry: &plan::Retry, wait: Duration) -> Verdict {
    let may = standing.idempotent && standing.replayable && !standing.marked && standing.retries < retry.attempts;
    if may { Verdict::Retry(wait) } else { Verdict::GiveUp }
}

/// Whether a method is idempotent (RFC 9110, 9.2.2). An unknown method is not.
#[must_use]
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// The failure that an answer stands for, where the operator has chosen its status for another try; `now` is the wall time.
#[must_use]
pub fn chosen(
    status: u16,
    answer: &dyn Fields,
    retry: &plan::Retry,
    now: impl FnOnce() -> SystemTime,
) -> Option<Failure> {
    if retry.statuses.contains(status) {
        let after = answer.get("retry-after").and_then(|value| retry_after(value, now()));
        return Some(Failure::Status { status, after });
    }
    if retry.grpc_statuses.is_empty() {
        return None;
    }
    let status = grpc::status_of(answer).filter(|status| retry.grpc_statuses.contains(status))?;
    Some(Failure::Grpc { status, pushback: grpc::pushback(answer) })
}

/// How long an answer's `Retry-After` (RFC 9110, 10.2.3) asks to wait from `now` on; none where it does not say it.
#[must_use]
pub fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::rescue::Connect;
    use crate::telemetry::reason::Reason;
    use crate::upstream::fixture::RETRY;

    const FRESH: Standing = Standing {
        idempotent: true,
        replayable: true,
        answer_begun: false,
        marked: false,
        retries: 0,
        backends_left: true,
    };
    const AT_ONCE: Verdict = Verdict::Retry(Duration::ZERO);

    #[test]
    fn a_failed_connect_goes_to_another_backend_whatever_the_method() {
        let failure = Failure::Connect(Connect::Refused);
        let post = Standing { idempotent: false, retries: 9, ..FRESH };
        assert_eq!(after(failure, post, &RETRY), Verdict::Failover);
        assert_eq!(after(failure, Standing { backends_left: false, ..post }, &RETRY), Verdict::GiveUp);
    }

    #[test]
    fn only_an_idempotent_whole_unanswered_request_is_sent_again() {
        assert_eq!(after(Failure::Closed, FRESH, &RETRY), AT_ONCE);
        for standing in [
            Standing { idempotent: false, ..FRESH },
            Standing { replayable: false, ..FRESH },
            Standing { answer_begun: true, ..FRESH },
            Standing { retries: 1, ..FRESH },
            Standing { marked: true, ..FRESH },
        ] {
            assert_eq!(after(Failure::Closed, standing, &RETRY), Verdict::GiveUp);
        }
    }

    #[test]
    fn a_proxy_before_this_one_that_retries_is_left_to_it_but_a_failed_connect_fails_over() {
        let marked = Standing { marked: true, ..FRESH };
        assert_eq!(after(Failure::TooSlow, marked, &RETRY), Verdict::GiveUp);
        assert_eq!(after(Failure::Connect(Connect::Refused), marked, &RETRY), Verdict::Failover);
    }

    #[test]
    fn a_status_is_retried_where_the_operator_says_so_and_its_answer_does_not_ask_for_more_patience() {
        let retry = plan::Retry { statuses: plan::StatusSet(vec![(429, 429), (500, 503)]), ..RETRY };
        let verdict = |status, after_ms: Option<u64>| {
            let failure = Failure::Status { status, after: after_ms.map(Duration::from_millis) };
            after(failure, FRESH, &retry)
        };
        assert_eq!(verdict(503, None), AT_ONCE);
        assert_eq!(verdict(504, None), Verdict::GiveUp);
        assert_eq!(verdict(429, Some(250)), Verdict::Retry(Duration::from_millis(250)));
        assert_eq!(verdict(429, Some(251)), Verdict::GiveUp);
        let post = Standing { idempotent: false, ..FRESH };
        assert_eq!(after(Failure::Status { status: 503, after: None }, post, &retry), Verdict::GiveUp);
    }

    #[test]
    fn a_call_that_ended_with_a_chosen_status_alone_is_made_again_as_far_as_the_server_lets() {
        let retry = plan::Retry { grpc_statuses: vec![14], ..RETRY };
        let call = Standing { idempotent: false, ..FRESH };
        let verdict = |status, pushback| after(Failure::Grpc { status, pushback }, call, &retry);
        assert_eq!(verdict(14, Pushback::Unsaid), AT_ONCE);
        assert_eq!(verdict(13, Pushback::Unsaid), Verdict::GiveUp);
        assert_eq!(verdict(14, Pushback::Never), Verdict::GiveUp);
        let wait = Duration::from_millis(200);
        assert_eq!(verdict(14, Pushback::After(wait)), Verdict::Retry(wait));
        assert_eq!(verdict(14, Pushback::After(10 * wait)), Verdict::GiveUp);
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let read = |value: &str| retry_after(value.as_bytes(), now);
        assert_eq!(read("0"), Some(Duration::ZERO));
        assert_eq!(read(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(read("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(read("Sun, 06 Nov 1994 08:40:00 GMT"), Some(Duration::ZERO));
        for nonsense in ["", "-1", "1.5", "soon"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_a_backend_has_not_begun_with_is_sent_again_whatever_the_method() {
        let post = Standing { idempotent: false, ..FRESH };
        assert_eq!(after(Failure::Unprocessed, post, &RETRY), AT_ONCE);
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
            assert_eq!(is_idempotent(method), idempotent, "{method}");
        }
    }
}
