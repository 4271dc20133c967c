//! Idle connections to one backend: how long each may wait for another request, and how many requests it may carry.
//!
//! Pingora keeps idle connections of all backends in one pool and knows no bound for one of them; what it asks for is how
//! long a connection may wait. So the bound acts by that: a connection that is taken while more than `max_idle` requests
//! are in flight serves the burst, and waits no longer than [`SPARE`] once the burst is over.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::plan::Keepalive;

/// How long a connection beyond `max_idle` waits.
pub const SPARE: Duration = Duration::from_secs(1);

/// How long the connection of a request may wait afterwards, where `in_flight` requests are at the backend, this one
/// included.
#[must_use]
pub fn patience(in_flight: usize, bounds: &Keepalive) -> Duration {
    if in_flight > bounds.max_idle { SPARE.min(bounds.idle) } else { bounds.idle }
}

/// What becomes of a connection after this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It may carry another.
    Keep,
    /// It must not: this is the last that it may carry.
    Close,
}

/// How often each connection of one backend was used; kept only where that is bounded.
#[derive(Debug, Default)]
pub struct Uses(Mutex<HashMap<RawFd, u32>>);

impl Uses {
    /// A request has got the connection `fd`, which was used before (`reused`) or is new.
    pub fn count(&self, fd: RawFd, reused: bool, bounds: &Keepalive) -> Afterwards {
        if bounds.max_idle == 0 {
            return Afterwards::Close;
        }
        let Some(most) = bounds.max_requests else { return Afterwards::Keep };
        let mut uses = self.0.lock();
        let used = uses.entry(fd).or_insert(0);
        *used = if reused { *used + 1 } else { 1 };
        if *used < most {
            return Afterwards::Keep;
        }
        uses.remove(&fd);
        Afterwards::Close
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(max_idle: usize, max_requests: Option<u32>) -> Keepalive {
        Keepalive { idle: Duration::from_secs(55), max_idle, max_requests }
    }

    #[test]
    fn connections_beyond_the_bound_wait_for_a_moment_only() {
        assert_eq!(patience(2, &bounds(2, None)), Duration::from_secs(55));
        assert_eq!(patience(3, &bounds(2, None)), SPARE);
    }

    #[test]
    fn where_none_may_wait_each_connection_carries_one_request() {
        assert_eq!(Uses::default().count(7, false, &bounds(0, None)), Afterwards::Close);
    }

    #[test]
    fn a_connection_carries_no_more_than_its_requests() {
        let (uses, bounds) = (Uses::default(), bounds(9, Some(2)));
        assert_eq!(uses.count(7, false, &bounds), Afterwards::Keep);
        assert_eq!(uses.count(7, true, &bounds), Afterwards::Close);
        assert_eq!(uses.count(7, false, &bounds), Afterwards::Keep);
    }
}
