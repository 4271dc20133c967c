//! Any bytes from a client, down both roads: the backend reads the same requests as a strict reader of the client's bytes, from the
//! first on and with nothing after one that was refused; what is not of one hop arrives as it was sent, and nothing is added but
//! what we add; and the client reads an answer to each.

use std::sync::LazyLock;

use super::world::{Seen, World, named_by_connection};
use crate::reader::{self, Answer, Request};

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// What the backend gets besides what the client has sent.
const TOLD: [&str; 7] =
    ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "via", "x-request-id"];
/// What stays with the client's connection, or is written anew, or frames the message.
const NOT_PASSED_ON: [&str; 21] = [
    "te",
    "trailer",
    "upgrade",
    "connection",
    "keep-alive",
    "http2-settings",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "x-real-ip",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-roundel-attempt",
    "content-length",
    "transfer-encoding",
    "expect",
    "x-forwarded-for",
    "forwarded",
    "via",
    "host",
    // It is counted down: `tests/it/intermediary.rs`.
    "max-forwards",
];

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    // The preface of HTTP/2 begins another protocol: `road_h2` speaks it.
    if bytes.starts_with(b"PRI ") {
        return;
    }
    let (sent, rest) = reader::requests_and_rest(bytes);
    for road in WORLD.roads() {
        let seen = WORLD.pass(road, bytes);
        let answers = check_answers(road, &sent, rest, &seen);
        check_requests(road, &sent, &answers, &seen);
    }
}

/// Each request that was answered by the backend is what it read, in the same order, and none that was refused reached it.
fn check_requests(road: &str, sent: &[Request], answers: &[Answer], seen: &Seen) {
    seen.check_well_formed(road);
    let mut got = seen.requests.iter();
    for (at, answer) in answers.iter().enumerate() {
        let reached = match sent.get(at) {
            Some(request) if answer.field("x-backend").is_some() => got.next().map(|got| (request, got)),
            // Its backend may have read it, and failed.
            Some(request) if answer.status >= 500 => {
                let next = got.clone().next().filter(|got| got.meaning() == request.meaning());
                next.inspect(|_| {
                    let _ = got.next();
                })
                .map(|got| (request, got))
            }
            _ => continue,
        };
        if let Some((request, got)) = reached {
            check_request(road, request, got);
        }
    }
    // What was answered too late for its client.
    let mut unanswered = sent.iter().skip(answers.len());
    for got in got {
        let request = unanswered.next().unwrap_or_else(|| panic!("the {road} makes up {got}"));
        check_request(road, request, got);
    }
}

fn check_request(road: &str, sent: &Request, got: &Request) {
    if got.field("x-edited").is_some() {
        // Its path and fields are the route's to change, and nothing else.
        assert_eq!((&sent.method, &sent.body), (&got.method, &got.body), "on the {road}");
        return;
    }
    assert!(sent.meaning() == got.meaning(), "the {road} makes of {sent}: {got}");
    if !sent.host().is_empty() {
        assert_eq!(got.host(), sent.host(), "the host on the {road}");
    }
    check_fields(road, sent, got);
}

/// Fields that belong to the message pass as they came, those of one hop do not, and none is made up.
fn check_fields(road: &str, sent: &Request, got: &Request) {
    let named = named_by_connection(&sent.fields);
    let stays = |name: &str| {
        NOT_PASSED_ON.contains(&name) || TOLD.contains(&name) || named.iter().any(|option| option == name.as_bytes())
    };
    for (name, _) in sent.fields.iter().filter(|(name, _)| !stays(name)) {
        let [got, sent] = [got, sent].map(|request| reader::all(&request.fields, name).collect::<Vec<_>>());
        assert_eq!(got, sent, "the field {name} on the {road}");
    }
    for (name, value) in &got.fields {
        let known = TOLD.contains(&name.as_str())
            || match name.as_str() {
                "connection" => {
                    [&b"close"[..], b"keep-alive", b"upgrade"].iter().any(|known| value.eq_ignore_ascii_case(known))
                }
                "upgrade" => value.eq_ignore_ascii_case(b"websocket"),
                "te" | "trailer" | "keep-alive" | "proxy-connection" | "http2-settings" => false,
                _ => sent.fields.iter().any(|(sent, _)| sent == name),
            };
        assert!(known, "the {road} adds {name}: {}", value.escape_ascii());
        assert!(
            !named.iter().any(|option| option == name.as_bytes())
                || TOLD.contains(&name.as_str())
                || name == "upgrade"
                || name == "connection",
            "the {road} passes {name} on, which Connection names"
        );
    }
}

/// The final answers that the client reads: whole ones, and none after one with which the connection ends.
fn check_answers(road: &str, sent: &[Request], rest: &[u8], seen: &Seen) -> Vec<Answer> {
    let (mut at, mut finals) = (0, Vec::new());
    while at < seen.answers.len() {
        let method = sent.get(finals.len()).map_or(first_word(rest), |request| &request.method);
        let unread = &seen.answers[at..];
        let Some((mut answers, len)) = reader::final_answer(unread, method, true) else {
            panic!("the client of the {road} cannot read {}", unread.escape_ascii());
        };
        at += len;
        let last = answers.pop().expect("the final one");
        assert!(last.persistent || at == seen.answers.len(), "after the end: {}", seen.answers[at..].escape_ascii());
        finals.push(last);
    }
    assert!(finals.len() <= sent.len() + 1, "more answers than requests on the {road}");
    finals
}

/// What may be the method of a request that cannot be read.
fn first_word(bytes: &[u8]) -> &[u8] {
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
    bytes[begin..].split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).next().unwrap_or_default()
}
