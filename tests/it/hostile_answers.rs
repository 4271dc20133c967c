//! Backends whose answers two readers could frame differently: 502 on both roads, and their connections carry nothing more.

use crate::harness::{Address, Authority, Connection, Origin, Proxy, Reply, Script, Setup, Step, free_address, get};

/// Both roads to one backend.
struct Roads {
    proxy: Proxy,
    general: Address,
}

impl Roads {
    async fn start(setup: Setup, upstream: &str) -> Self {
        let general = free_address();
        let yaml = format!(
            "
listeners:
  - {{ name: lane, address: \"{{listen}}\", lane: auto }}
  - {{ name: general, address: \"{{general}}\", lane: \"off\" }}
upstreams: {{ web: {{ {upstream}, health_check: none, outlier: none, retry: none }} }}
"
        );
        let proxy = setup.word("general", &general.to_string()).start(&yaml).await;
        Self { proxy, general }
    }

    async fn to(a: &Origin) -> Self {
        Self::start(Setup::new(&[a]), "backends: [\"{a}\"]").await
    }

    fn each(&self) -> [(&'static str, &Address); 2] {
        [("lane", self.proxy.address()), ("general", &self.general)]
    }

    /// Each of these answers is 502 on each road, and the connection that it came on carries nothing more.
    async fn refuse(&self, a: &Origin, answers: &[(&str, &str)]) {
        for (name, answer) in answers {
            for (road, address) in self.each() {
                let path = format!("/{road}/{name}");
                a.on(&path, Script::raw_open(*answer));
                assert_eq!(get(address, &path).await.status, 502, "{path}");
                assert_eq!(self.proxy.log_for(&path).await["reason"], "http_protocol_error", "{path}");
                self.expect_another_connection(a, address, &path).await;
            }
        }
    }

    /// The next request on this road does not come on the connection that the request for `path` came on.
    async fn expect_another_connection(&self, a: &Origin, address: &Address, path: &str) {
        let next = format!("{path}/next");
        assert_eq!(get(address, &next).await.status, 200, "{path}");
        assert_ne!(a.received_for(&next).connection, a.received_for(path).connection, "{path}: used again");
    }
}

const HEADS: [(&str, &str); 26] = [
    ("no-http", "nonsense\r\n\r\n"),
    ("another-protocol", "SSH-2.0-OpenSSH_9.9\r\n"),
    ("empty-line-first", "\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ("http-2-in-words", "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ("status-99", "HTTP/1.1 099 No\r\ncontent-length: 2\r\n\r\nok"),
    ("status-600", "HTTP/1.1 600 No\r\ncontent-length: 2\r\n\r\nok"),
    ("two-spaces", "HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ("two-lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!"),
    ("one-length-twice", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"),
    ("list-of-lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok"),
    ("signed-length", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
    ("negative-length", "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok"),
    ("endless-length", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nok"),
    (
        "length-and-coding",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    ("unknown-coding", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok"),
    ("two-codings", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    (
        "chunked-twice",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    ("chunked-on-1.0", "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("bare-lf", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
    ("one-bare-lf", "HTTP/1.1 200 OK\r\nx: 1\ncontent-length: 2\r\n\r\nok"),
    ("bare-cr", "HTTP/1.1 200 OK\r\nx: a\rb: c\r\ncontent-length: 2\r\n\r\nok"),
    ("nul", "HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 2\r\n\r\nok"),
    ("folded", "HTTP/1.1 200 OK\r\nx: 1\r\n content-length: 3\r\ncontent-length: 2\r\n\r\nok"),
    ("space-before-colon", "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok"),
    ("bad-name", "HTTP/1.1 200 OK\r\nx y: 1\r\ncontent-length: 2\r\n\r\nok"),
    ("unasked-switch", "HTTP/1.1 101 Go\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nbytes"),
];

#[tokio::test]
async fn a_head_that_has_two_readings_is_502_on_both_roads_and_its_connection_ends() {
    let a = Origin::start("a").await;
    Roads::to(&a).await.refuse(&a, &HEADS).await;
}

#[tokio::test]
async fn what_comes_over_tls_is_read_as_strictly() {
    let authority = Authority::new();
    for protocol in ["h1", "auto"] {
        let a = Origin::start_tls("a", &authority, &["api.internal"]).await;
        let upstream =
            format!("backends: [\"https://{{a}}\"], tls: {{ sni: api.internal, ca: ca.pem }}, protocol: {protocol}");
        let roads = Roads::start(Setup::new(&[&a]).file("ca.pem", authority.pem()), &upstream).await;
        roads.refuse(&a, &HEADS[12..16]).await;
    }
}

#[tokio::test]
async fn what_comes_over_a_unix_socket_is_read_as_strictly() {
    let directory = tempfile::tempdir().expect("a directory");
    let a = Origin::start_unix("a", &directory.path().join("a.sock")).await;
    Roads::to(&a).await.refuse(&a, &HEADS[12..16]).await;
}

#[tokio::test]
async fn a_broken_chunk_is_never_made_to_look_whole_and_its_connection_ends() {
    let a = Origin::start("a").await;
    let roads = Roads::to(&a).await;
    for (name, chunks) in [
        ("letters", "xyz\r\nhello\r\n0\r\n\r\n"),
        ("negative", "-5\r\nhello\r\n0\r\n\r\n"),
        ("hexadecimal-in-c", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("too-large", "FFFFFFFFFFFFFFFFF\r\nhello\r\n"),
        ("too-long", "5\r\nhelloXX0\r\n\r\n"),
        ("space", "5 \r\nhello\r\n0\r\n\r\n"),
        ("bare-lf", "5\nhello\n0\n\n"),
        ("bare-lf-at-the-end", "5\r\nhello\r\n0\r\n\n"),
        ("bare-cr", "5\rX\nhello\r\n0\r\n\r\n"),
        ("bad-trailer", "5\r\nhello\r\n0\r\nx y: 1\r\n\r\n"),
    ] {
        for (road, address) in roads.each() {
            let path = format!("/{road}/{name}");
            a.on(&path, Script::raw_open(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}")));
            let fault = Connection::open(address).await.ask("GET", &path, "", b"").await;
            // Where nothing of the answer has left yet, the client can still be told.
            assert!(fault.as_ref().is_ok_and(|answer| answer.status == 502) || fault.is_err(), "{path}: {fault:?}");
            roads.expect_another_connection(&a, address, &path).await;
        }
    }
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_never_become_the_next_answer() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let a = Origin::start("a").await;
    let roads = Roads::to(&a).await;
    for (name, answer, status, text) in [
        ("after-a-length", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, "ok"),
        ("after-chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok"),
        ("after-nothing", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, ""),
        ("after-204", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ("after-304", "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n", 304, ""),
    ] {
        for (road, address) in roads.each() {
            let path = format!("/{road}/{name}");
            a.on(&path, Script::raw_open(format!("{answer}{EVIL}")));
            let mut client = Connection::open(address).await;
            let first = client.get(&path).await;
            assert_eq!((first.status, first.text()), (status, text.to_owned()), "{path}");
            assert_eq!(client.get("/next").await.text(), "a", "{path}");
            roads.expect_another_connection(&a, address, &path).await;
        }
    }
}

#[tokio::test]
async fn a_204_that_promises_a_body_is_the_last_answer_of_its_connection() {
    let a = Origin::start("a").await;
    let roads = Roads::to(&a).await;
    for (name, field) in [("length", "content-length: 5"), ("chunks", "transfer-encoding: chunked")] {
        for (road, address) in roads.each() {
            let path = format!("/{road}/{name}");
            a.on(&path, Script::raw_open(format!("HTTP/1.1 204 No Content\r\n{field}\r\n\r\n")));
            let answer = get(address, &path).await;
            let framing = (answer.field("content-length"), answer.field("transfer-encoding"));
            assert_eq!((answer.status, framing), (204, (None, None)), "{path}");
            roads.expect_another_connection(&a, address, &path).await;
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_all_of_the_request_is_the_last_of_its_connection() {
    let a = Origin::start("a").await;
    let roads = Roads::to(&a).await;
    for (road, address) in roads.each() {
        let path = format!("/{road}/early");
        a.on(&path, Script::new([Step::Reply(Reply::status(413))]).before_the_body());
        let mut client = Connection::open(address).await;
        client.send(format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nsome")).await;
        assert_eq!(client.answer().await.status, 413, "{path}");
        roads.expect_another_connection(&a, address, &path).await;
    }
}

#[tokio::test]
async fn both_roads_use_the_same_connections() {
    let a = Origin::start("a").await;
    let roads = Roads::to(&a).await;
    for round in 0..10 {
        for (road, address) in roads.each() {
            let path = format!("/{road}/{round}");
            assert_eq!(get(address, &path).await.status, 200);
        }
    }
    // A request may come before the connection of the last one is back.
    assert!(a.connections() <= 3, "{} connections for 20 requests", a.connections());
}

#[tokio::test]
async fn a_client_of_http_1_0_that_names_no_host_is_given_the_backends() {
    let a = Origin::start("a").await;
    let roads = Roads::to(&a).await;
    for (road, address) in roads.each() {
        let mut client = Connection::open(address).await;
        client.send(format!("GET /{road} HTTP/1.0\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, 200);
        let head = a.received_for(&format!("/{road}")).head;
        assert_eq!(head.all("host"), [a.address().to_string()]);
    }
}
