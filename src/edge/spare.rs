//! Buffers to read into, shared by the connections of a thread: one that waits for its client holds none.

use std::cell::RefCell;

use bytes::BytesMut;

/// The most that one read takes from a socket.
pub(super) const READ: usize = 16 * 1024;
/// A buffer that has grown beyond this is not kept.
const LARGEST: usize = 64 * 1024;
/// How many each thread keeps.
const KEPT: usize = 64;

thread_local! {
    // Scratch memory, not state.
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for one read.
pub(super) fn take() -> BytesMut {
    // A thread that is ending has no spare buffers any more.
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
    spare.unwrap_or_else(|| BytesMut::with_capacity(READ))
}

/// Gives a buffer back, whatever is in it.
pub(super) fn put(mut buffer: BytesMut) {
    buffer.clear();
    if !buffer.try_reclaim(READ) || buffer.capacity() > LARGEST {
        return;
    }
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_with_its_room() {
        let mut buffer = take();
        buffer.extend_from_slice(&[7; 100]);
        buffer.advance(50);
        let room = buffer.as_ptr() as usize - 50;
        put(buffer);
        let again = take();
        assert!(again.is_empty() && again.capacity() >= READ);
        assert_eq!(again.as_ptr() as usize, room);
    }

    #[test]
    fn small_and_shared_buffers_are_not_kept() {
        drop(take());
        put(BytesMut::from(&b"short"[..]));
        let mut whole = BytesMut::with_capacity(READ);
        whole.extend_from_slice(&[1; 10]);
        let part = whole.split_to(5);
        put(whole);
        assert!(SPARE.with(|spare| spare.borrow().is_empty()));
        drop(part);
    }
}
