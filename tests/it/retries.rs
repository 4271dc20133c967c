//! A request that failed is tried again where that is safe, elsewhere, after a moment, within a budget, and by one proxy only.

use std::time::Instant;

use crate::harness::{Connection, Load, Origin, Proxy, Reply, Road, Script, Setup, on_both_roads, request, until};

on_both_roads!(
    a_chosen_status_is_tried_at_another_backend_and_another_is_an_answer,
    a_post_is_not_sent_twice_for_a_status,
    a_request_that_is_tried_again_has_the_place_that_it_gave_up,
    where_every_backend_has_the_status_the_last_answer_is_passed_on_whole,
    retry_after_is_honoured_up_to_the_longest_wait_and_else_passed_on,
    a_body_that_is_still_coming_reaches_the_next_backend_whole,
    requests_pay_for_retries,
    when_an_outage_ends_no_more_connections_are_opened_than_requests_are_under_way,
    ten_seconds_of_the_floor_may_be_saved_up,
    in_an_outage_of_everything_backends_get_little_more_than_clients_send,
    a_retry_that_would_come_too_late_is_not_waited_for,
    a_body_that_is_too_large_to_be_kept_is_sent_once,
    a_retry_is_marked_and_a_mark_is_believed_from_trusted_proxies_only,
    a_grpc_call_that_was_not_carried_out_is_made_again_where_the_operator_says_so,
    the_deadline_that_a_grpc_call_states_bounds_all_its_tries,
);

/// Two backends that nothing but requests finds out about, with this `retry` section.
async fn two(road: Road, retry: &str) -> (Origin, Origin, Proxy) {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let yaml = format!(
        "upstreams: {{ web: {{ backends: [{{a}}, {{b}}], health_check: none, outlier: none, retry: {retry} }} }}"
    );
    let proxy = Setup::new(&[&a, &b]).on(road).start(&yaml).await;
    (a, b, proxy)
}

async fn a_chosen_status_is_tried_at_another_backend_and_another_is_an_answer(road: Road) {
    let (a, b, proxy) = two(road, "{ statuses: [503, 429], budget: 100% }").await;
    a.on("/busy", Reply::status(503));
    a.on("/much", Reply::status(429));
    a.on("/wrong", Reply::status(500));

    Load::of(20, 1).with("GET", "/busy", b"").run(proxy.address()).await.expect_all_ok();
    Load::of(20, 1).with("GET", "/much", b"").run(proxy.address()).await.expect_all_ok();
    let wrong = Load::of(20, 1).with("GET", "/wrong", b"").run(proxy.address()).await;

    assert_eq!((wrong.with_status(200), wrong.with_status(500)), (10, 10));
    assert_eq!((b.requests_for("/busy"), b.requests_for("/much"), b.requests_for("/wrong")), (20, 20, 10));
    let retries = proxy.metric("roundel_retries_total", &[("upstream", "web"), ("cause", "server_error")]).await;
    assert_eq!(retries, a.requests_for("/busy") as f64);
}

async fn a_post_is_not_sent_twice_for_a_status(road: Road) {
    let (a, b, proxy) = two(road, "{ statuses: [\"5xx\"] }").await;
    a.plays(Reply::status(503).body("busy"));

    let tally = Load::of(20, 1).with("POST", "/order", b"one of it").run(proxy.address()).await;

    assert_eq!((tally.with_status(200), tally.with_status(503)), (10, 10));
    assert_eq!((a.requests(), b.requests()), (10, 10));
}

async fn a_request_that_is_tried_again_has_the_place_that_it_gave_up(road: Road) {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: none
    outlier: none
    retry: { statuses: [503] }
    limits: { requests: 1, pending: 0 }
";
    let proxy = Setup::new(&[&a, &b]).on(road).start(yaml).await;
    a.plays(Reply::status(503));

    Load::of(20, 1).run(proxy.address()).await.expect_all_ok();

    assert_eq!(b.requests(), 20);
}

async fn where_every_backend_has_the_status_the_last_answer_is_passed_on_whole(road: Road) {
    let (a, b, proxy) = two(road, "{ statuses: [503], attempts: 5, backoff: 0s }").await;
    for origin in [&a, &b] {
        origin.plays(Reply::status(503).field("x-why", "maintenance").body("back soon"));
    }

    let answer = request(proxy.address(), "GET", "/x", "", b"").await;

    assert_eq!((answer.status, answer.text().as_str()), (503, "back soon"));
    assert_eq!(answer.field("x-why"), Some("maintenance"));
    assert_eq!(a.requests() + b.requests(), 6);
    assert_eq!(proxy.log_for("/x").await["attempts"], 6);
}

async fn retry_after_is_honoured_up_to_the_longest_wait_and_else_passed_on(road: Road) {
    let (a, b, proxy) = two(road, "{ statuses: [503], backoff: 0s, max_backoff: 1s }").await;
    a.on("/soon", Reply::status(503).field("retry-after", "1"));
    a.on("/later", Reply::status(503).field("retry-after", "2"));

    let soon = Load::of(2, 1).with("GET", "/soon", b"").run(proxy.address()).await;
    let later = Load::of(2, 1).with("GET", "/later", b"").run(proxy.address()).await;

    soon.expect_all_ok();
    assert_eq!((later.with_status(200), later.with_status(503)), (1, 1));
    assert_eq!((b.requests_for("/soon"), b.requests_for("/later")), (2, 1));
}

