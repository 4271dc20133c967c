//! Unix sockets on both sides.

use tempfile::TempDir;

use crate::harness::{Load, Origin, Setup, get, request};

#[tokio::test]
async fn a_backend_on_a_unix_socket_is_served_and_probed() {
    let dir = TempDir::new().expect("the temporary directory is writable");
    let a = Origin::start_unix("a", &dir.path().join("a.sock")).await;
    let proxy = Setup::new(&[&a]).start("upstreams: { web: { backends: [\"{a}\"] } }").await;

    Load::of(100, 2).run(proxy.address()).await.expect_all_ok();

    proxy.until_state("web", a.address(), "healthy").await;
    assert_eq!(a.requests(), 100);
}

#[tokio::test]
async fn clients_are_accepted_on_a_unix_socket() {
    let a = Origin::start("a").await;
    let proxy = Setup::new(&[&a]).listen_unix().start("upstreams: { web: { backends: [{a}] } }").await;

    let answer = request(proxy.address(), "GET", "/x", "", b"").await;

    assert_eq!(answer.status, 200);
    let line = proxy.log_for("/x").await;
    assert_eq!(line.get("client"), None, "a unix socket has no address: {line:#}");
}

#[tokio::test]
async fn a_dead_socket_file_fails_over_like_a_dead_port() {
    let dir = TempDir::new().expect("the temporary directory is writable");
    let mut a = Origin::start_unix("a", &dir.path().join("a.sock")).await;
    let b = Origin::start("b").await;
    let yaml = "upstreams: { web: { backends: [\"{a}\", {b}], health_check: none, outlier: none } }";
    let proxy = Setup::new(&[&a, &b]).start(yaml).await;
    a.kill().await;

    for _ in 0..10 {
        assert_eq!(get(proxy.address(), "/").await.origin(), "b");
    }
}
