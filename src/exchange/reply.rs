//! The answers that the proxy gives by itself: their bytes, and nothing about why.
//!
//! Short, in the form the client accepts (plain text, HTML or `application/problem+json`, RFC 9457), and silent about
//! backends.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::base::request::Fields;
use crate::config::plan::ErrorPages;
use crate::exchange::grpc;
use crate::telemetry::reason::Reason;

/// An answer by the proxy, without the fields of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Why, where the proxy refused or failed (an answer that a route writes has no reason).
    pub reason: Option<Reason>,
    /// Its fields, but for `Content-Length`, `Date` and `Connection`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}

/// How answers look: what the configuration says about them, from the most particular to the most general.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style<'a> {
    /// Own error pages of the route, the listener and the whole configuration.
    pub pages: [Option<&'a ErrorPages>; 3],
    /// Whether `Proxy-Status` is sent.
    pub expose_reason: bool,
}

impl Answer {
    /// The answer for `reason` to a request with these fields.
    #[must_use]
    pub fn new(reason: Reason, fields: &dyn Fields, style: Style<'_>) -> Self {
        let status = reason.status();
        let (content_type, body) = match style.pages.iter().flatten().find_map(|pages| pages.get(&status)) {
            Some(page) => (page.content_type, page.body.clone()),
            None => Form::wanted(fields).render(reason),
        };
        let mut headers = vec![
            (CONTENT_TYPE, HeaderValue::from_static(content_type)),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        if matches!(reason, Reason::ConnectionLimitReached | Reason::PendingTimeout) {
            headers.push((RETRY_AFTER, HeaderValue::from_static("1")));
        }
        if matches!(reason, Reason::MethodNotAllowed) {
            // RFC 9110, 15.5.6: a 405 names what is allowed. CONNECT alone is refused for its method.
            headers
                .push((http::header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")));
        }
        if style.expose_reason
            && let Ok(value) = HeaderValue::try_from(format!("roundel; error={}", reason.as_str()))
        {
            headers.push((HeaderName::from_static("proxy-status"), value));
        }
        Self { status, reason: Some(reason), headers, body }
    }

    /// The answer for `reason` to a call of gRPC: nothing but trailers, which are its head (gRPC over HTTP/2, "Trailers-Only").
    #[must_use]
    pub fn grpc(reason: Reason) -> Self {
        let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))];
        headers.extend(grpc::end(reason));
        Self { status: 200, reason: Some(reason), headers, body: Bytes::new() }
    }

    /// The whole answer as HTTP/1.1, with `Connection: close`: for requests that never became one.
    #[must_use]
    pub fn into_closing_bytes(self, head_only: bool) -> Vec<u8> {
        let phrase = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
        let mut wire = format!("HTTP/1.1 {} {phrase}\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            push_field(&mut wire, name.as_str(), value.as_bytes());
        }
        push_field(&mut wire, "content-length", self.body.len().to_string().as_bytes());
        push_field(&mut wire, "date", httpdate::fmt_http_date(std::time::SystemTime::now()).as_bytes());
        push_field(&mut wire, "connection", b"close");
        wire.extend_from_slice(b"\r\n");
        if !head_only {
            wire.extend_from_slice(&self.body);
        }
        wire
    }
}

fn push_field(wire: &mut Vec<u8>, name: &str, value: &[u8]) {
    wire.extend_from_slice(name.as_bytes());
    wire.extend_from_slice(b": ");
    wire.extend_from_slice(value);
    wire.extend_from_slice(b"\r\n");
}

/// The forms an answer can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Html,
    Problem,
}

impl Form {
    /// The form that the client accepts most, by quality (RFC 9110, 12.5.1); plain text where it does not say, or all alike.
    fn wanted(fields: &dyn Fields) -> Self {
        let mut best = (0.0, Self::Text);
        let mut first = true;
        fields.each(ACCEPT.as_str(), &mut |value| {
            for range in value.split(|byte| *byte == b',') {
                let (form, quality) = Self::of_range(range);
                if let Some(form) = form
                    && (quality > best.0 || first && quality > 0.0)
                {
                    best = (quality, form);
                    first = false;
                }
            }
        });
        best.1
    }

