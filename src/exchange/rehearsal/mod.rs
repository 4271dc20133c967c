//! A rehearsal: how an upstream's configuration fares when one of its backends breaks down.
//!
//! Many seeded runs in virtual time, each with the failure at a random phase of the probes (`run`), summed up in numbers for
//! an operator. It plays the very pool, state machines, schedule of probes and rules of retries that serve; how a broken
//! backend behaves is in `breakdown`. Printing is the command line's.

mod breakdown;
mod false_alarm;
mod run;

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use self::run::{End, LEAD, Outcome, PARTS, Script, Tries};
use crate::config::plan;
use crate::upstream::Member;
use crate::upstream::state::Policy;

use self::breakdown::Outage;
pub use self::breakdown::{ANSWER, Breakdown};

/// Fewer runs than these say nothing.
const LEAST_RUNS: u32 = 5;
/// Requests for one number: a further run begins only below.
const REQUESTS: u64 = 60_000;
/// Requests of one run, at most.
const REQUESTS_OF_A_RUN: f64 = 500_000.0;
/// Virtual seconds and probes of all runs without requests.
const WORK: f64 = 1_000_000.0;
/// The longest run.
const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// A breakdown lasts for at least so long.
const OUTAGE: Duration = Duration::from_secs(60);
/// Backends that are assumed where they come from elsewhere than the file.
const ASSUMED: u32 = 3;

/// The network for documentation, 2001:db8::/32 (RFC 3849).
const DOCUMENTATION: u128 = 0x2001_0db8 << 96;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Requests in a second to the whole upstream.
    pub rate: f64,
    /// The share of a healthy backend's probes that get lost (0.0 to 1.0).
    pub probe_loss: f64,
    /// Runs for one number, at most; where requests are many it is fewer, and never fewer than 5.
    pub runs: u32,
    /// The same seed brings the same report.
    pub seed: u64,
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing could break down.
    #[error("upstream `{0}` has no backend with a weight")]
    Nobody(Arc<str>),
    /// A run would take too long.
    #[error("upstream `{0}` reacts too slowly to be rehearsed: one run would take {hours} h (write a shorter `health_check.interval`, `slow_start` or `max_ejection`)", hours = .1.as_secs() / 3600)]
    TooSlow(Arc<str>, Duration),
    /// There would be too many requests.
    #[error("one run would be {0} requests (write a lower `--rate`)")]
    TooMany(u64),
}

/// What a rehearsal has shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The upstream.
    pub upstream: Arc<str>,
    /// How many backends it has.
    pub backends: usize,
    /// Requests in a second.
    pub rate: f64,
    /// The seed.
    pub seed: u64,
    /// Its probes, where it is probed.
    pub probes: Option<Probes>,
    /// What each breakdown did.
    pub breakdowns: Vec<Finding>,
}

/// What probes cost, and how they err.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Probes {
    /// Probes of a healthy backend in a second.
    pub per_second: f64,
    /// The share of probes that get lost though the backend is healthy.
    pub loss: f64,
    /// The chance that they take it out within a day.
    pub false_alarm_a_day: f64,
}

/// What one breakdown did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The breakdown, as it is written.
    pub failure: String,
    /// What happens, in words.
    pub story: String,
    /// How long it lasted, seconds.
    #[serde(rename = "outage_s", serialize_with = "seconds")]
    pub outage: Duration,
    /// How soon probes alone take the backend out; none where it is not probed.
    pub by_probes: Option<Spread>,
    /// How soon probes and failing requests together take it out.
    pub in_use: Spread,
    /// From the end of the breakdown until the backend has its whole traffic again; runs in which it was never out do not
    /// count.
    pub recovery: Spread,
    /// What became of requests, without and with retries and ejection. The last is the upstream as configured.
    pub losses: Vec<Losses>,
    /// Its course in time, as configured.
    pub chart: Chart,
}

/// Times over many runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many runs there were.
    pub runs: usize,
    /// In how many of them it happened.
    pub seen: usize,
    /// The time that half of the runs did not exceed, seconds; none where it happened in fewer.
    #[serde(rename = "p50_s", serialize_with = "maybe_seconds")]
    pub p50: Option<Duration>,
    /// The time that 99 of 100 runs did not exceed, seconds; none where it happened in fewer.
    #[serde(rename = "p99_s", serialize_with = "maybe_seconds")]
    pub p99: Option<Duration>,
}

/// What became of requests: means over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Losses {
    /// Whether a failed request was tried again as the configuration says.
    pub retries: bool,
    /// Whether failing requests ejected the backend as the configuration says.
    pub ejection: bool,
    /// How many runs there were.
    pub runs: usize,
    /// Requests that came while the backend was broken, or out of use after that.
    pub exposed: f64,
    /// Requests that were lost.
    pub lost: f64,
    /// Requests that were answered after more than one try.
    pub saved: f64,
    /// The longest that a request waited beyond the time of one answer, in all runs, seconds.
    #[serde(rename = "longest_wait_s", serialize_with = "seconds")]
    pub longest_wait: Duration,
}

