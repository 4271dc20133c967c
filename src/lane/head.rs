//! Heads as they leave: the request for the backend, the answer for the client. Written from slices into one buffer, by the
//! rules of `exchange::forward`. Pure.

use std::io::Write as _;
use std::ops::Range;

use crate::base::request::RequestView;
use crate::exchange::{Exchange, forward};
use crate::filter;
use crate::filter::edit::Edit;
use crate::wire::answer;
use crate::wire::fields::Line;
use crate::wire::head::Head;

/// Writes the head of the request for the backend. `version` is the client's.
pub(super) fn request(
    head: &Head<'_>,
    view: &RequestView<'_>,
    exchange: &Exchange,
    version: http::Version,
    value: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    let edits = forward::request_edits(view, exchange);
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    match &exchange.rewritten.path {
        None => out.extend_from_slice(head.target.as_str().as_bytes()),
        Some(path) => {
            out.extend_from_slice(path.as_bytes());
            if let Some(query) = head.target.query() {
                out.push(b'?');
                out.extend_from_slice(query.as_bytes());
            }
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = exchange.rewritten.host.as_ref();
    let mut lines = Lines::of(head.fields.bytes(), out);
    for line in head.fields.lines() {
        if !forward::passes_to_backend(line.name, exchange) || replaces(&edits, line.name) {
            continue;
        }
        match host {
            Some(host) if line.name.eq_ignore_ascii_case("host") => lines.write(line.name, host.as_bytes()),
            _ => lines.pass(&line),
        }
    }
    lines.end();
    let host = Some(head.host.as_bytes());
    forward::told_to_backend(exchange, &head.fields, version, host, value, &mut |name, content| {
        if !replaces(&edits, name) {
            field(out, name, content);
        }
    });
    add(out, &edits);
    out.extend_from_slice(b"\r\n");
}

/// What the client's connection is for after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// The next request.
    Keep,
    /// Nothing: it closes.
    Close,
}

impl Afterwards {
    fn option(self) -> &'static [u8] {
        match self {
            Self::Keep => b"keep-alive",
            Self::Close => b"close",
        }
    }
}

/// How a backend's answer is passed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passing {
    /// Whether its body, which ends with the backend's connection, is put into chunks.
    pub(super) into_chunks: bool,
    /// What the client's connection is for afterwards.
    pub(super) afterwards: Afterwards,
}

/// Writes the head of a backend's final answer for the client.
pub(super) fn answer(
    head: &answer::Head<'_>,
    view: &RequestView<'_>,
    exchange: &Exchange,
    passing: Passing,
    out: &mut Vec<u8>,
) {
    let edits = forward::response_edits(view, exchange);
    status_line(out, head.status, head.phrase);
    let mut dated = false;
    let mut lines = Lines::of(head.fields.bytes(), out);
    for line in passing_lines(head) {
        if !replaces(&edits, line.name) {
            dated |= line.name.eq_ignore_ascii_case("date");
            lines.pass(&line);
        }
    }
    lines.end();
    if passing.into_chunks {
        field(out, "transfer-encoding", b"chunked");
    }
    if let Some(cookie) = forward::sticky_cookie(exchange) {
        field(out, "set-cookie", cookie.as_bytes());
    }
    add(out, &edits);
    end(out, dated, passing.afterwards);
}

/// Writes the head of a 1xx for the client.
pub(super) fn informational(head: &answer::Head<'_>, out: &mut Vec<u8>) {
    status_line(out, head.status, head.phrase);
    let mut lines = Lines::of(head.fields.bytes(), out);
    passing_lines(head).for_each(|line| lines.pass(&line));
    lines.end();
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an answer of our own.
pub(super) fn own(
    answer: &filter::Answer,
    view: &RequestView<'_>,
    exchange: &Exchange,
    afterwards: Afterwards,
    out: &mut Vec<u8>,
) {
    let edits = forward::response_edits(view, exchange);
    let bodiless = matches!(answer.status, 204 | 304);
    let phrase = http::StatusCode::from_u16(answer.status).ok().and_then(|status| status.canonical_reason());
    status_line(out, answer.status, phrase.unwrap_or_default().as_bytes());
    let mut has_length = bodiless;
    for (name, content) in &answer.fields {
        has_length |= *name == http::header::CONTENT_LENGTH;
        if !replaces(&edits, name.as_str()) {
            field(out, name.as_str(), content.as_bytes());
        }
    }
    if !replaces(&edits, "x-request-id") {
        field(out, "x-request-id", exchange.id.as_str().as_bytes());
    }
    if !has_length {
        // Writing into a Vec cannot fail.
        let _ = write!(out, "content-length: {}\r\n", answer.body.len());
    }
    add(out, &edits);
    end(out, false, afterwards);
}

/// The field lines of an answer that pass to the client as they came.
fn passing_lines<'h, 'b>(head: &'h answer::Head<'b>) -> impl Iterator<Item = Line<'b>> + use<'h, 'b> {
    head.fields.lines().filter(|line| {
        forward::passes_to_client(line.name, head.status)
            && !(head.names_fields && !forward::outlives_connection(line.name) && is_named(head, line.name))
    })
}

