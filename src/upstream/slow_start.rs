//! Slow start as arithmetic: which part of its weight a recovered backend has after some time.
//!
//! Pure. Envoy's formula (`slow_start_config`) with its defaults, aggression 1.0 and a least share of 10 %: a straight
//! ramp from a tenth to the whole. That a backend is in slow start at all is the state machine's business.

use std::time::Duration;

use crate::base::clock::Moment;

/// The steps of a ramp: weights are recomputed this often in one slow start, and no oftener.
pub const STEPS: u32 = 20;

const LEAST_SHARE: f64 = 0.1;

/// The share of its weight (0.1 to 1.0) that a backend has at `now` in a slow start of `window` that ends at `until`.
#[must_use]
pub fn share(until: Moment, window: Duration, now: Moment) -> f64 {
    if window.is_zero() {
        return 1.0;
    }
    (1.0 - until.since(now).as_secs_f64() / window.as_secs_f64()).clamp(LEAST_SHARE, 1.0)
}

/// The share as whole [`STEPS`], never less than 10 % of them: what weights are multiplied by.
#[must_use]
pub fn step(share: f64) -> u32 {
    ((share * f64::from(STEPS)).floor() as u32).clamp((f64::from(STEPS) * LEAST_SHARE) as u32, STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_rises_in_a_straight_line_from_a_tenth_to_the_whole() {
        let since = Moment::START + Duration::from_secs(50);
        let until = since + Duration::from_secs(100);
        let after = |seconds| share(until, Duration::from_secs(100), since + Duration::from_secs(seconds));
        assert_eq!([0, 5, 10, 50, 100, 200].map(after), [0.1, 0.1, 0.1, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn without_a_window_the_share_is_whole_at_once() {
        assert_eq!(share(Moment::START, Duration::ZERO, Moment::START), 1.0);
    }

    #[test]
    fn steps_run_from_two_to_twenty() {
        assert_eq!([0.0, 0.1, 0.5, 0.99, 1.0].map(step), [2, 2, 10, 19, 20]);
    }
}
