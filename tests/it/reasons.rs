//! One reason for every failure: provoked by a real fault from outside, and found with the same word in the access log, the
//! metrics and `why`.

use std::collections::HashSet;
use std::net::SocketAddr;

use roundel::telemetry::reason::Reason;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::harness::h2::{Frame, Frames, H2Client, kind};
use crate::harness::{Authority, Connection, Origin, Proxy, Reply, Script, Setup, Step, get, until};

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
  - { name: limited, match: [{ path: /limited }], filters: [{ rate_limit: { rate: 1/h, burst: 1 } }], to: good }
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

/// The reasons that other tests of this file provoke than the one that plays the cases.
const ELSEWHERE: [Reason; 10] = [
    Reason::ClientGone,
    Reason::HttpResponseIncomplete,
    Reason::ProxyLoopDetected,
    Reason::ConnectionLimitReached,
    Reason::PendingTimeout,
    Reason::RateLimited,
    Reason::UriTooLong,
    Reason::PlainHttp,
    Reason::EnhanceYourCalm,
    Reason::ProxyShutdown,
];

/// It stands for a fault of the proxy's own: nothing that comes from outside is known to provoke it.
const NEVER: Reason = Reason::ProxyInternalError;

/// A request as it is sent, and the reason that it ends with.
struct Case {
    path: &'static str,
    sent: String,
    reason: Reason,
}

fn case(path: &'static str, sent: impl Into<String>, reason: Reason) -> Case {
    Case { path, sent: sent.into(), reason }
}

