//! One reason for every failure: provoked by a real fault from outside, and found with the same word in the access log, the
//! metrics and `why`.

use std::net::SocketAddr;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::harness::{Authority, Connection, Origin, Proxy, Reply, Script, Setup, Step, until};

const YAML: &str = r#"
listeners:
  - address: "{listen}"
    timeouts: { header: 1s, body_idle: 1s }
    limits: { header_bytes: 2KiB, header_count: 20 }
upstreams:
  good: { backends: [{a}], health_check: none, outlier: none, timeouts: { first_byte: 1s, idle: 1s } }
  gone: { backends: [{gone}], health_check: none, outlier: none }
  stuck: { backends: ["{stuck}"], health_check: none, outlier: none, timeouts: { connect: 300ms } }
  plain: { backends: ["https://{rude}"], health_check: none, outlier: none }
  stranger: { backends: ["https://{tls}"], health_check: none, outlier: none, tls: { ca: ca.pem } }
  nowhere: { backends: ["nowhere.invalid:80"], health_check: none }
  down: { backends: [{gone}], health_check: { fall: 1 } }
  full: { backends: [{a}], health_check: none, limits: { requests: 1, pending: 0 } }
  waiting: { backends: [{a}], health_check: none, limits: { requests: 1, pending: 5, pending_timeout: 300ms } }
routes:
  - { name: auth, match: [{ path: /auth }], filters: [{ auth: { basic: { users: users } } }], to: good }
  - { name: denied, match: [{ path: /denied }], filters: [{ deny: [127.0.0.0/8] }], to: good }
  - { name: small, match: [{ path: /small }], limits: { body: 10B }, to: good }
  - { name: short, match: [{ path: /short }], timeouts: { request: 300ms }, to: good }
  - { name: good, match: [{ path_prefix: /good }], to: good }
  - { name: gone, match: [{ path: /gone }], to: gone }
  - { name: stuck, match: [{ path: /stuck }], to: stuck }
  - { name: plain, match: [{ path: /plain }], to: plain }
  - { name: stranger, match: [{ path: /stranger }], to: stranger }
  - { name: nowhere, match: [{ path: /nowhere }], to: nowhere }
  - { name: down, match: [{ path: /down }], to: down }
  - { name: full, match: [{ path_prefix: /full }], to: full }
  - { name: waiting, match: [{ path_prefix: /waiting }], to: waiting }
"#;

/// A request as it is sent, what the client sees, and the word for it.
struct Case {
    path: &'static str,
    sent: String,
    status: u16,
    reason: &'static str,
}

fn case(path: &'static str, sent: impl Into<String>, status: u16, reason: &'static str) -> Case {
    Case { path, sent: sent.into(), status, reason }
}

