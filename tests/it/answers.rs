//! What a client sees when the proxy answers by itself, and the reason that stands in the log.

use serde_json::Value;

use crate::harness::{Connection, Origin, Proxy, Reply, Script, Setup, Step, get, request, until};

/// One backend with short deadlines, whose failures do not take it out.
const IMPATIENT: &str = "
upstreams:
  web:
    backends: [{a}]
    health_check: none
    outlier: none
    timeouts: { connect: 500ms, first_byte: 500ms, idle: 500ms }
";

async fn status_and_reason(proxy: &Proxy, path: &str) -> (u16, String) {
    let status = get(proxy.address(), path).await.status;
    let line = proxy.log_for(path).await;
    assert_eq!(line["status"], status, "the log tells what the client saw");
    (status, line["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_backend_that_fails_has_a_status_and_a_reason() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], IMPATIENT).await;
    for (path, script, status, reason) in [
        ("/closes", Script::close(), 502, "connection_terminated"),
        ("/resets", Script::reset(), 502, "connection_terminated"),
        ("/hangs", Script::hang(), 504, "http_response_timeout"),
        ("/babbles", Script::raw("what do you want\r\n\r\n"), 502, "http_protocol_error"),
        ("/stops", Script::raw("HTTP/1.1 200 OK\r\nContent-Le"), 502, "connection_terminated"),
    ] {
        a.on(path, script);
        assert_eq!(status_and_reason(&proxy, path).await, (status, reason.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_backend_that_refuses_is_502_connection_refused() {
    let mut a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], IMPATIENT).await;
    a.kill().await;

    assert_eq!(status_and_reason(&proxy, "/x").await, (502, "connection_refused".to_owned()));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_502_dns_error() {
    let yaml = "upstreams: { web: { backends: [\"nowhere.invalid:80\"], health_check: none } }";
    let proxy = Proxy::start(&[], yaml).await;

    assert_eq!(status_and_reason(&proxy, "/x").await, (502, "dns_error".to_owned()));
}

#[tokio::test]
async fn a_request_over_its_whole_time_is_504_request_timeout() {
    let a = Origin::start("a").await;
    a.plays(Script::hang());
    let yaml = "
upstreams:
  web: { backends: [{a}], health_check: none }
routes:
  - { name: all, timeouts: { request: 500ms }, to: web }
";
    let proxy = Proxy::start(&[&a], yaml).await;

    assert_eq!(status_and_reason(&proxy, "/x").await, (504, "request_timeout".to_owned()));
}

#[tokio::test]
async fn where_nothing_is_served_is_404_no_route() {
    let a = Origin::start("a").await;
    let yaml = "
upstreams:
  web: { backends: [{a}] }
routes:
  - { name: shop, hosts: [shop.example], to: web }
";
    let proxy = Proxy::start(&[&a], yaml).await;

    assert_eq!(status_and_reason(&proxy, "/x").await, (404, "no_route".to_owned()));
    assert_eq!(request(proxy.address(), "GET", "/", "Host: shop.example\r\n", b"").await.status, 200);
}

#[tokio::test]
async fn requests_that_break_the_rules_never_reach_a_backend() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], IMPATIENT).await;
    for (bytes, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nname : 1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\n folded: 1\r\n\r\n", 400),
        ("GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET / x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        ("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: gopher\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: miracles\r\n\r\n", 417),
    ] {
        let mut connection = Connection::open(proxy.address()).await;
        connection.send(bytes).await;
        assert_eq!(connection.answer().await.status, status, "{bytes:?}");
    }
    until("every refusal has its line", async || proxy.log().len() == 17).await;
    assert!(proxy.log().iter().all(|line| line["reason"] == "http_request_error"), "{:#?}", proxy.log());
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_request_that_has_come_back_is_502_proxy_loop_detected() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], IMPATIENT).await;
    get(proxy.address(), "/first").await;
    let via = a.received_for("/first").head.field("via").expect("the proxy names itself").to_owned();

    let answer = request(proxy.address(), "GET", "/again", &format!("Via: {via}\r\n"), b"").await;

    assert_eq!(answer.status, 502);
    assert_eq!(proxy.log_for("/again").await["reason"], "proxy_loop_detected");
    assert_eq!(a.requests_for("/again"), 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_499_in_the_log() {
    let a = Origin::start("a").await;
    a.hold();
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("GET /gone HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("the backend has the request", async || a.in_flight() == 1).await;

    connection.reset();

    let line = proxy.log_for("/gone").await;
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_gone".into()));
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_is_answered_unless_the_backend_takes_its_time() {
    let a = Origin::start("a").await;
    a.on("/slow", Script::hang());
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;

    let mut client = Connection::open(proxy.address()).await;
    client.send("GET /said HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.finish().await;
    assert_eq!(client.answer().await.origin(), "a");
    client.expect_close().await;

    let mut client = Connection::open(proxy.address()).await;
    client.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.finish().await;
    assert_eq!(proxy.log_for("/slow").await["reason"], "client_gone");
    assert_eq!((a.requests_for("/said"), a.requests_for("/slow")), (1, 1));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_made_to_look_whole() {
    let a = Origin::start("a").await;
    a.on("/length", Script::new([Step::Reply(Reply::ok("half").declared_length(8)), Step::Close]));
    a.on("/chunked", Script::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"));
    let proxy = Proxy::start(&[&a], IMPATIENT).await;

    for path in ["/length", "/chunked"] {
        let fault = Connection::open(proxy.address()).await.ask("GET", path, "", b"").await;
        assert!(fault.is_err(), "{path}: {fault:?}");
        assert_eq!(proxy.log_for(path).await["reason"], "http_response_incomplete", "{path}");
    }
}

#[tokio::test]
async fn the_body_is_what_the_client_accepts_and_names_no_backend() {
    let mut a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], IMPATIENT).await;
    a.kill().await;
    for (accept, media_type) in [
        ("*/*", "text/plain"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("application/json", "application/problem+json"),
        ("application/problem+json", "application/problem+json"),
    ] {
        let answer = request(proxy.address(), "GET", "/", &format!("Accept: {accept}\r\n"), b"").await;
        let got = answer.field("content-type").unwrap_or_default();
        assert!(got.starts_with(media_type), "{accept}: {got}");
        assert!(!answer.text().is_empty() && answer.text().len() < 1_000, "{}", answer.text());
        assert!(!answer.text().contains(&a.address().port().to_string()), "{}", answer.text());
        assert_eq!(answer.field("proxy-status"), None);
        if media_type == "application/problem+json" {
            let problem: Value = serde_json::from_str(&answer.text()).expect("problem details are JSON");
            assert_eq!(problem["status"], 502);
        }
    }
}

#[tokio::test]
async fn proxy_status_is_sent_where_the_operator_wants_it() {
    let mut a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], &format!("expose_reason: true\n{IMPATIENT}")).await;
    a.kill().await;

    let answer = get(proxy.address(), "/").await;

    let field = answer.field("proxy-status").unwrap_or_default();
    assert!(field.contains("error=connection_refused"), "{field}");
}

#[tokio::test]
async fn the_operators_own_error_page_is_shown() {
    let mut a = Origin::start("a").await;
    let yaml = format!("errors: {{ 502: sorry.html }}\n{IMPATIENT}");
    let proxy = Setup::new(&[&a]).file("sorry.html", "<h1>Back soon</h1>").start(&yaml).await;
    a.kill().await;

    let answer = get(proxy.address(), "/").await;

    assert_eq!((answer.status, answer.text()), (502, "<h1>Back soon</h1>".to_owned()));
    assert!(answer.field("content-type").is_some_and(|kind| kind.starts_with("text/html")));
}

#[tokio::test]
async fn every_answer_of_the_proxy_is_counted_by_its_reason() {
    let mut a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], IMPATIENT).await;
    a.kill().await;

    get(proxy.address(), "/").await;
    get(proxy.address(), "/").await;

    until("both are counted", async || {
        proxy.metric("roundel_answers_total", &[("reason", "connection_refused")]).await == 2.0
    })
    .await;
}
