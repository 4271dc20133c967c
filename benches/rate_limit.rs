//! What a decision about a rate limit costs, with 1, 10,000 and 5,000,000 clients, what five million of them take in memory,
//! and how long the longest decision is while the table grows to that size.

mod measure;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use http::HeaderMap;
use measure::measure;
use roundel::base::clock::Clock;
use roundel::base::request::{RequestView, Scheme};
use roundel::config::plan::{Rate, RateKey, RateLimit};
use roundel::filter::rate_limit::RateLimits;
use roundel::filter::rate_limit::tables::Tables;

const TIMES: usize = 500_000;
const MILLIONS: usize = 5_000_000;

fn main() {
    let clock = Clock::start();
    for clients in [1, 10_000, MILLIONS] {
        let limits = limits(&[client(u32::MAX)]);
        let longest = fill(&limits, &clock, clients);
        let bytes = limits.bytes() as f64;
        println!(
            "{clients} clients: {:.1} MB, {:.1} bytes each; the longest decision while they came: {longest:.1?}",
            bytes / 1e6,
            bytes / clients as f64,
        );
        measure(&format!("passes, one of {clients} clients"), TIMES, |number| {
            decide(&limits, &clock, spread(number, clients))
        });
    }
    let refusing = limits(&[client(1)]);
    fill(&refusing, &clock, 10_000);
    measure("refused, one of 10000 clients", TIMES, |number| decide(&refusing, &clock, spread(number, 10_000)));
    let two = limits(&[client(u32::MAX), RateLimit { key: RateKey::Route, ..client(u32::MAX) }]);
    measure("passes two limits", TIMES, |number| decide(&two, &clock, spread(number, 10_000)));
    measure("reads the clock", TIMES, |_| clock.now());
}

fn limits(plans: &[RateLimit]) -> RateLimits {
    RateLimits::build("bench", plans, &Tables::default())
}

/// A bucket that a client cannot fill again while the benchmark runs.
fn client(burst: u32) -> RateLimit {
    RateLimit {
        key: RateKey::ClientIp { ipv4_prefix: 32, ipv6_prefix: 64 },
        rate: Rate { count: 1, per: Duration::from_secs(3_600) },
        burst,
        max_keys: MILLIONS,
        headers: false,
        dry_run: false,
    }
}

fn fill(limits: &RateLimits, clock: &Clock, clients: usize) -> Duration {
    let time = |client| {
        let start = Instant::now();
        black_box(decide(limits, clock, client));
        start.elapsed()
    };
    (0..clients).map(time).max().unwrap_or_default()
}

/// One of the clients, in no order.
fn spread(number: usize, clients: usize) -> usize {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % clients
}

fn decide(limits: &RateLimits, clock: &Clock, client: usize) -> bool {
    let fields = HeaderMap::new();
    let request = RequestView {
        method: "GET",
        scheme: Scheme::Http,
        host: "example.com",
        path: "/",
        query: None,
        client: Some(Ipv4Addr::from_bits(client as u32).into()),
        fields: &fields,
    };
    limits.decide(&request, clock.now()).refusal.is_none()
}
