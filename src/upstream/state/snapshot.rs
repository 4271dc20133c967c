//! The health of a backend on its way from one process to the next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Course, Drain, Failure, Health, Standing};
use crate::base::clock::Moment;

/// The health of one backend on its way to another process: ages and remainders in place of moments, for each process
/// has its own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    course: CourseSnapshot,
    course_age: Duration,
    course_why: String,
    drain: Drain,
    drain_age: Duration,
    drain_why: String,
    good_in_row: u32,
    failed_in_row: u32,
    errors_in_row: u32,
    connects_only: bool,
    ejections: u32,
    // Absent in snapshots of processes that did not wait for backends.
    #[serde(default)]
    awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CourseSnapshot {
    Probing,
    Healthy,
    Unhealthy,
    Ejected { remaining: Duration, failure: Failure },
    Probation { failure: Failure },
    SlowStart { remaining: Duration },
}

impl Health {
    /// What another process needs to go on where this one stands at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Moment) -> Snapshot {
        Snapshot {
            course: match self.course.state {
                Course::Probing => CourseSnapshot::Probing,
                Course::Healthy => CourseSnapshot::Healthy,
                Course::Unhealthy => CourseSnapshot::Unhealthy,
                Course::Ejected { until, failure } => CourseSnapshot::Ejected { remaining: until.since(now), failure },
                Course::Probation { failure } => CourseSnapshot::Probation { failure },
                Course::SlowStart { until } => CourseSnapshot::SlowStart { remaining: until.since(now) },
            },
            course_age: self.course.age(now),
            course_why: self.course.why.to_string(),
            drain: self.drain.state,
            drain_age: self.drain.age(now),
            drain_why: self.drain.why.to_string(),
            good_in_row: self.good_in_row,
            failed_in_row: self.failed_in_row,
            errors_in_row: self.errors_in_row,
            connects_only: self.connects_only,
            ejections: self.remembered(now),
            awaited: self.awaited.is_some(),
        }
    }

    /// The health that another process has handed over, as it goes on here from `now`: what was to end in two seconds
    /// there, ends in two seconds here.
    #[must_use]
    pub fn restore(snapshot: &Snapshot, now: Moment) -> Self {
        // Nothing is in flight in a process that has just taken over.
        let drain = if snapshot.drain == Drain::None { Drain::None } else { Drain::Drained };
        let course = match snapshot.course {
            CourseSnapshot::Probing => Course::Probing,
            CourseSnapshot::Healthy => Course::Healthy,
            CourseSnapshot::Unhealthy => Course::Unhealthy,
            CourseSnapshot::Ejected { remaining, failure } => Course::Ejected { until: now + remaining, failure },
            CourseSnapshot::Probation { failure } => Course::Probation { failure },
            CourseSnapshot::SlowStart { remaining } => Course::SlowStart { until: now + remaining },
        };
        Self {
            course: Standing::carried_over(course, snapshot.course_age, &snapshot.course_why, now),
            drain: Standing::carried_over(drain, snapshot.drain_age, &snapshot.drain_why, now),
            left: false,
            good_in_row: snapshot.good_in_row,
            failed_in_row: snapshot.failed_in_row,
            errors_in_row: snapshot.errors_in_row,
            connects_only: snapshot.connects_only,
            ejections: snapshot.ejections,
            returned: now,
            // Waited for anew: it may come with what the upgrade was a part of.
            awaited: snapshot.awaited.then_some(now),
        }
    }
}

impl<T> Standing<T> {
    fn age(&self, now: Moment) -> Duration {
        now.since(self.since) + self.carried
    }

    fn carried_over(state: T, age: Duration, why: &str, now: Moment) -> Self {
        let uptime = now.since(Moment::START);
        let here = uptime.min(age);
        Self { state, since: Moment::after_start(uptime - here), carried: age - here, why: why.into() }
    }
}
