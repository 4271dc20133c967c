//! `Max-Forwards` (RFC 9110, 7.6.2): how many more recipients a TRACE or OPTIONS may pass. Other methods may carry the field, and
//! nobody acts on it. Pure.

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};

use super::admission::Admission;
use crate::base::request::{Fields, RequestView};
use crate::filter::{Answer, Refusal};
use crate::telemetry::reason::Reason;

/// The field.
pub const FIELD: &str = "max-forwards";

/// How many more recipients the request may pass; none where it does not say so in one number.
#[must_use]
pub fn left(request: &RequestView<'_>) -> Option<u64> {
    matches!(request.method, "TRACE" | "OPTIONS").then(|| number(request.fields)).flatten()
}

fn number(fields: &dyn Fields) -> Option<u64> {
    let (mut count, mut left) = (0, None);
    fields.each(FIELD, &mut |value| {
        count += 1;
        let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        // More than can be counted is a number still.
        left = digits.filter(|digits| !digits.is_empty()).map(|digits| digits.parse().unwrap_or(u64::MAX));
    });
    left.filter(|_| count == 1)
}

/// What becomes of a request that may pass nobody any more: we are its final recipient, and answer for ourselves. A TRACE is not
/// sent back: it would show whoever asks what proxies before us have added.
#[must_use]
pub fn last(method: &str) -> Admission {
    match method {
        "OPTIONS" => {
            let fields = vec![(ALLOW, HeaderValue::from_static("OPTIONS"))];
            Admission::Answer(Answer { status: 200, fields, body: Bytes::new() })
        }
        _ => Admission::Refuse(Refusal { reason: Reason::MethodNotAllowed, fields: Vec::new() }),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::base::request::Scheme;

    fn left_of(method: &str, values: &[&'static str]) -> Option<u64> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(FIELD, HeaderValue::from_static(value));
        }
        let (scheme, path) = (Scheme::Http, "/");
        left(&RequestView { method, scheme, host: "a", path, query: None, client: None, fields: &fields })
    }

    #[test]
    fn one_number_counts_for_two_methods() {
        for (method, values, expected) in [
            ("OPTIONS", &["0"][..], Some(0)),
            ("TRACE", &["007"], Some(7)),
            ("OPTIONS", &["99999999999999999999999"], Some(u64::MAX)),
            ("OPTIONS", &[], None),
            ("OPTIONS", &[""], None),
            ("OPTIONS", &["-1"], None),
            ("OPTIONS", &["1, 2"], None),
            ("OPTIONS", &["1", "1"], None),
            ("GET", &["0"], None),
            ("options", &["0"], None),
        ] {
            assert_eq!(left_of(method, values), expected, "{method} {values:?}");
        }
    }
}
