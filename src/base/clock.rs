//! Time as a value.
//!
//! The pure core never reads a clock: it is given a [`Moment`]. Only the data path and the background services ask a
//! [`Clock`] what time it is, so that simulations and tests run the same code with virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in monotonic time: the nanoseconds since the clock was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The moment the clock was started.
    pub const START: Self = Self(0);

    /// The moment that lies `since_start` after the start of the clock (saturating at about 584 years).
    #[must_use]
    pub fn after_start(since_start: Duration) -> Self {
        Self(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since the clock was started.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The moment `nanos` nanoseconds after the start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// How long ago `earlier` was; zero where `earlier` lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A wall time as logs and the admin API write it: RFC 3339, UTC, milliseconds.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

/// The process's clock: monotonic moments, and the wall time that belongs to each. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    wall: Arc<Wall>,
}

/// How the wall clock stands to the monotonic one. It is looked at anew where the last look is older than [`LOOK`]: a machine that
/// boots without the time, or that slept, sets its wall clock while the process runs.
#[derive(Debug)]
struct Wall {
    /// The wall time at [`Moment::START`], in nanoseconds since 1970.
    at_start: AtomicI64,
    /// The moment of the last look, in nanoseconds.
    looked: AtomicU64,
}

/// How long a look at the wall clock is good for, in nanoseconds.
const LOOK: u64 = 1_000_000_000;
/// Differences shorter than this are the time that two looks take, and no step, in nanoseconds.
const STEP: u64 = 20_000_000;

impl Wall {
    fn look(&self, now: Moment) {
        self.looked.store(now.nanos(), Ordering::Relaxed);
        self.note(since_1970(SystemTime::now()).saturating_sub(signed(now.nanos())));
    }

    /// Takes up what the wall time at the start must have been, where that is another than was thought.
    fn note(&self, at_start: i64) {
        if self.at_start.load(Ordering::Relaxed).abs_diff(at_start) >= STEP {
            self.at_start.store(at_start, Ordering::Relaxed);
        }
    }
}

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

/// Nanoseconds since 1970; none are negative, for no wall clock of a machine that serves is older.
fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        let at_start = AtomicI64::new(since_1970(SystemTime::now()));
        Self { started: Instant::now(), wall: Arc::new(Wall { at_start, looked: AtomicU64::new(0) }) }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::after_start(self.started.elapsed())
    }

    /// The instant of a moment, for timers.
    #[must_use]
    pub fn instant(&self, moment: Moment) -> Instant {
        self.started + Duration::from_nanos(moment.nanos())
    }

    /// The wall time of a moment. Steps of the wall clock move all moments alike, within about a second, so that two moments are
    /// always as far apart as they were.
    #[must_use]
    pub fn wall(&self, moment: Moment) -> SystemTime {
        if moment.nanos() > self.wall.looked.load(Ordering::Relaxed).saturating_add(LOOK) {
            self.wall.look(self.now());
        }
        let wall = self.wall.at_start.load(Ordering::Relaxed).saturating_add(signed(moment.nanos()));
        UNIX_EPOCH + Duration::from_nanos(u64::try_from(wall).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_is_followed_and_moments_stay_as_far_apart() {
        let (clock, before) = (Clock::start(), SystemTime::now());
        // As if the process had been started in 1970.
        clock.wall.at_start.store(0, Ordering::Relaxed);
        assert!(clock.wall(Moment::START) < before);

        let (later, hour) = (Moment::after_start(Duration::from_secs(2)), Duration::from_secs(3_600));

        assert!(clock.wall(later) >= before);
        assert_eq!(clock.wall(later + hour), clock.wall(later) + hour);
    }

    #[test]
    fn what_lies_between_two_looks_is_no_step() {
        let clock = Clock::start();
        let at_start = clock.wall.at_start.load(Ordering::Relaxed);

        clock.wall.note(at_start + 1_000_000);
        assert_eq!(clock.wall.at_start.load(Ordering::Relaxed), at_start);
        clock.wall.note(at_start + 1_000_000_000);
        assert_eq!(clock.wall.at_start.load(Ordering::Relaxed), at_start + 1_000_000_000);
    }
}
