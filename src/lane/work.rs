//! What a request is worked on with: buffers and a parser, lent for its time and used again by the next.
//!
//! A connection that waits for its next request holds none of it, and a request in the steady state allocates none of it.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;

use crate::wire::answer::AnswerParser;

/// How many sets each thread keeps.
const KEPT: usize = 64;
/// A buffer that has grown beyond this is not kept.
const LARGEST: usize = 128 * 1024;
/// What is read of an answer at once: large bodies pass in few pieces, and memory that is not written to costs nothing.
pub(super) const READ: usize = 64 * 1024;

thread_local! {
    // Scratch memory, not state. Boxed: a set is lent and given back by its address, not copied.
    #[allow(clippy::vec_box)]
    static SPARE: RefCell<Vec<Box<Set>>> = const { RefCell::new(Vec::new()) };
}

/// The buffers of one request.
#[derive(Debug, Default)]
pub(super) struct Set {
    /// The request for the backend: its head, and of its body what another try has to send again.
    pub(super) request: Vec<u8>,
    /// What was sent of the body so far, as long as it may have to be sent again.
    pub(super) kept: Vec<u8>,
    /// Whether what is sent of the body is not kept: it is too much, or its request is never sent again.
    pub(super) lost: bool,
    /// The answer for the client: its head, and of its body what is framed anew.
    pub(super) answer: Vec<u8>,
    /// What has come from the backend.
    pub(super) received: BytesMut,
    /// The content of what has come in chunks, for a client that gets it bare.
    pub(super) content: BytesMut,
    /// The section of trailers after it.
    pub(super) trailers: Vec<u8>,
    /// Reads the answer's head.
    pub(super) parser: AnswerParser,
    /// Room for one field's value.
    pub(super) value: Vec<u8>,
}

impl Set {
    /// Forgets the try that has failed, before the next.
    pub(super) fn begin_anew(&mut self) {
        self.answer.clear();
        self.received.clear();
        self.content.clear();
        self.trailers.clear();
        self.parser.reset();
    }

    fn clear(&mut self) {
        for buffer in [&mut self.request, &mut self.kept, &mut self.answer, &mut self.trailers, &mut self.value] {
            buffer.clear();
            buffer.shrink_to(LARGEST);
        }
        for buffer in [&mut self.received, &mut self.content] {
            buffer.clear();
            if buffer.capacity() > LARGEST {
                *buffer = BytesMut::new();
            }
        }
        self.parser.reset();
        self.lost = false;
    }
}

/// A set on loan; it goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Work(Option<Box<Set>>);

impl Work {
    /// Borrows a set.
    pub(super) fn borrow() -> Self {
        // A thread that is ending has no spare sets any more.
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        Self(Some(spare.unwrap_or_default()))
    }
}

impl Deref for Work {
    type Target = Set;

    fn deref(&self) -> &Set {
        self.0.as_deref().expect("a set is taken out by drop alone")
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut Set {
        self.0.as_deref_mut().expect("a set is taken out by drop alone")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let Some(mut set) = self.0.take() else { return };
        set.clear();
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(set);
            }
        });
    }
}
