//! One run of a rehearsal: an upstream with its probes, requests that come at random, and one backend that breaks down.
//!
//! Requests lease, fail and are tried again by the rules of the data path (`upstream::Pool`, `exchange::retry`). All are GETs
//! without a body, and each try has a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use super::breakdown::{ANSWER, Breakdown, Illness, Outage};
use crate::base::clock::Moment;
use crate::config::plan;
use crate::exchange::rescue::{Connect, Failure};
use crate::exchange::retry::{self, Standing, Verdict};
use crate::upstream::doubt::Answer;
use crate::upstream::health::{Schedule, Stage};
use crate::upstream::state::{self, Policy};
use crate::upstream::{Ask, Backend, BackendId, Lease, Member};

/// How long before the failure requests begin to come.
pub(super) const LEAD: Duration = Duration::from_secs(5);
/// The parts that the time of a chart is cut into.
pub(super) const PARTS: usize = 60;

/// How often a request is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tries {
    /// Once, whatever the rules say.
    One,
    /// As the data path does: failover and retries.
    AsRules,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// When the backend is out of use, or the failure over.
    Detection,
    /// When the backend has its whole traffic again, or will not have it for long.
    Recovery,
}

/// What is played.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) plan: Arc<plan::Upstream>,
    pub(super) members: Vec<Member>,
    /// The one of them that breaks down.
    pub(super) failing: usize,
    pub(super) breakdown: Breakdown,
    /// The time from the breakdown to its end.
    pub(super) outage: Duration,
    /// The time from the end of the breakdown that charts show; at least so long a run goes on.
    pub(super) tail: Duration,
    /// The time from the end of the breakdown after which nothing is waited for any more.
    pub(super) patience: Duration,
    /// Requests in a second; none where only probes are looked at.
    pub(super) rate: Option<f64>,
    pub(super) tries: Tries,
    pub(super) end: End,
}

/// What one run has shown.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Outcome {
    /// From the failure to the moment when the backend was out of use.
    pub(super) detected: Option<Duration>,
    /// From the end of the failure to the moment when the backend had its whole traffic again.
    pub(super) recovered: Option<Duration>,
    /// Requests that came while the backend was broken, or out of use after that.
    pub(super) exposed: u64,
    /// All requests.
    pub(super) requests: u64,
    /// Requests that ended without an answer of their own.
    pub(super) lost: u64,
    /// Requests that were answered after more than one try.
    pub(super) saved: u64,
    /// The longest that a request waited beyond the time of one answer.
    pub(super) longest_wait: Duration,
    /// The parts of its time.
    pub(super) parts: Vec<Part>,
}

/// A part of a run's time.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Part {
    /// Tries at any backend.
    pub(super) tries: u64,
    /// Tries at the failing backend.
    pub(super) at_failing: u64,
    /// Requests that were lost.
    pub(super) lost: u64,
}

struct Run<'a> {
    script: &'a Script,
    stage: Stage,
    outage: Outage,
    failing: Arc<Backend>,
    asks_application: bool,
    steps: Schedule<Step>,
    random: fastrand::Rng,
    was_out: bool,
    outcome: Outcome,
}

enum Step {
    Arrive,
    Again(Waiting),
    End(Request, Ending),
}

/// A request that waits for its next try.
struct Waiting {
    arrived: Moment,
    tried: Vec<BackendId>,
    retries: u32,
}

struct Request {
    arrived: Moment,
    tried: Vec<BackendId>,
    retries: u32,
    lease: Lease,
}

/// How a try ends.
enum Ending {
    Answered,
    Unavailable,
    Failed(Failure),
}

impl Ending {
    /// Whether it is that of a connect which nobody answered.
    fn is_silent_connect(&self) -> bool {
        matches!(self, Self::Failed(Failure::Connect(Connect::TimedOut)))
    }
}

