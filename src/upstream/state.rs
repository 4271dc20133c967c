//! The health of one backend: THE state machine. Probes, ejections, slow start and drain all move it, and it can always
//! say since when a backend is in its state, and why, in words for the operator.
//!
//! Pure: events and moments in, transitions out. Two layers keep the truth apart from the operator's wish: the *course*
//! (probing, healthy, unhealthy, ejected, slow start) follows what was observed and goes on while a backend is drained;
//! the *drain* lies over it, so that a resumed backend returns to the state that its probes have earned.
//!
//! ```text
//!              good probe                      rise good probes
//!   probing ──────────────▶ (slow start) ◀──────────────────────── unhealthy
//!      │                         │ time                                ▲
//!      │ failed probe            ▼           fall failed probes        │
//!      └────────────▶ … ◀──── healthy ─────────────────────────────────┤
//!                                │ ▲                                   │
//!             errors in a row    ▼ │ probation, or rise good probes    │ fall failed probes
//!                              ejected ────────────────────────────────┘
//! ```
//! Time alone does not make an ejected backend good: it ends in a *probation*, in which one request at a time (the pool's care)
//! finds out. One that is answered ends it, one that fails ejects it again at once, for longer. It is shown as a slow start, for
//! that is what it is to the requests: the smallest share there is.
//!
//! Whether an ejection is allowed is the pool's to say (`outlier`), when to probe again the prober's, when a tick is due
//! the pool's.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::words::{Span, good_in_row, probes_failed};
use super::{outlier, slow_start};
use crate::base::clock::Moment;
use crate::config::plan::{Outlier, Start};

mod event;
mod policy;
mod snapshot;
mod words;

pub use event::{Entry, Event, Failure, Transition};
pub use policy::{Policy, ProbePolicy};
pub use snapshot::Snapshot;

/// A backend that has yet to come up is asked again after this part of the time that it has been waited for: what boots in
/// half a minute is found within four seconds, and ten thousand that never come cost less with every probe.
const AWAITED_PART: u32 = 8;

/// What an operator sees a backend in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It never had a verdict of a probe, and may not be used before.
    Probing,
    /// It is used.
    Healthy,
    /// Its probes failed.
    Unhealthy,
    /// Requests to it failed; for a while it gets none.
    Ejected,
    /// It is used with a rising part of its weight, or by one request at a time.
    SlowStart,
    /// It gets no new request; some are still in flight.
    Draining,
    /// It gets no new request, and none is in flight.
    Drained,
}

impl State {
    /// The word for it in the status, the log and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probing => "probing",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::SlowStart => "slow_start",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }

    /// Whether a backend in this state gets requests.
    #[must_use]
    pub const fn usable(self) -> bool {
        matches!(self, Self::Healthy | Self::SlowStart)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Probing,
    Healthy,
    Unhealthy,
    Ejected { until: Moment, failure: Failure },
    Probation { failure: Failure },
    SlowStart { until: Moment },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Drain {
    None,
    Draining,
    Drained,
}

/// A state with its since and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing<T> {
    state: T,
    since: Moment,
    // How long it was in this state before this process's clock was started.
    carried: Duration,
    why: Arc<str>,
}

impl<T> Standing<T> {
    fn new(state: T, since: Moment, why: impl Into<Arc<str>>) -> Self {
        Self { state, since, carried: Duration::ZERO, why: why.into() }
    }
}

/// The health of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    course: Standing<Course>,
    drain: Standing<Drain>,
    left: bool,
    good_in_row: u32,
    failed_in_row: u32,
    errors_in_row: u32,
    connects_only: bool,
    ejections: u32,
    returned: Moment,
    // Since when it is waited for: it was never good in use so far.
    awaited: Option<Moment>,
}

impl Health {
    /// A backend that joins its upstream at `now`.
    #[must_use]
    pub fn new(policy: &Policy, entry: Entry, now: Moment) -> Self {
        let (course, why) = match policy.probes {
            Some(ProbePolicy { start: Start::Probe, .. }) => (Course::Probing, "waiting for its first probe"),
            Some(_) => (Course::Healthy, "used before its first probe (start: healthy)"),
            None => (Course::Healthy, "not probed (health_check: none)"),
        };
        let course = match (course, entry) {
            (Course::Healthy, Entry::Later) if !policy.slow_start.is_zero() => {
                Course::SlowStart { until: now + policy.slow_start }
            }
            (course, _) => course,
        };
        Self {
            course: Standing::new(course, now, why),
            drain: Standing::new(Drain::None, now, ""),
            left: false,
            good_in_row: 0,
            failed_in_row: 0,
            errors_in_row: 0,
            connects_only: true,
            ejections: 0,
            returned: now,
            awaited: Some(now),
        }
    }

