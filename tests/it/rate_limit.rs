//! How many requests come through `rate_limit`, counted from outside, and what the others are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;

use crate::harness::{
    Address, Answer, Connection, Load, Origin, Proxy, Road, Script, Setup, on_both_roads, request, roundel, until,
};

on_both_roads!(sixty_four_connections_get_the_rate_within_one_percent);

/// A proxy that believes what `X-Forwarded-For` says, with one route of these filters.
async fn with(filters: &str) -> (Origin, Proxy) {
    let a = Origin::start("a").await;
    let proxy = Setup::new(&[&a]).file("users", "").start(&one_route(filters)).await;
    (a, proxy)
}

fn one_route(filters: &str) -> String {
    format!(
        "listeners: [{{ address: \"{{listen}}\", trusted_proxies: [127.0.0.0/8] }}]\n\
         upstreams: {{ web: {{ backends: [{{a}}], health_check: none }} }}\n\
         routes: [{{ name: api, filters: [{filters}], to: web }}]\n"
    )
}

/// How many of so many requests with these fields are answered by the backend; the others must be 429.
async fn passed(proxy: &Proxy, target: &str, fields: &str, times: usize) -> usize {
    let mut connection = Connection::open(proxy.address()).await;
    let mut passed = 0;
    for _ in 0..times {
        match connection.ask("GET", target, fields, b"").await.expect("an answer").status {
            200 => passed += 1,
            status => assert_eq!(status, 429),
        }
    }
    passed
}

#[tokio::test]
async fn each_client_has_its_own_burst_and_the_refused_are_told_when_to_come_back() {
    let (a, proxy) = with("{ rate_limit: { rate: 2/h, burst: 3 } }").await;
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        assert_eq!(passed(&proxy, "/", &format!("X-Forwarded-For: {client}\r\n"), 5).await, 3, "{client}");
    }
    assert_eq!(passed(&proxy, "/", "X-Forwarded-For: 2001:db8::ffff\r\n", 1).await, 0, "the same /64");
    assert_eq!(passed(&proxy, "/", "X-Forwarded-For: 2001:db8:0:1::1\r\n", 1).await, 1, "another /64");
    assert_eq!(a.requests(), 10);

    let refused = request(proxy.address(), "GET", "/refused", "X-Forwarded-For: 192.0.2.1\r\n", b"").await;
    assert_eq!((refused.status, refused.field("retry-after")), (429, Some("1800")));
    assert_eq!(refused.field("ratelimit-policy"), Some("\"client_ip\";q=2;w=3600;roundel-burst=3"));
    assert_eq!(refused.field("ratelimit"), Some("\"client_ip\";r=0;t=1800"));
    assert_eq!(proxy.log_for("/refused").await["reason"], "rate_limited");
    assert_eq!(proxy.metric("roundel_rate_limited_total", &[("route", "api")]).await, 8.0);
    assert_eq!(proxy.metric("roundel_answers_total", &[("reason", "rate_limited")]).await, 8.0);
}

#[tokio::test]
async fn prefixes_say_how_much_of_an_address_counts() {
    let (_a, proxy) = with("{ rate_limit: { rate: 1/h, ipv4_prefix: 24, ipv6_prefix: 128 } }").await;
    for (client, expected) in [
        ("192.0.2.1", 1),
        ("192.0.2.2", 0),
        ("192.0.3.1", 1),
        ("2001:db8::1", 1),
        ("2001:db8::2", 1),
        ("2001:db8::2", 0),
        ("::ffff:192.0.2.9", 0),
    ] {
        assert_eq!(passed(&proxy, "/", &format!("X-Forwarded-For: {client}\r\n"), 1).await, expected, "{client}");
    }
}

#[tokio::test]
async fn fields_cookies_parameters_and_whole_routes_are_counted_by() {
    for (key, target, fields, other) in [
        ("header:x-key", "/", "X-Key: a\r\n", ("/", "X-Key: b\r\n")),
        ("cookie:sid", "/", "Cookie: a=1; sid=x\r\n", ("/", "Cookie: sid=y\r\n")),
        ("query:k", "/?a=1&k=x", "", ("/?k=y", "")),
    ] {
        let (_a, proxy) = with(&format!("{{ rate_limit: {{ key: \"{key}\", rate: 1/h, burst: 2 }} }}")).await;
        assert_eq!(passed(&proxy, target, fields, 4).await, 2, "{key}");
        assert_eq!(passed(&proxy, other.0, other.1, 1).await, 1, "{key}");
        assert_eq!(passed(&proxy, "/", "", 3).await, 3, "{key}: what is not there is not counted");
    }
    let (_a, proxy) = with("{ rate_limit: { key: route, rate: 1/h, burst: 2 } }").await;
    assert_eq!(passed(&proxy, "/a", "X-Forwarded-For: 192.0.2.1\r\n", 1).await, 1);
    assert_eq!(passed(&proxy, "/b", "X-Forwarded-For: 192.0.2.2\r\n", 3).await, 1);
}

