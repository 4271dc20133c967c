//! Any bytes as a chunked body: no panic, and the same end, content or refusal whole and byte by byte.

use roundel::wire::framing::{BodyCheck, Framing};
use roundel::wire::refusal::Refusal;

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let whole = follow(bytes, bytes.len().max(1));
    assert_eq!(whole, follow(bytes, 1));
    if let Ok(Some((end, content))) = whole {
        assert!(end <= bytes.len() && content < end as u64);
        assert!(bytes[..end].ends_with(b"\r\n"));
    }
}

/// Where the body ends and how much content it has; None where it does not end.
fn follow(bytes: &[u8], piece: usize) -> Result<Option<(usize, u64)>, Refusal> {
    let mut check = BodyCheck::new(Framing::Chunked);
    let mut taken = 0;
    for piece in bytes.chunks(piece) {
        let progress = check.advance(piece)?;
        taken += progress.taken;
        if progress.ended {
            return Ok(Some((taken, check.decoded())));
        }
        assert_eq!(progress.taken, piece.len());
    }
    Ok(None)
}
