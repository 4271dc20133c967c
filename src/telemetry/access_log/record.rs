//! What the data path tells of a request at its end: plain values, borrowed where possible.
//!
//! A record knows which value belongs to which [`LogField`]; how a value looks in a line is the format's business.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::base::request::Scheme;
use crate::config::plan::LogField;
use crate::telemetry::reason::Reason;

/// One request at its end. Texts that came from the client are bytes: they may be hostile.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// When the request began (its first byte).
    pub time: SystemTime,
    /// The id that the request was given, or brought from a trusted proxy.
    pub request_id: &'a str,
    /// The client's address after trusted proxies; none on a unix socket.
    pub client: Option<IpAddr>,
    /// The listener's name.
    pub listener: &'a str,
    /// The method; none where the head was malformed before it.
    pub method: Option<&'a [u8]>,
    /// The scheme by which the client reached us.
    pub scheme: Scheme,
    /// The authority as the client sent it.
    pub host: Option<&'a [u8]>,
    /// The path as the client sent it (it may hold the query too); none where the head was malformed before it.
    pub path: Option<&'a [u8]>,
    /// The query without its `?`, where `path` does not hold it.
    pub query: Option<&'a [u8]>,
    /// The version of HTTP; none where the head was malformed before it.
    pub protocol: Option<http::Version>,
    /// The status of the answer; 499 where the client left before it.
    pub status: u16,
    /// Why the proxy answered by itself, or why there was no whole answer.
    pub reason: Option<Reason>,
    /// Why a filter on trial would have refused it.
    pub dry_run: Option<Reason>,
    /// The route's name.
    pub route: Option<&'a str>,
    /// The upstream's name.
    pub upstream: Option<&'a str>,
    /// The backend of the last try.
    pub backend: Option<&'a str>,
    /// How many backends were tried; none where the request was not meant for one.
    pub attempts: Option<u32>,
    /// From the request's first byte to the answer's last.
    pub duration: Duration,
    /// How long the connect of the last try took (TLS included); none on a connection used before.
    pub connect: Option<Duration>,
    /// From the request sent to the backend to the first byte of its answer.
    pub first_byte: Option<Duration>,
    /// Whether the connection to the backend had been used before.
    pub reused: Option<bool>,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were written.
    pub bytes_out: u64,
    /// The client's `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// The client's `Referer`.
    pub referer: Option<&'a [u8]>,
    /// The version of TLS that the client speaks (`TLSv1.3`); none on plain connections.
    pub tls: Option<&'a str>,
    /// The trace id (W3C Trace Context, 32 hex digits).
    pub trace_id: Option<&'a str>,
}

/// The value of one field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Time(SystemTime),
    Text(&'a [u8]),
    Target(&'a [u8], Option<&'a [u8]>),
    Address(IpAddr),
    Number(u64),
    Millis(Duration),
    Flag(bool),
}

impl<'a> Record<'a> {
    /// The value of `field`, if this request has one.
    pub(super) fn value(&self, field: LogField) -> Option<Value<'a>> {
        Some(match field {
            LogField::Time => Value::Time(self.time),
            LogField::RequestId => text(self.request_id),
            LogField::Client => Value::Address(self.client?),
            LogField::Listener => text(self.listener),
            LogField::Method => Value::Text(self.method?),
            LogField::Scheme => text(self.scheme.as_str()),
            LogField::Host => Value::Text(self.host?),
            LogField::Path => Value::Target(self.path?, self.query),
            LogField::Protocol => text(protocol(self.protocol?)),
            LogField::Status => Value::Number(self.status.into()),
            LogField::Reason => text(self.reason?.as_str()),
            LogField::DryRun => text(self.dry_run?.as_str()),
            LogField::Route => text(self.route?),
            LogField::Upstream => text(self.upstream?),
            LogField::Backend => text(self.backend?),
            LogField::Attempts => Value::Number(self.attempts?.into()),
            LogField::DurationMs => Value::Millis(self.duration),
            LogField::ConnectMs => Value::Millis(self.connect?),
            LogField::FirstByteMs => Value::Millis(self.first_byte?),
            LogField::Reused => Value::Flag(self.reused?),
            LogField::BytesIn => Value::Number(self.bytes_in),
            LogField::BytesOut => Value::Number(self.bytes_out),
            LogField::UserAgent => Value::Text(self.user_agent?),
            LogField::Referer => Value::Text(self.referer?),
            LogField::Tls => text(self.tls?),
            LogField::TraceId => text(self.trace_id?),
        })
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(text.as_bytes())
}

/// The version as it stands in logs, in the form that nginx and Apache use.
pub(super) fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        http::Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    /// A plain request, answered by a backend.
    pub(in super::super) fn a_request() -> Record<'static> {
        Record {
            time: UNIX_EPOCH + Duration::from_millis(1_769_860_800_123),
            request_id: "01HX",
            client: Some([192, 0, 2, 7].into()),
            listener: "public",
            method: Some(b"GET"),
            scheme: Scheme::Https,
            host: Some(b"example.com"),
            path: Some(b"/a"),
            query: Some(b"b=c"),
            protocol: Some(http::Version::HTTP_11),
            status: 200,
            reason: None,
            dry_run: None,
            route: Some("site"),
            upstream: Some("web"),
            backend: Some("10.0.0.1:8080"),
            attempts: Some(1),
            duration: Duration::from_nanos(12_345_678),
            connect: Some(Duration::from_micros(250)),
            first_byte: Some(Duration::from_millis(7)),
            reused: Some(false),
            bytes_in: 0,
            bytes_out: 512,
            user_agent: Some(b"curl/8.5"),
            referer: Some(b"https://example.com/"),
            tls: Some("TLSv1.3"),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
        }
    }

    /// A request with the same hostile bytes in every place that a client or an operator can fill.
    #[derive(Debug)]
    pub(in super::super) struct Hostile {
        pub(in super::super) bytes: Vec<u8>,
        text: String,
        number: u64,
    }

    impl Hostile {
        pub(in super::super) fn view(&self) -> Record<'_> {
            Record {
                time: UNIX_EPOCH + Duration::from_secs(self.number),
                request_id: &self.text,
                listener: &self.text,
                method: Some(&self.bytes),
                host: Some(&self.bytes),
                path: Some(&self.bytes),
                query: Some(&self.bytes),
                route: Some(&self.text),
                upstream: Some(&self.text),
                backend: Some(&self.text),
                duration: Duration::from_nanos(self.number),
                bytes_out: self.number,
                user_agent: Some(&self.bytes),
                referer: Some(&self.bytes),
                trace_id: Some(&self.text),
                ..a_request()
            }
        }
    }

    pub(in super::super) fn any_record() -> impl Strategy<Value = Hostile> {
        (proptest::collection::vec(any::<u8>(), 0..40), any::<String>(), 0..u64::MAX / 4)
            .prop_map(|(bytes, text, number)| Hostile { bytes, text, number })
    }
}
