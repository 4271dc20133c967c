//! Any bytes as the head of an answer: no panic, the same outcome whole and byte by byte, and nothing is taken that a second,
//! independent reading of the grammar does not take, with the same status, framing and fields.

use roundel::wire::answer::{AnswerParser, Outcome};
use roundel::wire::framing::Framing;

use crate::reader;

/// What a head says.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    framing: Option<Framing>,
    persistent: bool,
    fields: Vec<(String, Vec<u8>)>,
    len: usize,
}

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let whole = ours(bytes, bytes.len().max(1));
    assert_eq!(whole, ours(bytes, 1));
    if let Some(Some(told)) = whole {
        let theirs = theirs(bytes).expect("the reader takes it too");
        // We go on with a backend in fewer cases than we might: not after a 204 that promises a body.
        assert!(theirs.persistent || !told.persistent);
        assert_eq!(Told { persistent: theirs.persistent, ..told }, theirs);
    }
}

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
                    fields: head
                        .fields
                        .iter()
                        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()))
                        .collect(),
                    len: head.len,
                }));
            }
        }
    }
    None
}

/// The same, as the strict reader has it.
fn theirs(bytes: &[u8]) -> Option<Told> {
    let head = reader::answer_head(bytes)?;
    let framing = head.framing.map(|framing| match framing {
        reader::Framing::Length(length) => Framing::Length(length),
        reader::Framing::Chunks => Framing::Chunked,
    });
    Some(Told { status: head.status, framing, persistent: head.persistent, fields: head.fields, len: head.len })
}