fn plain(path: &'static str, reason: Reason) -> Case {
    case(path, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"), reason)
}

fn with(path: &'static str, fields: &str, reason: Reason) -> Case {
    case(path, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"), reason)
}

fn cases() -> Vec<Case> {
    vec![
        plain("/unrouted", Reason::NoRoute),
        plain("/auth", Reason::Auth),
        plain("/denied", Reason::HttpRequestDenied),
        with("/malformed", "Bad Name: 1\r\n", Reason::HttpRequestError),
        with("/good/upgrade", "Connection: upgrade\r\nUpgrade: gopher\r\n", Reason::UpgradeRefused),
        case(
            "/good/expect",
            "POST /good/expect HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: wonders\r\n\r\n",
            Reason::ExpectationFailed,
        ),
        case("x:1", "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", Reason::MethodNotAllowed),
        with("/bytes", &format!("X-Long: {}\r\n", "x".repeat(3_000)), Reason::HeaderBytes),
        with("/count", &"X-More: 1\r\n".repeat(20), Reason::HeaderCount),
        case(
            "/small",
            "POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n12345678901",
            Reason::BodyTooLarge,
        ),
        case("/slow", "GET /slow HTTP/1.1\r\nHost: x\r\nX-Half", Reason::ClientTimeout),
        case("/good/slow", "POST /good/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n1", Reason::ClientTimeout),
        plain("/down", Reason::DestinationUnavailable),
        plain("/gone", Reason::ConnectionRefused),
        plain("/stuck", Reason::ConnectionTimeout),
        plain("/plain", Reason::TlsProtocolError),
        plain("/stranger", Reason::TlsCertificateError),
        plain("/good/closes", Reason::ConnectionTerminated),
        plain("/good/babbles", Reason::HttpProtocolError),
        plain("/good/hangs", Reason::HttpResponseTimeout),
        plain("/short", Reason::RequestTimeout),
        plain("/nowhere", Reason::DnsError),
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
async fn told_everywhere(proxy: &Proxy, path: &str, status: u16, reason: Reason) {
    told(proxy, path, status, reason, |line| line["path"] == path).await;
}

/// The same for a request that is known by something else than its path.
async fn told(proxy: &Proxy, what: &str, status: u16, reason: Reason, is_it: impl Fn(&Value) -> bool) {
    let word = reason.as_str();
    let line = proxy.log_line(what, |line| is_it(line) && line["reason"] == word).await;
    assert_eq!(line["status"], status, "{what}: {line}");
    let id = line["request_id"].as_str().unwrap_or_default();
    let why = proxy.remembered(id).await;
    assert_eq!((&why["reason"], &why["status"]), (&Value::from(word), &Value::from(status)), "{what}: {why:#}");
    assert!(why["verdict"].as_str().is_some_and(|words| words.len() > 20), "{what}: {why:#}");
    assert!(proxy.metric("roundel_answers_total", &[("reason", word)]).await >= 1.0, "{what}");
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
        assert_eq!(status, Ok(case.reason.status()), "{} is to be {:?}", case.path, case.reason);
        told_everywhere(&proxy, case.path, case.reason.status(), case.reason).await;
    }
}

#[test]
fn no_reason_is_left_out_here() {
    let here: HashSet<_> = cases().iter().map(|case| case.reason).collect();
    let elsewhere = HashSet::from(ELSEWHERE);
    assert!(here.is_disjoint(&elsewhere), "a reason has one place");
    let provoked: HashSet<_> = here.union(&elsewhere).copied().chain([NEVER]).collect();
    assert_eq!(provoked, Reason::all().collect(), "every reason of the table, and no other");
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
    told_everywhere(&proxy, "/good/hangs", 499, Reason::ClientGone).await;

    assert!(send("/good/half", "").await.try_answer("GET").await.is_err(), "the answer breaks off");
    told_everywhere(&proxy, "/good/half", 200, Reason::HttpResponseIncomplete).await;

    send("/good/first", "").await.answer().await;
    let via = a.received_for("/good/first").head.field("via").expect("the proxy names itself").to_owned();
    assert_eq!(send("/good/again", &format!("Via: {via}\r\n")).await.answer().await.status, 502);
    told_everywhere(&proxy, "/good/again", 502, Reason::ProxyLoopDetected).await;

    for (first, second, reason) in
        [("/full/1", "/full/2", Reason::ConnectionLimitReached), ("/waiting/1", "/waiting/2", Reason::PendingTimeout)]
    {
        let busy = send(first, "").await;
        until("the only place is taken", async || a.requests_for(first) == 1).await;
        assert_eq!(send(second, "").await.answer().await.status, 503);
        told_everywhere(&proxy, second, 503, reason).await;
        drop(busy);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_too_long_and_too_plain_are_told_too() {
    let (a, mut gone) = (Origin::start("a").await, Origin::start("gone").await);
    let tls = Origin::start_tls("tls", &Authority::new(), &["127.0.0.1"]).await;
    gone.kill().await;
    let (_listener, _waiting, address) = stuck();
    let (proxy, _rude) = start(&a, &gone, &tls, address).await;

    assert_eq!(get(proxy.address(), "/limited").await.status, 200);
    assert_eq!(get(proxy.address(), "/limited").await.status, 429);
    told_everywhere(&proxy, "/limited", 429, Reason::RateLimited).await;

    let mut connection = Connection::open(proxy.address()).await;
    connection.send_what_it_takes(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "long".repeat(1_000))).await;
    assert_eq!(connection.try_answer("GET").await.map(|answer| answer.status), Ok(414));
    told(&proxy, "a long target", 414, Reason::UriTooLong, |line| line["method"] == "GET").await;

    let issued = Authority::new().issue(&["localhost"]);
    let secure = r#"
listeners: [{ address: "{listen}", tls: { certificates: [{ cert: cert.pem, key: key.pem }] } }]
upstreams: { web: { backends: [{a}] } }
"#;
    let secure = Setup::new(&[&a]).file("cert.pem", issued.pem()).file("key.pem", issued.key_pem()).start(secure).await;
    assert_eq!(get(secure.address(), "/plain").await.status, 400);
    told_everywhere(&secure, "/plain", 400, Reason::PlainHttp).await;
}

const HTTP2: &str = r#"
server: { threads: 1, grace_period_seconds: 1 }
listeners: [{ address: "{listen}", protocols: [h2, h1], limits: { header_bytes: 2KiB } }]
upstreams: { web: { backends: [{a}] } }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_a_request_over_http_2_is_told_by_the_same_words() {
    let a = Origin::start("a").await;
    a.on("/closes", Script::close());
    let proxy = Proxy::start(&[&a], HTTP2).await;
    let mut client = H2Client::connect(proxy.address()).await;

    assert_eq!(client.get("/closes").await.status, 502);
    told_everywhere(&proxy, "/closes", 502, Reason::ConnectionTerminated).await;
    assert_eq!(client.get(&format!("/{}", "long".repeat(1_000))).await.status, 414);
    told(&proxy, "a long target", 414, Reason::UriTooLong, |line| line["protocol"] == "HTTP/2.0").await;

    let mut flood = Frames::open(proxy.address()).await;
    let pings: Vec<u8> = (0..10_000).flat_map(|_| Frame::new(kind::PING, 0, 0, [0; 8]).bytes()).collect();
    flood.bytes(&pings).await;
    flood.goaway().await;
    told(&proxy, "a flood", 429, Reason::EnhanceYourCalm, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_the_end_of_the_process_cuts_off_is_told_with_its_request_line() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], HTTP2).await;
    for path in ["/one", "/two"] {
        a.on(path, Script::hang());
    }
    let mut first = Connection::open(proxy.address()).await;
    first.send("GET /one HTTP/1.1\r\nHost: first\r\n\r\n").await;
    let mut second = H2Client::connect(proxy.address()).await;
    let request = second.request("PUT", "/two").body(()).expect("a request");
    let _response = second.begin_whole(request).await;
    until("both are at the origin", async || a.in_flight() == 2).await;

    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    proxy.wait_exit().await;

    // With the process its metrics and what it remembers are gone: the log is what stays.
    for (path, method, protocol) in [("/one", "GET", "HTTP/1.1"), ("/two", "PUT", "HTTP/2.0")] {
        let line = proxy.log_for(path).await;
        let told = (&line["method"], &line["protocol"], &line["status"], &line["reason"]);
        let reason = Reason::ProxyShutdown;
        let wanted = (&method.into(), &protocol.into(), &reason.status().into(), &reason.as_str().into());
        assert_eq!(told, wanted, "{line}");
        assert!(line["host"].is_string(), "{line}");
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