/// A breakdown's course: means over all runs for equal parts of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// From the beginning of the chart to that of the breakdown, seconds.
    #[serde(rename = "lead_s", serialize_with = "seconds")]
    pub lead: Duration,
    /// The whole time, seconds.
    #[serde(rename = "length_s", serialize_with = "seconds")]
    pub length: Duration,
    /// The share of tries (0.0 to 1.0) that were made at the failing backend.
    pub share: Vec<f64>,
    /// Requests lost in a second.
    pub lost: Vec<f64>,
    /// Requests lost in a second, were there neither retries nor ejection.
    pub lost_bare: Vec<f64>,
}

/// Rehearses each of the breakdowns.
///
/// # Errors
/// Where nothing could break down, or it would take too long.
pub fn rehearse(upstream: &plan::Upstream, breakdowns: &[Breakdown], terms: Terms) -> Result<Report, Refusal> {
    let members = members(upstream);
    let serving = |member: &Member| member.weight > 0 && !member.backup;
    let failing = members.iter().position(serving).ok_or_else(|| Refusal::Nobody(Arc::clone(&upstream.name)))?;
    let theatre = Theatre { upstream, members, failing, terms };
    Ok(Report {
        upstream: Arc::clone(&upstream.name),
        backends: theatre.members.len(),
        rate: terms.rate,
        seed: terms.seed,
        probes: theatre.probes(),
        breakdowns: breakdowns.iter().map(|breakdown| theatre.find(*breakdown)).collect::<Result<_, _>>()?,
    })
}

/// The backends as written, at addresses that nobody has: a name stands for one.
fn members(upstream: &plan::Upstream) -> Vec<Member> {
    let member = |number: u32, name: Arc<str>, weight, backup| {
        let address = SocketAddr::from((Ipv6Addr::from(DOCUMENTATION | u128::from(number)), 80));
        Member { name, addr: address.into(), tls: false, weight, backup, most: None, berths: None, host: "".into() }
    };
    if upstream.discovery.is_some() {
        return (1..=ASSUMED).map(|number| member(number, "discovered".into(), 1, false)).collect();
    }
    let written = (1..).zip(&upstream.backends);
    written.map(|(number, entry)| member(number, Arc::clone(&entry.name), entry.weight, entry.backup)).collect()
}

/// All that the runs have in common.
struct Theatre<'a> {
    upstream: &'a plan::Upstream,
    members: Vec<Member>,
    failing: usize,
    terms: Terms,
}