    fn of_range(range: &[u8]) -> (Option<Self>, f32) {
        let mut parts = range.split(|byte| *byte == b';');
        let form = match parts.next().unwrap_or_default().trim_ascii() {
            media
                if media.eq_ignore_ascii_case(b"text/html") || media.eq_ignore_ascii_case(b"application/xhtml+xml") =>
            {
                Some(Self::Html)
            }
            media
                if media.eq_ignore_ascii_case(b"application/json")
                    || media.eq_ignore_ascii_case(b"application/problem+json") =>
            {
                Some(Self::Problem)
            }
            media
                if media.eq_ignore_ascii_case(b"text/plain")
                    || media.eq_ignore_ascii_case(b"text/*")
                    || media == b"*/*" =>
            {
                Some(Self::Text)
            }
            _ => None,
        };
        let quality = parts
            .find_map(|parameter| parameter.trim_ascii().strip_prefix(b"q="))
            .and_then(|text| std::str::from_utf8(text).ok()?.parse::<f32>().ok())
            .unwrap_or(1.0);
        (form, quality)
    }

    fn render(self, reason: Reason) -> (&'static str, Bytes) {
        let status = reason.status();
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
        let text = reason.text();
        match self {
            Self::Text => ("text/plain; charset=utf-8", format!("{status} {title}: {text}\n").into()),
            Self::Html => ("text/html; charset=utf-8", html(status, title, text).into()),
            Self::Problem => (
                "application/problem+json",
                format!(r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{text}"}}"#).into(),
            ),
        }
    }
}

fn html(status: u16, title: &str, text: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{status} {title}</title><style>body{{font:1.1em/1.5 system-ui,sans-serif;\
         max-width:40em;margin:15vh auto;padding:0 1em;color-scheme:light dark}}</style></head>\
         <body><h1>{status} {title}</h1><p>{text}</p></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &str) -> http::HeaderMap {
        let mut map = http::HeaderMap::new();
        map.insert(ACCEPT, value.parse().unwrap());
        map
    }

    fn content_type(answer: &Answer) -> &str {
        answer.headers.iter().find(|(name, _)| name == CONTENT_TYPE).unwrap().1.to_str().unwrap()
    }

    #[test]
    fn the_form_is_what_the_client_accepts_most() {
        let form = |accept| Form::wanted(&accepting(accept));
        assert_eq!(Form::wanted(&http::HeaderMap::new()), Form::Text);
        assert_eq!(form("*/*"), Form::Text);
        assert_eq!(form("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), Form::Html);
        assert_eq!(form("application/json"), Form::Problem);
        assert_eq!(form("text/html;q=0.3, application/problem+json;q=0.7"), Form::Problem);
        assert_eq!(form("image/png"), Form::Text);
    }

    #[test]
    fn an_answer_is_short_and_names_no_backend() {
        for reason in Reason::all() {
            let answer = Answer::new(reason, &accepting("application/json"), Style::default());
            assert!(answer.body.len() < 300);
            serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap();
        }
    }

    #[test]
    fn the_reason_is_sent_only_where_it_is_exposed() {
        let has = |expose_reason| {
            let style = Style { expose_reason, ..Style::default() };
            let answer = Answer::new(Reason::ConnectionRefused, &http::HeaderMap::new(), style);
            answer
                .headers
                .iter()
                .any(|(name, value)| name == "proxy-status" && value == "roundel; error=connection_refused")
        };
        assert!(has(true));
        assert!(!has(false));
    }

    #[test]
    fn the_most_particular_page_wins() {
        use crate::config::plan::ErrorPage;
        let page = |text: &'static str| {
            let page = ErrorPage {
                path: "x".into(),
                content_type: "text/html; charset=utf-8",
                body: Bytes::from_static(text.as_bytes()),
            };
            ErrorPages::from([(503, std::sync::Arc::new(page))])
        };
        let (route, all) = (page("route"), page("all"));
        let style = Style { pages: [Some(&route), None, Some(&all)], expose_reason: false };
        let answer = Answer::new(Reason::DestinationUnavailable, &http::HeaderMap::new(), style);
        assert_eq!(&answer.body[..], b"route");
        assert_eq!(content_type(&answer), "text/html; charset=utf-8");
    }
}
