//! Wherever a request can hang there is a bound with a reason of its own, on both roads.
//!
//! Each case hangs in one place for ever, and every other bound is far away: only its own can end it. The waits for a place are
//! in `places`, those of a client that sends slowly in `deadlines`.

use std::time::Duration;

use crate::harness::{
    Authority, Blackhole, Connection, Fault, Origin, Proxy, Reply, Road, Script, Setup, Step, on_both_roads,
};

on_both_roads!(
    a_connect_that_hangs,
    a_tls_handshake_that_hangs,
    an_answer_that_does_not_begin,
    an_answer_whose_head_drips,
    an_answer_that_stops,
    an_answer_that_drips_for_longer_than_a_try_may_take,
    a_backend_that_does_not_take_the_body,
    a_request_that_is_over_its_time_in_the_answer,
    a_request_that_is_over_its_time_before_the_answer_and_between_tries,
    a_client_that_does_not_take_the_answer,
    a_tunnel_in_which_nothing_moves,
    a_call_of_grpc_that_is_over_the_time_of_its_client,
);

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";

/// An upstream of one backend with these timeouts, and a route with these.
fn yaml(backend: &str, upstream: &str, route: &str, listener: &str) -> String {
    format!(
        "
listeners: [{{ address: \"{{listen}}\", timeouts: {{ {listener} }} }}]
upstreams:
  web:
    backends: [\"{backend}\"]
    health_check: none
    outlier: none
    retry: none
    timeouts: {{ {upstream} }}
routes: [{{ name: all, to: web{route} }}]
"
    )
}

async fn one(road: Road, script: impl Into<Script>, yaml: &str) -> (Origin, Proxy) {
    let a = Origin::start("a").await;
    a.plays(script);
    let proxy = Setup::new(&[&a]).on(road).start(yaml).await;
    (a, proxy)
}

/// A GET ends with this status, or breaks off where there is none, for this reason.
async fn expect(proxy: &Proxy, status: Option<u16>, reason: &str) {
    let answer = Connection::open(proxy.address()).await.ask("GET", "/hangs", "", b"").await;
    match (answer, status) {
        (Ok(answer), Some(status)) => assert_eq!(answer.status, status, "{reason}"),
        (Err(Fault::Cut(_) | Fault::Broken(_)), None) => {}
        (answer, _) => panic!("{reason}: {answer:?}"),
    }
    assert_eq!(proxy.log_for("/hangs").await["reason"], reason);
}

async fn a_connect_that_hangs(road: Road) {
    let hole = Blackhole::new();
    let setup = Setup::new(&[]).on(road).word("hole", &hole.address().to_string());
    let proxy = setup.start(&yaml("{hole}", "connect: 300ms", "", "")).await;
    expect(&proxy, Some(504), "connection_timeout").await;
}

async fn a_tls_handshake_that_hangs(road: Road) {
    let a = Origin::start_tls("a", &Authority::new(), &["127.0.0.1"]).await;
    let silent = Origin::start("silent").await;
    silent.at_accept([Step::Hang]);
    let setup = Setup::new(&[&a, &silent]).on(road);
    let proxy = setup.start(&yaml("https://{silent}", "connect: 300ms", "", "")).await;
    expect(&proxy, Some(504), "connection_timeout").await;
}

async fn an_answer_that_does_not_begin(road: Road) {
    let (_a, proxy) = one(road, Script::hang(), &yaml("{a}", "first_byte: 300ms", "", "")).await;
    expect(&proxy, Some(504), "http_response_timeout").await;
}

async fn an_answer_whose_head_drips(road: Road) {
    let drip = Script::new([Step::Drip(HEAD.into(), Duration::from_millis(100))]);
    let (_a, proxy) = one(road, drip, &yaml("{a}", "first_byte: 500ms", "", "")).await;
    expect(&proxy, Some(504), "http_response_timeout").await;
}

async fn an_answer_that_stops(road: Road) {
    let half = Script::raw_open(format!("{HEAD}half"));
    let (_a, proxy) = one(road, half, &yaml("{a}", "idle: 300ms", "", "")).await;
    expect(&proxy, None, "http_response_timeout").await;
}

fn dripping() -> Script {
    Script::new([Step::Send(HEAD.into()), Step::Drip(vec![b'x'; 1000], Duration::from_millis(50))])
}

async fn an_answer_that_drips_for_longer_than_a_try_may_take(road: Road) {
    let (_a, proxy) =
        one(road, dripping(), &yaml("{a}", "connect: 200ms, first_byte: 400ms, total: 500ms", "", "")).await;
    expect(&proxy, None, "http_response_timeout").await;
}

async fn a_backend_that_does_not_take_the_body(road: Road) {
    let hang = Script::hang().before_the_body();
    let (_a, proxy) = one(road, hang, &yaml("{a}", "idle: 300ms", "", "")).await;
    let mut client = Connection::open(proxy.address()).await;
    let head = "PUT /hangs HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n";
    client.send_what_it_takes([head.as_bytes(), &vec![b'x'; 50_000_000]].concat()).await;
    assert_eq!(proxy.log_for("/hangs").await["reason"], "http_response_timeout");
}

async fn a_request_that_is_over_its_time_in_the_answer(road: Road) {
    let (_a, proxy) = one(road, dripping(), &yaml("{a}", "", ", timeouts: { request: 500ms }", "")).await;
    expect(&proxy, None, "request_timeout").await;
}

async fn a_request_that_is_over_its_time_before_the_answer_and_between_tries(road: Road) {
    let [a, b] = [Origin::start("a").await, Origin::start("b").await];
    // Each try is over its own time long before all are over theirs.
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: none
    outlier: none
    timeouts: { first_byte: 200ms }
    retry: { attempts: 100, backoff: 0s, min_per_second: 100 }
routes: [{ name: all, to: web, timeouts: { request: 900ms } }]
";
    let proxy = Setup::new(&[&a, &b]).on(road).start(yaml).await;
    for origin in [&a, &b] {
        origin.plays(Script::hang());
    }
    expect(&proxy, Some(504), "request_timeout").await;
    assert!((2..=6).contains(&(a.requests() + b.requests())), "{} and {}", a.requests(), b.requests());
}

async fn a_client_that_does_not_take_the_answer(road: Road) {
    let large = Reply::ok(vec![b'x'; 50_000_000]);
    let (_a, proxy) = one(road, large, &yaml("{a}", "", "", "write_idle: 300ms")).await;
    let mut client = Connection::open(proxy.address()).await;
    client.send("GET /hangs HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(proxy.log_for("/hangs").await["reason"], "client_timeout");
}

async fn a_tunnel_in_which_nothing_moves(road: Road) {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
    let script = Script::new([Step::Send(switch.into()), Step::Hang]);
    let (a, proxy) = one(road, script, &yaml("{a}", "", "", "tunnel_idle: 300ms")).await;
    let mut client = Connection::open(proxy.address()).await;
    client.send("GET /hangs HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 101);
    client.expect_close().await;
    assert_eq!(proxy.log_for("/hangs").await["status"], 101);
    assert_eq!(a.requests(), 1);
}

async fn a_call_of_grpc_that_is_over_the_time_of_its_client(road: Road) {
    let (a, proxy) = one(road, Script::hang(), &yaml("{a}", "", "", "")).await;
    let fields = "Content-Type: application/grpc\r\nGrpc-Timeout: 300m\r\n";
    let answer = Connection::open(proxy.address()).await.ask("POST", "/hangs", fields, b"call").await;
    assert_eq!(answer.expect("an answer").status, 504);
    assert_eq!(proxy.log_for("/hangs").await["reason"], "request_timeout");
    let told = a.received_for("/hangs").head;
    let [left] = told.all("grpc-timeout")[..] else { panic!("{told:?}") };
    let micros = left.strip_suffix('u').and_then(|digits| digits.parse::<u32>().ok());
    assert!(micros.is_some_and(|micros| micros <= 300_000), "what is left of it: {left}");
}
