//! Events: what happens to backends is told as it happens, to whoever listens, and nobody waits for a listener.

use serde_json::Value;

use crate::harness::{Connection, Load, Origin, Proxy, Script, get, request, until};

const FRAGILE: &str = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: { interval: 1s, fast_interval: 100ms, timeout: 90ms, fall: 1, rise: 1 }
    outlier: { consecutive_errors: 2 }
";

/// Listens, and has heard that it does.
async fn listen(proxy: &Proxy, path: &str) -> Connection {
    let mut connection = Connection::open(proxy.admin_address()).await;
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    connection.until_read(b": events\n\n").await;
    connection
}

#[tokio::test]
async fn a_backend_that_goes_and_comes_back_is_told_as_it_happens() {
    let (mut a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], FRAGILE).await;
    let mut events = listen(&proxy, "/api/v1/events").await;

    a.kill().await;
    events
        .until_read(format!("\"backend\":\"{}\",\"from\":\"healthy\",\"to\":\"unhealthy\"", a.address()).as_bytes())
        .await;
    a.revive().await;
    events
        .until_read(format!("\"backend\":\"{}\",\"from\":\"unhealthy\",\"to\":\"healthy\"", a.address()).as_bytes())
        .await;
}

#[tokio::test]
async fn an_ejection_is_told_and_counted() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    a.on("/x", Script::close());
    let proxy = Proxy::start(&[&a, &b], FRAGILE).await;
    let mut events = listen(&proxy, "/api/v1/events").await;
    until("the backend is ejected", async || {
        request(proxy.address(), "POST", "/x", "", b"x").await;
        proxy.metric("roundel_ejections_total", &[("backend", &a.address().to_string())]).await == 1.0
    })
    .await;
    events.until_read(b"\"to\":\"ejected\"").await;
}

#[tokio::test]
async fn who_comes_late_asks_for_what_has_happened() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], FRAGILE).await;
    // Both came up at the start.
    listen(&proxy, "/api/v1/events?last=1").await.until_read(b"id: 2\n").await;

    let mut again = Connection::open(proxy.admin_address()).await;
    again.send("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 1\r\n\r\n").await;
    again.until_read(b"id: 2\n").await;
    assert_eq!(proxy.admin_text("/api/v1/events?since=yesterday").await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_still_holds_nobody_up() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], FRAGILE).await;
    let _still = listen(&proxy, "/api/v1/events").await;
    let backend = a.address().to_string();

    for _ in 0..300 {
        assert_eq!(
            proxy.admin_post(&format!("/api/v1/upstreams/web/backends/{backend}/drain?force=true")).await.0,
            200
        );
        assert_eq!(proxy.admin_post(&format!("/api/v1/upstreams/web/backends/{backend}/resume")).await.0, 200);
    }

    Load::of(500, 4).run(proxy.address()).await.expect_all_ok();
    assert_eq!(proxy.admin_text("/healthz").await.0, 200);
}

#[tokio::test]
async fn readers_are_bounded_and_leave_room_for_questions() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], FRAGILE).await;
    let mut readers = Vec::new();
    for _ in 0..64 {
        readers.push(listen(&proxy, "/api/v1/events").await);
    }

    let (status, refusal) = proxy.admin_text("/api/v1/events").await;
    assert_eq!(status, 503, "{refusal}");
    assert!(serde_json::from_str::<Value>(&refusal).unwrap()["detail"].is_string());
    assert_eq!(proxy.admin_text("/readyz").await.0, 200);
    drop(readers);
    until("there is room again", async || {
        let mut connection = Connection::open(proxy.admin_address()).await;
        connection.send("HEAD /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        connection.try_answer("HEAD").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(get(proxy.address(), "/").await.status, 200);
}
