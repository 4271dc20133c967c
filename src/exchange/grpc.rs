//! What gRPC says in the fields of HTTP, as far as tries and deadlines go ("gRPC over HTTP2", PROTOCOL-HTTP2.md). Pure.

use std::time::Duration;

use crate::base::request::Fields;

/// How long the client of a gRPC call waits for all of it, where it says so: a number of at most eight digits and a unit.
#[must_use]
pub fn timeout(request: &dyn Fields) -> Option<Duration> {
    let value = request.get("grpc-timeout").filter(|_| is_grpc(request))?;
    let (unit, digits) = value.split_last()?;
    let count = number(digits).filter(|_| digits.len() <= 8)?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A timeout as the field states it: in milliseconds, or in seconds where these are too many.
#[must_use]
pub fn timeout_text(timeout: Duration) -> String {
    match timeout.as_millis() {
        millis @ ..100_000_000 => format!("{millis}m"),
        _ => format!("{}S", timeout.as_secs().min(99_999_999)),
    }
}

/// Whether a request, or an answer, is one of gRPC.
#[must_use]
pub fn is_grpc(fields: &dyn Fields) -> bool {
    fields.get("content-type").is_some_and(|value| value.starts_with(b"application/grpc"))
}

/// The status of an answer that is nothing but a status: trailers without a message before them, which stand in the head.
#[must_use]
pub fn status(answer: &dyn Fields) -> Option<u8> {
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

    use super::*;

    fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_timeout_is_a_number_and_a_unit_of_a_grpc_call() {
        let read = |value| timeout(&fields(&[("content-type", "application/grpc+proto"), ("grpc-timeout", value)]));
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "m", "100", "1.5S", "-1S", "123456789S", "1x", "1 S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(timeout(&fields(&[("content-type", "text/plain"), ("grpc-timeout", "1S")])), None);
    }

    #[test]
    fn a_timeout_is_written_as_it_is_read() {
        for timeout_ms in [0, 1, 99_999_999, 100_000_000, u64::MAX / 2] {
            let text = timeout_text(Duration::from_millis(timeout_ms));
            let list = [("content-type".to_owned(), "application/grpc".to_owned()), ("grpc-timeout".to_owned(), text)];
            let map: HeaderMap =
                list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert!(timeout(&map).is_some_and(|read| read <= Duration::from_millis(timeout_ms)));
        }
    }

    #[test]
    fn only_an_answer_without_a_message_has_its_status_in_the_head() {
        assert_eq!(status(&fields(&[("content-type", "application/grpc"), ("grpc-status", "14")])), Some(14));
        assert_eq!(status(&fields(&[("content-type", "application/grpc")])), None);
        assert_eq!(status(&fields(&[("grpc-status", "14")])), None);
    }

    #[test]
    fn a_server_may_push_back() {
        let read = |value| pushback(&fields(&[("grpc-retry-pushback-ms", value)]));
        assert_eq!(pushback(&HeaderMap::new()), Pushback::Unsaid);
        assert_eq!(read("250"), Pushback::After(Duration::from_millis(250)));
        assert_eq!((read("-1"), read("soon")), (Pushback::Never, Pushback::Never));
    }
}
