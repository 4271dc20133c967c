//! Any requests over HTTP/2, pseudo-fields and all, down both roads: what the backend reads over HTTP/1.1 was sent, each at most once,
//! with method, path, host and content as they were, and no field was made up; and each stream is answered by one head, its content and
//! one end. And any frames, in any order: no panic, no hang, and the same of the answers.
//!
//! The fuzzer's bytes are requests divided by 0x1e: lines of `name: value`, an empty line, the content. 0x1d and 0x1f stand for CR and LF
//! inside a line. Where the first byte is 0x1a the rest are frames divided by 0x1e: kind, flags and stream, a byte each, and the payload,
//! which for the kind `h` is a head in lines, as above. Where it is 0x1b the rest are frames as they are.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::world::{Seen, World};
use crate::reader::{self, Request};

static WORLD: LazyLock<World> = LazyLock::new(World::new);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The most requests of one input, and the most frames.
const MOST: usize = 8;
const MOST_FRAMES: usize = 64;
/// The largest frame that everybody takes (RFC 9113, 4.2).
const LARGEST: usize = 16_384;
/// What divides requests, and frames.
const BETWEEN: u8 = 0x1e;
/// The field block of a head that begins with `:status: 200` (RFC 7541, A).
const IS_200: u8 = 0x88;
/// By its answer a client knows that all that it has sent was read.
const LAST_WORD: &[u8] = b"lastword";

/// How long a client waits for answers that never come, as that of a request without its end.
const LULL: Duration = Duration::from_millis(100);

/// A request as it is sent.
struct Sent {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
}

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let begin = || [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    match bytes.split_first() {
        Some((0x1b, frames)) => send(&[&begin(), frames].concat(), |_, _| {}),
        Some((0x1a, frames)) => {
            let frames = frames.split(|byte| *byte == BETWEEN).take(MOST_FRAMES).filter_map(described);
            send(&frames.fold(begin(), |out, frame| [out, frame].concat()), |_, _| {});
        }
        _ => {
            let sent: Vec<Sent> = bytes.split(|byte| *byte == BETWEEN).take(MOST).map(Sent::parse).collect();
            let mut out = begin();
            for (at, request) in sent.iter().enumerate() {
                request.write(stream_of(at), &mut out);
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

/// A frame as the fuzzer describes it.
fn described(bytes: &[u8]) -> Option<Vec<u8>> {
    let [kind, flags, stream, payload @ ..] = bytes else { return None };
    let payload = &payload[..payload.len().min(LARGEST)];
    Some(match kind {
        b'h' => frame(HEADERS, *flags, u32::from(*stream), &Sent::parse(payload).block()),
        kind => frame(*kind, *flags, u32::from(*stream), payload),
    })
}

impl Sent {
    fn parse(bytes: &[u8]) -> Self {
        let (mut fields, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let (line, after) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
            rest = after;
            if line.is_empty() {
                break;
            }
            let colon = line.iter().skip(1).position(|byte| *byte == b':').map_or(line.len(), |at| at + 1);
            let value = line.get(colon + 1..).unwrap_or_default();
            fields.push((unescaped(&line[..colon]), unescaped(value.strip_prefix(b" ").unwrap_or(value))));
        }
        let content = &rest[..rest.len().min(LARGEST)];
        Self { fields, body: content.to_vec() }
    }

    /// The fields as a field block (RFC 7541), cut where it is larger than a frame.
    fn block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in &self.fields {
            // A literal field without indexing, with a new name (RFC 7541, 6.2.2).
            block.push(0);
            text(name, &mut block);
            text(value, &mut block);
        }
        block.truncate(LARGEST);
        block
    }

    fn write(&self, stream: u32, out: &mut Vec<u8>) {
        let ends = if self.body.is_empty() { END_STREAM } else { 0 };
        out.extend(frame(HEADERS, END_HEADERS | ends, stream, &self.block()));
        if !self.body.is_empty() {
            out.extend(frame(DATA, END_STREAM, stream, &self.body));
        }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &Vec<u8>> {
        self.fields.iter().filter(move |(found, _)| found == name.as_bytes()).map(|(_, value)| value)
    }

    /// Whether `got` may be what the backend reads of it.
    fn is(&self, got: &Request) -> bool {
        let one = |name: &str, value: &[u8]| self.all(name).eq([value]);
        // Its path and fields are the route's to change, and nothing else.
        if got.field("x-edited").is_some() {
            return one(":method", &got.method) && self.body == got.body;
        }
        let host = got.host();
        let named = self.all(":authority").chain(self.all("host")).all(|named| named.eq_ignore_ascii_case(&host));
        let same = |name: &str| {
            is_told(name)
                || IS_EDITED.contains(&name)
                || reader::all(&got.fields, name).eq(self.all(name).map(Vec::as_slice))
        };
        one(":method", &got.method)
            && one(":path", &got.target)
            && named
            && self.body == got.body
            && got.fields.iter().all(|(name, _)| same(name))
    }
}

/// Fields of the message that arrive in another form: crumbs become one cookie, forwards are counted down.
const IS_EDITED: [&str; 2] = ["cookie", "max-forwards"];

/// Whether we tell the backend this beside what the client has sent.
fn is_told(name: &str) -> bool {
    ["host", "via", "forwarded", "x-request-id", "content-length", "transfer-encoding", "connection"].contains(&name)
        || ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].contains(&name)
}

fn check_requests(road: &str, sent: &[Sent], seen: &Seen) {
    let mut used = HashSet::new();
    for got in &seen.requests {
        let source = sent.iter().enumerate().find(|(at, request)| !used.contains(at) && request.is(got));
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

fn unescaped(text: &[u8]) -> Vec<u8> {
    let stands_for = |byte: &u8| match byte {
        0x1d => b'\r',
        0x1f => b'\n',
        byte => *byte,
    };
    text.iter().map(stands_for).collect()
}

/// A string without Huffman coding (RFC 7541, 5.2), its length with a prefix of seven bits (5.1).
fn text(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.len() < 127 {
        out.push(bytes.len() as u8);
    } else {
        out.push(127);
        let mut rest = bytes.len() - 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(bytes);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A frame that was read.
#[derive(Clone, Copy)]
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

/// The frame that `bytes` begin with, and its whole length.
fn frame_at(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let head = bytes.get(..9)?;
    let len = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    // The first bit is reserved, and ignored (RFC 9113, 4.1).
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    let payload = bytes.get(9..len)?;
    Some((Frame { kind: head[3], flags: head[4], stream, payload }, len))
}

/// All whole frames that `bytes` begin with.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (frame, len) = frame_at(bytes)?;
        bytes = &bytes[len..];
        Some(frame)
    })
}
