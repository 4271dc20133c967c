//! How fast each backend goes: what its counters have grown by from one report to the next.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::report::{Backend, Status};
use crate::cli::drain::Named;

/// How long a sample is kept.
const KEPT: Duration = Duration::from_secs(120);
/// Over how long a rate is taken: long enough to stand still, short enough to follow.
const SPAN: Duration = Duration::from_secs(3);

/// The paces of all backends.
#[derive(Debug, Default)]
pub(super) struct Paces(HashMap<Named, Pace>);

/// The pace of one backend.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Its counters, and when they said so; none before the first report.
    last: Option<(u64, u64, Duration)>,
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    over: Duration,
    requests: u64,
    failures: u64,
}

impl Paces {
    /// Takes in what a report says at `now`, the time since the watching began. Backends that it does not name are forgotten.
    pub(super) fn observe(&mut self, status: &Status, now: Duration) {
        let mut before = std::mem::take(&mut self.0);
        for upstream in &status.upstreams {
            for backend in &upstream.backends {
                let name = Named { upstream: upstream.name.clone(), backend: backend.address.clone() };
                let mut pace = before.remove(&name).unwrap_or_default();
                pace.observe(backend, now);
                self.0.insert(name, pace);
            }
        }
    }

    /// Forgets all: another process counts from nothing.
    pub(super) fn restart(&mut self) {
        self.0.clear();
    }

    pub(super) fn of(&self, upstream: &str, backend: &str) -> Option<&Pace> {
        self.0.get(&Named { upstream: upstream.to_owned(), backend: backend.to_owned() })
    }
}

impl Pace {
    fn observe(&mut self, backend: &Backend, now: Duration) {
        let last = self.last.replace((backend.requests, backend.failures, now));
        let Some((requests, failures, then)) = last else { return };
        let sample = Sample {
            at: now,
            over: now.saturating_sub(then),
            requests: backend.requests.saturating_sub(requests),
            failures: backend.failures.saturating_sub(failures),
        };
        self.samples.push_back(sample);
        while self.samples.front().is_some_and(|oldest| now.saturating_sub(oldest.at) > KEPT) {
            self.samples.pop_front();
        }
    }

    /// Requests a second, lately; none before two reports.
    pub(super) fn requests(&self) -> Option<f64> {
        self.rate(|sample| sample.requests)
    }

    /// Failures a second, lately; none before two reports.
    pub(super) fn failures(&self) -> Option<f64> {
        self.rate(|sample| sample.failures)
    }

    fn rate(&self, count: impl Fn(&Sample) -> u64) -> Option<f64> {
        let newest = self.samples.back()?.at;
        let lately = self.samples.iter().rev().take_while(|sample| newest.saturating_sub(sample.at) < SPAN);
        let (counted, over) =
            lately.fold((0, Duration::ZERO), |(counted, over), sample| (counted + count(sample), over + sample.over));
        (!over.is_zero()).then(|| counted as f64 / over.as_secs_f64())
    }

    /// Requests a second of each sample, with the second it was taken in.
    pub(super) fn recent(&self) -> impl Iterator<Item = (u64, f64)> + '_ {
        let measured = self.samples.iter().filter(|sample| !sample.over.is_zero());
        measured.map(|sample| (sample.at.as_secs(), sample.requests as f64 / sample.over.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::report::Upstream;

    fn status(requests: u64, failures: u64) -> Status {
        let backend = Backend { address: "a".into(), requests, failures, ..Backend::default() };
        Status {
            upstreams: vec![Upstream { name: "web".into(), backends: vec![backend], ..Upstream::default() }],
            ..Status::default()
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_rate_is_what_the_counters_grew_by_in_the_last_seconds() {
        let mut paces = Paces::default();
        paces.observe(&status(100, 0), at(0));
        assert_eq!(paces.of("web", "a").unwrap().requests(), None);
        paces.observe(&status(110, 1), at(1));
        paces.observe(&status(130, 1), at(2));
        let pace = paces.of("web", "a").unwrap();
        assert_eq!((pace.requests(), pace.failures()), (Some(15.0), Some(0.5)));
        for second in 3..7 {
            paces.observe(&status(130, 1), at(second));
        }
        assert_eq!(paces.of("web", "a").unwrap().requests(), Some(0.0));
    }

    #[test]
    fn what_left_is_forgotten_and_what_is_old_too() {
        let mut paces = Paces::default();
        for second in 0..500 {
            paces.observe(&status(second, 0), at(second));
        }
        assert!(paces.of("web", "a").unwrap().recent().count() <= 121);
        paces.observe(&Status::default(), at(500));
        assert!(paces.of("web", "a").is_none());
    }

    #[test]
    fn counters_that_fell_back_are_no_negative_rate() {
        let mut paces = Paces::default();
        paces.observe(&status(100, 5), at(0));
        paces.observe(&status(3, 0), at(1));
        assert_eq!(paces.of("web", "a").unwrap().requests(), Some(0.0));
    }
}
