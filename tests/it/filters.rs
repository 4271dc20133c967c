//! What filters do to requests and answers, from the client's and the backend's side.

use std::io::Read;

use crate::harness::{Connection, Origin, Proxy, Reply, Script, Setup, Step, get, request, until};

const USERS: &str = "\
anna:$2b$04$BvLLcT5o.752xGxwCBFyMudhNKzT6ZQe6ctv0ZO7qfhNuBVRmeR2q
otto:$argon2id$v=19$m=1024,t=1,p=1$YIiMWbqJI97Ppv1Ep5v8vg$Te+8+VuvVP1dqL7odIlfZ2tFikDBecNAJoT2A7IN0Ao
";

/// A proxy with one route of these lines under `routes`.
async fn with(route: &str) -> (Origin, Proxy) {
    let a = Origin::start("a").await;
    let proxy = Setup::new(&[&a]).file("users", USERS).start(&one_route(route)).await;
    (a, proxy)
}

fn one_route(route: &str) -> String {
    format!(
        "listeners: [{{ address: \"{{listen}}\", trusted_proxies: [127.0.0.0/8] }}]\n\
         upstreams: {{ web: {{ backends: [{{a}}], health_check: none }} }}\nroutes:\n  - name: all\n{route}\n"
    )
}

fn basic(pair: &str) -> String {
    use base64::Engine as _;
    format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(pair))
}

#[tokio::test]
async fn addresses_are_refused_by_the_client_behind_trusted_proxies() {
    let (a, proxy) = with("    filters: [{ deny: [192.0.2.1] }, { allow: [\"192.0.2.0/24\"] }]\n    to: web").await;
    for (client, status) in
        [("192.0.2.7", 200), ("192.0.2.1", 403), ("198.51.100.1", 403), ("192.0.2.7, 192.0.2.1", 403)]
    {
        let answer = request(proxy.address(), "GET", "/", &format!("X-Forwarded-For: {client}\r\n"), b"").await;
        assert_eq!(answer.status, status, "{client}");
    }
    assert_eq!(
        (a.requests(), proxy.log_line("refused", |line| line["status"] == 403).await["reason"].as_str()),
        (1, Some("http_request_denied"))
    );
}

#[tokio::test]
async fn passwords_are_checked_for_each_kind_of_hash() {
    let (a, proxy) = with("    filters: [{ auth: { basic: { users: users, realm: staff } } }]\n    to: web").await;
    for (pair, status) in [
        ("anna:secret", 200),
        ("otto:secret", 200),
        ("anna:wrong", 401),
        ("otto:wrong", 401),
        ("nobody:secret", 401),
        ("anna", 401),
        ("anna:secret", 200),
    ] {
        assert_eq!(request(proxy.address(), "GET", "/", &basic(pair), b"").await.status, status, "{pair}");
    }
    let bare = get(proxy.address(), "/").await;
    assert_eq!(bare.field("www-authenticate"), Some("Basic realm=\"staff\", charset=\"UTF-8\""));
    assert_eq!(a.requests(), 3);
}

#[tokio::test]
async fn a_changed_file_of_users_is_read_again_and_a_bad_one_is_not() {
    let (_a, proxy) = with("    filters: [{ auth: { basic: { users: users } } }]\n    to: web").await;
    let users = proxy.dir().join("users");
    let anna = async || request(proxy.address(), "GET", "/", &basic("anna:secret"), b"").await.status;
    assert_eq!(anna().await, 200);
    let before = std::fs::read_to_string(&users).unwrap();

    std::fs::write(&users, "this is no file of users\n").unwrap();
    until("the bad file is told", async || proxy.stderr().contains("users not read again")).await;
    assert_eq!(anna().await, 200, "the old users stay");

    let others: Vec<_> = before.lines().filter(|line| !line.starts_with("anna:")).collect();
    std::fs::write(&users, others.join("\n")).unwrap();
    until("anna is gone", async || anna().await == 401).await;
}

#[tokio::test]
async fn a_body_behind_a_password_arrives_whole() {
    let (a, proxy) = with("    filters: [{ auth: { basic: { users: users } } }]\n    to: web").await;
    let body = vec![b'x'; 300_000];
    assert_eq!(request(proxy.address(), "POST", "/in", &basic("anna:secret"), &body).await.status, 200);
    assert_eq!(a.received_for("/in").body.bytes.len(), body.len());
    let refused = request(proxy.address(), "POST", "/out", &basic("anna:no"), b"body").await;
    assert_eq!((refused.status, refused.closes()), (401, true));
    assert_eq!(a.requests(), 1);
}