/// Plays a script; none where it has no backend.
pub(super) fn play(script: &Script, seed: u64) -> Option<Outcome> {
    let mut random = fastrand::Rng::with_seed(seed);
    let stage = Stage::new(Arc::clone(&script.plan), script.members.clone(), random.u64(..));
    let failing = stage.pool().backends().backends.get(script.failing).map(Arc::clone)?;
    let interval = script.plan.health_check.as_ref().map_or(Duration::ZERO, |check| check.interval);
    // By then every backend is settled at its own place in the interval; the failure begins anywhere within one.
    let settled = LEAD + interval * 3 + script.plan.slow_start;
    let from = Moment::START + settled + interval.mul_f64(random.f64());
    let outage = Outage { breakdown: script.breakdown, from, until: from + script.outage };
    let asks_application = Policy::of(&script.plan).probes.is_some_and(|probes| probes.asks_application);
    let outcome = Outcome { parts: vec![Part::default(); PARTS], ..Outcome::default() };
    let steps = Schedule::new();
    let run = Run { script, stage, outage, failing, asks_application, steps, random, was_out: false, outcome };
    Some(run.play())
}

impl Run<'_> {
    fn play(mut self) -> Outcome {
        let begin = Moment::from_nanos(self.outage.from.nanos().saturating_sub(LEAD.as_nanos() as u64));
        if self.script.rate.is_some() {
            self.steps.push(begin, Step::Arrive);
        }
        while let Some(next) = self.next_due() {
            self.pass_until(next);
            if self.ended() {
                break;
            }
            while let Some((_, step)) = self.steps.pop_due(next) {
                self.act(step);
            }
            self.observe();
        }
        self.outcome
    }

    fn next_due(&self) -> Option<Moment> {
        [self.stage.next_due(), self.steps.next_due()].into_iter().flatten().min()
    }

    fn pass_until(&mut self, moment: Moment) {
        let Self { stage, outage, failing, random, asks_application, .. } = self;
        stage.advance(moment, &mut |backend, at| {
            let ill = if backend.id() == failing.id() { outage.illness(at) } else { None };
            Illness::answer_probe(ill, *asks_application, random.f64())
        });
        self.observe();
    }

    /// Looks at the state of the failing backend.
    fn observe(&mut self) {
        let now = self.stage.now();
        if now < self.outage.from {
            return;
        }
        if !self.failing.usable() {
            self.was_out = true;
            self.outcome.detected.get_or_insert(now.since(self.outage.from));
            self.outcome.recovered = None;
        } else if now >= self.outage.until
            && self.was_out
            && !self.failing.on_probation()
            && self.failing.share() >= 1.0
        {
            self.outcome.recovered.get_or_insert(now.since(self.outage.until));
        }
    }

    fn ended(&self) -> bool {
        let now = self.stage.now();
        match self.script.end {
            End::Detection => self.outcome.detected.is_some() || now >= self.outage.until,
            End::Recovery => {
                let over = now >= self.outage.until + self.script.tail;
                let settled = !self.was_out || self.outcome.recovered.is_some();
                // Requests that wait for their time to run out are still to be counted.
                over && (settled || now >= self.outage.until + self.script.patience) && self.steps.next_due().is_none()
            }
        }
    }

    /// Whether requests still come.
    fn open(&self) -> bool {
        let now = self.stage.now();
        let over = now >= self.outage.until + self.script.tail;
        let settled = !self.was_out || self.outcome.recovered.is_some();
        !over || (!settled && now < self.outage.until + self.script.patience)
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Arrive if self.open() => self.arrive(),
            Step::Arrive => {}
            Step::Again(Waiting { arrived, tried, retries }) => self.lease(arrived, tried, retries),
            Step::End(request, Ending::Answered) => self.answered(request),
            Step::End(mut request, Ending::Unavailable) => {
                request.lease.failed(state::Failure::Gateway, "status 503");
                self.lose(request.arrived);
            }
            Step::End(request, Ending::Failed(failure)) => self.failed(request, failure),
        }
    }

    /// Requests come independently of each other: the time between two is exponentially distributed.
    fn arrive(&mut self) {
        let now = self.stage.now();
        let Some(rate) = self.script.rate else { return };
        let gap = -(1.0 - self.random.f64()).ln() / rate;
        self.steps.push(now + Duration::from_secs_f64(gap), Step::Arrive);
        self.outcome.requests += 1;
        let broken = self.outage.illness(now).is_some();
        let out = now >= self.outage.from && !self.failing.usable();
        self.outcome.exposed += u64::from(broken || out);
        self.stage.pool().count_request();
        self.lease(now, Vec::new(), 0);
    }

    fn lease(&mut self, arrived: Moment, tried: Vec<BackendId>, retries: u32) {
        let hash = matches!(self.script.plan.balance, plan::Balance::Hash { .. }).then(|| self.random.u64(..));
        match self.stage.pool().lease(&Ask { hash, tried: &tried, ..Ask::default() }) {
            Ok(lease) => self.begin_try(Request { arrived, tried, retries, lease }),
            Err(_) => self.lose(arrived),
        }
    }

    fn begin_try(&mut self, mut request: Request) {
        let now = self.stage.now();
        let id = request.lease.backend().id();
        request.tried.push(id);
        let failing = id == self.failing.id();
        if let Some(part) = self.part() {
            part.tries += 1;
            part.at_failing += u64::from(failing);
        }
        let (took, ending) = if failing { self.try_at_failing(now) } else { (ANSWER, Ending::Answered) };
        if ending.is_silent_connect() {
            request.lease.connect_begins(now, self.script.plan.timeouts.connect);
        }
        self.steps.push(now + took, Step::End(request, ending));
    }

    /// How a try that begins `now` at the failing backend ends, and when. What is under way when it breaks down breaks with it.
    fn try_at_failing(&mut self, now: Moment) -> (Duration, Ending) {
        let timeouts = self.script.plan.timeouts;
        let bounded = |wait: Duration| timeouts.total.map_or(wait, |total| wait.min(total));
        let unanswered = (bounded(timeouts.first_byte), Ending::Failed(Failure::TooSlow));
        match (self.outage.illness(now), self.outage.illness(now + ANSWER)) {
            (Some(Illness::Refuses), _) => (Duration::ZERO, Ending::Failed(Failure::Connect(Connect::Refused))),
            (Some(Illness::Unreachable), _) => {
                (bounded(timeouts.connect), Ending::Failed(Failure::Connect(Connect::TimedOut)))
            }
            (Some(Illness::Hangs), _) => unanswered,
            (Some(Illness::Errs(share)), _) if self.random.f64() < share => (ANSWER, Ending::Unavailable),
            (None, Some(Illness::Refuses)) => (ANSWER / 2, Ending::Failed(Failure::Closed)),
            (None, Some(Illness::Unreachable | Illness::Hangs)) => unanswered,
            _ => (ANSWER, Ending::Answered),
        }
    }

    fn answered(&mut self, mut request: Request) {
        request.lease.succeeded(ANSWER);
        self.outcome.saved += u64::from(request.tried.len() > 1 || request.retries > 0);
        self.wait_ended(request.arrived);
    }

    fn failed(&mut self, request: Request, failure: Failure) {
        let Request { arrived, mut tried, mut retries, mut lease } = request;
        if Ending::Failed(failure).is_silent_connect() {
            lease.connect_ends(Answer::None, self.stage.now());
        }
        failure.tell(&mut lease);
        // As on the data path, the last lease ends before the next begins.
        drop(lease);
        let backends_left = self.stage.pool().untried(&tried);
        let standing =
            Standing { idempotent: true, replayable: true, answer_begun: false, marked: false, retries, backends_left };
        match retry::after(failure, standing, &self.script.plan.retry) {
            _ if self.script.tries == Tries::One => self.lose(arrived),
            Verdict::GiveUp => self.lose(arrived),
            Verdict::Failover => self.lease(arrived, tried, retries),
            Verdict::Retry(_) => {
                retries += 1;
                let Some(pause) = self.stage.pool().grant_retry(retries) else { return self.lose(arrived) };
                if !backends_left {
                    tried.clear();
                }
                self.steps.push(self.stage.now() + pause, Step::Again(Waiting { arrived, tried, retries }));
            }
        }
    }

    fn lose(&mut self, arrived: Moment) {
        self.outcome.lost += 1;
        if let Some(part) = self.part() {
            part.lost += 1;
        }
        self.wait_ended(arrived);
    }

    fn wait_ended(&mut self, arrived: Moment) {
        let wait = self.stage.now().since(arrived).saturating_sub(ANSWER);
        self.outcome.longest_wait = self.outcome.longest_wait.max(wait);
    }

    /// The part of the chart that the present moment falls in.
    fn part(&mut self) -> Option<&mut Part> {
        let begin = self.outage.from.nanos().saturating_sub(LEAD.as_nanos() as u64);
        let since = self.stage.now().since(Moment::from_nanos(begin));
        let whole = LEAD + self.script.outage + self.script.tail;
        let index = since.as_nanos() * PARTS as u128 / whole.as_nanos().max(1);
        self.outcome.parts.get_mut(usize::try_from(index).unwrap_or(usize::MAX))
    }
}