#[tokio::test]
async fn of_several_limits_all_must_agree_and_no_token_is_lost() {
    let (a, proxy) = with(
        "{ rate_limit: { key: route, rate: 1/h, burst: 3 } }, { rate_limit: { rate: 1/h, burst: 10, headers: true } }",
    )
    .await;
    assert_eq!(passed(&proxy, "/", "", 8).await, 3);
    let refused = request(proxy.address(), "GET", "/", "", b"").await;
    assert_eq!(refused.field("ratelimit"), Some("\"route\";r=0;t=3600, \"client_ip\";r=7;t=3600"));
    assert_eq!(a.requests(), 3);
}

#[tokio::test]
async fn answers_to_requests_that_pass_tell_of_the_limit_where_that_is_written() {
    let (a, proxy) = with("{ rate_limit: { rate: 10/h, headers: true } }").await;
    a.plays(crate::harness::Reply::ok("a").field("ratelimit", "\"origin\";r=5"));
    let told = request(proxy.address(), "GET", "/", "", b"").await;
    assert_eq!(told.field("ratelimit-policy"), Some("\"client_ip\";q=10;w=3600"));
    assert_eq!(told.head.all("ratelimit"), ["\"origin\";r=5", "\"client_ip\";r=9;t=360"]);

    let (_a, proxy) = with("{ rate_limit: { rate: 10/h } }").await;
    let silent = request(proxy.address(), "GET", "/", "", b"").await;
    assert_eq!((silent.status, silent.field("ratelimit"), silent.field("ratelimit-policy")), (200, None, None));
}

