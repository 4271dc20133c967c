//! The stage of a rehearsal: an upstream in virtual time, whose backends are probed as the real ones are.
//!
//! The pool, its state machines and the schedule of probes are those that serve; only the probes themselves are replaced, by
//! answers that the rehearsal gives. Requests are the rehearsal's (`exchange::rehearsal`).

use std::sync::Arc;
use std::time::Duration;

use super::LOOK;
use super::schedule::{Phase, Schedule, after_probe};
use crate::base::clock::Moment;
use crate::config::plan;
use crate::upstream::backend::{Backend, Member};
use crate::upstream::pool::Pool;
use crate::upstream::time::VirtualTime;

/// How a backend answers a probe: after what time, and with what.
pub type ProbeAnswer = (Duration, Result<(), &'static str>);

/// An upstream in virtual time.
#[derive(Debug)]
pub struct Stage {
    pool: Arc<Pool>,
    time: VirtualTime,
    check: Option<Arc<plan::HealthCheck>>,
    schedule: Schedule<Step>,
    random: fastrand::Rng,
    probes: u64,
}

#[derive(Debug)]
enum Step {
    Send(Arc<Backend>, Phase),
    Take(Arc<Backend>, Phase, Moment, Result<(), &'static str>),
    Look,
}

impl Stage {
    /// An upstream that begins now, with all that is due at its beginning still due. The same seed brings the same chances.
    #[must_use]
    pub fn new(plan: Arc<plan::Upstream>, members: Vec<Member>, seed: u64) -> Self {
        let time = VirtualTime::default();
        let check = plan.health_check.clone();
        let pool = Pool::simulated(plan, &time, seed);
        pool.set_members(members);
        let mut schedule = Schedule::new();
        schedule.push(Moment::START, Step::Look);
        if check.is_some() {
            let backends = Arc::clone(&pool.backends().backends);
            backends
                .iter()
                .for_each(|backend| schedule.push(Moment::START, Step::Send(Arc::clone(backend), Phase::New)));
        }
        Self { pool, time, check, schedule, random: fastrand::Rng::with_seed(seed), probes: 0 }
    }

    /// Its pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.time.now()
    }

    /// How many probes have been sent.
    #[must_use]
    pub fn probes(&self) -> u64 {
        self.probes
    }

    /// When something happens here next.
    #[must_use]
    pub fn next_due(&self) -> Option<Moment> {
        self.schedule.next_due()
    }

    /// Lets time pass until `moment`, and all happen that is due by then. `answer` says how a backend answers a probe that
    /// is sent to it at a moment.
    pub fn advance(&mut self, moment: Moment, answer: &mut dyn FnMut(&Backend, Moment) -> ProbeAnswer) {
        while let Some((due, step)) = self.schedule.pop_due(moment) {
            self.time.advance(due.since(self.time.now()));
            match step {
                Step::Send(backend, phase) => self.send(backend, phase, answer),
                Step::Take(backend, phase, sent, result) => self.take_in(backend, phase, sent, result),
                Step::Look => self.look(),
            }
        }
        self.time.advance(moment.since(self.time.now()));
    }

    fn look(&mut self) {
        self.pool.tick();
        self.schedule.push(self.now() + LOOK, Step::Look);
    }

    /// No probe takes longer than its timeout.
    fn send(&mut self, backend: Arc<Backend>, phase: Phase, answer: &mut dyn FnMut(&Backend, Moment) -> ProbeAnswer) {
        let Some(check) = &self.check else { return };
        let now = self.time.now();
        let (took, result) = answer(&backend, now);
        let (took, result) =
            if took >= check.timeout { (check.timeout, Err("no answer in time")) } else { (took, result) };
        self.probes += 1;
        self.schedule.push(now + took, Step::Take(backend, phase, now, result));
    }

    fn take_in(&mut self, backend: Arc<Backend>, phase: Phase, sent: Moment, result: Result<(), &'static str>) {
        let Some(check) = &self.check else { return };
        let now = self.time.now();
        self.pool.report_probe(&backend, result.map(|()| now.since(sent)).map_err(str::to_owned));
        let wait = self.pool.next_probe_after(&backend).unwrap_or(check.interval);
        let (wait, phase) = after_probe(wait, check.interval, phase, self.random.f64());
        self.schedule.push(now + wait, Step::Send(backend, phase));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::fixture;
    use crate::upstream::state::State;

    fn stage(seed: u64) -> Stage {
        let check = fixture::health_check(plan::Probe::Tcp);
        let plan = plan::Upstream { health_check: Some(Arc::new(check)), ..fixture::upstream("test") };
        Stage::new(Arc::new(plan), vec![fixture::member("192.0.2.1:80"), fixture::member("192.0.2.2:80")], seed)
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn backends_are_probed_at_once_and_then_once_in_an_interval() {
        let mut stage = stage(1);
        stage.advance(at(1000), &mut |_, _| (Duration::from_millis(1), Ok(())));
        assert!(stage.pool().backends().backends.iter().all(|backend| backend.state() == State::Healthy));
        assert!((196..=208).contains(&stage.probes()), "{}", stage.probes());
        assert_eq!(stage.now(), at(1000));
    }

    #[test]
    fn a_probe_without_an_answer_fails_at_its_timeout() {
        let mut stage = stage(1);
        stage.advance(at(1), &mut |_, _| (Duration::MAX, Ok(())));
        assert!(stage.pool().verdict_pending());
        stage.advance(at(2), &mut |_, _| (Duration::MAX, Ok(())));
        assert!(stage.pool().backends().backends.iter().all(|backend| backend.state() == State::Unhealthy));
    }
}
