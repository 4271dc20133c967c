//! Header fields: what is for one hop stays there, and what tells about the client cannot be forged by it.

use crate::harness::{Origin, Proxy, Reply, request};

const PLAIN: &str = "upstreams: { web: { backends: [{a}] } }";

#[tokio::test]
async fn fields_for_one_hop_do_not_reach_the_backend() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    let fields = "Connection: x-secret, keep-alive\r\nx-secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
                  TE: gzip\r\nx-kept: 1\r\n";

    assert_eq!(request(proxy.address(), "GET", "/x", fields, b"").await.status, 200);

    let head = a.received_for("/x").head;
    for name in ["x-secret", "keep-alive", "proxy-connection", "te"] {
        assert_eq!(head.field(name), None, "{name}");
    }
    assert!(!head.has_token("connection", "x-secret"));
    assert_eq!(head.field("x-kept"), Some("1"));
}

#[tokio::test]
async fn fields_for_one_hop_do_not_reach_the_client() {
    let a = Origin::start("a").await;
    let reply = Reply::ok("a").field("connection", "x-internal").field("x-internal", "1");
    a.plays(reply.field("keep-alive", "timeout=5").field("proxy-connection", "keep-alive").field("x-kept", "1"));
    let proxy = Proxy::start(&[&a], PLAIN).await;

    let answer = request(proxy.address(), "GET", "/", "", b"").await;

    for name in ["x-internal", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
    assert!(!answer.head.has_token("connection", "x-internal"));
    assert_eq!(answer.field("x-kept"), Some("1"));
}

#[tokio::test]
async fn the_host_is_kept() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;

    request(proxy.address(), "GET", "/x", "Host: shop.example:8443\r\n", b"").await;

    assert_eq!(a.received_for("/x").head.all("host"), ["shop.example:8443"]);
}

#[tokio::test]
async fn the_backend_is_told_who_asked_and_how() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;

    request(proxy.address(), "GET", "/x", "Host: shop.example\r\n", b"").await;

    let head = a.received_for("/x").head;
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-host"), ["shop.example"]);
    assert!(head.field("via").is_some_and(|via| via.starts_with("1.1 ")), "{:?}", head.field("via"));
}

#[tokio::test]
async fn a_stranger_cannot_forge_where_it_comes_from() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    let forged = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: bank.example\r\n\
                  Forwarded: for=6.6.6.6;proto=https\r\nX-Real-IP: 6.6.6.6\r\n";

    request(proxy.address(), "GET", "/x", forged, b"").await;

    let head = a.received_for("/x").head;
    let text = String::from_utf8_lossy(&head.raw).into_owned();
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert!(!text.contains("6.6.6.6") && !text.contains("bank.example"), "{text}");
    assert_eq!(proxy.log_for("/x").await["client"], "127.0.0.1");
}

#[tokio::test]
async fn behind_trusted_proxies_the_client_is_the_rightmost_untrusted_address() {
    let a = Origin::start("a").await;
    let yaml = r#"
listeners:
  - { address: "{listen}", trusted_proxies: [127.0.0.1/32, 10.0.0.0/8] }
upstreams:
  web: { backends: [{a}] }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;

    request(proxy.address(), "GET", "/x", "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.2.3\r\n", b"").await;
    request(proxy.address(), "GET", "/split", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 10.1.2.3\r\n", b"")
        .await;
    request(proxy.address(), "GET", "/all", "X-Forwarded-For: 10.1.1.1, 10.1.2.3\r\n", b"").await;
    request(proxy.address(), "GET", "/bad", "X-Forwarded-For: 203.0.113.7, nonsense\r\n", b"").await;

    assert_eq!(proxy.log_for("/x").await["client"], "203.0.113.7");
    assert_eq!(proxy.log_for("/split").await["client"], "203.0.113.7");
    assert_eq!(proxy.log_for("/all").await["client"], "10.1.1.1");
    assert_eq!(proxy.log_for("/bad").await["client"], "127.0.0.1");
}

#[tokio::test]
async fn every_request_has_an_id_that_backend_and_log_share() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;

    request(proxy.address(), "GET", "/x", "", b"").await;
    request(proxy.address(), "GET", "/y", "", b"").await;

    let [x, y] = ["/x", "/y"].map(|path| a.received_for(path).head.field("x-request-id").map(str::to_owned));
    assert_ne!(x, y);
    assert_eq!(proxy.log_for("/x").await["request_id"].as_str(), x.as_deref());
    assert_eq!(proxy.log_for("/y").await["request_id"].as_str(), y.as_deref());
}

#[tokio::test]
async fn bodies_pass_unchanged_both_ways_in_either_framing() {
    let a = Origin::start("a").await;
    let body = (0..100_000u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>();
    a.plays(Reply::ok(body.clone()).chunked());
    let proxy = Proxy::start(&[&a], PLAIN).await;

    let answer = request(proxy.address(), "POST", "/x", "", &body).await;

    assert!(answer.body.bytes == body, "the answer's body is the origin's");
    assert!(a.received_for("/x").body.bytes == body, "the request's body is the client's");
}

#[tokio::test]
async fn routes_change_headers_as_written() {
    let a = Origin::start("a").await;
    a.plays(Reply::ok("a").field("server", "secret/1.0"));
    let yaml = "
upstreams:
  web: { backends: [{a}] }
routes:
  - name: all
    filters:
      - request_headers: { set: { x-env: prod }, remove: [x-debug] }
      - response_headers: { set: { x-frame-options: DENY }, remove: [server] }
    to: web
";
    let proxy = Proxy::start(&[&a], yaml).await;

    let answer = request(proxy.address(), "GET", "/x", "X-Debug: 1\r\nX-Env: test\r\n", b"").await;

    let head = a.received_for("/x").head;
    assert_eq!((head.all("x-env"), head.field("x-debug")), (vec!["prod"], None));
    assert_eq!((answer.field("x-frame-options"), answer.field("server")), (Some("DENY"), None));
}
