//! Connections that wait at one backend for another request, the warmest on top.
//!
//! The one that carried a request last is taken first: it is the least likely to have been closed by the other side, and those
//! below it grow old together and leave. Pure: what a connection is and whether it is still good are the caller's to say, and time is an argument.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::clock::Moment;
use crate::config::plan::Keepalive;

/// The waiting connections of one backend, the coldest in front.
pub struct Warm<C>(Mutex<VecDeque<Waiting<C>>>);

struct Waiting<C> {
    connection: C,
    /// By which settings it was made: those of another plan, or of another client that the backend is told of, may not use it.
    group: u64,
    since: Moment,
}

impl<C> Default for Warm<C> {
    fn default() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }
}

impl<C> fmt::Debug for Warm<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Warm").field(&self.len()).finish()
    }
}

impl<C> Warm<C> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the warmest that was made by the settings `group`, has not waited longer than `idle`, and is `good`. Those of the
    /// group on the way to it that are not are closed.
    pub fn take(&self, group: u64, now: Moment, idle: Duration, mut good: impl FnMut(&mut C) -> bool) -> Option<C> {
        loop {
            // One at a time, so that nothing is closed or asked under the lock.
            let mut waiting = {
                let mut all = self.0.lock();
                let warmest = all.iter().rposition(|waiting| waiting.group == group)?;
                all.remove(warmest)?
            };
            if now.since(waiting.since) < idle && good(&mut waiting.connection) {
                return Some(waiting.connection);
            }
        }
    }

    /// Lets a connection wait from `now`; the coldest of more than `max_idle` is closed.
    pub fn put(&self, connection: C, group: u64, now: Moment, bounds: &Keepalive) {
        let coldest = {
            let mut all = self.0.lock();
            all.push_back(Waiting { connection, group, since: now });
            if all.len() > bounds.max_idle { all.pop_front() } else { None }
        };
        drop(coldest);
    }

    /// Takes the coldest, for its place.
    pub fn take_coldest(&self) -> Option<C> {
        self.0.lock().pop_front().map(|waiting| waiting.connection)
    }

    /// Closes those that have waited long enough, and those that are no longer `good`.
    pub fn sweep(&self, now: Moment, bounds: &Keepalive, mut good: impl FnMut(&mut C) -> bool) {
        let mut gone = Vec::new();
        {
            let mut all = self.0.lock();
            for at in (0..all.len()).rev() {
                let waiting = &mut all[at];
                if now.since(waiting.since) >= bounds.idle || !good(&mut waiting.connection) {
                    gone.extend(all.remove(at));
                }
            }
            let beyond = all.len().saturating_sub(bounds.max_idle);
            gone.extend(all.drain(..beyond));
        }
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bounds(max_idle: usize) -> Keepalive {
        Keepalive { idle: 10 * SECOND, max_idle, max_requests: None }
    }

    fn at(seconds: u32) -> Moment {
        Moment::START + SECOND * seconds
    }

    fn filled(count: u32, max_idle: usize) -> Warm<u32> {
        let warm = Warm::default();
        (0..count).for_each(|number| warm.put(number, 7, at(number), &bounds(max_idle)));
        warm
    }

    #[test]
    fn the_warmest_is_taken_first_and_the_coldest_leaves_first() {
        let warm = filled(5, 3);
        let take = || warm.take(7, at(5), 10 * SECOND, |_| true);
        assert_eq!([take(), take(), take(), take()], [Some(4), Some(3), Some(2), None]);
    }

    #[test]
    fn what_is_old_or_closed_or_of_another_plan_is_never_taken() {
        assert_eq!(filled(3, 9).take(7, at(12), 10 * SECOND, |_| true), None);
        assert_eq!(filled(3, 9).take(7, at(3), 10 * SECOND, |number| *number == 1), Some(1));
        let warm = filled(3, 9);
        assert_eq!(warm.take(8, at(3), 10 * SECOND, |_| true), None);
        assert_eq!(warm.take(7, at(3), 10 * SECOND, |_| true), Some(2));
    }

    #[test]
    fn a_sweep_closes_what_no_request_came_for() {
        let warm = filled(5, 9);
        warm.sweep(at(11), &bounds(9), |number| *number != 3);
        assert_eq!(warm.take(7, at(11), 10 * SECOND, |_| true), Some(4));
        assert_eq!(warm.take(7, at(11), 10 * SECOND, |_| true), Some(2));
        assert!(warm.is_empty());
    }

    #[test]
    fn a_bound_that_was_lowered_is_kept_from_the_next_sweep_on() {
        let warm = filled(5, 9);
        warm.sweep(at(5), &bounds(2), |_| true);
        assert_eq!(warm.len(), 2);
    }
}
