//! Requests go to the backends in turn, and every one is answered.

use crate::harness::{Load, Origin, Proxy, get};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_reaches_the_only_backend() {
    let only = Origin::start("only").await;
    let proxy = Proxy::start(&[&only], "upstreams: { web: { backends: [{only}] } }").await;

    let tally = Load::of(10_000, 64).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!(tally.total(), 10_000);
    assert_eq!(only.requests(), 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_are_spread_evenly_over_three_backends() {
    let [a, b, c] = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let proxy = Proxy::start(&[&a, &b, &c], "upstreams: { web: { backends: [{a}, {b}, {c}] } }").await;

    let tally = Load::of(10_000, 64).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!(tally.total(), 10_000);
    for origin in [&a, &b, &c] {
        assert!((3_333..=3_334).contains(&origin.requests()), "{} had {}", origin.name(), origin.requests());
        assert_eq!(tally.from(origin.name()), origin.requests());
    }
}

#[tokio::test]
async fn two_backends_alternate_strictly() {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
";
    let proxy = Proxy::start(&[&a, &b], yaml).await;

    let mut last = get(proxy.address(), "/").await.origin().to_owned();
    for _ in 0..20 {
        let next = get(proxy.address(), "/").await.origin().to_owned();
        assert_ne!(next, last, "one after the other");
        last = next;
    }
}

#[tokio::test]
async fn weights_are_served_without_bursts() {
    let [heavy, light] = [Origin::start("heavy").await, Origin::start("light").await];
    let yaml = "
upstreams:
  web:
    backends: [{ address: {heavy}, weight: 3 }, {light}]
";
    let proxy = Proxy::start(&[&heavy, &light], yaml).await;

    let tally = Load::of(400, 1).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!((tally.from("heavy"), tally.from("light")), (300, 100));
    let turns = light.received().iter().map(number).collect::<Vec<_>>();
    assert!(turns.windows(2).all(|pair| pair[1] - pair[0] == 4), "every fourth request is the light one's: {turns:?}");
}

fn number(request: &crate::harness::Received) -> usize {
    request.head.field("x-number").and_then(|value| value.parse().ok()).expect("the load numbers its requests")
}
