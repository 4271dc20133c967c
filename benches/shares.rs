//! Whom 100,000 choices fall on: the share of each backend for every policy, beside the ideal. `cargo bench --bench shares`.
//!
//! Choices are whole leases, 64 of them in flight at a time. What the real proxy does beside others is measured by
//! `balance_peers`.

#[path = "measure/plans.rs"]
mod plans;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use plans::{member, upstream};
use roundel::base::clock::Clock;
use roundel::config::plan::{Balance, HashKey};
use roundel::upstream::{Ask, Pool};

const CHOICES: u64 = 100_000;
const IN_FLIGHT: usize = 64;

fn main() {
    for weights in [&[5, 1, 1][..], &[1, 1, 1, 1]] {
        for dead in [None, Some(weights.len() - 1)] {
            print(weights, dead);
        }
    }
}

fn print(weights: &[u32], dead: Option<usize>) {
    let usable = |index: &usize| Some(*index) != dead;
    let total: u32 = (0..weights.len()).filter(usable).map(|index| weights[index]).sum();
    let ideal = (0..weights.len()).filter(usable).map(|index| percent(f64::from(weights[index]) / f64::from(total)));
    let which = dead.map_or("all alive", |_| "the last one dead");
    println!("\nweights {weights:?}, {which}: the ideal is {}", ideal.collect::<Vec<_>>().join(" / "));
    for (name, balance) in policies() {
        let shares = shares(balance, weights, dead);
        println!("  {name:<26} {}", shares.into_iter().map(percent).collect::<Vec<_>>().join(" / "));
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn policies() -> Vec<(&'static str, Balance)> {
    let hash = |load_factor| Balance::Hash { key: HashKey::Uri, load_factor };
    vec![
        ("round_robin", Balance::RoundRobin),
        ("least_requests", Balance::LeastRequests),
        ("peak_ewma", Balance::PeakEwma),
        ("random", Balance::Random { choices: 2 }),
        ("random, choices: 1", Balance::Random { choices: 1 }),
        ("hash", hash(None)),
        ("hash, load_factor: 1.25", hash(Some(1.25))),
    ]
}

fn shares(balance: Balance, weights: &[u32], dead: Option<usize>) -> Vec<f64> {
    let pool = Pool::new(Arc::new(upstream(balance, Some(Duration::from_secs(10)))), Clock::start());
    pool.set_members(weights.iter().enumerate().map(|(index, weight)| member(index, *weight)).collect());
    for (index, backend) in pool.backends().backends.iter().enumerate() {
        let up = Some(index) != dead;
        let report = if up { Ok(Duration::from_millis(1)) } else { Err("connection refused".to_owned()) };
        pool.report_probe(backend, report);
    }
    let mut in_flight = VecDeque::new();
    let mut counts = HashMap::<String, u32>::new();
    for key in 0..CHOICES {
        // As good as the hash of a text: every bit depends on every bit of the key (splitmix64's last step).
        let mixed = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let lease = pool.lease(&Ask { hash: Some(hash ^ (hash >> 31)), ..Ask::default() }).expect("some are up");
        *counts.entry(lease.address().to_string()).or_default() += 1;
        in_flight.push_back(lease);
        if in_flight.len() == IN_FLIGHT
            && let Some(mut lease) = in_flight.pop_front()
        {
            lease.succeeded(Duration::from_millis(5));
        }
    }
    let members = pool.backends();
    let alive = members.backends.iter().enumerate().filter(|(index, _)| Some(*index) != dead);
    let count = |address: &str| f64::from(counts.get(address).copied().unwrap_or_default()) / CHOICES as f64;
    alive.map(|(_, backend)| count(backend.address())).collect()
}
