//! HTTP/2 as bytes, for the targets that speak it: frames (RFC 9113, 4.1), field blocks (RFC 7541), and how a fuzzer describes both,
//! so that what it changes does not have to be counted again.

/// What a connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// What divides messages, and frames, in descriptions.
pub const BETWEEN: u8 = 0x1e;
/// The largest frame that everybody takes (RFC 9113, 4.2).
const LARGEST: usize = 16_384;
/// The most frames of one description.
const MOST: usize = 64;

/// A message: lines of `name: value`, an empty line, the content. 0x1d and 0x1f stand for CR and LF inside a line.
pub struct Message {
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Message {
    /// Reads its description.
    pub fn parse(bytes: &[u8]) -> Self {
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
    pub fn block(&self) -> Vec<u8> {
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

    /// The message as frames of this stream.
    pub fn frames(&self, stream: u32) -> Vec<u8> {
        let ends = if self.body.is_empty() { END_STREAM } else { 0 };
        let mut out = frame(HEADERS, END_HEADERS | ends, stream, &self.block());
        if !self.body.is_empty() {
            out.extend(frame(DATA, END_STREAM, stream, &self.body));
        }
        out
    }

    /// The values of all fields of one name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &Vec<u8>> {
        self.fields.iter().filter(move |(found, _)| found == name.as_bytes()).map(|(_, value)| value)
    }
}

/// Frames that are divided by 0x1e, each described by kind, flags and stream, a byte each, and its payload, which for the kind `h` is a
/// head in lines.
pub fn described(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == BETWEEN).take(MOST).filter_map(described_frame).flatten().collect()
}

fn described_frame(bytes: &[u8]) -> Option<Vec<u8>> {
    let [kind, flags, stream, payload @ ..] = bytes else { return None };
    let payload = &payload[..payload.len().min(LARGEST)];
    Some(match kind {
        b'h' => frame(HEADERS, *flags, u32::from(*stream), &Message::parse(payload).block()),
        kind => frame(*kind, *flags, u32::from(*stream), payload),
    })
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

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A frame that was read.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

/// The frame that `bytes` begin with, and its whole length.
pub fn frame_at(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let head = bytes.get(..9)?;
    let len = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    // The first bit is reserved, and ignored (RFC 9113, 4.1).
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    let payload = bytes.get(9..len)?;
    Some((Frame { kind: head[3], flags: head[4], stream, payload }, len))
}

/// All whole frames that `bytes` begin with.
pub fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (frame, len) = frame_at(bytes)?;
        bytes = &bytes[len..];
        Some(frame)
    })
}
