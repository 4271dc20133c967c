//! Traces: W3C Trace Context in and out, and spans for an OpenTelemetry receiver.
//!
//! A request has a [`Trace`] where tracing is configured: its id, and whether it is sampled. What is told of it at its end are
//! [`Span`]s, which wait in [`Spans`] until they are sent (`otlp`). A receiver that cannot be reached costs what waits, and
//! nothing else.

pub mod otlp;
mod spans;

use crate::base::request::Fields;
use crate::base::text;

pub use self::spans::{Kind, Span, Spans, Value};

/// The trace that a request belongs to (W3C Trace Context, level 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The id of the trace.
    pub id: u128,
    /// The span that the client told of; none where the trace begins here.
    pub parent: Option<u64>,
    /// The span of the request itself.
    pub span: u64,
    /// Whether it is sampled. Failures are told of even where it is not.
    pub sampled: bool,
}

/// What a `traceparent` field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parent {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl Trace {
    /// The trace of a request that has just come: the one that it tells of, else a new one. Whether it is sampled is decided
    /// by who is trusted to decide: a trusted proxy that told of a trace, else by chance.
    #[must_use]
    pub fn begin(fields: &dyn Fields, via_trusted: bool, share: f64) -> Self {
        let parent = parent(fields);
        let decided = parent.filter(|_| via_trusted).map(|parent| parent.sampled);
        Self {
            id: parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace),
            parent: parent.map(|parent| parent.span),
            span: new_span(),
            sampled: decided.unwrap_or_else(|| fastrand::f64() < share),
        }
    }

    /// What the backend is told, in ASCII, where `span` is the try that it gets the request by.
    #[must_use]
    pub fn traceparent(&self, span: u64) -> [u8; 55] {
        let mut field = *b"00-................................-................-00";
        field[3..35].copy_from_slice(&text::hex(self.id));
        field[36..52].copy_from_slice(&text::hex(span.into())[16..]);
        field[54] += u8::from(self.sampled);
        field
    }
}

/// A new id of a span.
#[must_use]
pub fn new_span() -> u64 {
    fastrand::u64(1..)
}

/// The parent that a request's only `traceparent` tells of; none where it breaks the form (W3C Trace Context, 3.2).
fn parent(fields: &dyn Fields) -> Option<Parent> {
    let (mut count, mut found) = (0, None);
    fields.each("traceparent", &mut |value| {
        count += 1;
        found = parse(value);
    });
    found.filter(|_| count == 1)
}

fn parse(value: &[u8]) -> Option<Parent> {
    let text = std::str::from_utf8(value).ok()?;
    let (known, rest) = text.split_at_checked(55)?;
    let mut parts = known.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let shaped = [(version, 2), (trace, 32), (span, 16), (flags, 2)].into_iter().all(|(part, length)| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    // Later versions may say more behind another dash.
    let ended = rest.is_empty() || (version != "00" && rest.starts_with('-'));
    if !shaped || !ended || version == "ff" {
        return None;
    }
    let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (trace != 0 && span != 0).then_some(Parent { trace, span, sampled })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn fields(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append("traceparent", HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn a_trace_goes_on_where_the_request_tells_of_one() {
        let trace = Trace::begin(&fields(&[GOOD]), true, 0.0);
        assert_eq!(
            (trace.id, trace.parent, trace.sampled),
            (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, Some(0x00f0_67aa_0ba9_02b7), true)
        );
        assert_eq!(&trace.traceparent(0x1234), b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000001234-01");
    }

    #[test]
    fn only_a_trusted_proxy_decides_what_is_sampled() {
        let unsampled = GOOD.replace("-01", "-00");
        assert!(!Trace::begin(&fields(&[GOOD]), false, 0.0).sampled);
        assert!(Trace::begin(&fields(&[&unsampled]), false, 1.0).sampled);
        assert!(!Trace::begin(&fields(&[&unsampled]), true, 1.0).sampled);
        assert!(Trace::begin(&fields(&[]), true, 1.0).sampled);
    }

    #[test]
    fn what_breaks_the_form_begins_a_new_trace() {
        let upper = GOOD.to_uppercase();
        let longer = format!("{GOOD}-more");
        for wrong in [
            "",
            "00-0-0-0",
            upper.as_str(),
            longer.as_str(),
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(parse(format!("01{}-more", &GOOD[2..]).as_bytes()).is_some());
        assert_eq!(Trace::begin(&fields(&[GOOD, GOOD]), true, 0.0).parent, None, "two are one too many");
    }
}
