//! How long to wait before trying again: exponential backoff with full jitter.
//!
//! Waits that double spare a server that is overloaded; waits that differ keep clients which failed together from coming
//! back together. Full jitter draws each wait anew between nothing and the bound of its turn, which ends a stampede soonest
//! of the known ways (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). Pure.

use std::time::Duration;

/// The wait before the `nth` turn (the first is 1): a random part (`luck`, 0.0 to 1.0) of `base` doubled for each turn
/// after the first, and of no more than `most`.
#[must_use]
pub fn full_jitter(base: Duration, most: Duration, nth: u32, luck: f64) -> Duration {
    let doubled = 1_u32.checked_shl(nth.saturating_sub(1)).unwrap_or(u32::MAX);
    base.saturating_mul(doubled).min(most).mul_f64(luck.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: Duration = Duration::from_millis(25);
    const MOST: Duration = Duration::from_millis(250);

    #[test]
    fn the_bound_doubles_until_it_is_the_longest() {
        let bounds = [1, 2, 3, 4, 5, 6, 32, 33, u32::MAX].map(|nth| full_jitter(BASE, MOST, nth, 1.0).as_millis());
        assert_eq!(bounds, [25, 50, 100, 200, 250, 250, 250, 250, 250]);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_its_bound(base in 0_u64..1 << 40, most in 0_u64..1 << 40, nth: u32, luck in 0.0..1.0) {
            let (base, most) = (Duration::from_nanos(base), Duration::from_nanos(most));
            let wait = full_jitter(base, most, nth, luck);
            prop_assert!(wait <= most);
            prop_assert!(nth > 1 || wait <= base);
        }

        #[test]
        fn the_whole_span_is_used(nth in 1_u32..6) {
            let bound = full_jitter(BASE, MOST, nth, 1.0);
            prop_assert_eq!(full_jitter(BASE, MOST, nth, 0.0), Duration::ZERO);
            prop_assert_eq!(full_jitter(BASE, MOST, nth, 0.5), bound / 2);
        }
    }
}
