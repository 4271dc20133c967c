//! One backend is drained and taken back while the proxy runs.

use crate::harness::{Connection, Origin, Proxy, Setup, free_address, get, request, roundel, until};

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
    let proxy = Setup::new(&[&a]).file("token", "s3cret\n").word("tcp", &tcp.to_string()).launch(yaml);
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
    assert_eq!(order("Authorization: Bearer s3cret\r\n").await, 409);

    let (token, tcp) = (proxy.dir().join("token").display().to_string(), tcp.to_string());
    let backend = format!("web/{}", a.address());
    let command = async |more: &[&str]| {
        let output = roundel(&[&["drain", &backend, "--force", "--admin", &tcp], more].concat()).await;
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, told) = command(&[]).await;
    assert!(status == Some(1) && told.contains("token"), "{told}");
    assert_eq!(command(&["--token-file", &token]).await, (Some(0), String::new()));
    assert_eq!(get(proxy.address(), "/").await.status, 503);
}

/// A command of the command line about a backend of `web`.
async fn command(proxy: &Proxy, deed: &str, backend: &Origin, more: &[&str]) -> (Option<i32>, String) {
    let backend = format!("web/{}", backend.address());
    let output = roundel(&[&[deed, &backend, "--admin", &proxy.admin_address().to_string()], more].concat()).await;
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[tokio::test]
async fn a_drain_that_leaves_too_little_is_refused_unless_forced() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = start(&a, &b).await;

    let (status, told) = command(&proxy, "drain", &a, &[]).await;
    assert!(status == Some(0) && told.contains("drained (drained by the operator)"), "{told}");
    // Half of the upstream is gone already.
    let (status, told) = command(&proxy, "drain", &b, &[]).await;
    assert!(status == Some(1) && told.contains("0% of the upstream's weight would be left"), "{told}");
    assert_eq!(get(proxy.address(), "/").await.origin(), "b");

    // What is drained already loses nothing by another order.
    assert_eq!(command(&proxy, "drain", &a, &[]).await.0, Some(0));
    assert_eq!(command(&proxy, "drain", &b, &["--force"]).await.0, Some(0));
    assert_eq!(get(proxy.address(), "/").await.status, 503);
    assert_eq!(command(&proxy, "resume", &b, &[]).await.0, Some(0));
    until("it serves again", async || get(proxy.address(), "/").await.origin() == "b").await;
}

#[tokio::test]
async fn the_floor_is_the_operators_choice() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let yaml = "drain: { floor: 80% }\nupstreams: { web: { backends: [{a}, {b}] } }";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    assert_eq!(order(&proxy, &a, "drain").await, 409);

    let proxy = Proxy::start(&[&a, &b], &yaml.replace("80%", "0%")).await;
    assert_eq!(order(&proxy, &a, "drain").await, 200);
    assert_eq!(order(&proxy, &b, "drain").await, 200);
}

#[tokio::test]
async fn a_drain_that_is_not_over_in_time_says_so() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = start(&a, &b).await;
    a.hold();
    b.hold();
    let address = proxy.address().clone();
    let slow = tokio::spawn(async move { tokio::join!(get(&address, "/1"), get(&address, "/2")) });
    until("both are busy", async || a.in_flight() == 1 && b.in_flight() == 1).await;

    let (status, told) = command(&proxy, "drain", &a, &["--wait", "50ms"]).await;

    assert!(status == Some(1) && told.contains("1 requests are still in flight"), "{told}");
    a.release();
    b.release();
    assert_eq!(command(&proxy, "drain", &a, &["--wait", "20s"]).await.0, Some(0));
    slow.await.unwrap();
}

#[tokio::test]
async fn the_command_line_finds_the_proxy_by_its_configuration_even_where_that_is_broken_now() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = start(&a, &b).await;
    std::fs::write(proxy.config(), "upstreams: [").unwrap();
    let (config, run) = (proxy.config().display().to_string(), proxy.dir().join("run"));

    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
    let backend = format!("web/{}", a.address());
    let output = command
        .args(["drain", &backend, "-c", &config, "--json"])
        .env("RUNTIME_DIRECTORY", run)
        .output()
        .await
        .unwrap();

    assert!(output.status.success(), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["backends"][0]["state"], "drained");
}
