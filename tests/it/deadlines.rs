//! Whoever keeps us waiting is let go at a deadline, and whoever sends too much is told so.

use crate::harness::{Connection, Origin, Proxy, Script, until};

const SHORT: &str = r#"
listeners:
  - address: "{listen}"
    timeouts: { header: 500ms, body_idle: 500ms, keepalive: 500ms }
upstreams:
  web: { backends: [{a}] }
"#;

const BOUNDED: &str = r#"
listeners:
  - address: "{listen}"
    limits: { body: 1KiB }
upstreams:
  web: { backends: [{a}] }
"#;

async fn behind(yaml: &str) -> (Origin, Proxy) {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], yaml).await;
    (a, proxy)
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (_a, proxy) = behind(SHORT).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.get("/").await;

    connection.expect_close().await;
}

#[tokio::test]
async fn a_connection_that_never_says_a_word_is_closed_and_leaves_no_line() {
    let (_a, proxy) = behind(SHORT).await;
    let mut connection = Connection::open(proxy.address()).await;

    connection.expect_close().await;

    crate::harness::get(proxy.address(), "/after").await;
    proxy.log_for("/after").await;
    assert_eq!(proxy.log().len(), 1);
}

#[tokio::test]
async fn half_a_head_is_answered_408() {
    let (a, proxy) = behind(SHORT).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("GET / HTTP/1.1\r\nHost: x\r\nX-Half").await;

    assert_eq!(connection.answer().await.status, 408);
    connection.expect_close().await;
    proxy.log_line("the half head", |line| line["reason"] == "client_timeout").await;
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_head_that_drips_meets_the_same_deadline() {
    let (_a, proxy) = behind(SHORT).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;

    // Each byte comes long before the deadline: only a deadline for the whole head ends this.
    until("the dripping head is over", async || {
        connection.send_what_it_takes("x").await;
        proxy.log().iter().any(|line| line["reason"] == "client_timeout")
    })
    .await;
}

#[tokio::test]
async fn half_a_body_is_answered_408() {
    let (_a, proxy) = behind(SHORT).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await;

    assert_eq!(connection.answer().await.status, 408);
    connection.expect_close().await;
    assert_eq!(proxy.log_for("/slow").await["reason"], "client_timeout");
}

#[tokio::test]
async fn a_head_over_32_kib_is_answered_431() {
    let (a, proxy) = behind(BOUNDED).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection
        .send_what_it_takes(format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(33 << 10)))
        .await;

    assert_eq!(connection.answer().await.status, 431);
    proxy.log_line("too large", |line| line["reason"] == "header_bytes").await;
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_head_of_just_under_32_kib_is_served() {
    let (a, proxy) = behind(BOUNDED).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send(format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(32_000))).await;

    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(a.received()[0].head.field("x-long").map(str::len), Some(32_000));
}

#[tokio::test]
async fn the_hundred_and_first_field_is_answered_431() {
    let (_a, proxy) = behind(BOUNDED).await;
    let head =
        |fields: usize| format!("GET /{fields} HTTP/1.1\r\nHost: x\r\n{}\r\n", "x-more: 1\r\n".repeat(fields - 1));
    let mut connection = Connection::open(proxy.address()).await;

    connection.send(head(100)).await;
    assert_eq!(connection.answer().await.status, 200);
    connection.send(head(101)).await;
    assert_eq!(connection.answer().await.status, 431);
    proxy.log_line("too many", |line| line["reason"] == "header_count").await;
}

#[tokio::test]
async fn a_target_that_alone_is_over_the_limit_is_answered_414() {
    let (_a, proxy) = behind(BOUNDED).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send_what_it_takes(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(33 << 10))).await;

    assert_eq!(connection.answer().await.status, 414);
    proxy.log_line("too long", |line| line["reason"] == "uri_too_long").await;
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_answered_413_without_asking_a_backend() {
    let (a, proxy) = behind(BOUNDED).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("POST /big HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\n\r\n").await;

    assert_eq!(connection.answer().await.status, 413);
    assert_eq!(proxy.log_for("/big").await["reason"], "body");
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_chunked_body_that_grows_too_large_is_answered_413() {
    let (_a, proxy) = behind(BOUNDED).await;
    let mut connection = Connection::open(proxy.address()).await;
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    connection.send(format!("POST /big HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")).await;
    connection.send_what_it_takes("1\r\nx\r\n0\r\n\r\n").await;

    assert_eq!(connection.answer().await.status, 413);
    assert_eq!(proxy.log_for("/big").await["reason"], "body");
}

#[tokio::test]
async fn an_answer_that_stops_coming_is_cut_off_at_the_idle_deadline() {
    let a = Origin::start("a").await;
    a.plays(Script::raw_open("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"));
    let yaml = "upstreams: { web: { backends: [{a}], health_check: none, timeouts: { idle: 300ms } } }";
    let proxy = Proxy::start(&[&a], yaml).await;
    let mut connection = Connection::open(proxy.address()).await;

    connection.send("GET /stalls HTTP/1.1\r\nHost: x\r\n\r\n").await;

    assert!(connection.try_answer("GET").await.is_err(), "the client sees that the answer broke off");
    assert_eq!(proxy.log_for("/stalls").await["reason"], "http_response_timeout");
}
