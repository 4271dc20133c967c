//! The PROXY protocol from proxies in front: the client they speak for is the client everywhere.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Authority, Connection, Origin, Proxy, Road, Setup, TlsClient, on_both_roads, until};

on_both_roads!(a_header_and_an_address_of_the_process_go_together);

const LISTENER: &str = "
listeners:
  - name: public
    address: \"{listen}\"
    proxy_protocol: { from: [127.0.0.0/8] }
upstreams: { web: { backends: [\"{a}\"] } }
";

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 80\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x15\xb3\0\x50";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

async fn open(proxy: &Proxy, header: &[u8]) -> Connection {
    let mut connection = Connection::open(proxy.address()).await;
    connection.send(header).await;
    connection
}

#[tokio::test]
async fn the_client_of_the_header_is_the_client_in_fields_log_and_rules() {
    let origin = Origin::start("a").await;
    let yaml = format!(
        "{LISTENER}
routes:
  - {{ name: all, to: web }}
  - {{ name: staff, match: [{{ path_prefix: /staff }}], filters: [{{ allow: 192.0.2.0/24 }}], to: web }}
"
    );
    let proxy = Proxy::start(&[&origin], &yaml).await;

    for (path, header, client) in [
        ("/v1", V1, "192.0.2.7"),
        ("/v2", V2, "2001:db8::1"),
        ("/local", V2_LOCAL, "127.0.0.1"),
        ("/unknown", b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        let answer = open(&proxy, header).await.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(origin.received_for(path).head.field("x-forwarded-for"), Some(client));
        assert_eq!(proxy.log_for(path).await["client"], client);
    }
    assert_eq!(open(&proxy, V1).await.get("/staff").await.status, 200);
    assert_eq!(open(&proxy, V2).await.get("/staff").await.status, 403);
}

#[tokio::test]
async fn a_header_in_pieces_and_one_that_comes_with_the_request_are_both_read() {
    let origin = Origin::start("a").await;
    let proxy = Proxy::start(&[&origin], LISTENER).await;

    let mut stream = TcpStream::connect(proxy.address().to_string()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in V2 {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut connection = Connection::over(crate::harness::wire::Stream::tcp(stream), "localhost");
    assert_eq!(connection.get("/pieces").await.status, 200);
    assert_eq!(connection.get("/again").await.status, 200);

    let mut connection = Connection::open(proxy.address()).await;
    connection.send([V1, b"GET /together HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(origin.received_for("/again").head.field("x-forwarded-for"), Some("2001:db8::1"));
    assert_eq!(origin.received_for("/together").head.field("x-forwarded-for"), Some("192.0.2.7"));
}

#[tokio::test]
async fn a_missing_or_malformed_header_closes_the_connection_and_so_does_a_late_one() {
    let origin = Origin::start("a").await;
    let yaml = LISTENER.replace("    proxy_protocol", "    timeouts: { header: 300ms }\n    proxy_protocol");
    let proxy = Proxy::start(&[&origin], &yaml).await;

    for header in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PROXY TCP4 x\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        b"PROXY TC",
        b"",
    ] {
        open(&proxy, header).await.expect_close().await;
    }

    assert_eq!(origin.requests(), 0);
    let refused = async || proxy.metric("roundel_connections_refused_total", &[("reason", "proxy_protocol")]).await;
    until("all five are counted", async || refused().await >= 5.0).await;
    assert_eq!(refused().await, 5.0);
}

#[tokio::test]
async fn from_a_peer_that_is_not_listed_the_header_is_no_request() {
    let origin = Origin::start("a").await;
    let proxy = Proxy::start(&[&origin], &LISTENER.replace("127.0.0.0/8", "10.0.0.0/8")).await;

    let mut connection = open(&proxy, V1).await;
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(connection.answer().await.status, 400);
    assert_eq!(Connection::open(proxy.address()).await.get("/plain").await.status, 200);
    assert_eq!(origin.received_for("/plain").head.field("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn the_header_comes_before_the_tls_handshake() {
    let origin = Origin::start("a").await;
    let authority = Authority::new();
    let site = authority.issue(&["site.example"]);
    let setup = Setup::new(&[&origin]).file("site.pem", site.pem()).file("site.key", site.key_pem());
    let tls = "    tls: { certificates: [{ cert: site.pem, key: site.key }] }\n    proxy_protocol";
    let proxy = setup.start(&LISTENER.replace("    proxy_protocol", tls)).await;

    let mut stream = TcpStream::connect(proxy.address().to_string()).await.unwrap();
    stream.write_all(V1).await.unwrap();
    let (mut connection, _) = TlsClient::new(&authority, "site.example").over(stream).await.unwrap();

    assert_eq!(connection.get("/x").await.status, 200);
    let head = origin.received_for("/x").head;
    assert_eq!((head.field("x-forwarded-for"), head.field("x-forwarded-proto")), (Some("192.0.2.7"), Some("https")));
}

#[tokio::test]
async fn one_client_cannot_take_all_connections_also_behind_a_proxy() {
    let origin = Origin::start("a").await;
    let yaml = LISTENER.replace("    proxy_protocol", "    limits: { connections_per_client: 2 }\n    proxy_protocol");
    let proxy = Proxy::start(&[&origin], &yaml).await;

    let (mut first, mut second) = (open(&proxy, V1).await, open(&proxy, V1).await);
    assert_eq!((first.get("/").await.status, second.get("/").await.status), (200, 200));
    let refused = open(&proxy, V1).await.answer().await;
    assert_eq!((refused.status, refused.closes()), (503, true));
    assert_eq!(open(&proxy, V2).await.get("/").await.status, 200, "another client");
    let counted = [("listener", "public"), ("reason", "connections_per_client")];
    assert_eq!(proxy.metric("roundel_connections_refused_total", &counted).await, 1.0);

    drop(first);
    until("there is room again", async || {
        let mut connection = open(&proxy, V1).await;
        connection.ask("GET", "/", "", b"").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

/// A proxy in front of another one, which expects to be told whose each connection is.
async fn chain(origin: &Origin, version: &str, tls: bool) -> (Proxy, Proxy) {
    let authority = Authority::new();
    let site = authority.issue(&["site.example"]);
    let setup = || {
        let files = [("site.pem", site.pem()), ("site.key", site.key_pem()), ("ca.pem", authority.pem().to_owned())];
        files.into_iter().fold(Setup::new(&[origin]), |setup, (name, content)| setup.file(name, content))
    };
    let inner = match tls {
        true => LISTENER.replace(
            "    proxy_protocol",
            "    tls: { certificates: [{ cert: site.pem, key: site.key }] }\n    proxy_protocol",
        ),
        false => LISTENER.to_owned(),
    };
    let behind = setup().start(&inner).await;
    let (scheme, tls) = if tls { ("https://", "{ sni: site.example, ca: ca.pem }") } else { ("", "none") };
    let yaml = format!(
        "
listeners: [{{ address: \"{{listen}}\", proxy_protocol: {{ from: 127.0.0.1 }} }}]
upstreams:
  behind:
    backends: [\"{scheme}{}\"]
    health_check: {{ type: http, path: /probe }}
    tls: {tls}
    send_proxy_protocol: {version}
",
        behind.address()
    );
    let front = setup().start(&yaml).await;
    front.until_state("behind", behind.address(), "healthy").await;
    (front, behind)
}

#[tokio::test]
async fn a_backend_is_told_the_client_in_both_versions_and_before_tls() {
    for (version, tls) in [("v1", false), ("v2", false), ("v1", true), ("v2", true)] {
        let origin = Origin::start("a").await;
        let (front, behind) = chain(&origin, version, tls).await;

        for (header, client) in [(V1, "192.0.2.7"), (V2, "2001:db8::1")] {
            let path = format!("/{client}");
            assert_eq!(open(&front, header).await.get(&path).await.status, 200, "{version} tls={tls}");
            assert_eq!(behind.log_for(&path).await["client"], client, "{version} tls={tls}");
        }
        assert_eq!(behind.log_for("/probe").await["client"], "127.0.0.1", "a probe is nobody's request");
    }
}

async fn a_header_and_an_address_of_the_process_go_together(road: Road) {
    let origin = Origin::start("a").await;
    // A header that came from any other address would be taken for a request.
    let behind = Setup::new(&[&origin]).start(&LISTENER.replace("127.0.0.0/8", "127.0.0.5")).await;
    let yaml = format!(
        "
server: {{ client_bind_to_ipv4: [127.0.0.5] }}
listeners: [{{ address: \"{{listen}}\", proxy_protocol: {{ from: 127.0.0.1 }} }}]
upstreams:
  behind: {{ backends: [\"{}\"], health_check: {{ type: http, path: /probe }}, send_proxy_protocol: v2 }}
",
        behind.address()
    );
    let front = Setup::new(&[&origin]).on(road).start(&yaml).await;
    front.until_state("behind", behind.address(), "healthy").await;

    assert_eq!(open(&front, V1).await.get("/x").await.status, 200);
    assert_eq!(behind.log_for("/x").await["client"], "192.0.2.7");
    assert_eq!(behind.log_for("/probe").await["client"], "127.0.0.5");
}

#[tokio::test]
async fn a_connection_that_was_made_for_one_client_serves_no_other() {
    let origin = Origin::start("a").await;
    let (front, behind) = chain(&origin, "v2", false).await;
    let (mut one, mut other) = (open(&front, V1).await, open(&front, V2).await);

    for round in 0..5 {
        for (connection, client) in [(&mut one, "192.0.2.7"), (&mut other, "2001:db8::1")] {
            let path = format!("/{round}/{client}");
            assert_eq!(connection.get(&path).await.status, 200);
            assert_eq!(behind.log_for(&path).await["client"], client);
        }
    }
    let reused = front.metric("roundel_upstream_connections_total", &[("reused", "true")]).await;
    assert_eq!(reused, 8.0, "each client's connection is used again for that client");
}

#[tokio::test]
async fn a_backend_that_refuses_is_told_as_without_the_header() {
    let mut origin = Origin::start("a").await;
    let yaml = "
upstreams:
  web: { backends: [\"{a}\"], health_check: none, outlier: none, send_proxy_protocol: v2 }
";
    let proxy = Proxy::start(&[&origin], yaml).await;
    origin.kill().await;

    assert_eq!(crate::harness::get(proxy.address(), "/x").await.status, 502);
    assert_eq!(proxy.log_for("/x").await["reason"], "connection_refused");
}
