//! Answers as the operator wrote them.

use http::header::{self, HeaderValue};

use super::Answer;
use crate::config::plan;

/// The answer to a request with `method`, with its `Content-Length`, and a `Content-Type` where the body has none.
///
/// HEAD has the fields of GET and no body (RFC 9110, 9.3.2); 204, 304 and 1xx have neither body nor length (6.4.1, 8.6).
#[must_use]
pub fn answer(plan: &plan::Respond, method: &str) -> Answer {
    let mut fields = plan.headers.clone();
    // The length is ours to tell: a written one could only differ, and then the connection would be out of step.
    fields.retain(|(name, _)| *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING);
    if matches!(plan.status, 100..=199 | 204 | 304) {
        return Answer { status: plan.status, fields, body: bytes::Bytes::new() };
    }
    fields.push((header::CONTENT_LENGTH, HeaderValue::from(plan.body.len())));
    if !plan.body.is_empty() && !fields.iter().any(|(name, _)| *name == header::CONTENT_TYPE) {
        fields.push((header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
    }
    let body = if method == "HEAD" { bytes::Bytes::new() } else { plan.body.clone() };
    Answer { status: plan.status, fields, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn answered(
        status: u16,
        body: &'static str,
        fields: &[(&'static str, &'static str)],
        method: &str,
    ) -> (HeaderMap, bytes::Bytes) {
        let headers =
            fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        let answer = answer(&plan::Respond { status, body: body.into(), headers }, method);
        assert_eq!(answer.status, status);
        (answer.fields.into_iter().collect(), answer.body)
    }

    #[test]
    fn the_answer_is_as_written() {
        let (fields, body) = answered(503, "back soon", &[("retry-after", "60")], "GET");
        assert_eq!(fields["retry-after"], "60");
        assert_eq!(fields["content-length"], "9");
        assert_eq!(fields["content-type"], "text/plain; charset=utf-8");
        assert_eq!(body, "back soon");
    }

    #[test]
    fn head_has_the_fields_of_get_and_no_body() {
        let (fields, body) = answered(200, "hello", &[("content-type", "text/html"), ("content-length", "99")], "HEAD");
        assert_eq!(fields["content-length"], "5");
        assert_eq!(fields["content-type"], "text/html");
        assert!(body.is_empty());
    }

    #[test]
    fn no_content_has_neither_body_nor_length() {
        let (fields, body) = answered(204, "ignored", &[], "GET");
        assert!(fields.is_empty() && body.is_empty());
    }
}
