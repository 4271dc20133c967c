//! Any bytes: no panic, the same outcome whole and byte by byte, and a head that is taken keeps its promises: to the independent
//! reader it is the same one.

use roundel::wire::framing::Framing;
use roundel::wire::head::{Head, HeadParser, Limits, Outcome, Version};

use crate::reader;

const LIMITS: Limits = Limits { header_bytes: 4096, header_count: 20 };

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let mut whole = HeadParser::new(LIMITS);
    let mut pieces = HeadParser::new(LIMITS);
    let whole = describe(whole.parse(bytes), bytes);
    let pieces = (0..=bytes.len()).find_map(|end| describe(pieces.parse(&bytes[..end]), bytes));
    assert_eq!(whole, pieces);
}

fn describe(outcome: Outcome<'_>, bytes: &[u8]) -> Option<String> {
    match outcome {
        Outcome::Partial => None,
        Outcome::Refused(refusal) => Some(refusal.to_string()),
        Outcome::Complete(head) => {
            check(&head);
            compare(&head, &bytes[..head.len]);
            Some(format!("{head:?}"))
        }
    }
}

fn check(head: &Head<'_>) {
    assert!(head.len <= LIMITS.header_bytes && head.fields.len() <= LIMITS.header_count);
    assert!(!head.method.is_empty() && head.method != "CONNECT");
    assert!(head.target.path().starts_with('/') || head.target.path() == "*" && head.method == "OPTIONS");
    assert!(head.version == Version::Http10 || head.fields.all("host").count() == 1);
    let (lengths, codings) = (head.fields.all("content-length").count(), head.fields.all("transfer-encoding").count());
    assert_eq!(
        (lengths, codings),
        match head.body {
            Framing::None => (0, 0),
            Framing::Length(_) => (1, 0),
            Framing::Chunked => (0, 1),
        }
    );
    assert!(head.fields.iter().all(|(name, value)| !name.is_empty() && !value.iter().any(|b| b"\0\r\n".contains(b))));
}

fn compare(head: &Head<'_>, bytes: &[u8]) {
    // An empty line before it is passed over (RFC 9112, 2.2).
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let (theirs, framing) = reader::request_head(bytes).expect("the reader takes it too");
    let length = match framing {
        reader::Framing::Length(length) => Some(length),
        reader::Framing::Chunks => None,
    };
    assert_eq!(head.body.length(), length);
    assert_eq!(head.method.as_bytes(), theirs.method);
    assert_eq!(head.target.as_str().as_bytes(), theirs.target);
    assert_eq!(head.version == Version::Http10, theirs.old);
    assert_eq!(head.host.as_bytes().to_ascii_lowercase(), theirs.host());
    let ours = head.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
    assert!(ours.eq(theirs.fields), "{head:?}");
}