async fn a_body_that_is_still_coming_reaches_the_next_backend_whole(road: Road) {
    let (a, b, proxy) = two(road, "{}").await;
    a.plays(Script::reset().before_the_body());

    for (number, framing) in ["Content-Length: 8", "Transfer-Encoding: chunked"].into_iter().enumerate().cycle().take(4)
    {
        let (first, second) = match number {
            0 => ("half", "more"),
            _ => ("4\r\nhalf\r\n", "4\r\nmore\r\n0\r\n\r\n"),
        };
        let (asked, mut client) = (a.requests() + b.requests(), Connection::open(proxy.address()).await);
        client.send(format!("PUT / HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{first}")).await;
        until("a backend has the first half", async || a.requests() + b.requests() > asked).await;
        client.send_what_it_takes(second).await;
        assert_eq!(client.try_answer("PUT").await.map(|answer| answer.status), Ok(200), "{framing}");
    }

    assert!(a.requests() > 0, "some were begun at the backend that dies");
    assert!(b.received().iter().all(|request| request.body.bytes == b"halfmore"), "{:?}", b.received());
}

async fn requests_pay_for_retries(road: Road) {
    let (a, b, proxy) = two(road, "{ budget: 50%, min_per_second: 0 }").await;
    a.plays(Script::reset());
    b.plays(Script::reset());

    let tally = Load::of(20, 1).run(proxy.address()).await;

    assert_eq!(tally.with_status(502), 20);
    assert_eq!(a.requests() + b.requests(), 30, "one retry for two requests");
    assert_eq!(proxy.metric("roundel_retry_budget_exhausted_total", &[("upstream", "web")]).await, 10.0);
}

async fn ten_seconds_of_the_floor_may_be_saved_up(road: Road) {
    let (a, b, proxy) = two(road, "{ budget: 0%, min_per_second: 2 }").await;
    let budget = proxy.admin("/api/v1/status").await["upstreams"][0]["retry_budget"].clone();
    assert_eq!((budget["left"].as_f64(), budget["most"].as_f64()), (Some(20.0), Some(20.0)));
    a.plays(Script::reset());
    b.plays(Script::reset());

    Load::of(60, 1).run(proxy.address()).await;

    let retries = a.requests() + b.requests() - 60;
    assert!((20..60).contains(&retries), "{retries} retries");
    assert!(proxy.metric("roundel_retry_budget", &[("upstream", "web")]).await < 20.0);
}

async fn in_an_outage_of_everything_backends_get_little_more_than_clients_send(road: Road) {
    let origins = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let yaml = "upstreams: { web: { backends: [{a}, {b}, {c}], health_check: none, outlier: none } }";
    let proxy = Setup::new(&origins.each_ref()).on(road).start(yaml).await;
    origins.iter().for_each(|origin| origin.plays(Script::reset()));
    let begun = Instant::now();

    let tally = Load::of(2_000, 8).run(proxy.address()).await;

    assert_eq!(tally.with_status(502), 2_000);
    let tries: usize = origins.iter().map(Origin::requests).sum();
    let bound = 1.2 * 2_000.0 + 30.0 + 3.0 * begun.elapsed().as_secs_f64();
    assert!(tries > 2_300 && tries as f64 <= bound, "{tries} tries for 2,000 requests, at most {bound}");
}

async fn when_an_outage_ends_no_more_connections_are_opened_than_requests_are_under_way(road: Road) {
    let origins = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let yaml = "upstreams: { web: { backends: [{a}, {b}, {c}], health_check: none, outlier: none } }";
    let proxy = Setup::new(&origins.each_ref()).on(road).start(yaml).await;
    origins.iter().for_each(|origin| origin.plays(Script::reset()));
    Load::of(500, 16).run(proxy.address()).await;
    let connections = || origins.iter().map(Origin::connections).sum::<usize>();
    let before = connections();

    origins.iter().for_each(|origin| origin.plays(Reply::ok("up")));
    Load::of(2_000, 16).run(proxy.address()).await.expect_all_ok();

    // Each of 16 may need one at each backend; the rest is what Pingora gives up where it finds it still being watched.
    let opened = connections() - before;
    assert!(opened <= 3 * 16 + 20, "{opened} connections for 2,000 requests, 16 at once");
}

async fn a_retry_that_would_come_too_late_is_not_waited_for(road: Road) {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: none
    retry: { backoff: 9h, max_backoff: 10h }
routes:
  - { to: web, timeouts: { request: 15s } }
";
    let proxy = Setup::new(&[&a, &b]).on(road).start(yaml).await;
    a.plays(Script::reset());
    b.plays(Script::reset());

    let answer = request(proxy.address(), "GET", "/x", "", b"").await;

    assert_eq!((answer.status, a.requests() + b.requests()), (502, 1));
    assert_eq!(proxy.log_for("/x").await["reason"], "connection_terminated");
}

