//! Any bytes as a request for a backend and as its answer: what passes is one strict request and one strict answer to the
//! independent reader, and the connection carries another request only where both passed whole and nothing followed.

use roundel::wire::dialogue::{Awaited, Dialogue};

use crate::reader::{self, Reading};

/// Ends the request in the fuzzer's bytes; the answer follows.
const END: u8 = 0x1e;

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let (request, answer) = match bytes.iter().position(|byte| *byte == END) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &b""[..]),
    };
    let mut dialogue = Dialogue::default();
    if dialogue.sending(request).is_err() {
        return;
    }
    dialogue.sent(request.len());
    let sent = reader::request(request);
    let method = match &sent {
        Reading::Whole(request, _) => request.method.clone(),
        Reading::Begun => request.split(|byte| *byte == b' ').next().unwrap_or_default().to_vec(),
        Reading::Malformed => panic!("the reader takes no part of it"),
    };
    let Some(passed) = receive(&mut dialogue, answer, answer.len().max(1)) else { return };
    assert!(passed <= answer.len());
    // A switch of protocols leaves HTTP, and with it what the reader knows.
    let switched = answer.starts_with(b"HTTP/1.1 101") || answer.starts_with(b"HTTP/1.0 101");
    if dialogue.awaited() == Awaited::Nothing {
        let (_, end) = reader::final_answer(answer, &method, false).expect("what has ended is whole");
        assert_eq!(end, passed, "the end of the answer");
    } else if !switched && dialogue.awaited() == Awaited::Body {
        assert!(reader::final_answer(answer, &method, false).is_none(), "what is whole has ended");
    }
    if dialogue.may_carry_another() {
        assert!(matches!(&sent, Reading::Whole(_, len) if *len == request.len()), "a request that is not whole");
        let (answers, end) = reader::final_answer(answer, &method, false).expect("a whole answer");
        assert!(end == answer.len() && answers.last().is_some_and(|last| last.persistent));
    }
}

/// How many bytes of the answer may pass, where none is refused.
fn receive(dialogue: &mut Dialogue, answer: &[u8], piece: usize) -> Option<usize> {
    let mut at = 0;
    while dialogue.awaited() == Awaited::Head {
        match dialogue.head(&answer[at..]).ok()? {
            Some(len) => at += len,
            None => return Some(at),
        }
    }
    for piece in answer[at..].chunks(piece) {
        let taken = dialogue.body(piece).ok()?;
        at += taken;
    }
    Some(at)
}
