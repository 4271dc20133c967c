//! Who gets which request: splits by weight, keys, and cookies that bind.

use std::collections::BTreeSet;

use crate::harness::{Load, Origin, Proxy, get, request};

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
async fn a_key_always_finds_the_same_backend() {
    for (key, fields) in [("\"header:x-user\"", "X-User: "), ("\"cookie:user\"", "Cookie: other=1; user=")] {
        let [a, b] = two().await;
        let yaml = format!(
            "upstreams: {{ web: {{ backends: [{{a}}, {{b}}], health_check: none, balance: {{ hash: {{ key: {key} }} }} }} }}"
        );
        let proxy = Proxy::start(&[&a, &b], &yaml).await;
        let mut used = BTreeSet::new();
        for user in 0..16 {
            let mut found = BTreeSet::new();
            for _ in 0..3 {
                let answer = request(proxy.address(), "GET", "/", &format!("{fields}{user}\r\n"), b"").await;
                found.insert(answer.origin().to_owned());
            }
            assert_eq!(found.len(), 1, "{key} {user}: {found:?}");
            used.extend(found);
        }
        assert_eq!(used.len(), 2, "{key}: all sixteen keys at one backend");
    }
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