#[tokio::test]
async fn guesses_at_passwords_are_limited_whoever_they_name() {
    let (a, proxy) =
        with("{ auth: { basic: { users: users } } }, { rate_limit: { rate: 1/h, burst: 4 } }, { deny: [192.0.2.9] }")
            .await;
    let ask = async |user: &str, client: &str| {
        use base64::Engine as _;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:guess"));
        let fields = format!("X-Forwarded-For: {client}\r\nAuthorization: Basic {pair}\r\n");
        request(proxy.address(), "GET", "/", &fields, b"").await.status
    };
    for (user, status) in [("anna", 401), ("nobody", 401), ("anna", 401), ("x", 401), ("anna", 429), ("nobody", 429)] {
        assert_eq!(ask(user, "192.0.2.1").await, status, "{user}");
    }
    assert_eq!(ask("anna", "192.0.2.9").await, 403, "an address that is denied costs no token");
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_dry_run_counts_and_logs_and_refuses_nothing() {
    let (a, proxy) = with("{ rate_limit: { rate: 1/h, burst: 2, dry_run: true } }").await;
    assert_eq!(passed(&proxy, "/one", "", 2).await, 2);
    assert_eq!(passed(&proxy, "/two", "", 3).await, 3);
    let line = proxy.log_for("/two").await;
    assert_eq!((line["status"].as_u64(), line["dry_run"].as_str()), (Some(200), Some("rate_limited")));
    assert_eq!(proxy.log_for("/one").await["dry_run"].as_str(), None);
    assert_eq!(proxy.metric("roundel_rate_limited_dry_run_total", &[("route", "api")]).await, 3.0);
    assert_eq!(proxy.metric("roundel_rate_limited_total", &[("route", "api")]).await, 0.0);
    assert_eq!(a.requests(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_keys_costs_bounded_memory_and_spares_who_has_used_up_its_tokens() {
    let (_a, proxy) = with("{ rate_limit: { key: \"header:x-number\", rate: 1/h, burst: 5, max_keys: 1000 } }").await;
    assert_eq!(passed(&proxy, "/", "X-Number: busy\r\n", 6).await, 5);

    // The load gives each request a number of its own.
    Load::of(4_000, 8).run(proxy.address()).await.expect_all_ok();

    let forgotten = proxy.metric("roundel_rate_limit_keys_forgotten_total", &[("route", "api")]).await;
    assert!((1_000.0..3_000.0).contains(&forgotten), "{forgotten}");
    assert_eq!(passed(&proxy, "/", "X-Number: busy\r\n", 1).await, 0);
}

/// Sixty-four connections ask on while two threads decide. What passed is counted from the access log, by the proxy's own clock:
/// as long as the bucket is not full again, what has passed is the burst and what the rate has brought since.
async fn sixty_four_connections_get_the_rate_within_one_percent(road: Road) {
    // A bucket that is full loses what the rate brings: this one takes three seconds to fill, on a slow machine too.
    const RATE: f64 = 50.0;
    const BURST: f64 = 150.0;
    let a = Origin::start("a").await;
    let yaml = one_route("{ rate_limit: { key: route, rate: 50/s, burst: 150 } }");
    let proxy = Setup::new(&[&a]).on(road).start(&yaml).await;
    let passed = Arc::new(AtomicUsize::new(0));
    let clients = (0..64).map(|_| asks_until(650, Arc::clone(&passed), proxy.address().clone()));
    let asked: usize =
        join_all(clients.map(tokio::spawn)).await.into_iter().map(|asked| asked.expect("no panic")).sum();
    until("the log is whole", async || proxy.log().len() == asked).await;

    let mut log: Vec<(f64, u64)> = proxy.log().iter().map(|line| (seconds(line), status(line))).collect();
    log.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (first, last_refusal) = (log[0].0, log.iter().rposition(|line| line.1 == 429).expect("some were refused"));
    let passed = log[..last_refusal].iter().filter(|line| line.1 == 200).count() as f64;
    let allowed = BURST + RATE * (log[last_refusal].0 - first);

    assert!((passed - allowed).abs() <= 0.01 * allowed, "{passed} passed, {allowed} are allowed");
    assert_eq!(a.requests(), log.iter().filter(|line| line.1 == 200).count());
}

/// The time of a line of the access log in seconds of its day.
fn seconds(line: &Value) -> f64 {
    let time = line["time"].as_str().and_then(|time| time.get(11..23)).expect("a time of RFC 3339 in milliseconds");
    time.split(':').fold(0.0, |sum, part| 60.0 * sum + part.parse::<f64>().expect("a number"))
}

fn status(line: &Value) -> u64 {
    line["status"].as_u64().expect("a number")
}

/// Asks until so many requests have passed, of all connections together. Returns how often it asked.
async fn asks_until(enough: usize, passed: Arc<AtomicUsize>, address: Address) -> usize {
    let mut connection = Connection::open(&address).await;
    let mut asked = 0;
    while passed.load(Ordering::SeqCst) < enough {
        asked += 1;
        match connection.get("/").await.status {
            200 => drop(passed.fetch_add(1, Ordering::SeqCst)),
            // So that the log stays short.
            _ => tokio::time::sleep(Duration::from_millis(30)).await,
        }
    }
    asked
}

#[tokio::test]
async fn a_request_that_is_begun_again_is_counted_once() {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    let yaml = "upstreams: { web: { backends: [{a}, {b}], health_check: none, outlier: none } }\n\
                routes: [{ name: all, filters: [{ rate_limit: { rate: 1/h, burst: 9, headers: true } }], to: web }]";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    a.plays(Script::raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"));
    let mut connection = Connection::open(proxy.address()).await;

    let mut left = Vec::new();
    for _ in 0..4 {
        let answer: Answer = connection.get("/again").await;
        left.push(answer.field("ratelimit").and_then(|told| told.split(';').nth(1)).map(str::to_owned));
    }

    assert!(a.requests() > 0, "one was begun at the backend that dies");
    assert_eq!(left, ["r=8", "r=7", "r=6", "r=5"].map(|left| Some(left.to_owned())));
}

#[tokio::test]
async fn tokens_come_back_at_the_rate() {
    let (_a, proxy) = with("{ rate_limit: { rate: 50/s, burst: 1 } }").await;
    let mut connection = Connection::open(proxy.address()).await;
    let from = Instant::now();
    let mut passed = 0;
    until("ten have passed", async || {
        passed += usize::from(connection.get("/").await.status == 200);
        passed == 10
    })
    .await;
    assert!(from.elapsed() >= Duration::from_millis(9 * 20), "nine tokens had to come first: {:?}", from.elapsed());
}

#[tokio::test]
async fn explain_says_what_a_limit_counts() {
    let a = Origin::start("a").await;
    let setup = Setup::new(&[&a]);
    let config = setup.write(&one_route(
        "{ rate_limit: { rate: 100/s, burst: 200, ipv4_prefix: 24 } }, \
         { rate_limit: { key: \"header:x-key\", rate: 30/m, dry_run: true } }",
    ));
    let config = config.display().to_string();
    let arguments = ["explain", "-c", &config, "GET", "http://x/", "-H", "x-forwarded-for: 192.0.2.7"];

    let output = roundel(&arguments).await;

    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "counts 192.0.2.0/24: 100/s, 200 at once",
        "does not count the request, which has no `header:x-key` (dry run: refuses nothing)",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}
