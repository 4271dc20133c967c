//! Who gets which request: splits by weight, keys, and cookies that bind.

use std::collections::BTreeSet;

use crate::harness::{Connection, Load, Origin, Proxy, Reply, Road, Setup, Step, get, on_both_roads, request, until};

on_both_roads!(
    a_busy_backend_is_passed_over,
    a_slow_backend_gets_less,
    every_kind_of_key_finds_its_backend,
    the_load_of_a_key_is_bounded
);

async fn two() -> [Origin; 2] {
    [Origin::start("a").await, Origin::start("b").await]
}

#[tokio::test]
async fn a_split_sends_each_upstream_its_share() {
    let [a, b] = two().await;
    let yaml = "
upstreams:
  stable: { backends: [{a}], health_check: none }
  canary: { backends: [{b}], health_check: none }
routes:
  - { name: all, to: [{ upstream: stable, weight: 90 }, { upstream: canary, weight: 10 }] }
";
    let proxy = Proxy::start(&[&a, &b], yaml).await;

    let tally = Load::of(100, 1).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!((tally.from("a"), tally.from("b")), (90, 10));
}

#[tokio::test]
async fn a_cookie_binds_a_client_while_its_backend_lives() {
    let [mut a, b] = two().await;
    let yaml = "upstreams: { web: { backends: [{a}, {b}], health_check: none, sticky: { cookie: ROUNDEL } } }";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    let cookie = loop {
        let answer = get(proxy.address(), "/").await;
        if answer.origin() == "a" {
            let set = answer.field("set-cookie").expect("a new client is bound").to_owned();
            break set.split(';').next().unwrap_or_default().to_owned();
        }
    };
    let fields = format!("Cookie: x=y; {cookie}\r\n");

    for _ in 0..6 {
        let answer = request(proxy.address(), "GET", "/", &fields, b"").await;
        assert_eq!((answer.origin(), answer.field("set-cookie")), ("a", None));
    }
    a.kill().await;
    let moved = request(proxy.address(), "GET", "/", &fields, b"").await;

    assert_eq!((moved.status, moved.origin()), (200, "b"));
    assert!(moved.field("set-cookie").is_some_and(|set| set.starts_with("ROUNDEL=") && !set.starts_with(&cookie)));
}

