//! One backend is drained and taken back while the proxy runs.

use crate::harness::{Connection, Origin, Proxy, Setup, free_address, get, request, until};

async fn start(a: &Origin, b: &Origin) -> Proxy {
    Proxy::start(&[a, b], "upstreams: { web: { backends: [{a}, {b}] } }").await
}

/// Gives an order by the admin socket, whose permissions say who may.
async fn order(proxy: &Proxy, backend: &Origin, deed: &str) -> u16 {
    let path = format!("/api/v1/upstreams/web/backends/{}/{deed}", backend.address());
    proxy.admin_post(&path).await.0
}

#[tokio::test]
async fn a_drained_backend_gets_no_new_request_until_it_is_resumed() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = start(&a, &b).await;

    assert_eq!(order(&proxy, &a, "drain").await, 200);
    for _ in 0..10 {
        assert_eq!(get(proxy.address(), "/").await.origin(), "b");
    }
    assert_eq!(proxy.state("web", a.address()).await, "drained");

    assert_eq!(order(&proxy, &a, "resume").await, 200);
    until("it takes its share again", async || get(proxy.address(), "/").await.origin() == "a").await;
}

#[tokio::test]
async fn a_drain_waits_for_what_is_in_flight() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = start(&a, &b).await;
    a.hold();
    b.hold();
    let address = proxy.address().clone();
    let slow = tokio::spawn(async move { tokio::join!(get(&address, "/1"), get(&address, "/2")) });
    until("both are busy", async || a.in_flight() == 1 && b.in_flight() == 1).await;

    let (drained, ()) = tokio::join!(order(&proxy, &a, "drain?wait=20s"), async {
        until("it is draining", async || proxy.state("web", a.address()).await == "draining").await;
        a.release();
        b.release();
    });

    assert_eq!(drained, 200);
    assert_eq!(proxy.state("web", a.address()).await, "drained");
    let (one, two) = slow.await.unwrap();
    assert_eq!((one.status, two.status), (200, 200));
}

#[tokio::test]
async fn orders_are_for_backends_that_exist() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let stranger = Origin::start("c").await;
    let proxy = start(&a, &b).await;

    assert_eq!(order(&proxy, &stranger, "drain").await, 404);
    assert_eq!(order(&proxy, &a, "drain?wait=soon").await, 400);
    assert_eq!(proxy.state("web", a.address()).await, "healthy");
}

#[tokio::test]
async fn orders_by_tcp_need_the_token() {
    let a = Origin::start("a").await;
    let tcp = free_address();
    let yaml = "upstreams: { web: { backends: [{a}] } }\nadmin: { address: \"{tcp}\", token_file: token }";
    let _proxy = Setup::new(&[&a]).file("token", "s3cret\n").word("tcp", &tcp.to_string()).launch(yaml);
    until("it is ready", async || {
        let Ok(mut connection) = Connection::try_open(&tcp).await else { return false };
        connection.get("/readyz").await.status == 200
    })
    .await;
    let path = format!("/api/v1/upstreams/web/backends/{}/drain", a.address());
    let order = async |fields: &str| request(&tcp, "POST", &path, fields, b"").await.status;

    assert_eq!(order("").await, 401);
    assert_eq!(order("Authorization: Bearer wrong\r\n").await, 401);
    assert_eq!(order("Authorization: Bearer s3cret\r\nOrigin: https://evil.example\r\n").await, 403);
    assert_eq!(order("Authorization: Bearer s3cret\r\n").await, 200);
}
