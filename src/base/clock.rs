//! Time as a value.
//!
//! The pure core never reads a clock: it is given a [`Moment`]. Only the data path and the background services ask a
//! [`Clock`] what time it is, so that simulations and tests run the same code with virtual time.

use std::time::{Duration, Instant, SystemTime};

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

/// The process's clock: monotonic moments, and the wall time that belongs to each.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_wall: SystemTime,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), started_wall: SystemTime::now() }
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

    /// The wall time of a moment, as the wall clock stood when this clock was started: steps of the wall clock since
    /// then do not show, so that two moments are always as far apart as they were.
    #[must_use]
    pub fn wall(&self, moment: Moment) -> SystemTime {
        self.started_wall + Duration::from_nanos(moment.nanos())
    }
}