#[tokio::test]
async fn a_forged_cookie_binds_nobody_and_harms_nobody() {
    let [a, b] = two().await;
    let yaml = "upstreams: { web: { backends: [{a}, {b}], health_check: none, sticky: { cookie: ROUNDEL } } }";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    for forged in ["", "x", "ffffffffffffffffffffffffffffffffffffffff", "%00", "\u{e9}", "-1"] {
        let answer = request(proxy.address(), "GET", "/", &format!("Cookie: ROUNDEL={forged}\r\n"), b"").await;
        assert!(answer.status == 200 && answer.field("set-cookie").is_some(), "{forged:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_bound_stays_with_its_upstream_whatever_the_split() {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let yaml = r"
upstreams:
  old: { backends: [{a}], health_check: none, sticky: { cookie: SIDE } }
  new: { backends: [{b}], health_check: none, sticky: { cookie: SIDE } }
routes:
  - name: all
    to: [{ upstream: old, weight: 1 }, { upstream: new, weight: 1 }]
";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    for _ in 0..2 {
        let first = get(proxy.address(), "/").await;
        let cookie = first.field("set-cookie").and_then(|set| set.split(';').next()).unwrap().to_owned();
        for _ in 0..6 {
            let next = request(proxy.address(), "GET", "/", &format!("Cookie: {cookie}\r\n"), b"").await;
            assert_eq!((next.origin(), next.field("set-cookie")), (first.origin(), None));
        }
    }
    assert_eq!((a.requests(), b.requests()), (7, 7));
}

/// Two backends behind a policy, without probes.
async fn balanced(road: Road, policy: &str) -> (Origin, Origin, Proxy) {
    let [a, b] = two().await;
    let yaml = format!(
        "listeners: [{{ address: \"{{listen}}\", trusted_proxies: [127.0.0.0/8] }}]\n\
         upstreams: {{ web: {{ backends: [{{a}}, {{b}}], health_check: none, balance: {policy} }} }}"
    );
    let proxy = Setup::new(&[&a, &b]).on(road).start(&yaml).await;
    (a, b, proxy)
}

/// A request that its backend does not answer for now.
async fn begin(proxy: &Proxy, path: &str) -> Connection {
    let mut connection = Connection::open(proxy.address()).await;
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    connection
}

async fn a_busy_backend_is_passed_over(road: Road) {
    // What is drawn may be drawn twice, so that two choices of two backends are both the busy one in a quarter of all cases.
    for (policy, share) in [
        // An answer may reach its client a moment before it is counted as given.
        ("least_requests", 0..=25),
        ("peak_ewma", 0..=40),
        ("random", 5..=45),
        ("{ random: { choices: 2 } }", 5..=45),
        ("{ random: { choices: 16 } }", 0..=1),
        ("{ random: { choices: 1 } }", 25..=75),
        ("round_robin", 49..=51),
    ] {
        let (a, b, proxy) = balanced(road, policy).await;
        for origin in [&a, &b] {
            origin.on("/held", crate::harness::Script::hang());
        }
        let _held = begin(&proxy, "/held").await;
        until("it is at a backend", async || a.requests() + b.requests() == 1).await;
        let busy = if a.requests() == 1 { "a" } else { "b" };

        // A machine that stands still for a moment makes the other one look slow: what holds, holds once in three times.
        let mut found = Vec::new();
        while found.len() < 3 && !found.last().is_some_and(|last| share.contains(last)) {
            found.push(Load::of(100, 1).run(proxy.address()).await.from(busy));
        }
        assert!(
            found.last().is_some_and(|last| share.contains(last)),
            "{policy}: {found:?} of 100 went to the busy one"
        );
    }
}

async fn a_slow_backend_gets_less(road: Road) {
    let (a, _b, proxy) = balanced(road, "peak_ewma").await;
    let slow = Step::Wait(std::time::Duration::from_millis(100));
    a.plays(crate::harness::Script::new([slow, Step::Reply(Reply::ok("a").field("x-origin", "a"))]));

    let tally = Load::of(60, 1).run(proxy.address()).await;

    // Round robin would send it thirty.
    assert!(tally.from("b") > 45, "{} went to the quick one", tally.from("b"));
}

async fn every_kind_of_key_finds_its_backend(road: Road) {
    for (key, target, fields) in [
        ("client_ip", "/", "X-Forwarded-For: 192.0.2.#\r\n"),
        ("uri", "/x?n=#", ""),
        ("path", "/#?other=ROUND", ""),
        ("\"query:user\"", "/ROUND?a=b&user=#", ""),
        ("\"header:x-user\"", "/ROUND", "X-User: #\r\n"),
        ("\"cookie:user\"", "/ROUND", "Cookie: other=1; user=#\r\n"),
    ] {
        let (_a, _b, proxy) = balanced(road, &format!("{{ hash: {{ key: {key} }} }}")).await;
        let mut used = BTreeSet::new();
        for number in 0..16 {
            let mut found = BTreeSet::new();
            for round in 0..3 {
                let put = |text: &str| text.replace("ROUND", &format!("r{round}")).replace('#', &number.to_string());
                let answer = request(proxy.address(), "GET", &put(target), &put(fields), b"").await;
                found.insert(answer.origin().to_owned());
            }
            assert_eq!(found.len(), 1, "{key} {number}: {found:?}");
            used.extend(found);
        }
        assert_eq!(used.len(), 2, "{key}: all sixteen keys at one backend");
    }
}

async fn the_load_of_a_key_is_bounded(road: Road) {
    for (bound, spreads) in [("", false), (", load_factor: none", false), (", load_factor: 1.25", true)] {
        let (a, b, proxy) = balanced(road, &format!("{{ hash: {{ key: path{bound} }} }}")).await;
        for origin in [&a, &b] {
            origin.on("/held", crate::harness::Script::hang());
        }
        let mut held = Vec::new();
        for count in 1..=4 {
            held.push(begin(&proxy, "/held").await);
            until("it is at a backend", async || a.requests() + b.requests() == count).await;
        }
        assert_eq!(a.requests() > 0 && b.requests() > 0, spreads, "{bound}");
    }
}

#[tokio::test]
async fn a_cookie_lasts_as_long_as_written() {
    for (max_age, expected) in [("", None), (", max_age: none", None), (", max_age: 90m", Some("Max-Age=5400"))] {
        for lane in ["auto", "\"off\""] {
            let [a, b] = two().await;
            let yaml = format!(
                "listeners: [{{ address: \"{{listen}}\", lane: {lane} }}]\n\
                 upstreams: {{ web: {{ backends: [{{a}}, {{b}}], health_check: none, sticky: {{ cookie: ROUNDEL{max_age} }} }} }}"
            );
            let proxy = Proxy::start(&[&a, &b], &yaml).await;
            let answer = get(proxy.address(), "/").await;
            let set = answer.field("set-cookie").expect("a new client is bound");
            assert_eq!(set.split("; ").find(|part| part.starts_with("Max-Age")), expected, "{set}");
        }
    }
}

#[tokio::test]
async fn a_recovered_backend_is_ramped_up_for_as_long_as_written() {
    for (slow_start, state) in [("1h", "slow_start"), ("none", "healthy")] {
        let [a, mut b] = two().await;
        let yaml = format!(
            "
upstreams:
  web:
    backends: [{{a}}, {{b}}]
    slow_start: {slow_start}
    health_check: {{ start: healthy, interval: 1s, timeout: 900ms, fast_interval: 100ms }}
"
        );
        let proxy = Proxy::start(&[&a, &b], &yaml).await;
        b.kill().await;
        proxy.until_state("web", b.address(), "unhealthy").await;
        b.revive().await;
        proxy.until_state("web", b.address(), state).await;

        let share = Load::of(60, 1).run(proxy.address()).await.from("b");
        // A tenth of the weight of the other, which is one of eleven parts; without it, half.
        let expected = if slow_start == "1h" { 4..=7 } else { 30..=30 };
        assert!(expected.contains(&share), "{slow_start}: {share} of 60");
    }
}
