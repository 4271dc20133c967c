//! A backend that dies costs no request that may be repeated, and no request that must not be is repeated.

use crate::harness::h2::H2Origin;
use crate::harness::{
    Blackhole, Connection, Load, Origin, Proxy, Reply, Road, Script, Setup, on_both_roads, request, until,
};

on_both_roads!(
    a_machine_that_is_gone_keeps_few_requests_waiting,
    an_ejected_backend_that_is_still_bad_gets_one_request,
    who_can_be_sent_again_finds_out_whether_a_backend_serves_again
);

/// Nothing but the request itself finds out that a backend is dead.
const UNNOTICED: &str = "
upstreams:
  web:
    backends: [{a}, {b}, {c}]
    health_check: none
    outlier: none
";

async fn three() -> [Origin; 3] {
    [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_backend_that_nobody_has_noticed_fails_no_request() {
    let [a, mut b, c] = three().await;
    let proxy = Proxy::start(&[&a, &b, &c], UNNOTICED).await;
    b.kill().await;

    let tally = Load::of(600, 8).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!(a.requests() + c.requests(), 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connect_has_sent_nothing_and_so_a_post_fails_over_too() {
    let [a, mut b, c] = three().await;
    let proxy = Proxy::start(&[&a, &b, &c], UNNOTICED).await;
    b.kill().await;

    let tally = Load::of(600, 8).with("POST", "/order", b"one of it").run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!(a.requests() + c.requests(), 600, "each order was placed once");
    assert!(a.received().iter().all(|order| order.body.bytes == b"one of it"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_killed_under_load_fails_no_idempotent_request() {
    let [a, mut b, c] = three().await;
    let proxy = Proxy::start(&[&a, &b, &c], "upstreams: { web: { backends: [{a}, {b}, {c}] } }").await;

    let load = Load::of(6_000, 16).start(proxy.address());
    load.after(1_000).await;
    b.kill().await;
    let tally = load.finish().await;

    tally.expect_all_ok();
    assert_eq!(tally.total(), 6_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revived_backend_takes_its_share_again() {
    let [a, mut b, c] = three().await;
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}, {c}]
    health_check: { type: tcp, interval: 1s, timeout: 900ms, fast_interval: 50ms }
    outlier: none
";
    let proxy = Proxy::start(&[&a, &b, &c], yaml).await;
    b.kill().await;
    proxy.until_state("web", b.address(), "unhealthy").await;
    b.revive().await;
    proxy.until_state("web", b.address(), "healthy").await;

    let tally = Load::of(300, 1).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!(tally.from("b"), 100);
}

#[tokio::test]
async fn a_get_that_was_cut_off_is_tried_at_another_backend() {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let proxy = Proxy::start(&[&a, &b], "upstreams: { web: { backends: [{a}, {b}], outlier: none } }").await;
    b.plays(Script::reset());

    let tally = Load::of(20, 1).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!(tally.from("a"), 20);
    assert_eq!(proxy.log_line("two attempts", |line| line["attempts"] == 2).await["status"], 200);
}

#[tokio::test]
async fn a_post_that_may_have_been_executed_is_never_repeated() {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let proxy = Proxy::start(&[&a, &b], "upstreams: { web: { backends: [{a}, {b}], outlier: none } }").await;
    b.plays(Script::reset());

    let tally = Load::of(20, 1).with("POST", "/order", b"one of it").run(proxy.address()).await;

    assert_eq!((tally.with_status(200), tally.with_status(502)), (10, 10), "{tally:?}");
    assert_eq!((a.requests(), b.requests()), (10, 10), "each order was placed once");
}

#[tokio::test]
async fn retries_turned_off_are_off() {
    let a = Origin::start("a").await;
    let b = Origin::start("b").await;
    let yaml = "upstreams: { web: { backends: [{a}, {b}], outlier: none, retry: { attempts: 0 } } }";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    b.plays(Script::reset());

    let tally = Load::of(20, 1).run(proxy.address()).await;

    assert_eq!((tally.with_status(200), tally.with_status(502)), (10, 10), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_its_idle_connections_fails_no_idempotent_request() {
    let a = Origin::start("a").await;
    a.close_after(3);
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}], outlier: none } }").await;

    Load::of(600, 4).run(proxy.address()).await.expect_all_ok();
}

#[tokio::test]
async fn the_try_after_a_waiting_connection_was_closed_gets_a_new_one() {
    for road in [Road::Lane, Road::General] {
        let a = Origin::start("a").await;
        let yaml = "upstreams: { web: { backends: [{a}], health_check: none, outlier: none } }";
        let proxy = Setup::new(&[&a]).on(road).start(yaml).await;
        a.hold();
        let load = Load::of(3, 3).start(proxy.address());
        until("three connections", async || a.in_flight() == 3).await;
        a.release();
        load.finish().await.expect_all_ok();

        // All that wait would do the same, and one retry is what a request has.
        a.next(Script::close());
        assert_eq!(request(proxy.address(), "GET", "/", "", b"").await.status, 200);

        assert_eq!(a.connections(), 4, "{road:?}");
    }
}

#[tokio::test]
async fn a_put_with_a_body_is_repeated_whole() {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let proxy = Proxy::start(&[&a, &b], "upstreams: { web: { backends: [{a}, {b}], outlier: none } }").await;
    b.plays(Script::close());
    let body = vec![b'x'; 20_000];

    for path in ["/one", "/two"] {
        assert_eq!(request(proxy.address(), "PUT", path, "", &body).await.status, 200);
        assert_eq!(a.received_for(path).body.bytes, body);
    }
}

#[tokio::test]
async fn an_error_that_a_backend_answers_is_an_answer() {
    let a = Origin::start("a").await;
    a.plays(Reply::status(500).body("sorry"));
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;

    let answer = crate::harness::get(proxy.address(), "/").await;

    assert_eq!((answer.status, answer.text()), (500, "sorry".to_owned()));
    assert_eq!(a.requests(), 1);
}

#[tokio::test]
async fn a_backend_that_dies_between_head_and_body_costs_no_idempotent_request() {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let head_alone = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
    let yaml = "upstreams: { web: { backends: [{a}, {b}], health_check: none, outlier: none } }";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    a.plays(Script::raw(head_alone));
    let mut connection = Connection::open(proxy.address()).await;

    for _ in 0..4 {
        let answer = connection.get("/again").await;
        assert_eq!((answer.status, answer.origin()), (200, "b"));
    }
    assert!(a.requests() > 0);
    let lines = || proxy.log().into_iter().filter(|line| line["path"] == "/again" && line["status"] == 200);
    until("one line for each request", async || lines().count() == 4).await;
    assert!(lines().any(|line| line["attempts"] == 2));

    b.plays(Script::raw(head_alone));
    let once = connection.ask("POST", "/once", "", b"x").await;
    assert!(once.is_err(), "a POST is never sent again");
    assert_eq!(a.requests_for("/once") + b.requests_for("/once"), 1);
}

async fn a_machine_that_is_gone_keeps_few_requests_waiting(road: Road) {
    let (a, b, hole) = (Origin::start("a").await, Origin::start("b").await, Blackhole::new());
    let yaml = "
upstreams:
  web:
    backends: [{a}, \"{hole}\", {b}]
    health_check: none
    outlier: none
    timeouts: { connect: 2s }
";
    let setup = Setup::new(&[&a, &b]).on(road).word("hole", &hole.address().to_string());
    let proxy = setup.start(yaml).await;

    let tally = Load::of(3_000, 8).with("POST", "/order", b"one of it").run(proxy.address()).await;

    tally.expect_all_ok();
    // Nobody takes it out: a thousand would have come there in turn, eight at a time.
    let waited = proxy.metric("roundel_upstream_attempts_total", &[("outcome", "connection_timeout")]).await;
    assert!((1.0..=24.0).contains(&waited), "{waited} requests have waited for a connect");
}

async fn who_can_be_sent_again_finds_out_whether_a_backend_serves_again(road: Road) {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    b.plays(Script::close());
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: none
    outlier: { base_ejection: 200ms, max_ejection: 200ms }
";
    let proxy = Setup::new(&[&a, &b]).on(road).start(yaml).await;
    let ejections = async || proxy.metric("roundel_ejections_total", &[]).await;
    let mut client = Connection::open(proxy.address()).await;
    until("it is ejected for the first time", async || {
        assert_eq!(request(proxy.address(), "GET", "/", "", b"").await.status, 200);
        ejections().await >= 1.0
    })
    .await;

    until("it was found to be bad again and again", async || {
        for (method, body) in [("POST", &b"one of it"[..]), ("GET", b""), ("GET", b"")] {
            let answer = client.ask(method, "/order", "", body).await.expect("an answer");
            assert_eq!(answer.status, 200, "{method}");
        }
        ejections().await >= 8.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_gone_keeps_few_requests_over_http_2_waiting() {
    let (a, b, hole) = (H2Origin::echo().await, H2Origin::echo().await, Blackhole::new());
    let yaml = "
upstreams:
  web:
    backends: [\"{a}\", \"{hole}\", \"{b}\"]
    protocol: h2
    health_check: none
    outlier: none
    timeouts: { connect: 2s }
";
    let setup = Setup::new(&[]).word("a", &a.address.to_string()).word("b", &b.address.to_string());
    let proxy = setup.word("hole", &hole.address().to_string()).start(yaml).await;

    let tally = Load::of(3_000, 8).with("POST", "/order", b"one of it").run(proxy.address()).await;

    tally.expect_all_ok();
    let waited = proxy.metric("roundel_upstream_attempts_total", &[("outcome", "connection_timeout")]).await;
    assert!((1.0..=24.0).contains(&waited), "{waited} requests have waited for a connect");
}

async fn an_ejected_backend_that_is_still_bad_gets_one_request(road: Road) {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    b.plays(Reply::status(503));
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: none
    outlier: { base_ejection: 1s, max_ejection: 1s }
    retry: { statuses: [503] }
";
    let proxy = Setup::new(&[&a, &b]).on(road).start(yaml).await;
    let ejections = async || proxy.metric("roundel_ejections_total", &[]).await;

    let load = Load::of(1_000_000, 4).until_refused().start(proxy.address());
    until("it is ejected for the first time", async || ejections().await >= 1.0).await;
    let first = b.requests();
    until("it was ejected again and again", async || ejections().await >= 4.0).await;
    let (second, again) = (b.requests(), ejections().await);

    // Four may be on their way there when the first ejection comes.
    assert!((second - first) as f64 <= 4.0 + again, "{first} requests, then {second} in {again} ejections");
    b.plays(Reply::ok("well again"));
    proxy.until_state("web", b.address(), "healthy").await;
    load.stop().await.expect_all_ok();
}