    /// The state an operator sees.
    #[must_use]
    pub fn state(&self) -> State {
        match (self.drain.state, self.course.state) {
            (Drain::Draining, _) => State::Draining,
            (Drain::Drained, _) => State::Drained,
            (Drain::None, Course::Probing) => State::Probing,
            (Drain::None, Course::Healthy) => State::Healthy,
            (Drain::None, Course::Unhealthy) => State::Unhealthy,
            (Drain::None, Course::Ejected { .. }) => State::Ejected,
            (Drain::None, Course::Probation { .. } | Course::SlowStart { .. }) => State::SlowStart,
        }
    }

    /// Since when it is in its state.
    #[must_use]
    pub fn since(&self) -> Moment {
        if self.drain.state == Drain::None { self.course.since } else { self.drain.since }
    }

    /// How long it was in its state already when this process's clock was started; zero unless it was carried over.
    #[must_use]
    pub fn carried(&self) -> Duration {
        if self.drain.state == Drain::None { self.course.carried } else { self.drain.carried }
    }

    /// Why it is in its state, in words for the operator.
    #[must_use]
    pub fn why(&self) -> &Arc<str> {
        if self.drain.state == Drain::None { &self.course.why } else { &self.drain.why }
    }

    /// Whether it gets requests.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.state().usable()
    }

    /// Whether it may get requests when no backend is usable and the upstream fails open: it is not drained.
    #[must_use]
    pub fn open(&self) -> bool {
        self.drain.state == Drain::None
    }

    /// Whether it counts as ejected, drained or not: it does until its probation is over. A backend that has left counts for
    /// nothing any more.
    #[must_use]
    pub fn ejected(&self) -> bool {
        !self.left && matches!(self.course.state, Course::Ejected { .. } | Course::Probation { .. })
    }

    /// When its ejection ends, or has ended, by time.
    #[must_use]
    pub fn ejected_until(&self) -> Option<Moment> {
        match self.course.state {
            Course::Ejected { until, .. } => Some(until),
            Course::Probation { .. } => Some(self.course.since),
            _ => None,
        }
    }

    /// Whether it is in use and gets one request at a time, until one is answered.
    #[must_use]
    pub fn on_probation(&self) -> bool {
        matches!(self.course.state, Course::Probation { .. })
    }

    /// Whether a request's success would change anything: errors are being counted, or it is on probation.
    #[must_use]
    pub fn blemished(&self) -> bool {
        self.errors_in_row > 0 || self.on_probation()
    }

    /// The share of its weight (0.1 to 1.0) that it has at `now`: less than the whole in slow start only.
    #[must_use]
    pub fn share(&self, policy: &Policy, now: Moment) -> f64 {
        match self.course.state {
            Course::SlowStart { until } => slow_start::share(until, policy.slow_start, now),
            _ => 1.0,
        }
    }

    /// When time alone will next change something about it: the end of an ejection, the next step or the end of a slow
    /// start.
    #[must_use]
    pub fn wakes_at(&self, policy: &Policy, now: Moment) -> Option<Moment> {
        match self.course.state {
            Course::Ejected { until, .. } => Some(until),
            Course::SlowStart { until } => Some(until.min(now + policy.slow_start / slow_start::STEPS)),
            _ => None,
        }
    }

    /// How long after a probe that ended at `now` the next one is due: the fast interval while the backend is between two
    /// states, the plain one otherwise; none where backends are not probed. A backend that has yet to come up for the first
    /// time is asked again soon, as it may boot a little later than the proxy: after an eighth of the time that it has been
    /// waited for, but never sooner than the fast interval and never later than the plain one. Drained backends are probed
    /// too, so that their state is true when they are resumed.
    #[must_use]
    pub fn next_probe_after(&self, policy: &Policy, now: Moment) -> Option<Duration> {
        let probes = policy.probes.as_ref()?;
        let between = match self.course.state {
            Course::Probing => true,
            Course::Healthy | Course::SlowStart { .. } => self.failed_in_row > 0,
            Course::Unhealthy => self.good_in_row > 0,
            Course::Ejected { failure, .. } | Course::Probation { failure } => {
                self.failed_in_row > 0 || frees(probes, failure)
            }
        };
        let soon = |since| (now.since(since) / AWAITED_PART).clamp(probes.fast_interval, probes.interval);
        Some(match (between, self.course.state, self.awaited) {
            (true, ..) => probes.fast_interval,
            (false, Course::Unhealthy, Some(since)) => soon(since),
            _ => probes.interval,
        })
    }

    /// Takes in an event at `now`. Returns the change of the state that an operator sees, if there is one.
    pub fn apply(&mut self, policy: &Policy, event: Event<'_>, now: Moment) -> Option<Transition> {
        let from = self.state();
        match event {
            Event::ProbeGood => self.probe_good(policy, now),
            Event::ProbeFailed(cause) => self.probe_failed(policy, cause, now),
            Event::ProbesEnded => self.probes_ended(policy, now),
            Event::RequestSucceeded { begun } => self.request_succeeded(policy, begun, now),
            Event::RequestFailed { begun, failure, why, may_eject } => {
                self.request_failed(policy, failure, begun, why, may_eject, now);
            }
            Event::Pardoned => self.pardoned(policy, now),
            Event::Drain => self.withdraw("drained by the operator", now),
            Event::Resume => self.resume(policy, "resumed by the operator", now),
            Event::Idle => self.idle(now),
            Event::Left => self.leave(now),
            Event::Rejoined => self.rejoin(policy, now),
            Event::Tick => self.tick(now),
        }
        let to = self.state();
        (from != to).then(|| Transition { from, to, why: Arc::clone(self.why()), at: now })
    }

    fn probe_good(&mut self, policy: &Policy, now: Moment) {
        let Some(probes) = &policy.probes else { return };
        self.failed_in_row = 0;
        self.good_in_row = self.good_in_row.saturating_add(1);
        let enough = self.good_in_row >= probes.rise;
        match self.course.state {
            Course::Probing => self.come_up(policy, "its first probe was good".into(), now),
            Course::Unhealthy if enough => self.come_up(policy, good_in_row(self.good_in_row), now),
            Course::Ejected { failure, .. } | Course::Probation { failure } if enough && frees(probes, failure) => {
                self.come_up(policy, good_in_row(self.good_in_row), now);
            }
            _ => {}
        }
        if matches!(self.course.state, Course::Healthy | Course::SlowStart { .. }) {
            self.awaited = None;
        }
    }

    fn probe_failed(&mut self, policy: &Policy, cause: &str, now: Moment) {
        let Some(probes) = &policy.probes else { return };
        self.good_in_row = 0;
        self.failed_in_row = self.failed_in_row.saturating_add(1);
        match self.course.state {
            Course::Probing => self.go_down(format!("its first probe failed: {cause}"), now),
            Course::Unhealthy => self.course.why = probes_failed(self.failed_in_row, cause).into(),
            _ if self.failed_in_row >= probes.fall => self.go_down(probes_failed(self.failed_in_row, cause), now),
            _ => {}
        }
    }

    fn probes_ended(&mut self, policy: &Policy, now: Moment) {
        self.good_in_row = 0;
        self.failed_in_row = 0;
        if matches!(self.course.state, Course::Probing | Course::Unhealthy) {
            self.come_up(policy, "not probed any more (health_check: none)".into(), now);
        }
    }

    fn request_succeeded(&mut self, policy: &Policy, begun: Moment, now: Moment) {
        self.errors_in_row = 0;
        if self.on_probation() && begun >= self.course.since {
            self.come_up(policy, "a request was answered after its ejection".into(), now);
        }
    }

    fn request_failed(
        &mut self,
        policy: &Policy,
        failure: Failure,
        begun: Moment,
        why: &str,
        may_eject: bool,
        now: Moment,
    ) {
        let Some(outlier) = &policy.outlier else { return };
        // Late failures of requests that were in flight when it went out tell nothing new.
        let (tells, allowed) = match self.course.state {
            Course::Healthy | Course::SlowStart { .. } => (true, outlier.consecutive_errors.max(1)),
            Course::Probation { .. } => (begun >= self.course.since, 1),
            _ => (false, 0),
        };
        if !tells {
            return;
        }
        self.connects_only = failure == Failure::Connect && (self.errors_in_row == 0 || self.connects_only);
        self.errors_in_row = self.errors_in_row.saturating_add(1);
        if may_eject && self.errors_in_row >= allowed {
            self.eject(outlier, failure, why, now);
        }
    }

    /// Takes it out. It is the last failure that says of what kind the ejection is: where a process dies, requests that are with it
    /// break off, and then nobody is there.
    fn eject(&mut self, outlier: &Outlier, failure: Failure, why: &str, now: Moment) {
        self.ejections = self.remembered(now).saturating_add(1);
        let length = outlier::ejection_length(outlier, self.ejections);
        let what = match (self.on_probation(), self.connects_only) {
            (true, true) => "the first connect after its ejection failed".into(),
            (true, false) => "the first request after its ejection failed".into(),
            (false, true) => format!("{} connects failed in a row, the last", self.errors_in_row),
            (false, false) => format!("{} requests failed in a row, the last", self.errors_in_row),
        };
        let text = format!("{what}: {why}; ejected for {}", Span(length));
        self.course = Standing::new(Course::Ejected { until: now + length, failure }, now, text);
        self.errors_in_row = 0;
        self.good_in_row = 0;
    }

    /// How many ejections are remembered at `now`: only time in which it served makes them forgotten.
    fn remembered(&self, now: Moment) -> u32 {
        match self.course.state {
            Course::Ejected { .. } | Course::Probation { .. } => self.ejections,
            _ => outlier::remembered(self.ejections, self.returned, now),
        }
    }

    fn pardoned(&mut self, policy: &Policy, now: Moment) {
        if matches!(self.course.state, Course::Ejected { .. } | Course::Probation { .. }) {
            self.come_up(policy, "its ejection was ended, because fewer backends may be ejected now".into(), now);
        }
    }

    fn withdraw(&mut self, why: &str, now: Moment) {
        if self.drain.state == Drain::None {
            self.drain = Standing::new(Drain::Draining, now, why);
        }
    }

    fn idle(&mut self, now: Moment) {
        if self.drain.state == Drain::Draining {
            self.drain = Standing::new(Drain::Drained, now, Arc::clone(&self.drain.why));
        }
    }

    fn resume(&mut self, policy: &Policy, why: &str, now: Moment) {
        if self.drain.state == Drain::None || self.left {
            return;
        }
        self.drain = Standing::new(Drain::None, now, "");
        if matches!(self.course.state, Course::Healthy | Course::SlowStart { .. }) {
            self.come_up(policy, why.into(), now);
        }
    }

    fn leave(&mut self, now: Moment) {
        self.drain = Standing::new(Drain::Draining, now, "no longer a backend of this upstream");
        self.left = true;
    }

    fn rejoin(&mut self, policy: &Policy, now: Moment) {
        if self.left {
            self.left = false;
            self.resume(policy, "a backend of this upstream again", now);
        }
    }

    fn tick(&mut self, now: Moment) {
        match self.course.state {
            Course::Ejected { until, failure } if now >= until => {
                let length = Span(until.since(self.course.since));
                let text = format!("its ejection of {length} is over; one request at a time until one is answered");
                self.errors_in_row = 0;
                self.course = Standing::new(Course::Probation { failure }, now, text);
            }
            Course::SlowStart { until } if now >= until => {
                let text = format!("its slow start of {} is over", Span(until.since(self.course.since)));
                self.course = Standing::new(Course::Healthy, now, text);
            }
            _ => {}
        }
    }

    fn come_up(&mut self, policy: &Policy, why: String, now: Moment) {
        if matches!(self.course.state, Course::Ejected { .. } | Course::Probation { .. }) {
            self.returned = now;
        }
        self.errors_in_row = 0;
        let course = if policy.slow_start.is_zero() {
            Course::Healthy
        } else {
            Course::SlowStart { until: now + policy.slow_start }
        };
        self.course = Standing::new(course, now, why);
    }

    fn go_down(&mut self, why: String, now: Moment) {
        if matches!(self.course.state, Course::Ejected { .. } | Course::Probation { .. }) {
            self.returned = now;
        }
        self.errors_in_row = 0;
        self.course = Standing::new(Course::Unhealthy, now, why);
    }
}

/// Whether good probes end an ejection for such failures: any probe shows that a connect works, and only one that asks
/// the application shows that it answers.
fn frees(probes: &ProbePolicy, failure: Failure) -> bool {
    failure == Failure::Connect || probes.asks_application
}

#[cfg(test)]
mod tests;
