//! Any requests over HTTP/2, pseudo-fields and all, down the general road: what the backend reads over HTTP/1.1 was sent, each at
//! most once, with method, path, host and content as they were, and no field was made up. And any bytes as frames: no panic, no hang.
//!
//! The fuzzer's bytes are requests divided by 0x1e: lines of `name: value`, an empty line, the content. 0x1d and 0x1f stand for CR and LF
//! inside a line. Where the first byte is 0x1b the rest are frames as they are.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::world::{Seen, World};
use crate::reader::Request;

static WORLD: LazyLock<World> = LazyLock::new(World::new);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The most requests of one input.
const MOST: usize = 8;
/// The largest frame that everybody takes (RFC 9113, 4.2).
const LARGEST: usize = 16_384;

/// How long a client waits for answers that never come, as that of a request without its end.
const LULL: Duration = Duration::from_millis(200);

/// A request as it is sent.
struct Sent {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
}

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    if let Some(frames) = bytes.strip_prefix(b"\x1b") {
        let seen = WORLD.pass("general", &[PREFACE, &frame(SETTINGS, 0, 0, b""), frames].concat());
        seen.check_well_formed("general");
        return;
    }
    let sent: Vec<Sent> = bytes.split(|byte| *byte == 0x1e).take(MOST).map(Sent::parse).collect();
    let mut out = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    for (at, request) in sent.iter().enumerate() {
        request.write(stream_of(at), &mut out);
    }
    let seen = WORLD.with_client("general", async |stream| converse(stream, &out, sent.len()).await);
    check(&sent, &seen);
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

    fn write(&self, stream: u32, out: &mut Vec<u8>) {
        let mut block = Vec::new();
        for (name, value) in &self.fields {
            // A literal field without indexing, with a new name (RFC 7541, 6.2.2).
            block.push(0);
            text(name, &mut block);
            text(value, &mut block);
        }
        block.truncate(LARGEST);
        let ends = if self.body.is_empty() { END_STREAM } else { 0 };
        out.extend(frame(HEADERS, END_HEADERS | ends, stream, &block));
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
        let host = got.host();
        let named = self.all(":authority").chain(self.all("host")).all(|named| named.eq_ignore_ascii_case(&host));
        let made_up = |name: &str| !self.fields.iter().any(|(sent, _)| sent == name.as_bytes()) && !is_told(name);
        one(":method", &got.method)
            && one(":path", &got.target)
            && named
            && self.body == got.body
            && !got.fields.iter().any(|(name, _)| made_up(name))
    }
}

/// Whether we tell the backend this beside what the client has sent.
fn is_told(name: &str) -> bool {
    ["host", "via", "forwarded", "x-request-id", "content-length", "transfer-encoding", "connection"].contains(&name)
        || ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].contains(&name)
}

fn check(sent: &[Sent], seen: &Seen) {
    seen.check_well_formed("general");
    let mut used = HashSet::new();
    for got in &seen.requests {
        let source = sent.iter().enumerate().find(|(at, request)| !used.contains(at) && request.is(got));
        let (at, _) = source.unwrap_or_else(|| panic!("nobody has sent {got:#?}"));
        used.insert(at);
    }
}

/// Sends all, and reads until every stream has ended or nothing more comes.
async fn converse(mut stream: UnixStream, out: &[u8], streams: usize) -> Vec<u8> {
    let mut read = Vec::new();
    if stream.write_all(out).await.is_err() {
        return read;
    }
    let (mut at, mut ended) = (0, HashSet::new());
    while ended.len() < streams {
        if !matches!(timeout(LULL, stream.read_buf(&mut read)).await, Ok(Ok(1..))) {
            break;
        }
        while let Some((kind, flags, id, len)) = frame_at(&read[at..]) {
            at += len;
            match kind {
                SETTINGS if flags & ACK == 0 => drop(stream.write_all(&frame(SETTINGS, ACK, 0, b"")).await),
                RST_STREAM => drop(ended.insert(id)),
                HEADERS | DATA if flags & END_STREAM != 0 => drop(ended.insert(id)),
                GOAWAY => return read,
                _ => {}
            }
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

/// Kind, flags, stream and whole length of the frame that `bytes` begin with.
fn frame_at(bytes: &[u8]) -> Option<(u8, u8, u32, usize)> {
    let head = bytes.get(..9)?;
    let len = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    (bytes.len() >= len).then_some((head[3], head[4], stream, len))
}
