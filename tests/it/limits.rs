//! Bounds on connections.

use crate::harness::{Connection, Origin, Proxy, get, until};

#[tokio::test]
async fn a_connection_over_the_limit_is_answered_503_at_once() {
    let a = Origin::start("a").await;
    let yaml = r#"
listeners: [{ address: "{listen}", max_connections: 2 }]
upstreams: { web: { backends: [{a}] } }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;
    let mut first = Connection::open(proxy.address()).await;
    let mut second = Connection::open(proxy.address()).await;
    first.get("/").await;
    second.get("/").await;

    let refused = get(proxy.address(), "/").await;

    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some() && refused.closes(), "{refused:?}");
    until("the refusal is counted", async || {
        proxy.metric("roundel_connections_refused_total", &[("reason", "connection_limit_reached")]).await == 1.0
    })
    .await;
    let line = proxy.log_line("the refusal", |line| line["status"] == 503).await;
    assert_eq!(line["reason"], "connection_limit_reached");
    let id = line["request_id"].as_str().expect("every line has one");
    assert_eq!(refused.field("x-request-id"), Some(id));
    let why = proxy.remembered(id).await;
    assert!(why["verdict"].as_str().is_some_and(|words| words.contains("`max_connections`")), "{why:#}");
    assert_eq!(first.get("/").await.status, 200, "those who are in are not disturbed");
    drop(second);
    until("there is room again", async || get(proxy.address(), "/").await.status == 200).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_last_request() {
    let a = Origin::start("a").await;
    let yaml = r#"
listeners: [{ address: "{listen}", limits: { keepalive_requests: 3 } }]
upstreams: { web: { backends: [{a}] } }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;
    let mut connection = Connection::open(proxy.address()).await;

    assert!(!connection.get("/").await.closes());
    assert!(!connection.get("/").await.closes());
    assert!(connection.get("/").await.closes(), "the third says that it is the last");
    connection.expect_close().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let a = Origin::start("a").await;
    for (path, body) in [("/1", "one"), ("/2", "two"), ("/3", "three")] {
        a.on(path, crate::harness::Reply::ok(body));
    }
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    let mut connection = Connection::open(proxy.address()).await;
    let head = |path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");

    connection.send(head("/1") + &head("/2") + &head("/3")).await;

    for body in ["one", "two", "three"] {
        assert_eq!(connection.answer().await.text(), body);
    }
}
