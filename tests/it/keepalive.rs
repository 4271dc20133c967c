//! Connections to backends wait for the next request, within their bounds.

use crate::harness::{Load, Origin, Proxy, get, until};

fn upstream(keepalive: &str) -> String {
    format!("upstreams: {{ web: {{ backends: [{{a}}], health_check: none, keepalive: {keepalive} }} }}")
}

#[tokio::test]
async fn a_connection_carries_request_after_request() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], &upstream("{ idle: 60s }")).await;

    for _ in 0..20 {
        assert_eq!(get(proxy.address(), "/").await.status, 200);
    }

    // A request may come before the connection of the last one is back.
    assert!(a.connections() <= 3, "{} connections for 20 requests", a.connections());
}

#[tokio::test]
async fn no_connection_waits_where_none_may() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], &upstream("{ max_idle: 0 }")).await;

    for _ in 0..5 {
        assert_eq!(get(proxy.address(), "/").await.status, 200);
    }

    assert_eq!(a.connections(), 5);
    until("all are closed", async || a.open_connections() == 0).await;
}

#[tokio::test]
async fn no_more_connections_wait_than_may() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], &upstream("{ max_idle: 3 }")).await;

    let tally = Load::of(2_000, 16).run(proxy.address()).await;

    tally.expect_all_ok();
    until("those over the bound are closed", async || a.open_connections() <= 3).await;
}

#[tokio::test]
async fn a_connection_ends_with_the_last_request_it_may_carry() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], &upstream("{ max_requests: 4 }")).await;

    for _ in 0..12 {
        assert_eq!(get(proxy.address(), "/").await.status, 200);
    }

    assert_eq!(a.connections(), 3);
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_its_deadline() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], &upstream("{ idle: 200ms }")).await;

    assert_eq!(get(proxy.address(), "/").await.status, 200);

    until("the connection is closed", async || a.open_connections() == 0).await;
}