#[tokio::test]
async fn preflights_are_answered_here_and_answers_bear_the_policy() {
    let filter = "{ cors: { origins: [\"https://a.example\"], methods: [PUT], headers: [x-token], max_age: 10m } }";
    let (a, proxy) = with(&format!("    filters: [{filter}]\n    to: web")).await;
    a.plays(Reply::ok("a").field("access-control-allow-origin", "*"));
    let ask = "Access-Control-Request-Method: PUT\r\n";

    let preflight = request(proxy.address(), "OPTIONS", "/", &format!("Origin: https://a.example\r\n{ask}"), b"").await;
    let stranger = request(proxy.address(), "OPTIONS", "/", &format!("Origin: https://b.example\r\n{ask}"), b"").await;
    let actual = request(proxy.address(), "PUT", "/", "Origin: https://a.example\r\n", b"x").await;
    let other = request(proxy.address(), "PUT", "/", "Origin: https://b.example\r\n", b"x").await;

    assert_eq!((preflight.status, preflight.field("access-control-allow-origin")), (204, Some("https://a.example")));
    assert_eq!((preflight.field("access-control-max-age"), preflight.field("content-length")), (Some("600"), None));
    assert_eq!(stranger.field("access-control-allow-origin"), None);
    assert_eq!((preflight.head.all("vary"), stranger.head.all("vary")), (vec!["Origin"], vec!["Origin"]));
    assert_eq!(actual.head.all("access-control-allow-origin"), ["https://a.example"]);
    assert_eq!(other.head.all("access-control-allow-origin"), Vec::<&str>::new());
    assert_eq!(a.requests(), 2);
}

#[tokio::test]
async fn each_key_of_cors_is_told_to_browsers() {
    let ask = "Origin: https://a.example\r\nAccess-Control-Request-Method: PUT\r\n";
    for (keys, field, value) in [
        ("", "allow-methods", Some("GET")),
        (", methods: [PUT, DELETE]", "allow-methods", Some("PUT, DELETE")),
        ("", "allow-headers", None),
        (", headers: [x-token, x-other]", "allow-headers", Some("x-token, x-other")),
        ("", "allow-credentials", None),
        (", credentials: true", "allow-credentials", Some("true")),
        ("", "max-age", Some("600")),
        (", max_age: 90s", "max-age", Some("90")),
    ] {
        let filter = format!("{{ cors: {{ origins: [\"https://a.example\"]{keys} }} }}");
        let (_a, proxy) = with(&format!("    filters: [{filter}]\n    to: web")).await;
        let preflight = request(proxy.address(), "OPTIONS", "/", ask, b"").await;
        assert_eq!(preflight.field(&format!("access-control-{field}")), value, "{keys}");
        let answer = request(proxy.address(), "GET", "/", "Origin: https://a.example\r\n", b"").await;
        let credentials = answer.field("access-control-allow-credentials").is_some();
        assert_eq!(credentials, keys.contains("credentials"), "{keys}");
    }
}

#[tokio::test]
async fn values_are_added_to_fields_that_are_there() {
    let add = "{ request_headers: { add: { x-one: b, x-new: c } } }, { response_headers: { add: { x-two: e } } }";
    let (a, proxy) = with(&format!("    filters: [{add}]\n    to: web")).await;
    a.plays(Reply::ok("a").field("x-two", "d"));
    for (number, version) in [(0, "HTTP/1.1"), (1, "HTTP/1.0")] {
        let mut client = Connection::open(proxy.address()).await;
        client.send(format!("GET / {version}\r\nHost: x\r\nX-One: a\r\n\r\n")).await;
        assert_eq!(client.answer().await.head.all("x-two"), ["d", "e"]);
        let head = &a.received()[number].head;
        assert_eq!((head.all("x-one"), head.all("x-new")), (vec!["a", "b"], vec!["c"]));
    }
}

