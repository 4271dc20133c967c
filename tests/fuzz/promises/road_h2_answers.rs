//! Any frames as the answer of a backend that speaks HTTP/2, to clients of both protocols: no panic, no hang; a client that reads a
//! whole answer reads the content of the backend's DATA and nothing else, or one of ours; and the answer to its next request is no other.
//!
//! The first byte chooses the request, the rest describes frames (`frames.rs`); those of stream 1 are the answer.

use std::sync::LazyLock;

use super::frames::{DATA, END_STREAM, HEADERS, RST_STREAM, described, frames};
use super::road_answers::{Asked, converse, is_ours, is_usual};
use super::world::{Script, World};
use crate::reader::{self, Answer};

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// The flag of a frame whose content stands between its length and padding (RFC 9113, 6.1).
const PADDED: u8 = 8;

const ASKED: [Asked; 3] = [
    Asked { method: "GET", path: "/framed/first", fields: &[("te", "trailers")], body: "", compressed: false },
    Asked { method: "HEAD", path: "/framed/first", fields: &[], body: "", compressed: false },
    Asked { method: "POST", path: "/framed/first", fields: &[("content-length", "3")], body: "abc", compressed: false },
];
const SECOND: Asked = Asked { method: "GET", path: "/framed/second", fields: &[], body: "", compressed: false };

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let Some((choice, description)) = bytes.split_first() else { return };
    let asked = &ASKED[usize::from(*choice) % ASKED.len()];
    let given = described(description);
    let (content, ended) = content(&given);
    let prepare = || WORLD.prepare(Script { answer: given.clone(), closes: !ended });
    for road in WORLD.roads() {
        prepare();
        let both = [asked.text(""), SECOND.text("connection: close\r\n")].concat();
        let seen = WORLD.pass(road, both.as_bytes());
        check(road, asked, &content, &seen.answers);
        prepare();
        let mut read = Vec::new();
        WORLD.with_client(road, async |stream| converse(stream, [asked, &SECOND], &mut read).await);
        let [first, second] = <[_; 2]>::try_from(read).expect("two were asked for");
        if let Some(first) = first {
            check_first(road, asked, &content, &first);
        }
        check_second(road, second.as_ref());
    }
}

/// The content that frames give to stream 1, and whether they end it.
fn content(given: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    for frame in frames(given).filter(|frame| frame.stream == 1) {
        if frame.kind == DATA {
            let padding = match (frame.flags & PADDED, frame.payload) {
                (0, _) => None,
                (_, payload) => payload.first().map(|length| usize::from(*length)),
            };
            let data = match padding {
                None => Some(frame.payload),
                Some(padding) => frame.payload.len().checked_sub(padding).and_then(|end| frame.payload.get(1..end)),
            };
            content.extend_from_slice(data.unwrap_or_default());
        }
        if frame.kind == RST_STREAM || matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
            return (content, true);
        }
    }
    (content, false)
}

/// What a client reads over HTTP/1.1.
fn check(road: &str, asked: &Asked, content: &[u8], read: &[u8]) {
    let method = asked.method.as_bytes();
    let Some((answers, len)) = reader::final_answer(read, method, false) else {
        // The client sees that it was cut: it is framed, and not whole.
        assert!(reader::final_answer(read, method, true).is_none(), "a cut that cannot be seen on the {road}");
        return;
    };
    let (first, rest) = (answers.last().expect("the final one"), &read[len..]);
    check_first(road, asked, content, first);
    if !first.persistent {
        assert!(rest.is_empty(), "after the end on the {road}: {}", rest.escape_ascii());
        return;
    }
    let second = reader::final_answer(rest, b"GET", false);
    assert!(second.as_ref().is_none_or(|(_, len)| *len == rest.len()), "after the end on the {road}");
    check_second(road, second.as_ref().and_then(|(answers, _)| answers.last()));
}

fn check_first(road: &str, asked: &Asked, content: &[u8], first: &Answer) {
    let bodiless = asked.method == "HEAD" || matches!(first.status, 204 | 304);
    let expected = if bodiless { b"" } else { content };
    assert!(
        is_ours(first) || first.body == expected,
        "the {road} answers {} with {}",
        first.status,
        first.body.escape_ascii()
    );
}

fn check_second(road: &str, second: Option<&Answer>) {
    assert!(
        second.is_some_and(|second| is_ours(second) || is_usual(second)),
        "the second answer on the {road}: {second:?}"
    );
}
