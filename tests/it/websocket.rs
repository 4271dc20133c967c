//! Tunnels: opened as asked, passed through byte for byte, ended by their own measure.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Connection, Origin, Proxy, Reply, Script, Step, request};

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\nhello";
const ASK: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";

const YAML: &str = r#"
listeners: [{ address: "{listen}", timeouts: { tunnel_idle: 1s } }]
upstreams: { web: { backends: [{a}], health_check: none, timeouts: { first_byte: 300ms, idle: 300ms } } }
routes: [{ name: all, timeouts: { request: 400ms }, to: web }]
"#;

async fn tunnel(path: &str, steps: impl Into<Vec<Step>>) -> (Origin, Proxy, Connection) {
    let a = Origin::start("a").await;
    let mut script = vec![Step::Send(SWITCH.to_vec())];
    script.extend(steps.into());
    a.on(path, Script::new(script));
    let proxy = Proxy::start(&[&a], YAML).await;
    let mut client = Connection::open(proxy.address()).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{ASK}\r\n")).await;
    (a, proxy, client)
}

#[tokio::test]
async fn a_websocket_is_switched_and_passed_through() {
    let (a, proxy, mut client) = tunnel("/chat", [Step::Send(b"\x88\x02\x03\xe8".to_vec()), Step::Close]).await;

    let answer = client.answer().await;

    assert_eq!(answer.status, 101);
    assert!(answer.head.has_token("connection", "upgrade") && answer.head.has_token("upgrade", "websocket"));
    assert_eq!(client.rest().await.expect("the backend closes"), b"hello\x88\x02\x03\xe8");
    let received = a.received_for("/chat").head;
    assert!(received.has_token("upgrade", "websocket") && received.has_token("connection", "upgrade"));
    assert_eq!(proxy.log_for("/chat").await["status"], 101);
}

#[tokio::test]
async fn a_tunnel_outlives_the_deadlines_of_its_request() {
    let word = [Step::Wait(Duration::from_millis(700)), Step::Send(b"word".to_vec())];
    let (_a, _proxy, mut client) = tunnel("/slow", [&word[..], &word[..], &[Step::Close]].concat()).await;

    client.until_read(b"\r\n\r\nhellowordword").await;
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let (_a, proxy, mut client) = tunnel("/idle", [Step::Hang]).await;
    client.until_read(b"hello").await;
    client.send("four").await;

    client.expect_close().await;

    let line = proxy.log_for("/idle").await;
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&4.into(), &5.into()));
}

#[tokio::test]
async fn a_refused_websocket_is_an_answer_like_any_other() {
    let a = Origin::start("a").await;
    a.on("/no", Reply::status(426));
    let proxy = Proxy::start(&[&a], YAML).await;
    assert_eq!(request(proxy.address(), "GET", "/no", ASK, b"").await.status, 426);
}

#[tokio::test]
async fn other_upgrades_are_refused_or_ignored() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;
    for (fields, status) in [
        ("Connection: upgrade\r\nUpgrade: irc/6.9\r\n", 501),
        ("Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n", 200),
        // Connection does not name it, so that it asks for nothing (RFC 9110, 7.8).
        ("Upgrade: irc/6.9\r\n", 200),
    ] {
        assert_eq!(request(proxy.address(), "GET", "/", fields, b"").await.status, status, "{fields:?}");
    }
    assert!(a.received().iter().all(|received| received.head.field("upgrade").is_none()));
}

/// A backend that has switched before it has read the request, and sends back what comes after it.
async fn hasty_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                client.write_all(SWITCH).await?;
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") {
                    seen.push(client.read_u8().await?);
                }
                let (mut from, mut to) = client.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

#[tokio::test]
async fn a_tunnel_stays_open_however_soon_the_backend_switches() {
    let yaml = format!("upstreams: {{ web: {{ backends: [\"{}\"], health_check: none }} }}", hasty_backend().await);
    let proxy = Proxy::start(&[], &yaml).await;
    for _ in 0..100 {
        let mut client = Connection::open(proxy.address()).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: x\r\n{ASK}\r\n")).await;
        client.until_read(b"hello").await;
        client.send("word").await;
        client.until_read(b"word").await;
    }
}

#[tokio::test]
async fn a_tunnel_that_a_drain_cuts_off_is_told_as_what_it_was() {
    let a = Origin::start("a").await;
    a.on("/chat", Script::new([Step::Send(SWITCH.to_vec()), Step::Hang]));
    let yaml = "
server: { threads: 1, grace_period_seconds: 1 }
drain: { tunnels: 1s }
upstreams: { web: { backends: [{a}] } }
";
    let mut proxy = Proxy::start(&[&a], yaml).await;
    let mut client = Connection::open(proxy.address()).await;
    client.send(format!("GET /chat HTTP/1.1\r\nHost: x\r\n{ASK}\r\n")).await;
    client.until_read(b"hello").await;

    proxy.signal(Signal::SIGTERM);
    proxy.wait_exit().await;

    let line = proxy.log_for("/chat").await;
    assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"proxy_shutdown".into()));
    assert_eq!(line["bytes_out"], 5);
}

#[tokio::test]
async fn a_route_may_refuse_to_become_a_tunnel() {
    let a = Origin::start("a").await;
    let yaml = r#"
upstreams: { web: { backends: [{a}], health_check: none } }
routes:
  - { name: none, match: [{ path: /none }], upgrade: none, to: web }
  - { name: empty, match: [{ path: /empty }], upgrade: [], to: web }
  - { name: written, match: [{ path: /written }], upgrade: [websocket], to: web }
"#;
    a.on("/written", Script::new([Step::Send(SWITCH.to_vec()), Step::Hang]));
    let proxy = Proxy::start(&[&a], yaml).await;

    for (path, status) in [("/none", 501), ("/empty", 501), ("/written", 101)] {
        let mut client = Connection::open(proxy.address()).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{ASK}\r\n")).await;
        assert_eq!(client.answer().await.status, status, "{path}");
    }
    assert_eq!(proxy.log_for("/none").await["reason"], "http_request_error");
}