fn plain(path: &'static str, status: u16, reason: &'static str) -> Case {
    case(path, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"), status, reason)
}

fn with(path: &'static str, fields: &str, status: u16, reason: &'static str) -> Case {
    case(path, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"), status, reason)
}

fn cases() -> Vec<Case> {
    vec![
        plain("/unrouted", 404, "no_route"),
        plain("/auth", 401, "auth"),
        plain("/denied", 403, "http_request_denied"),
        with("/malformed", "Bad Name: 1\r\n", 400, "http_request_error"),
        with("/good/upgrade", "Connection: upgrade\r\nUpgrade: gopher\r\n", 501, "http_request_error"),
        case(
            "/good/expect",
            "POST /good/expect HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: wonders\r\n\r\n",
            417,
            "http_request_error",
        ),
        case("x:1", "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 405, "http_request_error"),
        with("/bytes", &format!("X-Long: {}\r\n", "x".repeat(3_000)), 431, "header_bytes"),
        with("/count", &"X-More: 1\r\n".repeat(20), 431, "header_count"),
        case("/small", "POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n12345678901", 413, "body"),
        case("/slow", "GET /slow HTTP/1.1\r\nHost: x\r\nX-Half", 408, "client_timeout"),
        case("/good/slow", "POST /good/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n1", 408, "client_timeout"),
        plain("/down", 503, "destination_unavailable"),
        plain("/gone", 502, "connection_refused"),
        plain("/stuck", 504, "connection_timeout"),
        plain("/plain", 502, "tls_protocol_error"),
        plain("/stranger", 502, "tls_certificate_error"),
        plain("/good/closes", 502, "connection_terminated"),
        plain("/good/babbles", 502, "http_protocol_error"),
        plain("/good/hangs", 504, "http_response_timeout"),
        plain("/short", 504, "request_timeout"),
        plain("/nowhere", 502, "dns_error"),
    ]
}

/// A socket whose queue is full: connects to it hang.
fn stuck() -> (Socket, Vec<Socket>, SocketAddr) {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("the system has sockets");
    let listener = socket();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
    listener.listen(0).expect("a bound socket can listen");
    let address = listener.local_addr().expect("it is bound").as_socket().expect("it is an IPv4 socket");
    let waiting = (0..8).map(|_| {
        let client = socket();
        client.set_nonblocking(true).expect("sockets can do that");
        // It is under way, or waits for ever; both fill the queue.
        let _ = client.connect(&address.into());
        client
    });
    let waiting = waiting.collect();
    (listener, waiting, address)
}

/// The line of a path, and that metrics and `why` say the same.
async fn told_everywhere(proxy: &Proxy, path: &str, status: u16, reason: &str) {
    let line = proxy.log_line(path, |line| line["path"] == path && line["reason"] == reason).await;
    assert_eq!(line["status"], status, "{path}: {line}");
    let id = line["request_id"].as_str().unwrap_or_default();
    let why = proxy.admin(&format!("/api/v1/requests/{id}")).await;
    assert_eq!((&why["reason"], &why["status"]), (&Value::from(reason), &Value::from(status)), "{path}: {why:#}");
    assert!(why["verdict"].as_str().is_some_and(|words| words.len() > 20), "{path}: {why:#}");
    assert!(proxy.metric("roundel_answers_total", &[("reason", reason)]).await >= 1.0, "{path}");
}

async fn start(a: &Origin, gone: &Origin, tls: &Origin, stuck: SocketAddr) -> (Proxy, Origin) {
    let rude = Origin::start("rude").await;
    rude.at_accept([Step::Send(b"220 no TLS here\r\n".to_vec()), Step::Close]);
    let users = "anna:$2b$04$BvLLcT5o.752xGxwCBFyMudhNKzT6ZQe6ctv0ZO7qfhNuBVRmeR2q\n";
    let setup = Setup::new(&[a, gone, tls, &rude]).word("stuck", &stuck.to_string());
    (setup.file("users", users).file("ca.pem", Authority::new().pem()).start(YAML).await, rude)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_one_reason_in_the_log_the_metrics_and_why() {
    let authority = Authority::new();
    let (a, mut gone) = (Origin::start("a").await, Origin::start("gone").await);
    let tls = Origin::start_tls("tls", &authority, &["127.0.0.1"]).await;
    gone.kill().await;
    a.on("/good/closes", Script::close());
    a.on("/good/babbles", Script::raw("what do you want\r\n\r\n"));
    a.on("/good/hangs", Script::hang());
    a.on("/short", Script::hang());
    let (_listener, _waiting, address) = stuck();
    let (proxy, _rude) = start(&a, &gone, &tls, address).await;

    for case in cases() {
        let mut connection = Connection::open(proxy.address()).await;
        connection.send_what_it_takes(&case.sent).await;
        let answer = connection.try_answer("GET").await;
        let status = answer.as_ref().map(|answer| answer.status);
        assert_eq!(status, Ok(case.status), "{} is to be {}", case.path, case.reason);
        told_everywhere(&proxy, case.path, case.status, case.reason).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_who_comes_back_and_what_breaks_off_is_told_too() {
    let (a, mut gone) = (Origin::start("a").await, Origin::start("gone").await);
    let tls = Origin::start_tls("tls", &Authority::new(), &["127.0.0.1"]).await;
    gone.kill().await;
    a.on("/good/half", Script::new([Step::Reply(Reply::ok("half of it").declared_length(100)), Step::Close]));
    a.on("/good/hangs", Script::hang());
    a.on("/full/1", Script::hang());
    a.on("/waiting/1", Script::hang());
    let (_listener, _waiting, address) = stuck();
    let (proxy, _rude) = start(&a, &gone, &tls, address).await;
    let send = async |path: &str, fields: &str| {
        let mut connection = Connection::open(proxy.address()).await;
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await;
        connection
    };

    send("/good/hangs", "").await.reset();
    told_everywhere(&proxy, "/good/hangs", 499, "client_gone").await;

    assert!(send("/good/half", "").await.try_answer("GET").await.is_err(), "the answer breaks off");
    told_everywhere(&proxy, "/good/half", 200, "http_response_incomplete").await;

    send("/good/first", "").await.answer().await;
    let via = a.received_for("/good/first").head.field("via").expect("the proxy names itself").to_owned();
    assert_eq!(send("/good/again", &format!("Via: {via}\r\n")).await.answer().await.status, 502);
    told_everywhere(&proxy, "/good/again", 502, "proxy_loop_detected").await;

    for (first, second, reason) in
        [("/full/1", "/full/2", "connection_limit_reached"), ("/waiting/1", "/waiting/2", "pending_timeout")]
    {
        let busy = send(first, "").await;
        until("the only place is taken", async || a.requests_for(first) == 1).await;
        assert_eq!(send(second, "").await.answer().await.status, 503);
        told_everywhere(&proxy, second, 503, reason).await;
        drop(busy);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sums_of_client_origin_log_and_metrics_agree() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    for origin in [&a, &b] {
        origin.on("/broken", Script::close());
    }
    let proxy = Proxy::start(&[&a, &b], "upstreams: { web: { backends: [{a}, {b}], outlier: none } }").await;

    let good = crate::harness::Load::of(1_000, 8).run(proxy.address()).await;
    let bad = crate::harness::Load::of(50, 4).with("POST", "/broken", b"x").run(proxy.address()).await;
    good.expect_all_ok();
    assert_eq!(bad.with_status(502), 50);
    until("every request has its line", async || proxy.log().len() == 1_050).await;

    let lines = proxy.log();
    let failed = lines.iter().filter(|line| line["status"] == 502).count();
    assert_eq!(failed, 50);
    assert_eq!(proxy.metric("roundel_requests_total", &[]).await, 1_050.0);
    assert_eq!(proxy.metric("roundel_requests_total", &[("code", "502")]).await, 50.0);
    assert_eq!(proxy.metric("roundel_request_duration_seconds_count", &[]).await, 1_050.0);
    assert_eq!(proxy.metric("roundel_answers_total", &[("reason", "connection_terminated")]).await, 50.0);
    assert_eq!(proxy.metric("roundel_upstream_attempts_total", &[]).await as usize, a.requests() + b.requests());
    let attempts: u64 = lines.iter().filter_map(|line| line["attempts"].as_u64()).sum();
    assert_eq!(attempts as usize, a.requests() + b.requests());
}