async fn a_body_that_is_too_large_to_be_kept_is_sent_once(road: Road) {
    let (a, b, proxy) = two(road, "{ body: 1KiB }").await;
    a.plays(Script::reset());

    Load::of(10, 1).with("PUT", "/small", &[b'x'; 1024]).run(proxy.address()).await.expect_all_ok();
    let tally = Load::of(10, 1).with("PUT", "/large", &[b'x'; 1025]).run(proxy.address()).await;

    assert_eq!((tally.with_status(200), tally.with_status(502)), (5, 5));
    assert_eq!((b.requests_for("/small"), a.requests_for("/large"), b.requests_for("/large")), (10, 5, 5));
}

async fn a_retry_is_marked_and_a_mark_is_believed_from_trusted_proxies_only(road: Road) {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let upstreams = "upstreams: { web: { backends: [{a}, {b}], health_check: none, outlier: none } }";
    let open = Setup::new(&[&a, &b]).on(road).start(upstreams).await;
    let trusting = format!("listeners: [{{ address: \"{{listen}}\", trusted_proxies: [127.0.0.1] }}]\n{upstreams}");
    let behind = Setup::new(&[&a, &b]).on(road).start(&trusting).await;
    a.plays(Script::reset());
    let claim = "x-roundel-attempt: 7\r\n";

    // At least one of two meets `a` first.
    for _ in 0..2 {
        assert_eq!(request(open.address(), "GET", "/open", claim, b"").await.status, 200);
    }
    let marks = |origin: &Origin, path: &str| {
        let all = origin.received().into_iter().filter(|request| request.target == path);
        all.map(|request| request.head.field("x-roundel-attempt").map(str::to_owned)).collect::<Vec<_>>()
    };
    let (at_a, at_b) = (marks(&a, "/open"), marks(&b, "/open"));
    assert!(at_a.iter().all(Option::is_none), "{at_a:?}");
    assert_eq!(at_b.iter().filter(|mark| mark.as_deref() == Some("1")).count(), at_a.len());
    assert_eq!((at_b.iter().flatten().count(), at_b.len()), (at_a.len(), 2), "{at_b:?}");

    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(request(behind.address(), "GET", "/behind", claim, b"").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502], "the proxy before this one tries again");
    assert_eq!(marks(&a, "/behind"), [Some("7".to_owned())]);
    assert_eq!(marks(&b, "/behind"), [Some("7".to_owned())]);
}

/// A call of gRPC as far as its head goes.
const CALL: &str = "content-type: application/grpc\r\n";

fn status_alone(status: &str) -> Reply {
    Reply::status(200).field("content-type", "application/grpc").field("grpc-status", status)
}

async fn a_grpc_call_that_was_not_carried_out_is_made_again_where_the_operator_says_so(road: Road) {
    let (a, b, proxy) = two(road, "{ grpc_statuses: [unavailable] }").await;
    a.on("/unavailable", status_alone("14"));
    a.on("/internal", status_alone("13"));
    a.on("/pushed-back", status_alone("14").field("grpc-retry-pushback-ms", "-1"));

    for (path, saved) in [("/unavailable", true), ("/internal", false), ("/pushed-back", false)] {
        let mut from_b = 0;
        for _ in 0..4 {
            let answer = request(proxy.address(), "POST", path, CALL, b"message").await;
            from_b += usize::from(answer.origin() == "b");
        }
        assert_eq!(from_b == 4, saved, "{path}: {from_b} of 4");
    }
    assert!(b.received().iter().all(|request| request.body.bytes == b"message"));
}

async fn the_deadline_that_a_grpc_call_states_bounds_all_its_tries(road: Road) {
    let (a, b, proxy) = two(road, "{ grpc_statuses: [unavailable], backoff: 0s }").await;
    a.plays(Script::hang());
    b.plays(Script::hang());
    let fields = |timeout| format!("{CALL}grpc-timeout: {timeout}\r\n");

    assert_eq!(request(proxy.address(), "POST", "/short", &fields("300m"), b"x").await.status, 504);
    assert_eq!(proxy.log_for("/short").await["reason"], "request_timeout");
    assert_eq!(a.requests() + b.requests(), 1);

    a.plays(status_alone("14"));
    b.plays(Reply::ok("done"));
    for _ in 0..2 {
        assert_eq!(request(proxy.address(), "POST", "/again", &fields("100S"), b"x").await.status, 200);
    }
    let again = b.received().into_iter().find(|request| request.head.field("x-roundel-attempt").is_some());
    let left = again.and_then(|request| request.head.field("grpc-timeout").map(str::to_owned)).unwrap_or_default();
    let micros = left.strip_suffix('u').and_then(|digits| digits.parse::<u64>().ok());
    assert!(micros.is_some_and(|micros| micros < 100_000_000), "less than 100 s are left: {left}");
}
