//! Counters that many threads add to without sharing a cache line.
//!
//! Each thread adds to its own shard (`base::shard`) and a scrape adds the shards up, so counting costs a few nanoseconds
//! however many cores serve. The sum may lack what is being added at that very moment, and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use crate::base::shard::{Shards, mine};

/// Keeps what it holds on cache lines of its own: 128 bytes, since x86-64 fetches lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// A number that only grows.
#[derive(Debug)]
pub(super) struct Counter(Box<[Padded<AtomicU64>]>);

impl Counter {
    /// A counter at zero.
    #[must_use]
    pub(super) fn new(shards: Shards) -> Self {
        Self(shards.each(Padded::default))
    }

    /// Counts one.
    pub(super) fn increment(&self) {
        mine(&self.0).0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts so many.
    pub(super) fn add(&self, more: u64) {
        mine(&self.0).0.fetch_add(more, Ordering::Relaxed);
    }

    /// What has been counted so far.
    #[must_use]
    pub(super) fn value(&self) -> u64 {
        self.0.iter().fold(0, |sum, shard| sum.wrapping_add(shard.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_from_four_threads_add_up() {
        let counter = Counter::new(Shards::for_threads(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(counter.value(), 40_000);
    }
}