#[tokio::test]
async fn paths_and_hosts_are_rewritten() {
    for (matched, rewrite, target, seen) in [
        ("/foo", "path_prefix: /xyz", "/foo/bar?q=1", "/xyz/bar?q=1"),
        ("/foo", "path_prefix: /", "/foo", "/"),
        ("/foo", "path_prefix: /", "/foo/a%0d%0ab", "/a%0D%0Ab"),
        ("/foo", "path: /index.html", "/foo/bar?q=1", "/index.html?q=1"),
        ("/foo", "path_prefix: /in", "/foo/../foo/%2e%2e/foo/x", "/in/x"),
    ] {
        let (a, proxy) = with(&format!(
            "    match: [{{ path_prefix: {matched} }}]\n    filters: [{{ rewrite: {{ {rewrite}, host: inner.example }} }}]\n    to: web"
        ))
        .await;
        assert_eq!(get(proxy.address(), target).await.status, 200);
        let received = &a.received()[0];
        assert_eq!((received.target.as_str(), received.head.field("host")), (seen, Some("inner.example")), "{target}");
        assert_eq!(received.head.field("x-forwarded-host"), Some(proxy.address().authority().as_str()));
    }
}

#[tokio::test]
async fn redirects_and_written_answers_ask_no_backend() {
    for status in [301, 302, 303, 307, 308] {
        let (a, proxy) = with(&format!("    redirect: {{ scheme: https, host: b.example, status: {status} }}")).await;
        let answer = get(proxy.address(), "/x?y=1").await;
        assert_eq!((answer.status, answer.field("location")), (status, Some("https://b.example/x?y=1")));
        assert_eq!(a.requests(), 0);
    }
    let (_a, proxy) = with("    respond: { status: 503, body: back soon, headers: { retry-after: \"60\" } }").await;
    let answer = request(proxy.address(), "POST", "/", "", b"a body that nobody reads").await;
    assert_eq!((answer.status, answer.text(), answer.field("retry-after")), (503, "back soon".to_owned(), Some("60")));
    let head = Connection::open(proxy.address()).await.ask("HEAD", "/", "", b"").await.expect("a head");
    assert_eq!(head.field("content-length"), Some("9"));
}

const COMPRESS: &str = "    filters: [{ compress: { algorithms: [zstd, br, gzip], min_bytes: 1KiB } }]\n    to: web";

fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).map(drop),
        "br" => brotli::Decompressor::new(bytes, 4_096).read_to_end(&mut out).map(drop),
        "zstd" => {
            zstd::stream::read::Decoder::new(bytes).and_then(|mut decoder| decoder.read_to_end(&mut out)).map(drop)
        }
        other => panic!("not a coding of ours: {other}"),
    }
    .unwrap_or_else(|error| panic!("{coding}: {error}"));
    out
}

#[tokio::test]
async fn compressed_answers_decode_to_the_same_bytes() {
    let (a, proxy) = with(COMPRESS).await;
    let text = (0..40_000).map(|n| format!("line {n}\n")).collect::<String>();
    let reply = || Reply::ok(text.as_str()).field("content-type", "text/plain").field("etag", "\"1\"");
    a.on("/length", reply());
    a.on("/chunked", reply().chunked());
    a.on("/close", Script::new([Step::Reply(reply().until_close()), Step::Close]));
    let mut client = Connection::open(proxy.address()).await;
    for path in ["/length", "/chunked", "/close"] {
        for coding in ["gzip", "br", "zstd"] {
            let fields = format!("Accept-Encoding: {coding}\r\n");
            let answer =
                client.ask("GET", path, &fields, b"").await.unwrap_or_else(|fault| panic!("{path}: {fault:?}"));
            assert_eq!((answer.field("content-encoding"), answer.field("etag")), (Some(coding), Some("W/\"1\"")));
            assert!(decoded(coding, &answer.body.bytes) == text.as_bytes(), "{path} {coding}");
        }
    }
    let plain = client.ask("GET", "/length", "", b"").await.expect("an answer");
    assert!(plain.text() == text && plain.field("content-encoding").is_none());
}

