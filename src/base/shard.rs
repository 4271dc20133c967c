//! Sharding by thread: what many threads write to is cut in parts, so that each writes to its own and none shares a cache
//! line with another. Who reads puts the parts together.

use std::hash::{Hash, Hasher};

/// How many shards something has: a power of two, at least one for each serving thread up to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards(usize);

impl Shards {
    /// Enough for `threads` threads.
    #[must_use]
    pub fn for_threads(threads: usize) -> Self {
        Self(threads.clamp(1, 64).next_power_of_two())
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> usize {
        self.0
    }

    /// One value for each shard.
    pub fn each<T>(self, make: impl Fn() -> T) -> Box<[T]> {
        (0..self.0).map(|_| make()).collect()
    }
}

thread_local! {
    // Not state: a thread's own number, remembered.
    static THREAD: usize = thread_number();
}

/// The shard of the calling thread among `shards`, whose length is a power of two.
#[must_use]
pub fn mine<T>(shards: &[T]) -> &T {
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

#[cfg(test)]
mod tests {
    use super::*;

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
