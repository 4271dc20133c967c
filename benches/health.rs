//! What a change of a backend's health costs: the state machine alone, and with the pool that renews its choices around it.

mod measure;
#[path = "measure/plans.rs"]
mod plans;

use std::sync::Arc;
use std::time::Duration;

use measure::measure;
use plans::{member, upstream};
use roundel::base::clock::{Clock, Moment};
use roundel::config::plan::{Balance, Outlier, Upstream};
use roundel::upstream::Pool;
use roundel::upstream::state::{Entry, Event, Failure, Health, Policy};

const TIMES: usize = 500_000;

fn main() {
    let policy = Policy::of(&probed());
    let mut health = Health::new(&policy, Entry::AtStart, Moment::START);
    health.apply(&policy, Event::ProbeGood, Moment::START);
    measure("a request that succeeds", TIMES, |number| {
        health.apply(&policy, Event::RequestSucceeded { begun: at(number) }, at(number))
    });
    measure("a good probe of a healthy backend", TIMES, |number| health.apply(&policy, Event::ProbeGood, at(number)));
    measure("a tick", TIMES, |number| health.apply(&policy, Event::Tick, at(number)));
    measure("down by three probes, up by two", TIMES / 10, |number| down_and_up(&mut health, &policy, at(number)));
    measure("ejected by five errors, back by time and an answer", TIMES / 10, |number| {
        ejected_and_back(&mut health, &policy, at(number * 1_000_000))
    });
    for count in [2, 100, 10_000] {
        in_a_pool(count);
    }
}

fn probed() -> Upstream {
    let second = Duration::from_secs(1);
    let outlier =
        Outlier { consecutive_errors: 5, base_ejection: 30 * second, max_ejection: 300 * second, max_ejected: 0.1 };
    Upstream { outlier: Some(outlier), ..upstream(Balance::RoundRobin, Some(10 * second)) }
}

fn at(milliseconds: usize) -> Moment {
    Moment::after_start(Duration::from_millis(milliseconds as u64))
}

/// The changes of state on the way.
fn down_and_up(health: &mut Health, policy: &Policy, now: Moment) -> usize {
    let down = (0..3).filter_map(|_| health.apply(policy, Event::ProbeFailed("connection refused"), now)).count();
    down + (0..2).filter_map(|_| health.apply(policy, Event::ProbeGood, now)).count()
}

fn ejected_and_back(health: &mut Health, policy: &Policy, now: Moment) -> usize {
    let begun = Moment::START;
    let error = Event::RequestFailed { begun, failure: Failure::Gateway, why: "status 502", may_eject: true };
    let out = (0..5).filter_map(|_| health.apply(policy, error, now)).count();
    let back = now + Duration::from_secs(301);
    let proven = Event::RequestSucceeded { begun: back };
    out + [Event::Tick, proven].into_iter().filter_map(|event| health.apply(policy, event, back)).count()
}

/// One backend of `count` goes down and comes back.
fn in_a_pool(count: usize) {
    let pool = Pool::new(Arc::new(probed()), Clock::start());
    pool.set_members((0..count).map(|index| member(index, 1)).collect());
    let members = pool.backends();
    for backend in members.backends.iter() {
        pool.report_probe(backend, Ok(Duration::from_millis(1)));
    }
    let first = &members.backends[0];
    measure(&format!("one of {count} in a pool down and up"), 1 + 20_000 / count, |_| {
        (0..3).for_each(|_| pool.report_probe(first, Err("connection refused".into())));
        (0..2).for_each(|_| pool.report_probe(first, Ok(Duration::from_millis(1))));
    });
}
