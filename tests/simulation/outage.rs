//! Outages in virtual time: however long nothing works, backends get little more than clients send.

use std::time::Duration;

use fastrand::Rng;
use roundel::config::plan::{self, Retry};
use roundel::exchange::rescue::{Connect, Failure};
use roundel::exchange::retry::{self, Standing, Verdict};
use roundel::upstream::{Ask, BackendId};

use crate::world::{SECOND, World, members, unprobed};

/// What backends got, and what clients sent.
struct Load {
    requests: u64,
    tries: u64,
}

/// All backends fail every request, at `rate` requests a second for so many seconds; nobody is taken out.
fn outage(retry: Retry, failure: Failure, rate: u32, seconds: u32) -> Load {
    let plan = plan::Upstream { retry: retry.clone(), outlier: None, ..unprobed() };
    let world = World::new(plan, members(&[1, 1, 1]));
    let mut load = Load { requests: 0, tries: 0 };
    for _ in 0..rate * seconds {
        world.pass(SECOND / rate);
        load.requests += 1;
        load.tries += request(&world, &retry, failure);
    }
    load
}

/// How often one request is tried, by the rules of the data path.
fn request(world: &World, plan: &Retry, failure: Failure) -> u64 {
    world.pool.count_request();
    let (mut tried, mut retries, mut tries): (Vec<BackendId>, u32, u64) = (Vec::new(), 0, 0);
    loop {
        let lease = world.pool.lease(&Ask { tried: &tried, ..Ask::default() }).unwrap();
        tried.push(lease.id());
        tries += 1;
        drop(lease);
        let standing = Standing {
            idempotent: true,
            replayable: true,
            answer_begun: false,
            marked: false,
            retries,
            backends_left: world.pool.untried(&tried),
        };
        match retry::after(failure, standing, plan) {
            Verdict::GiveUp => return tries,
            Verdict::Failover => {}
            Verdict::Retry(_) => {
                retries += 1;
                if world.pool.grant_retry(retries).is_none() {
                    return tries;
                }
                if !standing.backends_left {
                    tried.clear();
                }
            }
        }
    }
}

fn defaults() -> Retry {
    unprobed().retry
}

#[test]
fn in_an_outage_backends_get_a_fifth_more_than_clients_send_and_the_floor() {
    for rate in [10, 100, 1000] {
        let load = outage(defaults(), Failure::Closed, rate, 60);
        let bound = 1.2 * load.requests as f64 + 3.0 * 60.0 + 30.0;
        assert!(load.tries as f64 <= bound, "{} tries for {} requests", load.tries, load.requests);
    }
}

#[test]
fn more_attempts_do_not_make_it_more() {
    let eager = Retry { attempts: 10, ..defaults() };
    let load = outage(eager, Failure::TooSlow, 100, 60);
    assert!(load.tries as f64 <= 1.2 * load.requests as f64 + 3.0 * 60.0 + 30.0, "{}", load.tries);
}

#[test]
fn where_few_fail_every_request_has_its_retry() {
    let load = outage(defaults(), Failure::Closed, 3, 60);
    assert_eq!(load.tries, 2 * load.requests, "three a second are always allowed");
}

#[test]
fn a_failed_connect_asks_each_backend_once_and_costs_nothing() {
    let load = outage(defaults(), Failure::Connect(Connect::Refused), 100, 10);
    assert_eq!(load.tries, 3 * load.requests);
}

#[test]
fn whatever_the_terms_the_bound_holds() {
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let retry = Retry {
            attempts: rng.u32(0..6),
            budget: f64::from(rng.u32(0..=100)) / 100.0,
            min_per_second: rng.u32(0..20),
            ..defaults()
        };
        let (share, floor, seconds) = (retry.budget, f64::from(retry.min_per_second), rng.u32(1..20));
        let load = outage(retry, Failure::Closed, rng.u32(1..200), seconds);
        let bound = share * load.requests as f64 + floor * f64::from(seconds) + (10.0 * floor).max(1.0);
        let retries = (load.tries - load.requests) as f64;
        assert!(retries <= bound + 1e-6, "seed {seed}: {retries} retries for {} requests", load.requests);
    }
}

#[test]
fn waits_differ_and_grow_up_to_the_longest() {
    let world = World::new(unprobed(), members(&[1]));
    let waits = |nth| -> Vec<Duration> { (0..5).filter_map(|_| world.pool.grant_retry(nth)).collect() };
    let (first, tenth) = (waits(1), waits(10));
    assert!(first.iter().all(|wait| *wait <= Duration::from_millis(25)), "{first:?}");
    assert!(tenth.iter().all(|wait| *wait <= Duration::from_millis(250)), "{tenth:?}");
    assert!(tenth.iter().any(|wait| *wait > Duration::from_millis(25)), "{tenth:?}");
    assert!(first.windows(2).any(|pair| pair[0] != pair[1]), "{first:?}");
}
