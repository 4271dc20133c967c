//! A ring of slots that are overwritten in turn: the last so many of something, at a fixed price.
//!
//! Each thread writes to its own part (`shard`), and a slot is locked only while it is written or read, so that a writer
//! waits for nobody but a reader of that very slot. A slot is made with its first use and never freed: what it holds can
//! keep its memory from one use to the next.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::base::shard::{Shards, mine};

/// The last values of a kind, in parts by thread.
#[derive(Debug)]
pub struct Ring<T> {
    parts: Box<[Part<T>]>,
}

/// The part that some threads write to, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Part<T> {
    next: AtomicUsize,
    slots: Box<[Mutex<Option<Box<T>>>]>,
}

impl<T: Default> Ring<T> {
    /// A ring of `capacity` slots, or a few more, so that all parts are alike.
    #[must_use]
    pub fn new(shards: Shards, capacity: usize) -> Self {
        let slots = || (0..capacity.div_ceil(shards.count())).map(|_| Mutex::new(None)).collect();
        Self { parts: shards.each(|| Part { next: AtomicUsize::new(0), slots: slots() }) }
    }

    /// Overwrites the oldest slot of this thread's part.
    pub fn put(&self, write: impl FnOnce(&mut T)) {
        let part = mine(&self.parts);
        let turn = part.next.fetch_add(1, Relaxed);
        if let Some(slot) = part.slots.get(turn % part.slots.len().max(1)) {
            write(slot.lock().get_or_insert_with(Box::default));
        }
    }

    /// Shows every value to `look`, in no order. What is overwritten meanwhile may be passed over.
    pub fn each(&self, mut look: impl FnMut(&T)) {
        for slot in self.parts.iter().flat_map(|part| part.slots.iter()) {
            if let Some(value) = slot.lock().as_deref() {
                look(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(ring: &Ring<u32>) -> Vec<u32> {
        let mut values = Vec::new();
        ring.each(|value| values.push(*value));
        values.sort_unstable();
        values
    }

    #[test]
    fn the_last_ones_are_kept() {
        let ring = Ring::new(Shards::for_threads(1), 3);
        (1..=5).for_each(|value| ring.put(|slot: &mut u32| *slot = value));
        assert_eq!(values(&ring), [3, 4, 5]);
    }

    #[test]
    fn threads_write_side_by_side() {
        let ring = Ring::new(Shards::for_threads(4), 4096);
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let ring = &ring;
                scope.spawn(move || (0..100).for_each(|turn| ring.put(|slot| *slot = thread * 100 + turn)));
            }
        });
        assert_eq!(values(&ring), (0..400).collect::<Vec<_>>());
    }
}
