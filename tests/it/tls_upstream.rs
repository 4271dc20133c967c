//! TLS toward backends: verified, or refused.

use crate::harness::{Authority, Load, Origin, Proxy, Setup, Step, get};

fn yaml(tls: &str) -> String {
    format!(
        "
upstreams:
  web:
    backends: [\"https://{{a}}\"]
    health_check: none
    outlier: none
    tls: {tls}
"
    )
}

async fn start(origin: &Origin, authority: &Authority, tls: &str) -> Proxy {
    Setup::new(&[origin]).file("ca.pem", authority.pem()).start(&yaml(tls)).await
}

async fn status_and_reason(proxy: &Proxy) -> (u16, String) {
    let status = get(proxy.address(), "/x").await.status;
    (status, proxy.log_for("/x").await["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_backend_with_a_trusted_certificate_is_served() {
    let authority = Authority::new();
    let a = Origin::start_tls("a", &authority, &["api.internal"]).await;
    let proxy = start(&a, &authority, "{ sni: api.internal, ca: ca.pem }").await;

    Load::of(50, 2).run(proxy.address()).await.expect_all_ok();

    assert!(a.connections() <= 4, "connections are used again: {}", a.connections());
}

#[tokio::test]
async fn a_certificate_for_the_address_is_enough_without_a_name() {
    let authority = Authority::new();
    let a = Origin::start_tls("a", &authority, &["127.0.0.1"]).await;
    let proxy = start(&a, &authority, "{ ca: ca.pem }").await;

    assert_eq!(get(proxy.address(), "/").await.status, 200);
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused() {
    let a = Origin::start_tls("a", &Authority::new(), &["api.internal"]).await;
    let proxy = start(&a, &Authority::new(), "{ sni: api.internal, ca: ca.pem }").await;

    assert_eq!(status_and_reason(&proxy).await, (502, "tls_certificate_error".to_owned()));
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let a = Origin::start_tls("a", &authority, &["other.internal"]).await;
    let proxy = start(&a, &authority, "{ sni: api.internal, ca: ca.pem }").await;

    assert_eq!(status_and_reason(&proxy).await, (502, "tls_certificate_error".to_owned()));
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn verification_can_be_turned_off() {
    let a = Origin::start_tls("a", &Authority::new(), &["other.internal"]).await;
    let proxy = start(&a, &Authority::new(), "{ sni: api.internal, verify: false }").await;

    assert_eq!(get(proxy.address(), "/").await.status, 200);
}

#[tokio::test]
async fn a_backend_that_does_not_speak_tls_is_a_tls_error() {
    let a = Origin::start("a").await;
    a.at_accept([Step::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), Step::Close]);
    let proxy = start(&a, &Authority::new(), "{ sni: api.internal, ca: ca.pem }").await;

    assert_eq!(status_and_reason(&proxy).await, (502, "tls_protocol_error".to_owned()));
}

#[tokio::test]
async fn roots_that_cannot_be_read_are_told_and_those_that_are_not_there_are_not_missed() {
    let a = Origin::start("a").await;
    let plain = "upstreams: { web: { backends: [{a}] } }";

    let none = Setup::new(&[&a]).environment("SSL_CERT_FILE", "/dev/null").start(plain).await;
    assert_eq!(get(none.address(), "/").await.status, 200);

    let nowhere = Setup::new(&[&a]).environment("SSL_CERT_FILE", "/nowhere").environment("SSL_CERT_DIR", "/nowhere");
    let mut proxy = nowhere.launch(plain);
    assert!(!proxy.wait_exit().await.success());
    let stderr = proxy.settled_stderr().await;
    assert!(stderr.contains("SSL_CERT_FILE") && stderr.lines().count() == 1, "{stderr}");
}
