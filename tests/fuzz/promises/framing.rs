//! Any bytes as a chunked body: no panic, the same end, content or refusal whole and byte by byte, and what is taken for a whole body
//! is one to the independent reader, with the same content and the same end.

use roundel::wire::framing::{BodyCheck, Framing, Parts};
use roundel::wire::refusal::Refusal;

use crate::reader::{self, Reading};

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let whole = follow(bytes, bytes.len().max(1));
    assert_eq!(whole, follow(bytes, 1));
    match (whole, reader::chunks(bytes)) {
        (Ok(Some((end, content))), theirs) => assert_eq!(Reading::Whole(content, end), theirs),
        (Ok(None), theirs) => assert!(!matches!(theirs, Reading::Whole(..)), "what is whole has ended"),
        // There are bounds of ours that the reader has not.
        (Err(_), _) => {}
    }
}

/// Where the body ends and its content; None where it does not end.
fn follow(bytes: &[u8], piece: usize) -> Result<Option<(usize, Vec<u8>)>, Refusal> {
    let (mut check, mut content) = (BodyCheck::new(Framing::Chunked), Content::default());
    let mut taken = 0;
    for piece in bytes.chunks(piece) {
        let progress = check.take_apart(piece, &mut content)?;
        taken += progress.taken;
        if progress.ended {
            assert_eq!(check.decoded(), content.0.len() as u64);
            return Ok(Some((taken, content.0)));
        }
        assert_eq!(progress.taken, piece.len());
    }
    Ok(None)
}

#[derive(Default)]
struct Content(Vec<u8>);

impl Parts for Content {
    fn content(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn trailer(&mut self, _byte: u8) {}
}
