//! The generic cell rate algorithm: a rate and a burst, decided from one moment for each key.
//!
//! It is a bucket that holds `burst` tokens and is filled at the rate, kept as the moment at which it will be full again (the
//! "theoretical arrival time" of ITU-T I.371, annex A, less one interval). A bucket nobody has touched is full, so that the
//! moment zero stands for it. Where the moments are kept is left to the caller.

use std::time::Duration;

use crate::base::clock::Moment;

/// A rate with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gcra {
    /// Nanoseconds in which one token comes.
    interval: u64,
    /// Nanoseconds in which an empty bucket fills.
    capacity: u64,
}

impl Gcra {
    /// `count` tokens in each `per`, and `burst` tokens at once. What is zero counts as one. An interval is rounded up to a
    /// whole nanosecond, so that never more than the rate comes: at a million tokens a second a thousandth less at most.
    #[must_use]
    pub fn new(count: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let interval = per.div_ceil(u64::from(count.max(1))).max(1);
        Self { interval, capacity: interval.saturating_mul(u64::from(burst.max(1))) }
    }

    /// Takes a token at `now` from a bucket that is full again at `full_at`.
    ///
    /// # Errors
    /// How long to wait where it holds none; it stays as it is.
    pub fn take(&self, full_at: Moment, now: Moment) -> Result<Moment, Duration> {
        let debt = self.debt(full_at, now).saturating_add(self.interval);
        match debt.checked_sub(self.capacity) {
            None | Some(0) => Ok(now + Duration::from_nanos(debt)),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }

    /// How many tokens the bucket holds at `now`.
    #[must_use]
    pub fn left(&self, full_at: Moment, now: Moment) -> u64 {
        (self.capacity - self.debt(full_at, now)) / self.interval
    }

    /// How long it takes until the bucket holds a token more than at `now`; zero where it is full.
    #[must_use]
    pub fn next(&self, full_at: Moment, now: Moment) -> Duration {
        let after_the_last = self.debt(full_at, now).checked_sub(1).map(|debt| debt % self.interval + 1);
        Duration::from_nanos(after_the_last.unwrap_or(0))
    }

    /// How long an empty bucket takes to fill.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_nanos(self.capacity)
    }

