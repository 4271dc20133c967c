//! What rate limits promise: exactness, fairness, and that nothing is taken in vain.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

use super::*;
use crate::base::request::Scheme;
use crate::config::plan::{Rate, RateKey, RateLimit};

const NOW: Moment = Moment::from_nanos(1_000_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn limit(key: RateKey, count: u32, per: u64, burst: u32) -> RateLimit {
    let rate = Rate { count, per: Duration::from_secs(per) };
    RateLimit { key, rate, burst, max_keys: 1_000, headers: false, dry_run: false }
}

fn client() -> RateKey {
    RateKey::ClientIp { ipv4_prefix: 32, ipv6_prefix: 64 }
}

fn header() -> RateKey {
    RateKey::Header(HeaderName::from_static("x-key"))
}

fn build(limits: &[RateLimit]) -> RateLimits {
    RateLimits::build("api", limits, &Tables::default())
}

/// What becomes of a request of this client with this `x-key`.
fn ask(limits: &RateLimits, client: &str, key: &str, now: Moment) -> Passage {
    let mut fields = HeaderMap::new();
    if !key.is_empty() {
        fields.insert("x-key", key.parse().unwrap());
    }
    let client = client.parse::<IpAddr>().ok();
    let request =
        RequestView { method: "GET", scheme: Scheme::Http, host: "h", path: "/", query: None, client, fields: &fields };
    limits.decide(&request, now)
}

fn passed(limits: &RateLimits, client: &str, key: &str, now: Moment, times: usize) -> usize {
    (0..times).filter(|_| ask(limits, client, key, now).refusal.is_none()).count()
}

fn told(fields: &[(HeaderName, HeaderValue)]) -> Vec<String> {
    fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

#[test]
fn each_client_has_its_own_bucket() {
    let limits = build(&[limit(client(), 10, 1, 5)]);
    assert_eq!(passed(&limits, "192.0.2.1", "", NOW, 9), 5);
    assert_eq!(passed(&limits, "192.0.2.2", "", NOW, 9), 5);
    assert_eq!(passed(&limits, "192.0.2.1", "", NOW + SECOND / 5, 9), 2);
}

#[test]
fn no_token_is_taken_of_a_limit_where_another_refuses() {
    let limits = build(&[limit(client(), 1, 3_600, 100), limit(RateKey::Route, 1, 3_600, 7)]);
    assert_eq!(passed(&limits, "192.0.2.1", "", NOW, 50), 7);
    let refused = ask(&limits, "192.0.2.1", "", NOW).refusal.unwrap();
    assert_eq!(
        told(&refused.fields),
        [
            "retry-after: 3600",
            "ratelimit-policy: \"client_ip\";q=1;w=3600;roundel-burst=100, \"route\";q=1;w=3600;roundel-burst=7",
            "ratelimit: \"client_ip\";r=93;t=3600, \"route\";r=0;t=3600",
        ]
    );
}

#[test]
fn the_longest_wait_is_told() {
    let limits = build(&[limit(client(), 1, 60, 1), limit(RateKey::Route, 1, 1, 1)]);
    assert_eq!(passed(&limits, "192.0.2.1", "", NOW, 2), 1);
    let refused = ask(&limits, "192.0.2.1", "", NOW + SECOND / 2).refusal.unwrap();
    assert_eq!((refused.reason, told(&refused.fields)[0].as_str()), (Reason::RateLimited, "retry-after: 60"));
}

#[test]
fn a_request_without_the_key_is_not_counted() {
    let limits = build(&[limit(header(), 1, 1, 1)]);
    assert_eq!(passed(&limits, "192.0.2.1", "", NOW, 9), 9);
    assert_eq!(passed(&limits, "192.0.2.1", "a", NOW, 9), 1);
    assert_eq!(passed(&limits, "192.0.2.2", "a", NOW, 9), 0);
    assert!(ask(&limits, "192.0.2.1", "", NOW).fields.is_empty());
}

#[test]
fn a_limit_on_trial_refuses_nothing_and_binds_no_other() {
    let trial = RateLimit { dry_run: true, ..limit(client(), 1, 1, 2) };
    let limits = build(&[trial, limit(RateKey::Route, 1, 1, 5)]);
    let asked: Vec<Passage> = (0..7).map(|_| ask(&limits, "192.0.2.1", "", NOW)).collect();
    assert_eq!(
        asked.iter().map(|passage| passage.on_trial).collect::<Vec<_>>(),
        [false, false, true, true, true, false, false]
    );
    assert_eq!(asked.iter().filter(|passage| passage.refusal.is_some()).count(), 2);
}

#[test]
fn answers_tell_of_limits_where_that_is_written() {
    let told_of = RateLimit { headers: true, ..limit(client(), 100, 1, 100) };
    let limits =
        build(&[told_of.clone(), limit(RateKey::Route, 1_000, 60, 20), RateLimit { key: header(), ..told_of }]);
    let passage = ask(&limits, "192.0.2.1", "", NOW);
    assert_eq!(
        told(&passage.fields),
        ["ratelimit-policy: \"client_ip\";q=100;w=1", "ratelimit: \"client_ip\";r=99;t=1"]
    );
}

#[test]
fn a_changed_rate_goes_on_with_the_same_buckets() {
    let tables = Tables::default();
    let of = |count, burst| RateLimits::build("api", &[limit(client(), count, 1, burst)], &tables);
    let before = of(1, 3);
    assert_eq!(passed(&before, "192.0.2.1", "", NOW, 9), 3);
    let after = of(2, 4);
    drop(before);
    assert_eq!(passed(&after, "192.0.2.1", "", NOW, 9), 0);
    assert_eq!(passed(&after, "192.0.2.1", "", NOW + SECOND, 9), 0, "the bucket was empty until three seconds later");
    assert_eq!(passed(&after, "192.0.2.1", "", NOW + SECOND * 3 / 2, 9), 1);
}

#[test]
fn snapshots_that_order_limits_differently_do_not_lock_each_other_out() {
    let tables = Tables::default();
    let (one, two) = (limit(client(), 1, 1, 1_000_000), limit(RateKey::Route, 1, 1, 1_000_000));
    let snapshots = [[one.clone(), two.clone()], [two, one]].map(|limits| RateLimits::build("api", &limits, &tables));
    std::thread::scope(|scope| {
        for limits in &snapshots {
            scope.spawn(|| assert_eq!(passed(limits, "192.0.2.1", "", NOW, 20_000), 20_000));
        }
    });
}

#[test]
fn as_many_pass_over_four_threads_as_over_one() {
    let limits = build(&[limit(client(), 1, 3_600, 10_000), limit(RateKey::Route, 1, 3_600, 15_000)]);
    let passed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let client = format!("192.0.2.{}", thread % 2);
                let limits = &limits;
                scope.spawn(move || passed(limits, &client, "", NOW, 10_000))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(passed, 15_000);
}