impl Theatre<'_> {
    fn find(&self, breakdown: Breakdown) -> Result<Finding, Refusal> {
        let script = self.script(breakdown);
        self.bound(&script)?;
        let ways = [(false, false), (true, false), (false, true), (true, true)];
        let ways = ways.into_iter().filter(|(_, ejection)| !ejection || self.upstream.outlier.is_some());
        let plays: Vec<_> = ways
            .map(|(retries, ejection)| (retries, ejection, self.play(&as_if(&script, retries, ejection))))
            .collect();
        let bare = plays.first().map_or(&[][..], |(.., outcomes)| outcomes);
        let configured = plays.last().map_or(&[][..], |(.., outcomes)| outcomes);
        let left: Vec<_> = configured.iter().filter(|outcome| outcome.detected.is_some()).collect();
        Ok(Finding {
            failure: breakdown.to_string(),
            story: breakdown.story(),
            outage: script.outage,
            by_probes: self.upstream.health_check.is_some().then(|| self.by_probes(&script)),
            in_use: spread(self.play(&Script { end: End::Detection, ..script.clone() }).iter().map(|run| run.detected)),
            recovery: spread(left.iter().map(|run| run.recovered)),
            losses: plays.iter().map(|(retries, ejection, runs)| losses(*retries, *ejection, runs)).collect(),
            chart: chart(&script, configured, bare),
        })
    }

    /// The upstream as configured, played until the backend has recovered.
    fn script(&self, breakdown: Breakdown) -> Script {
        let (mut reaction, mut tail) = (Duration::ZERO, LEAD + self.upstream.slow_start);
        if let Some(check) = &self.upstream.health_check {
            reaction = (check.interval * 2).saturating_add((check.timeout + check.fast_interval * 2) * check.fall);
            tail = tail.saturating_add(check.interval + check.fast_interval * check.rise);
        }
        let ejection = self.upstream.outlier.map_or(Duration::ZERO, |outlier| outlier.max_ejection);
        Script {
            plan: Arc::new(self.upstream.clone()),
            members: self.members.clone(),
            failing: self.failing,
            breakdown,
            outage: Outage::length(breakdown, OUTAGE.max(reaction)),
            tail,
            patience: (tail * 2).saturating_add(ejection),
            rate: Some(self.terms.rate),
            tries: Tries::AsRules,
            end: End::Recovery,
        }
    }

    fn bound(&self, script: &Script) -> Result<(), Refusal> {
        let length = script.outage.saturating_add(script.patience).saturating_add(script.tail * 3);
        if length > LONGEST {
            return Err(Refusal::TooSlow(Arc::clone(&self.upstream.name), length));
        }
        let requests = length.as_secs_f64() * self.terms.rate;
        if requests > REQUESTS_OF_A_RUN { Err(Refusal::TooMany(requests as u64)) } else { Ok(()) }
    }

    fn by_probes(&self, script: &Script) -> Spread {
        let plan = Arc::new(plan::Upstream { outlier: None, ..self.upstream.clone() });
        let script = Script { plan, rate: None, end: End::Detection, ..script.clone() };
        spread(self.play(&script).iter().map(|run| run.detected))
    }

    /// Plays a script until enough is known.
    fn play(&self, script: &Script) -> Vec<Outcome> {
        let mut seeds = fastrand::Rng::with_seed(self.terms.seed);
        let mut outcomes = Vec::new();
        let mut requests = 0;
        for run in 0..self.runs(script) {
            if run >= LEAST_RUNS && requests >= REQUESTS {
                break;
            }
            let Some(outcome) = run::play(script, seeds.u64(..)) else { break };
            requests += outcome.requests;
            outcomes.push(outcome);
        }
        outcomes
    }

    /// How many runs are affordable for the seconds and probes that each takes.
    fn runs(&self, script: &Script) -> u32 {
        let interval = self.upstream.health_check.as_ref().map_or(f64::INFINITY, |check| check.interval.as_secs_f64());
        let seconds = (script.outage + script.tail * 4).as_secs_f64();
        let work = seconds * (1.0 + self.members.len() as f64 / interval);
        ((WORK / work) as u32).clamp(LEAST_RUNS, self.terms.runs.max(LEAST_RUNS))
    }

    fn probes(&self) -> Option<Probes> {
        let check = self.upstream.health_check.as_ref()?;
        let policy = Policy::of(self.upstream);
        Some(Probes {
            per_second: 1.0 / check.interval.as_secs_f64(),
            loss: self.terms.probe_loss,
            false_alarm_a_day: false_alarm::chance_a_day(&policy, check.timeout, self.terms.probe_loss),
        })
    }
}

/// The same without retries, or without ejection.
fn as_if(script: &Script, retries: bool, ejection: bool) -> Script {
    let mut script = script.clone();
    if !ejection {
        script.plan = Arc::new(plan::Upstream { outlier: None, ..plan::Upstream::clone(&script.plan) });
    }
    Script { tries: if retries { Tries::AsRules } else { Tries::One }, ..script }
}

fn spread(times: impl Iterator<Item = Option<Duration>>) -> Spread {
    let all: Vec<_> = times.collect();
    let mut seen: Vec<_> = all.iter().copied().flatten().collect();
    seen.sort_unstable();
    // The runs in which it did not happen are the longest.
    let quantile = |share: f64| seen.get(((all.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
    Spread { runs: all.len(), seen: seen.len(), p50: quantile(0.5), p99: quantile(0.99) }
}

fn losses(retries: bool, ejection: bool, runs: &[Outcome]) -> Losses {
    let mean = |number: fn(&Outcome) -> u64| runs.iter().map(number).sum::<u64>() as f64 / runs.len().max(1) as f64;
    Losses {
        retries,
        ejection,
        runs: runs.len(),
        exposed: mean(|run| run.exposed),
        lost: mean(|run| run.lost),
        saved: mean(|run| run.saved),
        longest_wait: runs.iter().map(|run| run.longest_wait).max().unwrap_or_default(),
    }
}

fn chart(script: &Script, configured: &[Outcome], bare: &[Outcome]) -> Chart {
    let length = LEAD + script.outage + script.tail;
    let part = length.as_secs_f64() / PARTS as f64;
    let lost = |runs: &[Outcome], index: usize| {
        let lost = runs.iter().map(|run| run.parts[index].lost).sum::<u64>();
        lost as f64 / part / runs.len().max(1) as f64
    };
    let share = |index: usize| {
        let parts = configured.iter().map(|run| run.parts[index]);
        let (all, failing) = parts.fold((0, 0), |sum, part| (sum.0 + part.tries, sum.1 + part.at_failing));
        failing as f64 / all.max(1) as f64
    };
    Chart {
        lead: LEAD,
        length,
        share: (0..PARTS).map(share).collect(),
        lost: (0..PARTS).map(|index| lost(configured, index)).collect(),
        lost_bare: (0..PARTS).map(|index| lost(bare, index)).collect(),
    }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1000.0).round() / 1000.0)
}

fn maybe_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests;
