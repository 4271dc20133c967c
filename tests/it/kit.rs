//! The harness keeps its own promises: an origin misbehaves as it is told, and the client sees what is on the wire.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::harness::{Authority, Connection, Fault, Load, Origin, Reply, Script, Step, get, request, until};

#[tokio::test]
async fn an_origin_answers_and_counts() {
    let origin = Origin::start("a").await;
    let answer = get(origin.address(), "/x?y=1").await;
    assert_eq!((answer.status, answer.text(), answer.origin()), (200, "a".to_owned(), "a"));
    request(origin.address(), "POST", "/x", "", b"body").await;
    assert_eq!((origin.requests(), origin.requests_with("POST"), origin.requests_for("/x")), (2, 1, 2));
    assert_eq!(origin.received_for("/x").body.bytes, b"body");
}

#[tokio::test]
async fn scripts_by_turn_and_by_path() {
    let origin = Origin::start("a").await;
    origin.on("/healthz", Reply::status(500));
    origin.next(Reply::status(404));
    assert_eq!(get(origin.address(), "/healthz").await.status, 500);
    assert_eq!(get(origin.address(), "/").await.status, 404);
    assert_eq!(get(origin.address(), "/").await.status, 200);
    origin.plays(Reply::ok("x".repeat(2_500)).chunked());
    assert_eq!(get(origin.address(), "/").await.body.bytes.len(), 2_500);
    origin.plays(Reply::ok("until the end").until_close());
    assert_eq!(get(origin.address(), "/").await.text(), "until the end");
}

#[tokio::test]
async fn every_way_to_break_an_answer_is_seen_as_such() {
    let origin = Origin::start("a").await;
    let fault = async |script: Script| {
        origin.plays(script);
        let mut connection = Connection::open(origin.address()).await;
        connection.ask("GET", "/", "", b"").await.expect_err("the script breaks the answer")
    };
    assert_eq!(fault(Script::close()).await, Fault::Closed);
    assert!(matches!(fault(Script::reset()).await, Fault::Broken(_)));
    let short = Script::new([Step::Reply(Reply::ok("half").declared_length(8)), Step::Close]);
    assert_eq!(fault(short).await, Fault::Cut(b"half".to_vec()));
    let chunk = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab";
    assert_eq!(fault(Script::raw(*chunk)).await, Fault::Cut(b"ab".to_vec()));
    assert!(matches!(fault(Script::raw("nonsense\r\n\r\n")).await, Fault::Malformed(_)));
}

#[tokio::test]
async fn a_killed_origin_refuses_and_comes_back_at_its_address() {
    let mut origin = Origin::start("a").await;
    let mut open = Connection::open(origin.address()).await;
    assert_eq!(open.get("/").await.status, 200);
    origin.kill().await;
    open.expect_close().await;
    assert!(matches!(Connection::try_open(origin.address()).await, Err(Fault::Broken(_))));
    origin.revive().await;
    assert_eq!(get(origin.address(), "/").await.status, 200);
}

#[tokio::test]
async fn a_held_request_waits_for_its_release() {
    let origin = Origin::start("a").await;
    origin.hold();
    let load = Load::of(8, 4).start(origin.address());
    until("four are held", async || origin.in_flight() == 4).await;
    assert_eq!(load.done(), 0);
    origin.release();
    let tally = load.finish().await;
    tally.expect_all_ok();
    assert_eq!((tally.total(), tally.from("a")), (8, 8));
}

#[tokio::test]
async fn dripped_bytes_arrive_whole_and_early_1xx_are_told_apart() {
    let origin = Origin::start("a").await;
    let early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec();
    let drip = Step::Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(), Duration::from_millis(1));
    origin.plays(Script::new([Step::Send(early), drip]));
    let answer = get(origin.address(), "/").await;
    assert_eq!((answer.informational.clone(), answer.text()), (vec![103], "ok".to_owned()));
    origin.close_after(1);
    let mut connection = Connection::open(origin.address()).await;
    connection.get("/").await;
    connection.expect_close().await;
}

#[tokio::test]
async fn a_connection_can_be_dropped_at_accept() {
    let origin = Origin::start("a").await;
    origin.at_accept([Step::Reset]);
    let mut connection = Connection::open(origin.address()).await;
    connection.expect_close().await;
    assert_eq!((origin.connections(), origin.requests()), (1, 0));
}

#[tokio::test]
async fn a_tls_origin_shows_a_certificate_of_its_authority() {
    let authority = Authority::new();
    let origin = Origin::start_tls("a", &authority, &["api.internal"]).await;

    let trusting = tls_handshake(&origin, authority.pem()).await;
    let doubting = tls_handshake(&origin, Authority::new().pem()).await;

    assert!(trusting.is_ok(), "{trusting:?}");
    assert!(doubting.is_err());
}

async fn tls_handshake(origin: &Origin, ca: &str) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("the authority is PEM"))
        .expect("it is a certificate");
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.expect("the provider supports them").with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(origin.address().to_string()).await?;
    let name = "api.internal".try_into().expect("it is a host name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop)
}
