//! Any requests over HTTP/2, pseudo-fields and all, down both roads: what the backend reads over HTTP/1.1 was sent, each at most once,
//! with method, path, host and content as they were, and no field was made up; and each stream is answered by one head, its content and
//! one end. And any frames, in any order: no panic, no hang, and the same of the answers.
//!
//! The fuzzer's bytes are requests divided by 0x1e: lines of `name: value`, an empty line, the content. 0x1d and 0x1f stand for CR and LF
//! inside a line. Where the first byte is 0x1a the rest describes frames (`frames.rs`). Where it is 0x1b the rest are frames as they are.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::frames::{
    ACK, BETWEEN, DATA, END_STREAM, Frame, GOAWAY, HEADERS, Message, PING, PREFACE, PUSH_PROMISE, RST_STREAM, SETTINGS,
    described, frame, frame_at, frames,
};
use super::world::{Seen, World};
use crate::reader::{self, Request};

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// The most requests of one input.
const MOST: usize = 8;
/// The field block of a head that begins with `:status: 200` (RFC 7541, A).
const IS_200: u8 = 0x88;
/// By its answer a client knows that all that it has sent was read.
const LAST_WORD: &[u8] = b"lastword";

/// How long a client waits for answers that never come, as that of a request without its end.
const LULL: Duration = Duration::from_millis(100);

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let begin = || [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    match bytes.split_first() {
        Some((0x1b, frames)) => send(&[&begin(), frames].concat(), |_, _| {}),
        Some((0x1a, frames)) => send(&[begin(), described(frames)].concat(), |_, _| {}),
        _ => {
            let sent: Vec<Message> = bytes.split(|byte| *byte == BETWEEN).take(MOST).map(Message::parse).collect();
            let mut out = begin();
            for (at, request) in sent.iter().enumerate() {
                out.extend(request.frames(stream_of(at)));
            }
            send(&out, |road, seen| check_requests(road, &sent, seen));
        }
    }
}

/// Sends these bytes by each road, and checks what is seen.
fn send(out: &[u8], check: impl Fn(&str, &Seen)) {
    for road in WORLD.roads() {
        let seen = WORLD.with_client(road, async |stream| converse(stream, out).await);
        seen.check_well_formed(road);
        check_answers(road, out, &seen.answers);
        check(road, &seen);
    }
}

/// Whether `got` may be what the backend reads of it.
fn is(sent: &Message, got: &Request) -> bool {
    let one = |name: &str, value: &[u8]| sent.all(name).eq([value]);
    // Its path and fields are the route's to change, and nothing else.
    if got.field("x-edited").is_some() {
        return one(":method", &got.method) && sent.body == got.body;
    }
    let host = got.host();
    let named = sent.all(":authority").chain(sent.all("host")).all(|named| named.eq_ignore_ascii_case(&host));
    let same = |name: &str| {
        is_told(name)
            || IS_EDITED.contains(&name)
            || reader::all(&got.fields, name).eq(sent.all(name).map(Vec::as_slice))
    };
    one(":method", &got.method)
        && one(":path", &got.target)
        && named
        && sent.body == got.body
        && got.fields.iter().all(|(name, _)| same(name))
}

/// Fields of the message that arrive in another form: crumbs become one cookie, forwards are counted down.
const IS_EDITED: [&str; 2] = ["cookie", "max-forwards"];

/// Whether we tell the backend this beside what the client has sent.
fn is_told(name: &str) -> bool {
    ["host", "via", "forwarded", "x-request-id", "content-length", "transfer-encoding", "connection"].contains(&name)
        || ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].contains(&name)
}

fn check_requests(road: &str, sent: &[Message], seen: &Seen) {
    let mut used = HashSet::new();
    for got in &seen.requests {
        let source = sent.iter().enumerate().find(|(at, request)| !used.contains(at) && is(request, got));
        let (at, _) = source.unwrap_or_else(|| panic!("nobody has sent what the {road} forwards: {got}"));
        used.insert(at);
    }
}

/// How far the answer of a stream has come.
#[derive(Default)]
struct Answered {
    is_200: bool,
    has_head: bool,
    content: Vec<u8>,
    ended: bool,
}

/// Only streams of the client are answered; each by a head and then its content, and by nothing after its end.
fn check_answers(road: &str, out: &[u8], read: &[u8]) {
    let opened: HashSet<u32> =
        frames(&out[PREFACE.len()..]).filter(|frame| frame.kind == HEADERS).map(|frame| frame.stream).collect();
    let mut streams: HashMap<u32, Answered> = HashMap::new();
    for frame in frames(read).filter(|frame| matches!(frame.kind, DATA | HEADERS | PUSH_PROMISE)) {
        let Frame { kind, stream, .. } = frame;
        assert!(
            kind != PUSH_PROMISE && opened.contains(&stream),
            "the {road} answers stream {stream}, which asks nothing"
        );
        let answered = streams.entry(stream).or_default();
        assert!(!answered.ended, "the {road} goes on after the end of stream {stream}");
        match kind {
            HEADERS => {
                answered.is_200 |= frame.payload.first() == Some(&IS_200);
                answered.has_head = true;
            }
            _ => {
                assert!(answered.has_head, "the {road} answers stream {stream} without a head");
                answered.content.extend_from_slice(frame.payload);
            }
        }
        answered.ended = frame.flags & END_STREAM != 0;
        // Only the backend says 200; HEAD is answered without content.
        if answered.ended && answered.is_200 {
            let content = answered.content.as_slice();
            assert!(matches!(content, b"ok" | b""), "the {road} answers with {}", content.escape_ascii());
        }
    }
}

/// Sends all, and reads until every stream that was ended is answered and all else was read, or nothing more comes.
async fn converse(mut stream: UnixStream, out: &[u8]) -> Vec<u8> {
    let mut open: HashSet<u32> = frames(&out[PREFACE.len()..])
        .filter(|frame| matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0)
        .map(|frame| frame.stream)
        .collect();
    let (mut read, mut at, mut all_read) = (Vec::new(), 0, false);
    if stream.write_all(out).await.is_err() || stream.write_all(&frame(PING, 0, 0, LAST_WORD)).await.is_err() {
        return read;
    }
    while !open.is_empty() || !all_read {
        if !matches!(timeout(LULL, stream.read_buf(&mut read)).await, Ok(Ok(1..))) {
            break;
        }
        while let Some((frame, len)) = frame_at(&read[at..]) {
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => drop(stream.write_all(&self::frame(SETTINGS, ACK, 0, b"")).await),
                PING if frame.flags & ACK != 0 && frame.payload == LAST_WORD => all_read = true,
                RST_STREAM => drop(open.remove(&frame.stream)),
                HEADERS | DATA if frame.flags & END_STREAM != 0 => drop(open.remove(&frame.stream)),
                GOAWAY => return read,
                _ => {}
            }
            at += len;
        }
    }
    read
}

const fn stream_of(at: usize) -> u32 {
    at as u32 * 2 + 1
}
