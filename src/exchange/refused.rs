//! Requests that never became one: the head broke the grammar or a bound, or did not come in time.
//!
//! They are answered in the same words as all others and have their line in the access log, with as much as can be made
//! out of what came.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue};

use crate::base::clock::Moment;
use crate::base::request::{Fields, Scheme};
use crate::config::plan;
use crate::exchange::recent::Past;
use crate::exchange::reply::{Answer, Style};
use crate::exchange::request_id::RequestId;
use crate::exchange::snapshot::Snapshot;
use crate::telemetry::access_log::Record;
use crate::telemetry::metrics::series::Bodies;
use crate::telemetry::reason::Reason;
use crate::tls::Facts;

/// The longest part of a head that is repeated in the log.
const LONGEST: usize = 4096;

/// A request that was refused at the edge.
pub struct Refused<'a> {
    snapshot: &'a Snapshot,
    listener: &'a plan::Listener,
    id: RequestId,
    answer: Answer,
    reason: Reason,
    detail: Option<&'static str>,
}

/// As much as could be made out of the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen<'a> {
    /// The method.
    pub method: Option<&'a [u8]>,
    /// The target.
    pub target: Option<&'a [u8]>,
    /// The authority.
    pub host: Option<&'a [u8]>,
    /// The version of HTTP.
    pub version: Option<http::Version>,
    /// `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// `Referer`.
    pub referer: Option<&'a [u8]>,
}

impl<'a> Seen<'a> {
    /// What stands in the inbox of a connection.
    #[must_use]
    pub fn of(inbox: &'a [u8]) -> Self {
        let (method, target) = request_line(inbox);
        let named = |name| fields_named(inbox, name).next().map(|value| &value[..value.len().min(LONGEST)]);
        let (host, user_agent, referer) = (named("host"), named("user-agent"), named("referer"));
        Self { method, target, host, version: named_version(inbox), user_agent, referer }
    }
}

/// The fields of what came, as far as they can be made out: good enough for the form of an answer, and for a log.
#[derive(Debug, Clone, Copy)]
pub struct Scraps<'a>(pub &'a [u8]);

impl Fields for Scraps<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        fields_named(self.0, name).next()
    }

    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        fields_named(self.0, name).for_each(visit);
    }
}

/// Nothing is known of the request's fields.
pub(super) struct NoFields;

impl Fields for NoFields {
    fn get(&self, _name: &str) -> Option<&[u8]> {
        None
    }

    fn each(&self, _name: &str, _visit: &mut dyn FnMut(&[u8])) {}
}

impl<'a> Refused<'a> {
    /// The refusal for `reason`.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot, listener: &'a plan::Listener, reason: Reason) -> Self {
        Self::to(snapshot, listener, reason, &NoFields)
    }

    /// The refusal for `reason` to a client that sent these fields.
    #[must_use]
    pub fn to(snapshot: &'a Snapshot, listener: &'a plan::Listener, reason: Reason, fields: &dyn Fields) -> Self {
        let style = Style {
            pages: [None, Some(&listener.errors), Some(&snapshot.plan.errors)],
            expose_reason: snapshot.plan.expose_reason,
        };
        let (id, mut answer) = (RequestId::new(), Answer::new(reason, fields, style));
        if let Ok(id) = HeaderValue::from_str(id.as_str()) {
            answer.headers.push((HeaderName::from_static("x-request-id"), id));
        }
        Self { snapshot, listener, id, answer, reason, detail: None }
    }

    /// The answer.
    #[must_use]
    pub const fn parts(&self) -> &Answer {
        &self.answer
    }

    /// The field that says when the answer was made (RFC 9110, 6.6.1), where what sends it adds none.
    #[must_use]
    pub fn date(&self) -> Option<(HeaderName, HeaderValue)> {
        let date = httpdate::HttpDate::from(self.snapshot.clock.wall(self.snapshot.clock.now()));
        HeaderValue::try_from(date.to_string()).ok().map(|date| (http::header::DATE, date))
    }

    /// The bytes of the answer over HTTP/1.1; none where the client has left.
    #[must_use]
    pub fn answer(&self, head_only: bool) -> Option<Vec<u8>> {
        (self.reason != Reason::ClientGone).then(|| self.answer.clone().into_closing_bytes(head_only))
    }

    /// The same, with what is wrong with it.
    #[must_use]
    pub fn because(self, detail: &'static str) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// Writes its line.
    pub fn record(&self, peer: Option<SocketAddr>, tls: Option<&Facts>, received: Moment, seen: Seen<'_>) {
        let duration = self.snapshot.clock.now().since(received);
        self.snapshot.counters.answered(self.reason);
        let is_bodiless = self.reason == Reason::ClientGone || seen.method == Some(b"HEAD");
        let bytes_out = if is_bodiless { 0 } else { self.answer.body.len() as u64 };
        let bodies = Bodies { received: 0, sent: bytes_out };
        self.snapshot.counters.refused(&self.listener.name, self.reason.status(), duration, bodies);
        let client = peer.map(|peer| peer.ip().to_canonical());
        self.snapshot.recent.keep(self.reason.status(), Some(self.reason), |past| {
            *past = Past { received, duration, client, bytes_out, detail: self.detail, ..self.past() };
            past.id.set(self.id.as_str().as_bytes());
            past.method.set(seen.method.unwrap_or_default());
            past.host.set(seen.host.unwrap_or_default());
            past.path.set(seen.target.unwrap_or_default());
        });
        let Some(log) = &self.snapshot.access_log else { return };
        if !log.wants(fastrand::u64(..)) {
            return;
        }
        log.write(&Record {
            time: self.snapshot.clock.wall(received),
            request_id: self.id.as_str(),
            client,
            listener: &self.listener.name,
            method: seen.method,
            scheme: if tls.is_some() { Scheme::Https } else { Scheme::Http },
            host: seen.host,
            path: seen.target,
            query: None,
            protocol: seen.version,
            status: self.reason.status(),
            reason: Some(self.reason),
            dry_run: None,
            route: None,
            upstream: None,
            backend: None,
            attempts: None,
            duration,
            connect: None,
            first_byte: None,
            reused: None,
            bytes_in: 0,
            bytes_out,
            user_agent: seen.user_agent,
            referer: seen.referer,
            tls: tls.map(|facts| facts.version),
            trace_id: None,
        });
    }
}