/// Field lines on their way from one head into another. Those that stand together and are written as we write them are copied
/// together.
struct Lines<'h, 'o> {
    head: &'h [u8],
    out: &'o mut Vec<u8>,
    /// What is copied next, without the last line's end.
    together: Range<usize>,
}

impl<'h, 'o> Lines<'h, 'o> {
    /// Lines that are read from the bytes of `head`.
    fn of(head: &'h [u8], out: &'o mut Vec<u8>) -> Self {
        Self { head, out, together: 0..0 }
    }

    /// Passes a line on as it came.
    fn pass(&mut self, line: &Line<'_>) {
        let Some(place) = line.as_we_write_it(self.head) else { return self.write(line.name, line.value) };
        let end = self.together.end;
        let between = self.head.get(end..place.start).unwrap_or_default();
        if between == b"\r\n" && !self.together.is_empty() {
            self.together.end = place.end;
        } else {
            self.flush();
            self.together = place;
        }
    }

    /// Writes a line of its own.
    fn write(&mut self, name: &str, content: &[u8]) {
        self.flush();
        field(self.out, name, content);
    }

    fn flush(&mut self) {
        if !self.together.is_empty() {
            self.out.extend_from_slice(&self.head[self.together.clone()]);
            self.out.extend_from_slice(b"\r\n");
            self.together = 0..0;
        }
    }

    /// Writes what is left.
    fn end(mut self) {
        self.flush();
    }
}

/// Whether `Connection` names the field `name`.
fn is_named(head: &answer::Head<'_>, name: &str) -> bool {
    let names = |value: &[u8]| value.split(|byte| *byte == b',').any(|option| is(option.trim_ascii(), name));
    head.fields.all("connection").any(names)
}

fn is(option: &[u8], name: &str) -> bool {
    option.eq_ignore_ascii_case(name.as_bytes())
}

/// The version is that of the one who sends, and we send (RFC 9110, 2.5).
fn status_line(out: &mut Vec<u8>, status: u16, phrase: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(phrase);
    out.extend_from_slice(b"\r\n");
}

/// A recipient with a clock dates what came undated (RFC 9110, 6.6.1).
fn end(out: &mut Vec<u8>, dated: bool, afterwards: Afterwards) {
    if !dated {
        let _ = write!(out, "date: {}\r\n", httpdate::HttpDate::from(std::time::SystemTime::now()));
    }
    field(out, "connection", afterwards.option());
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &str, content: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(content);
    out.extend_from_slice(b"\r\n");
}

/// Whether the edits leave nothing of what the field `name` held before.
fn replaces(edits: &[Edit], name: &str) -> bool {
    edits.iter().any(|edit| match edit {
        Edit::Set(edited, _) | Edit::Remove(edited) => edited.as_str().eq_ignore_ascii_case(name),
        Edit::Add(..) => false,
    })
}

/// Writes what the edits leave of themselves: each that no later one undoes.
fn add(out: &mut Vec<u8>, edits: &[Edit]) {
    for (at, edit) in edits.iter().enumerate() {
        if let Edit::Set(name, content) | Edit::Add(name, content) = edit
            && !replaces(&edits[at + 1..], name.as_str())
        {
            field(out, name.as_str(), content.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::filter::edit;

    fn name() -> impl Strategy<Value = HeaderName> {
        prop::sample::select(vec!["a", "b", "c"]).prop_map(HeaderName::from_static)
    }

    fn any_edit() -> impl Strategy<Value = Edit> {
        let value = || prop::sample::select(vec!["1", "2", "3"]).prop_map(HeaderValue::from_static);
        prop_oneof![
            (name(), value()).prop_map(|(name, value)| Edit::Set(name, value)),
            (name(), value()).prop_map(|(name, value)| Edit::Add(name, value)),
            name().prop_map(Edit::Remove),
        ]
    }

    proptest! {
        #[test]
        fn edits_leave_the_same_fields_on_both_roads(
            before in prop::collection::vec((name(), 0_u8..9), 0..5),
            edits in prop::collection::vec(any_edit(), 0..6),
        ) {
            let mut map = http::HeaderMap::new();
            let mut out = Vec::new();
            for (name, number) in &before {
                map.append(name, HeaderValue::from(u16::from(*number)));
                if !replaces(&edits, name.as_str()) {
                    field(&mut out, name.as_str(), number.to_string().as_bytes());
                }
            }
            add(&mut out, &edits);
            edit::apply(edits, &mut map);
            for name in ["a", "b", "c"] {
                let prefix = format!("{name}: ");
                let text = String::from_utf8(out.clone()).unwrap();
                let written: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
                let expected: Vec<&str> = map.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
                prop_assert_eq!(written, expected);
            }
        }
    }
}
