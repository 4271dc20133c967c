//! What gRPC says over HTTP/2 beyond HTTP: its deadlines, and failures as statuses of its own (gRPC over HTTP/2, "Requests" and
//! "Responses"). Pure.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};

use crate::base::request::Fields;
use crate::telemetry::reason::Reason;

/// The field that says how long the client waits.
pub const TIMEOUT: &str = "grpc-timeout";
/// The status of a call, in the trailers.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The status in words, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A call that nobody could serve: it may be made again (gRPC status codes, 14).
pub const UNAVAILABLE: u8 = 14;

/// Whether a message is of gRPC, by its content type: `application/grpc`, with a subtype or parameters. gRPC-Web is another
/// protocol.
#[must_use]
pub fn is_grpc(fields: &dyn Fields) -> bool {
    let value = fields.get(CONTENT_TYPE.as_str()).unwrap_or_default();
    let Some((start, rest)) = value.split_at_checked(b"application/grpc".len()) else { return false };
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';'))
}

/// How long the client of a call waits; none where it does not say so, or not in the form of the protocol.
#[must_use]
pub fn timeout(fields: &dyn Fields) -> Option<Duration> {
    if !is_grpc(fields) {
        return None;
    }
    let (unit, digits) = fields.get(TIMEOUT)?.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3_600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// A timeout as the protocol writes it: at most eight digits, in the finest unit that holds it, never longer than `left`.
#[must_use]
pub fn written(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let units =
        [(left.as_nanos(), 'n'), (left.as_micros(), 'u'), (left.as_millis(), 'm'), (left.as_secs().into(), 'S')];
    match units.into_iter().find(|(number, _)| *number <= MOST) {
        Some((number, unit)) => format!("{number}{unit}"),
        None => format!("{}H", (u128::from(left.as_secs()) / 3_600).min(MOST)),
    }
}

/// The status of a call that ended for `reason`. It is the one that clients make of the HTTP status by themselves ("HTTP to
/// gRPC status code mapping"), but where we know better.
#[must_use]
pub fn status(reason: Reason) -> u8 {
    const CANCELLED: u8 = 1;
    const DEADLINE_EXCEEDED: u8 = 4;
    const PERMISSION_DENIED: u8 = 7;
    const RESOURCE_EXHAUSTED: u8 = 8;
    const UNIMPLEMENTED: u8 = 12;
    const INTERNAL: u8 = 13;
    const UNAUTHENTICATED: u8 = 16;
    match reason {
        Reason::RequestTimeout => DEADLINE_EXCEEDED,
        Reason::ClientGone => CANCELLED,
        Reason::BodyTooLarge | Reason::HeaderBytes | Reason::HeaderCount => RESOURCE_EXHAUSTED,
        reason => match reason.status() {
            401 => UNAUTHENTICATED,
            403 => PERMISSION_DENIED,
            404 => UNIMPLEMENTED,
            429 | 502..=504 => UNAVAILABLE,
            _ => INTERNAL,
        },
    }
}

/// The two fields that end a call for `reason`.
#[must_use]
pub fn end(reason: Reason) -> [(HeaderName, HeaderValue); 2] {
    // Every sentence about a reason is plain ASCII without a percent sign: a test holds it, and nothing need be encoded.
    [(STATUS, HeaderValue::from(u16::from(status(reason)))), (MESSAGE, HeaderValue::from_static(reason.text()))]
}

/// The status of an answer that is nothing but a status: trailers without a message before them, which stand in the head.
#[must_use]
pub fn status_of(answer: &dyn Fields) -> Option<u8> {
    let status = answer.get("grpc-status").filter(|_| is_grpc(answer))?;
    u8::try_from(number(status)?).ok()
}

/// What a server says of another try (gRFC A6): to wait so long, or none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// It says nothing.
    Unsaid,
    /// After so long.
    After(Duration),
    /// Not at all.
    Never,
}

/// What the server says of another try.
#[must_use]
pub fn pushback(answer: &dyn Fields) -> Pushback {
    match answer.get("grpc-retry-pushback-ms") {
        None => Pushback::Unsaid,
        // A value that cannot be read is to be taken as "not at all".
        Some(value) => number(value).map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis))),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    fn fields(content_type: &'static str, timeout: &str) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        fields.insert(TIMEOUT, timeout.parse().unwrap());
        fields
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for yes in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=y"] {
            assert!(is_grpc(&fields(yes, "")), "{yes}");
        }
        for no in ["application/grpc-web", "application/grpcx", "application/json", ""] {
            assert!(!is_grpc(&fields(no, "")), "{no}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_timeout_is_a_short_number_with_a_unit() {
        let read = |text| timeout(&fields("application/grpc", text));
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for nonsense in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "0x1S"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(timeout(&fields("text/plain", "1S")), None);
    }

    #[test]
    fn every_reason_has_a_status_and_words_that_need_no_encoding() {
        for reason in Reason::all() {
            assert!((1..=16).contains(&status(reason)), "{reason:?}");
            assert!(reason.text().bytes().all(|byte| (32..127).contains(&byte) && byte != b'%'), "{reason:?}");
        }
        assert_eq!(status(Reason::DestinationUnavailable), UNAVAILABLE);
        assert_eq!(status(Reason::RequestTimeout), 4);
        assert_eq!(status(Reason::NoRoute), 12);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_never_longer(nanos in any::<u64>()) {
            let left = Duration::from_nanos(nanos);
            let read = timeout(&fields("application/grpc", &written(left))).unwrap();
            prop_assert!(read <= left);
            prop_assert!(left - read <= left / 10_000 + Duration::from_nanos(1));
        }
    }

    fn listed(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_an_answer_without_a_message_has_its_status_in_the_head() {
        assert_eq!(status_of(&listed(&[("content-type", "application/grpc"), ("grpc-status", "14")])), Some(14));
        assert_eq!(status_of(&listed(&[("content-type", "application/grpc")])), None);
        assert_eq!(status_of(&listed(&[("grpc-status", "14")])), None);
    }

    #[test]
    fn a_server_may_push_back() {
        let read = |value| pushback(&listed(&[("grpc-retry-pushback-ms", value)]));
        assert_eq!(pushback(&HeaderMap::new()), Pushback::Unsaid);
        assert_eq!(read("250"), Pushback::After(Duration::from_millis(250)));
        assert_eq!((read("-1"), read("soon")), (Pushback::Never, Pushback::Never));
    }
}
