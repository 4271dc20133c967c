//! How long things take, as Prometheus histograms.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cell::{Padded, Shards, mine};

/// The upper bounds of the buckets with the seconds that they stand for: half a millisecond to a minute, in steps of about
/// two and a half.
pub(super) const BOUNDS: [(Duration, &str); 16] = [
    (Duration::from_micros(500), "0.0005"),
    (Duration::from_millis(1), "0.001"),
    (Duration::from_micros(2500), "0.0025"),
    (Duration::from_millis(5), "0.005"),
    (Duration::from_millis(10), "0.01"),
    (Duration::from_millis(25), "0.025"),
    (Duration::from_millis(50), "0.05"),
    (Duration::from_millis(100), "0.1"),
    (Duration::from_millis(250), "0.25"),
    (Duration::from_millis(500), "0.5"),
    (Duration::from_secs(1), "1"),
    (Duration::from_millis(2500), "2.5"),
    (Duration::from_secs(5), "5"),
    (Duration::from_secs(10), "10"),
    (Duration::from_secs(30), "30"),
    (Duration::from_secs(60), "60"),
];

/// A histogram of durations.
#[derive(Debug)]
pub(super) struct Histogram(Box<[Padded<Shard>]>);

#[derive(Debug, Default)]
struct Shard {
    /// Durations by the bucket that they fall into, and the last for those beyond all bounds; not cumulative.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// The sum of all durations in nanoseconds: enough for 584 years.
    nanos: AtomicU64,
}

/// What a histogram holds at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    /// How many durations were at most as long as each bound (cumulative).
    pub(super) buckets: [u64; BOUNDS.len()],
    /// How many there were.
    pub(super) count: u64,
    /// Their sum.
    pub(super) sum: Duration,
}

impl Histogram {
    /// An empty histogram.
    #[must_use]
    pub(super) fn new(shards: Shards) -> Self {
        Self(shards.each(Padded::default))
    }

    /// Takes a duration in.
    pub(super) fn observe(&self, duration: Duration) {
        let shard = &mine(&self.0).0;
        let bucket = BOUNDS.partition_point(|(bound, _)| *bound < duration);
        shard.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        shard.nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What it holds now. The count is the sum of the very buckets that are told, so that they always agree.
    #[must_use]
    pub(super) fn read(&self) -> Reading {
        let total =
            |bucket: usize| -> u64 { self.0.iter().map(|shard| shard.0.buckets[bucket].load(Ordering::Relaxed)).sum() };
        let mut count = 0;
        let buckets = std::array::from_fn(|bucket| {
            count += total(bucket);
            count
        });
        let nanos = self.0.iter().fold(0_u64, |sum, shard| sum.wrapping_add(shard.0.nanos.load(Ordering::Relaxed)));
        Reading { buckets, count: count + total(BOUNDS.len()), sum: Duration::from_nanos(nanos) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_is_no_shorter() {
        let histogram = Histogram::new(Shards::for_threads(1));
        for micros in [0, 500, 501, 60_000_000, 60_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let reading = histogram.read();
        assert_eq!((reading.buckets[0], reading.buckets[1], reading.buckets[15], reading.count), (2, 3, 4, 5));
        assert_eq!(reading.sum, Duration::from_micros(120_001_002));
    }

    #[test]
    fn durations_from_four_threads_add_up() {
        let histogram = Histogram::new(Shards::for_threads(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| histogram.observe(Duration::from_millis(3))));
            }
        });
        assert_eq!((histogram.read().count, histogram.read().sum), (4000, Duration::from_secs(12)));
    }

    #[test]
    fn the_text_of_a_bound_is_its_seconds() {
        for (bound, text) in BOUNDS {
            assert_eq!(bound.as_secs_f64(), text.parse::<f64>().unwrap());
        }
        assert!(BOUNDS.is_sorted());
    }
}
