//! Where a pool has its time from: the process's clock, or a time that a simulation moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::base::clock::{Clock, Moment};

/// Where a pool has its time from.
#[derive(Debug, Clone)]
pub enum Time {
    /// The process's clock.
    Clock(Clock),
    /// A time that moves only when it is told to; its wall time begins with the clock's.
    Virtual(VirtualTime, Clock),
}

impl Time {
    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        match self {
            Self::Clock(clock) => clock.now(),
            Self::Virtual(time, _) => time.now(),
        }
    }

    /// The clock that tells wall times.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        match self {
            Self::Clock(clock) | Self::Virtual(_, clock) => clock,
        }
    }
}

/// A time that moves only when it is told to: for simulations.
#[derive(Debug, Clone, Default)]
pub struct VirtualTime(Arc<AtomicU64>);

impl VirtualTime {
    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::after_start(Duration::from_nanos(self.0.load(Relaxed)))
    }

    /// Lets `span` pass.
    pub fn advance(&self, span: Duration) {
        self.0.store((self.now() + span).nanos(), Relaxed);
    }
}
