//! An upstream takes no more than its limits say: others wait their turn, for a while, or are refused at once.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::harness::{Address, Answer, Connection, Load, Origin, Proxy, Road, Setup, on_both_roads, request, until};

on_both_roads!(
    beyond_the_limit_and_the_queue_requests_are_refused_at_once,
    who_waits_is_served_in_turn_and_the_queue_is_bounded,
    who_waits_for_too_long_is_told_so,
    the_deadline_of_a_request_ends_its_wait,
    a_client_that_leaves_gives_up_its_place_in_the_queue,
    a_backend_at_its_own_limit_is_passed_over_and_waited_for_where_all_are,
    a_backend_never_has_more_to_do_than_it_takes,
    a_request_that_is_tried_again_waits_for_nobody_who_waits_for_something_else,
);

async fn one(road: Road, limits: &str) -> (Origin, Proxy) {
    let a = Origin::start("a").await;
    let yaml = format!("upstreams: {{ web: {{ backends: [{{a}}], health_check: none, limits: {limits} }} }}");
    let proxy = Setup::new(&[&a]).on(road).start(&yaml).await;
    (a, proxy)
}

/// Sends a request and does not wait for its answer.
fn send(address: &Address, path: &'static str) -> JoinHandle<Answer> {
    let address = address.clone();
    tokio::spawn(async move { request(&address, "GET", path, "", b"").await })
}

async fn pending(proxy: &Proxy) -> u64 {
    proxy.admin("/api/v1/status").await["upstreams"][0]["limits"]["pending"].as_u64().expect("a number")
}

async fn until_pending(proxy: &Proxy, count: u64) {
    until("so many wait", async || pending(proxy).await == count).await;
}

async fn until_in_flight(origin: &Origin, count: usize) {
    until("so many are in flight", async || origin.in_flight() == count).await;
}

async fn beyond_the_limit_and_the_queue_requests_are_refused_at_once(road: Road) {
    for limits in ["{ requests: 2, pending: 0 }", "{ connections: 2, pending: 0 }"] {
        let (a, proxy) = one(road, limits).await;
        a.hold();
        let held = [send(proxy.address(), "/1"), send(proxy.address(), "/2")];
        until_in_flight(&a, 2).await;

        let refused = request(proxy.address(), "GET", "/3", "", b"").await;

        assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")), "{limits}");
        let line = proxy.log_for("/3").await;
        assert_eq!(line["reason"], "connection_limit_reached");
        let why = proxy.remembered(line["request_id"].as_str().expect("every line has one")).await;
        let verdict = why["verdict"].as_str().unwrap_or_default();
        assert!(verdict.contains("no place at upstream web was free"), "{verdict}");
        let told = proxy.admin("/api/v1/status").await["upstreams"][0]["limits"].clone();
        assert_eq!((told["in_flight"].as_u64(), told["most"].as_u64()), (Some(2), Some(2)));
        a.release();
        for one in held {
            assert_eq!(one.await.expect("the client does not panic").status, 200);
        }
        assert_eq!(request(proxy.address(), "GET", "/4", "", b"").await.status, 200);
        assert_eq!(a.requests(), 3);
    }
}

async fn who_waits_is_served_in_turn_and_the_queue_is_bounded(road: Road) {
    let (a, proxy) = one(road, "{ requests: 1, pending: 3, pending_timeout: 60s }").await;
    a.hold();
    let mut all = vec![send(proxy.address(), "/0")];
    until_in_flight(&a, 1).await;
    for (path, waiting) in [("/1", 1), ("/2", 2), ("/3", 3)] {
        all.push(send(proxy.address(), path));
        until_pending(&proxy, waiting).await;
    }
    assert_eq!(proxy.metric("roundel_upstream_pending", &[("upstream", "web")]).await, 3.0);
    assert_eq!(request(proxy.address(), "GET", "/4", "", b"").await.status, 503);

    a.release();

    for one in all {
        assert_eq!(one.await.expect("the client does not panic").status, 200);
    }
    let order: Vec<_> = a.received().into_iter().map(|request| request.target).collect();
    assert_eq!(order, ["/0", "/1", "/2", "/3"]);
    assert_eq!(pending(&proxy).await, 0);
}

async fn who_waits_for_too_long_is_told_so(road: Road) {
    let (a, proxy) = one(road, "{ requests: 1, pending_timeout: 200ms }").await;
    a.hold();
    let held = send(proxy.address(), "/held");
    until_in_flight(&a, 1).await;

    let late = request(proxy.address(), "GET", "/late", "", b"").await;

    assert_eq!((late.status, late.field("retry-after")), (503, Some("1")));
    let line = proxy.log_for("/late").await;
    assert_eq!(line["reason"], "connection_limit_reached", "one word for limits and queue: {line}");
    let why = proxy.remembered(line["request_id"].as_str().expect("every line has one")).await;
    let verdict = why["verdict"].as_str().unwrap_or_default();
    assert!(verdict.contains("waited") && verdict.contains("pending_timeout"), "{verdict}");
    a.release();
    assert_eq!(held.await.expect("the client does not panic").status, 200);
}