    /// How long the bucket takes to fill from `now` on. A bucket that was kept by a slower rate or a larger burst may seem
    /// to owe more than it can hold: it is empty.
    fn debt(&self, full_at: Moment, now: Moment) -> u64 {
        full_at.nanos().saturating_sub(now.nanos()).min(self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A rate with a burst, and the pauses between requests: from none to three intervals.
    fn histories() -> impl Strategy<Value = (u32, Duration, u32, Vec<Duration>)> {
        let rates = (1..=1_000_000_u32, prop::sample::select(vec![1_u64, 60, 3_600]), 1..=50_u32);
        rates.prop_flat_map(|(count, per, burst)| {
            let per = Duration::from_secs(per);
            let longest = u64::try_from(per.as_nanos()).unwrap() * 3 / u64::from(count);
            let pause = prop_oneof![Just(0), 0..=longest].prop_map(Duration::from_nanos);
            (Just(count), Just(per), Just(burst), prop::collection::vec(pause, 1..200))
        })
    }

    /// Plays requests at these pauses; the moments of those that passed.
    fn passed(gcra: Gcra, pauses: &[Duration]) -> Vec<Moment> {
        let (mut full_at, mut now) = (Moment::START, Moment::after_start(SECOND * 86_400));
        let mut passed = Vec::new();
        for pause in pauses {
            now = now + *pause;
            if let Ok(next) = gcra.take(full_at, now) {
                full_at = next;
                passed.push(now);
            }
        }
        passed
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let gcra = Gcra::new(10, SECOND, 3);
        let tenths = [0, 0, 0, 0, 1, 0, 1, 5, 0, 0, 0].map(|tenths| SECOND / 10 * tenths);
        assert_eq!(passed(gcra, &tenths).len(), 3 + 1 + 1 + 3);
        assert_eq!(gcra.window(), SECOND * 3 / 10);
    }

    #[test]
    fn a_bucket_kept_by_other_rules_is_empty_at_most() {
        let (hourly, now) = (Gcra::new(1, SECOND * 3_600, 10), Moment::after_start(SECOND));
        let emptied = (0..10).fold(Moment::START, |full_at, _| hourly.take(full_at, now).unwrap());
        let faster = Gcra::new(100, SECOND, 5);
        assert_eq!((faster.left(emptied, now), faster.take(emptied, now)), (0, Err(SECOND / 100)));
    }

    #[test]
    fn the_largest_numbers_saturate() {
        let gcra = Gcra::new(1, Duration::MAX, u32::MAX);
        let full_at = gcra.take(Moment::START, Moment::from_nanos(u64::MAX)).unwrap();
        assert_eq!(full_at, Moment::from_nanos(u64::MAX));
    }

    proptest! {
        /// The promise itself: in no stretch of time do more pass than the burst and what the rate brings in that time.
        #[test]
        fn no_stretch_of_time_sees_more_than_burst_and_rate((count, per, burst, pauses) in histories()) {
            let passed = passed(Gcra::new(count, per, burst), &pauses);
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let brought = to.since(*from).as_nanos() * u128::from(count) / per.as_nanos();
                    prop_assert!(((last - first) as u128) < u128::from(burst) + brought);
                }
            }
        }

        /// The other half: who is refused owes it to the rate, up to the nanosecond that intervals are rounded by.
        #[test]
        fn as_many_pass_as_a_bucket_of_fractions_would_let((count, per, burst, pauses) in histories()) {
            let (mut tokens, mut allowed) = (f64::from(burst), 0_usize);
            for pause in &pauses {
                let brought = pause.as_nanos() as f64 * f64::from(count) / per.as_nanos() as f64;
                tokens = (tokens + brought).min(f64::from(burst));
                if tokens >= 1.0 {
                    tokens -= 1.0;
                    allowed += 1;
                }
            }
            let passed = passed(Gcra::new(count, per, burst), &pauses).len();
            // Where a token is complete in the very nanosecond of a request, rounding decides: each may cost one.
            prop_assert!(passed <= allowed + 1 && allowed <= passed + 1 + pauses.len() / 100, "{passed} {allowed}");
        }

        #[test]
        fn who_waits_as_told_gets_the_token_and_not_a_nanosecond_before(
            count in 1..=1_000_000_u32, burst in 1..=1_000_u32, debt in 0..=10_000_000_000_u64
        ) {
            let (gcra, now) = (Gcra::new(count, SECOND, burst), Moment::after_start(SECOND));
            let full_at = now + Duration::from_nanos(debt);
            let left = gcra.left(full_at, now);
            match gcra.take(full_at, now) {
                Ok(next) => prop_assert_eq!(gcra.left(next, now), left - 1),
                Err(wait) => {
                    let then = gcra.take(full_at.min(now + gcra.window()), now + wait);
                    prop_assert!(left == 0 && then.is_ok() && gcra.next(full_at, now) == wait);
                    let before = now + (wait - Duration::from_nanos(1));
                    prop_assert!(gcra.take(full_at.min(now + gcra.window()), before).is_err());
                }
            }
        }

        #[test]
        fn the_next_token_comes_when_it_is_told(count in 1..=1_000_u32, burst in 1..=100_u32, debt in 1..=1_000_000_000_u64) {
            let (gcra, now) = (Gcra::new(count, SECOND, burst), Moment::after_start(SECOND));
            let full_at = now + Duration::from_nanos(debt).min(gcra.window());
            let next = gcra.next(full_at, now);
            prop_assert_eq!(gcra.left(full_at, now + next), gcra.left(full_at, now) + 1);
            prop_assert_eq!(gcra.left(full_at, now + (next - Duration::from_nanos(1))), gcra.left(full_at, now));
        }
    }
}