impl Refused<'_> {
    /// What is remembered of every request that never became one.
    fn past(&self) -> Past {
        Past {
            generation: self.snapshot.generation,
            listener: Some(self.listener.name.clone()),
            status: self.reason.status(),
            answered: self.reason != Reason::ClientGone,
            reason: Some(self.reason),
            ..Past::default()
        }
    }
}

/// The method and target of what may be a request line, cut to what a log line should hold.
pub(super) fn request_line(inbox: &[u8]) -> (Option<&[u8]>, Option<&[u8]>) {
    let line = inbox.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty()).unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ').map(|part| &part[..part.len().min(LONGEST)]);
    let method = parts.next().filter(|part| !part.is_empty());
    (method, parts.next().filter(|part| !part.is_empty()))
}

/// The version of HTTP that the first line of a sound head names; without one it is HTTP/1.1.
pub(super) fn version(head: &[u8]) -> http::Version {
    named_version(head).unwrap_or(http::Version::HTTP_11)
}

/// The version of HTTP that the first line names.
fn named_version(head: &[u8]) -> Option<http::Version> {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty())?;
    match line.rsplit(|byte| *byte == b' ').next()? {
        b"HTTP/2.0" => Some(http::Version::HTTP_2),
        b"HTTP/1.1" => Some(http::Version::HTTP_11),
        b"HTTP/1.0" => Some(http::Version::HTTP_10),
        _ => None,
    }
}

/// The values of the fields `name` in what may be a head; an empty one is none. A line without its end counts as well.
fn fields_named<'a>(head: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1).take_while(|line| !line.trim_ascii().is_empty());
    let values = lines.filter_map(move |line| {
        let (field, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        field.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    });
    values.filter(|value| !value.is_empty())
}

/// The authority that a head names in its first `Host` field.
pub(super) fn host(head: &[u8]) -> &[u8] {
    fields_named(head, "host").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_as_can_be_made_out_is_told() {
        assert_eq!(request_line(b"GET /a HTTP/1.1\r\nbad header\r\n"), (Some(&b"GET"[..]), Some(&b"/a"[..])));
        assert_eq!(request_line(b"\r\nPO"), (Some(&b"PO"[..]), None));
        assert_eq!(request_line(b""), (None, None));
        assert_eq!(version(b"GET /a HTTP/2.0\r\nhost: x\r\n"), http::Version::HTTP_2);
        assert_eq!(version(b"\r\nGET /a HTTP/1.0\r\n"), http::Version::HTTP_10);
        assert_eq!(version(b"GET /a"), http::Version::HTTP_11);
        let seen = Seen::of(b"GET /a HTTP/1.1\r\nbad header\r\nHost: a.example\r\n");
        assert_eq!((seen.host, seen.version), (Some(&b"a.example"[..]), Some(http::Version::HTTP_11)));
        assert_eq!(Seen::of(b"GET /a HTTP/3.0\r\nHost:\r\n"), Seen { host: None, version: None, ..seen });
        let scraps = Scraps(b"GET /a HTTP/1.1\r\n: x\r\naccept : a\r\nAccept: b\r\nACCEPT:c\r\n\r\naccept: body");
        let mut found = Vec::new();
        scraps.each("accept", &mut |value| found.push(value.to_vec()));
        assert_eq!((found, scraps.get("host")), (vec![b"b".to_vec(), b"c".to_vec()], None));
    }
}
