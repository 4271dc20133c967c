//! How long a backend takes to answer: a moving average that jumps to peaks, and quantiles that forget.
//!
//! Both are a few atomics, written once a request without a lock. Approximate on purpose: a write that races with
//! another may lose one observation, which no reader can notice.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::base::clock::Moment;

/// The time in which the average forgets 63 % of what it knew (Finagle's and Linkerd's peak EWMA use 10 s).
const DECAY: Duration = Duration::from_secs(10);

/// An exponentially weighted moving average of latencies that takes a peak at its word at once and comes down slowly
/// (Finagle's `PeakEwma`).
#[derive(Debug, Default)]
pub struct PeakEwma {
    // The average in microseconds (f32) above, the milliseconds of its moment (u32, wrapping after 49 days) below.
    // Zero: nothing observed yet.
    packed: AtomicU64,
}

impl PeakEwma {
    /// Takes in a latency observed at `now`.
    pub fn observe(&self, latency: Duration, now: Moment) {
        let observed = (latency.as_secs_f32() * 1e6).max(1.0);
        let old = self.packed.load(Relaxed);
        let average = match unpack(old) {
            Some((average, then)) if observed < average => {
                let keep = decay(now, then);
                average * keep + observed * (1.0 - keep)
            }
            _ => observed,
        };
        let _ = self.packed.compare_exchange(old, pack(average, now), Relaxed, Relaxed);
    }

    /// The average at `now` in microseconds; none where nothing was observed. Without new observations it sinks toward
    /// zero, so that a backend that was slow once is tried again.
    #[must_use]
    pub fn micros(&self, now: Moment) -> Option<f32> {
        unpack(self.packed.load(Relaxed)).map(|(average, then)| average * decay(now, then))
    }
}

fn pack(average: f32, now: Moment) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(millis(now))
}

fn unpack(packed: u64) -> Option<(f32, u32)> {
    (packed != 0).then(|| (f32::from_bits((packed >> 32) as u32), packed as u32))
}

fn millis(moment: Moment) -> u32 {
    (moment.nanos() / 1_000_000) as u32
}

fn decay(now: Moment, then: u32) -> f32 {
    let elapsed = millis(now).wrapping_sub(then);
    // The moments of two requests that race may be out of order: that is no time, not 49 days.
    let elapsed = if elapsed > u32::MAX / 2 { 0 } else { elapsed };
    (-(elapsed as f32) / DECAY.as_millis() as f32).exp()
}

// Four buckets for each doubling from 1 us to 67 s: a quantile is told within 10 %.
const BUCKETS: usize = 4 * 27;
const HALVE_EVERY: Duration = Duration::from_secs(30);

/// Quantiles of latencies over about the last minute: counts in buckets of growing width, halved every 30 s.
#[derive(Debug)]
pub(super) struct Quantiles {
    counts: [AtomicU32; BUCKETS],
    halved: AtomicU64,
}

impl Default for Quantiles {
    fn default() -> Self {
        Self { counts: [const { AtomicU32::new(0) }; BUCKETS], halved: AtomicU64::new(0) }
    }
}

impl Quantiles {
    /// Takes in a latency observed at `now`.
    pub(super) fn observe(&self, latency: Duration, now: Moment) {
        self.forget(now);
        self.counts[bucket(latency)].fetch_add(1, Relaxed);
    }

    /// The latency that the share `q` (0.0 to 1.0) of requests did not exceed; none where nothing was observed lately.
    #[must_use]
    pub(super) fn at(&self, q: f64, now: Moment) -> Option<Duration> {
        self.forget(now);
        let counts: Vec<u64> = self.counts.iter().map(|count| u64::from(count.load(Relaxed))).collect();
        let total: u64 = counts.iter().sum();
        let rank = ((total as f64 * q).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        counts
            .iter()
            .position(|count| {
                seen += count;
                seen >= rank
            })
            .map(middle)
    }

    fn forget(&self, now: Moment) {
        let halved = self.halved.load(Relaxed);
        let due = now.nanos().saturating_sub(halved) / HALVE_EVERY.as_nanos() as u64;
        if due == 0 || self.halved.compare_exchange(halved, now.nanos(), Relaxed, Relaxed).is_err() {
            return;
        }
        for count in &self.counts {
            let old = count.load(Relaxed);
            count.fetch_sub(old - old.checked_shr(due.min(32) as u32).unwrap_or(0), Relaxed);
        }
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
    let octave = micros.ilog2() as usize;
    // The two bits below the leading one.
    let quarter = if octave >= 2 { (micros >> (octave - 2)) & 3 } else { (micros << (2 - octave)) & 3 };
    (4 * octave + quarter as usize).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let lower = (1u64 << (bucket / 4)) as f64 * (1.0 + (bucket % 4) as f64 / 4.0);
    let width = (1u64 << (bucket / 4)) as f64 / 4.0;
    Duration::from_nanos(((lower + width / 2.0) * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn at(millis: u32) -> Moment {
        Moment::START + MILLISECOND * millis
    }

    #[test]
    fn the_average_takes_a_peak_at_once_and_comes_down_slowly() {
        let ewma = PeakEwma::default();
        assert_eq!(ewma.micros(at(0)), None);
        ewma.observe(MILLISECOND, at(0));
        ewma.observe(100 * MILLISECOND, at(1));
        assert_eq!(ewma.micros(at(1)), Some(100_000.0));
        ewma.observe(MILLISECOND, at(1001));
        let after = ewma.micros(at(1001)).unwrap();
        assert!((90_000.0..91_000.0).contains(&after), "{after}");
    }

    #[test]
    fn a_slow_backend_is_forgiven_with_time() {
        let ewma = PeakEwma::default();
        ewma.observe(1000 * MILLISECOND, at(0));
        assert!(ewma.micros(at(100_000)).unwrap() < 100.0);
    }

    #[test]
    fn quantiles_are_told_within_an_eighth() {
        let quantiles = Quantiles::default();
        assert_eq!(quantiles.at(0.5, at(0)), None);
        (1..=1000).for_each(|millis| quantiles.observe(MILLISECOND * millis, at(0)));
        for (q, exact) in [(0.5, 500.0), (0.99, 990.0)] {
            let told = quantiles.at(q, at(0)).unwrap().as_secs_f64() * 1000.0;
            assert!((told / exact - 1.0).abs() < 0.125, "{q}: {told}");
        }
    }

    #[test]
    fn the_smallest_and_the_longest_latency_have_a_place() {
        for latency in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(3600), Duration::MAX] {
            let quantiles = Quantiles::default();
            quantiles.observe(latency, at(0));
            assert!(quantiles.at(0.5, at(0)).is_some(), "{latency:?}");
        }
    }

    #[test]
    fn old_latencies_are_forgotten() {
        let quantiles = Quantiles::default();
        (0..100).for_each(|_| quantiles.observe(MILLISECOND, at(0)));
        (0..100).for_each(|_| quantiles.observe(1000 * MILLISECOND, at(60_000)));
        assert!(quantiles.at(0.5, at(60_000)).unwrap() > 800 * MILLISECOND);
        assert_eq!(quantiles.at(0.5, at(3_000_000)), None);
    }
}
