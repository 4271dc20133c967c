//! Any bytes as the answer of a backend, down both roads: the client reads the answer that a strict reader reads of the backend's
//! bytes, or one of ours that says that there was none, or one that it sees was cut; and the answer to its next request is no other.

use std::sync::LazyLock;

use super::world::{Script, World, named_by_connection};
use crate::reader::{self, Answer};

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// What the client asks, by the first of the fuzzer's bytes. A second request follows on the same connection.
const ASKED: [(&[u8], &[u8]); 4] = [
    (b"GET", b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"),
    (b"HEAD", b"HEAD /first HTTP/1.1\r\nHost: a\r\n\r\n"),
    (b"POST", b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
    (b"GET", b"GET /first HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nX: 1\r\n\r\n"),
];
const SECOND: &[u8] = b"GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let Some((choice, given)) = bytes.split_first() else { return };
    let (method, first) = ASKED[usize::from(*choice) % ASKED.len()];
    let ended = reader::final_answer(given, method, false).is_some();
    let truth = reader::final_answer(given, method, true).and_then(|(mut answers, _)| answers.pop());
    for road in WORLD.roads() {
        // A backend whose answer does not end by itself ends its connection; else it stays for the next request.
        WORLD.prepare(Script { answer: given.to_vec(), closes: !ended });
        let seen = WORLD.pass(road, &[first, SECOND].concat());
        seen.check_well_formed(road);
        check(road, method, truth.as_ref(), &seen.answers);
    }
}

fn check(road: &str, method: &[u8], truth: Option<&Answer>, read: &[u8]) {
    let Some((answers, len)) = reader::final_answer(read, method, false) else {
        // The client sees that it was cut: it is framed, and not whole.
        assert!(reader::final_answer(read, method, true).is_none(), "a cut that cannot be seen on the {road}");
        return;
    };
    let (first, rest) = (answers.last().expect("the final one"), &read[len..]);
    if !is_ours(first) {
        let Some(truth) = truth else {
            panic!("the {road} passes on what a strict reader does not take: {}", read.escape_ascii());
        };
        assert_eq!(
            (first.status, first.body.escape_ascii().to_string()),
            (truth.status, truth.body.escape_ascii().to_string()),
            "on the {road}"
        );
        check_fields(road, truth, first);
    }
    if !first.persistent {
        assert!(rest.is_empty(), "after the end on the {road}: {}", rest.escape_ascii());
        return;
    }
    let Some((answers, len)) = reader::final_answer(rest, b"GET", false) else {
        panic!("no second answer on the {road}: {}", rest.escape_ascii());
    };
    let second = answers.last().expect("the final one");
    assert!(is_ours(second) || second.status == 200 && second.body == b"ok" && second.field("x-backend").is_some());
    assert_eq!(len, rest.len(), "after the end on the {road}");
}

/// Whether the proxy says that it got no answer.
fn is_ours(answer: &Answer) -> bool {
    matches!(answer.status, 502 | 504) && answer.field("x-request-id").is_some_and(|id| id.len() == 32)
}

/// Fields that belong to the message pass as they came, those of one hop do not.
fn check_fields(road: &str, truth: &Answer, read: &Answer) {
    const OF_ONE_HOP: [&str; 7] =
        ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"];
    const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "date"];
    let named = named_by_connection(&truth.fields);
    let is_named = |name: &str| named.iter().any(|option| option == name.as_bytes());
    for (name, _) in &truth.fields {
        let values = |answer: &Answer| {
            reader::all(&answer.fields, name).map(|value| value.escape_ascii().to_string()).collect::<Vec<_>>()
        };
        if !(OF_ONE_HOP.contains(&name.as_str()) || FRAMING.contains(&name.as_str()) || is_named(name)) {
            assert_eq!(values(read), values(truth), "the field {name} on the {road}");
        }
    }
    for (name, value) in &read.fields {
        let of_one_hop = OF_ONE_HOP.contains(&name.as_str()) && name != "connection";
        let named = is_named(name) && !FRAMING.contains(&name.as_str()) && name != "connection";
        assert!(!of_one_hop && !named, "the {road} passes {name} on");
        let known = FRAMING.contains(&name.as_str())
            || name == "connection"
            || truth.fields.iter().any(|(found, _)| found == name);
        assert!(known, "the {road} adds {name}: {}", value.escape_ascii());
    }
}
