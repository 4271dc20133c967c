//! Any bytes as the head of an answer: no panic, the same outcome whole and byte by byte, and nothing is taken that a second,
//! independent reading of the grammar does not take, with the same status, framing and fields.
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run answer`

#![no_main]

use libfuzzer_sys::fuzz_target;
use roundel::wire::answer::{AnswerParser, Outcome};
use roundel::wire::framing::Framing;

/// What a head says.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    framing: Option<Framing>,
    persistent: bool,
    fields: Vec<(String, Vec<u8>)>,
    len: usize,
}

fuzz_target!(|bytes: &[u8]| {
    let whole = ours(bytes, bytes.len().max(1));
    assert_eq!(whole, ours(bytes, 1));
    if let Some(Some(told)) = whole {
        assert_eq!(Some(told), theirs(bytes));
    }
});

/// Our outcome: None for a head that has not ended, Some(None) for a refused one.
fn ours(bytes: &[u8], piece: usize) -> Option<Option<Told>> {
    let mut parser = AnswerParser::default();
    let mut end = 0;
    while end < bytes.len() {
        end = (end + piece).min(bytes.len());
        match parser.parse(&bytes[..end]) {
            Outcome::Partial => {}
            Outcome::Refused(_) => return Some(None),
            Outcome::Complete(head) => {
                return Some(Some(Told {
                    status: head.status,
                    framing: head.declared,
                    persistent: head.persistent,
                    fields: head.fields.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
                    len: head.len,
                }));
            }
        }
    }
    None
}

/// A naive, strict reading: the head up to its empty line, line by line, each split at its colon.
fn theirs(bytes: &[u8]) -> Option<Told> {
    let len = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = &bytes[..len - 4];
    if text.iter().enumerate().any(|(at, byte)| match byte {
        b'\r' => text.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || text[at - 1] != b'\r',
        b'\t' => false,
        byte => *byte < 0x20 || *byte == 0x7f,
    }) {
        return None;
    }
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.next()?;
    let old = line.starts_with(b"HTTP/1.0 ");
    if !(old || line.starts_with(b"HTTP/1.1 ")) || !matches!(line.get(12), None | Some(b' ')) {
        return None;
    }
    let status: u16 =
        std::str::from_utf8(line.get(9..12)?).ok()?.parse().ok().filter(|status| (100..600).contains(status))?;
    let (mut lengths, mut codings, mut options, mut fields) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (std::str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii());
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        {
            return None;
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(std::str::from_utf8(value).ok()?.parse::<u64>().ok()?),
            "transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            "connection" => {
                options.extend(value.split(|byte| *byte == b',').map(|one| one.trim_ascii().to_ascii_lowercase()))
            }
            _ => {}
        }
        fields.push((name.to_owned(), value.to_vec()));
    }
    let framing = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => None,
        ([length], []) => Some(Framing::Length(*length)),
        ([], [coding]) if coding == b"chunked" && !old => Some(Framing::Chunked),
        _ => return None,
    };
    let has = |option: &[u8]| options.iter().any(|one| one == option);
    Some(Told { status, framing, persistent: !has(b"close") && (!old || has(b"keep-alive")), fields, len })
}