#[tokio::test]
async fn what_is_compressed_and_how_is_as_written() {
    let text = "again and again ".repeat(20);
    let all = "gzip, br, zstd";
    for (keys, accepts, kind, coding) in [
        ("{ min_bytes: 100B }", all, "text/plain", Some("zstd")),
        ("{ min_bytes: 321B }", all, "text/plain", None),
        ("{ min_bytes: 320B }", all, "text/plain", Some("zstd")),
        ("{ min_bytes: 0B, algorithms: [br, gzip] }", all, "text/plain", Some("br")),
        ("{ min_bytes: 0B, algorithms: [gzip] }", all, "text/plain", Some("gzip")),
        ("{ min_bytes: 0B, algorithms: [gzip] }", "br", "text/plain", None),
        ("{ min_bytes: 0B }", all, "application/x-mine", None),
        ("{ min_bytes: 0B, types: [application/x-mine] }", all, "application/x-mine; q=1", Some("zstd")),
        ("{ min_bytes: 0B, types: [application/x-mine] }", all, "text/plain", None),
        ("{ min_bytes: 0B, types: [\"application/*\"] }", all, "application/x-mine", Some("zstd")),
        ("none", all, "text/plain", None),
    ] {
        let (a, proxy) = with(&format!("    filters: [{{ compress: {keys} }}]\n    to: web")).await;
        a.plays(Reply::ok(text.as_str()).field("content-type", kind));
        let answer = request(proxy.address(), "GET", "/", &format!("Accept-Encoding: {accepts}\r\n"), b"").await;
        assert_eq!(answer.field("content-encoding"), coding, "{keys} {accepts} {kind}");
        let bytes = &answer.body.bytes;
        let plain = coding.map_or_else(|| bytes.clone(), |coding| decoded(coding, bytes));
        assert_eq!(plain, text.as_bytes(), "{keys} {accepts} {kind}");
    }
}

#[tokio::test]
async fn an_answer_that_is_still_good_varies_as_the_answer_did() {
    let (a, proxy) = with(COMPRESS).await;
    let text = "again and again ".repeat(1_000);
    a.on("/new", Reply::ok(text).field("content-type", "text/plain").field("etag", "\"1\""));
    a.on("/known", Script::raw_open("HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n"));
    let new = request(proxy.address(), "GET", "/new", "Accept-Encoding: br\r\n", b"").await;
    let fields = "Accept-Encoding: br\r\nIf-None-Match: W/\"1\"\r\n";
    let known = request(proxy.address(), "GET", "/known", fields, b"").await;
    assert_eq!((new.status, known.status), (200, 304));
    for name in ["vary", "etag"] {
        assert!(known.field(name).is_some(), "{name}");
        assert_eq!(known.field(name), new.field(name), "{name}");
    }
}

#[tokio::test]
async fn answers_that_compression_would_break_are_left_alone() {
    let (a, proxy) = with(COMPRESS).await;
    let long = "x".repeat(4_096);
    a.on("/small", Reply::ok("x").field("content-type", "text/plain"));
    a.on(
        "/range",
        Reply::status(206)
            .body(long.as_str())
            .field("content-type", "text/plain")
            .field("content-range", "bytes 0-4095/9999"),
    );
    a.on("/image", Reply::ok(long.as_str()).field("content-type", "image/png"));
    a.on("/done", Reply::ok(long.as_str()).field("content-type", "text/plain").field("content-encoding", "gzip"));
    a.on("/head", Script::raw_open("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4096\r\n\r\n"));
    for (method, path) in [("GET", "/small"), ("GET", "/range"), ("GET", "/image"), ("GET", "/done"), ("HEAD", "/head")]
    {
        let answer = request(proxy.address(), method, path, "Accept-Encoding: gzip\r\n", b"").await;
        assert!(answer.field("content-length").is_some(), "{path}");
        assert_eq!(answer.field("content-encoding").is_some(), path == "/done", "{path}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_compressed_bytes_until_the_end() {
    let (a, proxy) = with(COMPRESS).await;
    let text = "again and again ".repeat(1_000);
    a.plays(Reply::ok(text.as_str()).field("content-type", "text/plain"));
    let mut client = Connection::open(proxy.address()).await;
    client.send("GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nAccept-Encoding: gzip\r\n\r\n").await;

    client.until_read(b"\r\n\r\n").await;

    assert_eq!(decoded("gzip", &client.rest().await.expect("the answer ends with the connection")), text.as_bytes());
}

#[tokio::test]
async fn events_are_compressed_one_by_one() {
    let (a, proxy) = with(COMPRESS).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    a.plays(Script::new([Step::Send(format!("{head}7\r\ndata: 1\r\n").into_bytes()), Step::Hang]));
    let mut client = Connection::open(proxy.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n").await;

    // The first event in gzip, flushed: it ends with the empty block of a sync flush.
    client.until_read(b"\x00\x00\xff\xff").await;
}