async fn the_deadline_of_a_request_ends_its_wait(road: Road) {
    let a = Origin::start("a").await;
    let yaml = "
upstreams:
  web: { backends: [{a}], health_check: none, limits: { requests: 1, pending_timeout: 60s } }
routes:
  - { name: held, match: { path: /held }, to: web }
  - { name: short, match: { path: /short }, to: web, timeouts: { request: 200ms } }
";
    let proxy = Setup::new(&[&a]).on(road).start(yaml).await;
    a.hold();
    let held = send(proxy.address(), "/held");
    until_in_flight(&a, 1).await;

    assert_eq!(request(proxy.address(), "GET", "/short", "", b"").await.status, 504);

    assert_eq!(proxy.log_for("/short").await["reason"], "request_timeout");
    a.release();
    assert_eq!(held.await.expect("the client does not panic").status, 200);
}

async fn a_client_that_leaves_gives_up_its_place_in_the_queue(road: Road) {
    let (a, proxy) = one(road, "{ requests: 1, pending: 1, pending_timeout: 60s }").await;
    a.hold();
    let held = send(proxy.address(), "/held");
    until_in_flight(&a, 1).await;

    for (path, method, body) in [("/get", "GET", ""), ("/post", "POST", "content-length: 3\r\n")] {
        let mut leaver = Connection::open(proxy.address()).await;
        let end = if body.is_empty() { "\r\n" } else { "\r\nabc" };
        leaver.send(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{body}{end}")).await;
        until_pending(&proxy, 1).await;
        leaver.reset();
        until_pending(&proxy, 0).await;
        assert_eq!(proxy.log_for(path).await["reason"], "client_gone");
    }

    let next = send(proxy.address(), "/next");
    until_pending(&proxy, 1).await;
    a.release();
    for one in [held, next] {
        assert_eq!(one.await.expect("the client does not panic").status, 200);
    }
    assert_eq!((a.requests_for("/get"), a.requests_for("/post")), (0, 0));
}

async fn a_backend_at_its_own_limit_is_passed_over_and_waited_for_where_all_are(road: Road) {
    for bound in ["max_requests", "max_connections"] {
        let [a, b] = [Origin::start("a").await, Origin::start("b").await];
        let yaml = format!(
            "
upstreams:
  web:
    backends: [{{ address: {{a}}, {bound}: 1 }}, {{ address: {{b}}, {bound}: 2 }}]
    health_check: none
    limits: {{ pending_timeout: 60s }}
"
        );
        let proxy = Setup::new(&[&a, &b]).on(road).start(&yaml).await;
        a.hold();
        b.hold();
        let held = ["/1", "/2", "/3"].map(|path| send(proxy.address(), path));
        until("all places are taken", async || (a.in_flight(), b.in_flight()) == (1, 2)).await;
        let waits = send(proxy.address(), "/waits");
        until_pending(&proxy, 1).await;

        a.release();

        assert_eq!(waits.await.expect("the client does not panic").origin(), "a", "{bound}");
        b.release();
        for one in held {
            assert_eq!(one.await.expect("the client does not panic").status, 200);
        }
    }
}

async fn a_backend_never_has_more_to_do_than_it_takes(road: Road) {
    let a = Origin::start("a").await;
    let yaml = "
upstreams:
  web:
    backends: [{ address: {a}, max_connections: 3 }]
    health_check: none
    limits: { pending_timeout: 60s }
";
    let proxy = Setup::new(&[&a]).on(road).start(yaml).await;

    let tally = Load::of(3_000, 24).run(proxy.address()).await;

    tally.expect_all_ok();
    assert!(a.most_in_flight() <= 3, "{} at once", a.most_in_flight());
    // Pingora gives an idle connection up where it finds it still being watched: that is closed, and another is made.
    assert!(a.connections() <= 6, "{} connections", a.connections());
}

async fn a_request_that_is_tried_again_waits_for_nobody_who_waits_for_something_else(road: Road) {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let yaml = "
upstreams:
  web:
    backends: [{ address: {a}, max_requests: 1 }, { address: {b}, max_requests: 1 }]
    health_check: none
    outlier: none
    limits: { pending_timeout: 60s }
";
    let proxy = Arc::new(Setup::new(&[&a, &b]).on(road).start(yaml).await);
    // One is held at each backend; the one at `a` is cut off then, and can only go to `b`.
    a.next(crate::harness::Script::reset());
    a.hold();
    b.hold();
    let held = [send(proxy.address(), "/1"), send(proxy.address(), "/2")];
    until("both are held", async || (a.in_flight(), b.in_flight()) == (1, 1)).await;
    a.release();
    until_pending(&proxy, 1).await;

    // `a` is free, and nobody who waits can use it.
    assert_eq!(request(proxy.address(), "GET", "/passes", "", b"").await.origin(), "a");

    b.release();
    for one in held {
        assert_eq!(one.await.expect("the client does not panic").origin(), "b");
    }
}
