//! The breaker: how many requests are under way at an upstream, or at one backend, and how many may be.
//!
//! Counting costs a request one addition, with a bound or without one: with one, it is counted only where it fits, so that
//! the bound holds exactly however many threads count at once. Who does not fit waits in the queue (`queue`), or is refused.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use crate::config::plan;

/// No bound.
const UNBOUNDED: u64 = u64::MAX;

/// A count with a bound.
#[derive(Debug)]
pub struct Breaker {
    count: AtomicU64,
    most: AtomicU64,
}

impl Breaker {
    /// Nothing is under way; at most `most` may be, where that is bounded.
    #[must_use]
    pub fn new(most: Option<u32>) -> Self {
        Self { count: AtomicU64::new(0), most: AtomicU64::new(most.map_or(UNBOUNDED, u64::from)) }
    }

    /// Sets another bound. What is under way beyond it goes on.
    pub fn set_most(&self, most: Option<u32>) {
        self.most.store(most.map_or(UNBOUNDED, u64::from), SeqCst);
    }

    /// The bound, if there is one.
    #[must_use]
    pub fn most(&self) -> Option<u64> {
        let most = self.most.load(SeqCst);
        (most != UNBOUNDED).then_some(most)
    }

    /// What is under way.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// Whether one more fits.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.has_room_but_for(0)
    }

    /// Whether one more fits once `leaving` of those under way have left.
    #[must_use]
    pub fn has_room_but_for(&self, leaving: u64) -> bool {
        let most = self.most.load(Relaxed);
        most == UNBOUNDED || self.count.load(SeqCst).saturating_sub(leaving) < most
    }

    /// Counts one more; whether it fits.
    pub fn enter(&self) -> bool {
        let most = self.most.load(SeqCst);
        if most == UNBOUNDED {
            self.count.fetch_add(1, SeqCst);
            return true;
        }
        self.count.fetch_update(SeqCst, SeqCst, |count| (count < most).then_some(count + 1)).is_ok()
    }

    /// Counts one less. Returns how many are left.
    pub fn leave(&self) -> u64 {
        self.count.fetch_sub(1, SeqCst) - 1
    }
}

/// How many requests an upstream takes at once. Over HTTP/1.1 a request has a connection to itself while it is under way, so
/// that the smaller bound holds.
#[must_use]
pub fn most_at_once(requests: Option<u32>, connections: Option<u32>) -> Option<u32> {
    [requests, connections].into_iter().flatten().min()
}

/// What an operator sees of an upstream's limits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LimitsStatus {
    /// Requests under way.
    pub in_flight: u64,
    /// How many may be; none: no bound.
    pub most: Option<u64>,
    /// Requests that wait for a place.
    pub pending: usize,
    /// How many may wait; none: no bound.
    pub most_pending: Option<usize>,
}

impl LimitsStatus {
    pub(super) fn of(breaker: &Breaker, pending: usize, limits: &plan::UpstreamLimits) -> Self {
        Self { in_flight: breaker.count(), most: breaker.most(), pending, most_pending: limits.pending }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn no_more_enter_than_fit_and_who_leaves_makes_room() {
        let breaker = Breaker::new(Some(2));
        assert_eq!([breaker.enter(), breaker.enter(), breaker.enter()], [true, true, false]);
        assert!(!breaker.has_room() && breaker.has_room_but_for(1));
        assert_eq!(breaker.leave(), 1);
        assert!(breaker.has_room() && breaker.enter());
        breaker.set_most(None);
        assert!(breaker.enter());
        breaker.set_most(Some(1));
        assert_eq!((breaker.enter(), breaker.count()), (false, 3), "what is under way goes on");
    }

    #[test]
    fn the_smaller_bound_holds() {
        assert_eq!(most_at_once(Some(3), Some(2)), Some(2));
        assert_eq!(most_at_once(None, Some(2)), Some(2));
        assert_eq!(most_at_once(None, None), None);
    }

    #[test]
    fn the_bound_is_exact_however_many_threads_count() {
        let (breaker, above) = (Breaker::new(Some(3)), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if breaker.enter() {
                            above.fetch_add(usize::from(breaker.count() > 3), SeqCst);
                            breaker.leave();
                        }
                    }
                });
            }
        });
        assert_eq!((above.into_inner(), breaker.count()), (0, 0));
    }
}
