//! Outlier ejection as arithmetic: how many backends may be out at once, for how long, and how old sins are forgotten.
//!
//! Pure. What counts as an error, and what an ejection does to a backend, is the state machine's (`state`); who is
//! ejected right now is the pool's. After Envoy's outlier detector, with one addition of nginx's: the last usable
//! backend is never ejected, for a backend that fails some requests is better than none (nginx ignores `max_fails`
//! where a group has one server).

use std::time::Duration;

use crate::base::clock::Moment;
use crate::config::plan::Outlier;

/// How long a backend must serve without an ejection before one earlier ejection is forgotten: Envoy's detector
/// forgets one at each of its intervals, 10 s by default.
pub const FORGET_EVERY: Duration = Duration::from_secs(10);

/// How many of `members` backends may be ejected at once: the share `max_ejected` (0.0 to 1.0), rounded down, and one
/// in any case.
#[must_use]
pub fn ceiling(policy: &Outlier, members: usize) -> usize {
    let share = (policy.max_ejected.clamp(0.0, 1.0) * members as f64 + SHARE_SLACK).floor() as usize;
    share.clamp(1, members.max(1))
}

// 0.29 * 100 is 28.999999999999996 in floating point; the operator meant 29.
const SHARE_SLACK: f64 = 1e-9;

/// Whether one more backend may be ejected, where `ejected` of `members` already are and `others_usable` backends
/// would remain to serve.
#[must_use]
pub fn may_eject(policy: &Outlier, ejected: usize, members: usize, others_usable: usize) -> bool {
    others_usable > 0 && ejected < ceiling(policy, members)
}

/// The length of the `nth` ejection in a row (the first is 1): n times `base_ejection`, at most `max_ejection`.
#[must_use]
pub fn ejection_length(policy: &Outlier, nth: u32) -> Duration {
    policy.base_ejection.saturating_mul(nth.max(1)).min(policy.max_ejection.max(policy.base_ejection))
}

/// How many ejections are still remembered at `now`, of `ejections` remembered when the last one ended at `returned`.
#[must_use]
pub fn remembered(ejections: u32, returned: Moment, now: Moment) -> u32 {
    let forgotten = now.since(returned).as_nanos() / FORGET_EVERY.as_nanos();
    ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Outlier {
        Outlier {
            consecutive_errors: 5,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected: 0.1,
        }
    }

    #[test]
    fn one_backend_may_always_be_ejected_beyond_that_only_the_share() {
        let policy = policy();
        assert_eq!([1, 2, 9, 10, 19, 20, 100].map(|members| ceiling(&policy, members)), [1, 1, 1, 1, 1, 2, 10]);
        assert_eq!(ceiling(&Outlier { max_ejected: 0.29, ..policy }, 100), 29);
        assert_eq!(ceiling(&Outlier { max_ejected: 1.0, ..policy }, 3), 3);
        assert_eq!(ceiling(&Outlier { max_ejected: 0.0, ..policy }, 3), 1);
    }

    #[test]
    fn the_last_usable_backend_is_never_ejected() {
        assert!(!may_eject(&policy(), 0, 1, 0));
        assert!(may_eject(&policy(), 0, 2, 1));
        assert!(!may_eject(&policy(), 1, 2, 1));
    }

    #[test]
    fn the_nth_ejection_lasts_n_times_as_long_up_to_the_longest() {
        let policy = policy();
        let seconds = [1, 2, 3, 10, 11, u32::MAX].map(|nth| ejection_length(&policy, nth).as_secs());
        assert_eq!(seconds, [30, 60, 90, 300, 300, 300]);
    }

    #[test]
    fn ten_good_seconds_forget_one_ejection() {
        let returned = Moment::START + Duration::from_secs(100);
        let after = |seconds| remembered(3, returned, returned + Duration::from_secs(seconds));
        assert_eq!([0, 9, 10, 25, 30, 3000].map(after), [3, 3, 2, 1, 0, 0]);
    }
}
