//! Who may ask the admin listener, and where it listens.

use crate::harness::{Address, Connection, Origin, Proxy, Setup, free_address, request, until};

const PLAIN: &str = "upstreams: { web: { backends: [{a}] } }";

async fn status(address: &Address, host: &str, path: &str) -> u16 {
    request(address, "GET", path, &format!("Host: {host}\r\n"), b"").await.status
}

#[tokio::test]
async fn it_answers_to_no_name_but_its_own_and_those_that_are_written() {
    let a = Origin::start("a").await;
    let tcp = free_address();
    let yaml = |hosts: &str| format!("admin: {{ address: \"{{tcp}}\", hosts: [{hosts}] }}\n{PLAIN}");
    let proxy = Setup::new(&[&a]).word("tcp", &tcp.to_string()).launch(&yaml("proxy.internal"));
    until("it is ready", async || match Connection::try_open(&tcp).await {
        Ok(_) => status(&tcp, "localhost", "/readyz").await == 200,
        Err(_) => false,
    })
    .await;
    // A page in a browser may have any name point at loopback; such a name is the browser's `Host`.
    for (host, expected) in [
        ("proxy.internal", 200),
        ("proxy.internal:9901", 200),
        ("localhost", 200),
        ("[::1]", 200),
        ("evil.example", 421),
    ] {
        for path in ["/", "/api/v1/status", "/metrics", "/healthz"] {
            assert_eq!(status(&tcp, host, path).await, expected, "{host} {path}");
        }
    }
    proxy.rewrite_config(&yaml("other.internal"));
    proxy.signal(nix::sys::signal::Signal::SIGHUP);
    until("the new name is known", async || status(&tcp, "other.internal", "/healthz").await == 200).await;
    assert_eq!(status(&tcp, "proxy.internal", "/healthz").await, 421);
}

#[tokio::test]
async fn nobody_can_ask_where_it_is_turned_off() {
    let a = Origin::start("a").await;
    for off in ["none", "{ type: none }"] {
        let proxy = Setup::new(&[&a]).launch(&format!("admin: {off}\n{PLAIN}"));
        until("it serves", async || match Connection::try_open(proxy.address()).await {
            Ok(mut connection) => connection.ask("GET", "/", "", b"").await.is_ok_and(|answer| answer.status == 200),
            Err(_) => false,
        })
        .await;
        let sockets = std::fs::read_dir(proxy.dir().join("run")).unwrap().flatten();
        let names: Vec<_> = sockets.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(!names.iter().any(|name| name.starts_with("admin")), "{names:?}");
        assert!(!proxy.is_listening_for_admin().await);
    }
}

#[tokio::test]
async fn its_description_is_served_and_names_what_it_answers() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    let described = proxy.admin("/api/v1/openapi.json").await;
    let paths = described["paths"].as_object().expect("a description has paths");
    for path in paths.keys().filter(|path| !path.contains('{') && !path.ends_with("/events")) {
        let answers_get = !paths[path]["get"].is_null();
        assert_eq!(proxy.admin_text(path).await.0, if answers_get { 200 } else { 405 }, "{path}");
    }
    assert_eq!(proxy.admin_text("/api/v1/nothing").await.0, 404);
}

#[tokio::test]
async fn the_plan_is_shown_without_its_secrets() {
    let a = Origin::start("a").await;
    let yaml = "admin: { address: \"{admin}\", token_file: token }\nupstreams: { web: { backends: [{a}] } }\n\
                routes: [{ name: r, filters: [{ request_headers: { set: { authorization: hush } } }], to: web }]";
    let proxy = Setup::new(&[&a]).file("token", "whisper").start(yaml).await;
    let (_, text) = proxy.admin_text("/api/v1/config").await;
    assert!(text.contains("authorization") && !text.contains("hush") && !text.contains("whisper"), "{text}");
}
