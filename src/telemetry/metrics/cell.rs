//! Counters that many threads add to without sharing a cache line.
//!
//! Each thread adds to its own shard and a scrape adds the shards up, so counting costs a few nanoseconds however many
//! cores serve. The sum may lack what is being added at that very moment, and nothing else.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many shards a counter has: a power of two, at least one for each serving thread up to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shards(usize);

impl Shards {
    /// Enough for `threads` threads.
    #[must_use]
    pub(super) fn for_threads(threads: usize) -> Self {
        Self(threads.clamp(1, 64).next_power_of_two())
    }

    /// One value for each shard.
    pub(super) fn each<T>(self, make: impl Fn() -> T) -> Box<[T]> {
        (0..self.0).map(|_| make()).collect()
    }
}

thread_local! {
    // Not state: a thread's own number, remembered.
    static THREAD: usize = thread_number();
}

/// The shard of the calling thread among `shards`, whose length is a power of two.
pub(super) fn mine<T>(shards: &[T]) -> &T {
    let number = THREAD.try_with(|number| *number).unwrap_or(0);
    &shards[number & (shards.len() - 1)]
}

/// A number for the calling thread. Threads started one after the other, as those of a runtime are, get numbers in a row,
/// since the standard library hashes its thread ids as the plain numbers that they are. Were that to change, threads
/// would share shards more often and the sums would stay right.
fn thread_number() -> usize {
    struct Plain(u64);
    impl Hasher for Plain {
        fn write(&mut self, bytes: &[u8]) {
            self.0 = bytes.iter().rev().fold(self.0, |sum, byte| (sum << 8) | u64::from(*byte));
        }
        fn write_u64(&mut self, number: u64) {
            self.0 = number;
        }
        fn finish(&self) -> u64 {
            self.0
        }
    }
    let mut number = Plain(0);
    std::thread::current().id().hash(&mut number);
    number.finish() as usize
}

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

    #[test]
    fn threads_started_in_a_row_have_shards_of_their_own() {
        let numbers: Vec<usize> = (0..2).map(|_| std::thread::spawn(thread_number).join().unwrap()).collect();
        assert_ne!(numbers[0], numbers[1]);
    }

    #[test]
    fn shards_are_a_power_of_two_and_bounded() {
        let counts = [0, 1, 3, 64, 1000].map(|threads| Shards::for_threads(threads).0);
        assert_eq!(counts, [1, 1, 4, 64, 64]);
    }
}
