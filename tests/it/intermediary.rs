//! What RFC 9110 and RFC 9112 ask of those who stand between a client and a server, on both roads.

use crate::harness::{Address, Connection, Origin, Proxy, Script, Setup, free_address};

const BOTH: &str = r#"
listeners:
  - { name: lane, address: "{listen}", lane: auto }
  - { name: general, address: "{general}", lane: "off" }
upstreams: { web: { backends: [{a}], health_check: none, outlier: none, retry: none } }
routes:
  - { name: named, hosts: [named.example], to: web }
  - { name: all, respond: { status: 404 } }
"#;

/// The proxy, and its addresses by road.
async fn both(a: &Origin) -> (Proxy, [Address; 2]) {
    let general = free_address();
    let proxy = Setup::new(&[a]).word("general", &general.to_string()).start(BOTH).await;
    let roads = [proxy.address().clone(), general];
    (proxy, roads)
}

async fn open(address: &Address, request: &str) -> Connection {
    let mut connection = Connection::open(address).await;
    connection.send(request).await;
    connection
}

/// RFC 9110, 7.6.2.
#[tokio::test]
async fn a_request_that_counts_its_recipients_passes_no_more_than_it_may() {
    let a = Origin::start("a").await;
    let (_proxy, roads) = both(&a).await;
    for (at, road) in roads.iter().enumerate() {
        for (method, count, told, status) in [
            ("OPTIONS", "0", None, 200),
            ("TRACE", "0", None, 405),
            ("OPTIONS", "5", Some("4"), 200),
            ("TRACE", "1", Some("0"), 200),
            ("GET", "0", Some("0"), 200),
            ("OPTIONS", "x", Some("x"), 200),
        ] {
            let path = format!("/{at}/{method}/{count}");
            let head = format!("{method} {path} HTTP/1.1\r\nHost: named.example\r\nMax-Forwards: {count}\r\n\r\n");
            let mut connection = open(road, &head).await;
            let answer = connection.try_answer(method).await.unwrap();
            assert_eq!(answer.status, status, "{path}");
            assert_eq!(answer.head.all("allow").len(), usize::from(count == "0" && method != "GET"), "{path}");
            let received = a.received().into_iter().find(|received| received.target == path);
            assert_eq!(
                received.as_ref().map(|received| received.head.all("max-forwards")),
                told.map(|told| vec![told])
            );
        }
    }
}

/// RFC 9112, 3.2.2: a client of HTTP/1.0 may send no Host.
#[tokio::test]
async fn an_absolute_target_names_the_host_where_there_is_none() {
    let a = Origin::start("a").await;
    let (_proxy, roads) = both(&a).await;
    for (at, road) in roads.iter().enumerate() {
        let path = format!("/{at}");
        let mut connection = open(road, &format!("GET http://named.example:81{path} HTTP/1.0\r\n\r\n")).await;
        let answer = connection.answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let head = a.received_for(&path).head;
        assert_eq!(
            (head.all("host"), head.all("x-forwarded-host")),
            (vec!["named.example:81"], vec!["named.example:81"])
        );
    }
}

/// RFC 9110, 8.6; RFC 9112, 6.1.
#[tokio::test]
async fn an_informational_answer_promises_no_body() {
    let a = Origin::start("a").await;
    let (_proxy, roads) = both(&a).await;
    for road in &roads {
        a.plays(Script::raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ));
        let mut connection = open(road, "GET / HTTP/1.1\r\nHost: named.example\r\n\r\n").await;
        // Two framings at once are no answer at all.
        assert_eq!(connection.answer().await.status, 502);
        a.plays(Script::raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ));
        let mut connection = open(road, "GET / HTTP/1.1\r\nHost: named.example\r\nConnection: close\r\n\r\n").await;
        let read = String::from_utf8(connection.rest().await.unwrap()).unwrap().to_ascii_lowercase();
        let (informational, last) = read.split_once("\r\n\r\n").unwrap();
        assert!(informational.starts_with("http/1.1 103") && informational.contains("link: </x>"), "{read}");
        assert!(!informational.contains("content-length"), "{read}");
        assert!(last.contains("content-length: 2") && last.ends_with("\r\n\r\nok"), "{read}");
    }
}

/// RFC 9110, 9.3.2: also where an empty line stands before the request (RFC 9112, 2.2).
#[tokio::test]
async fn a_refused_head_request_gets_no_body() {
    let a = Origin::start("a").await;
    let (_proxy, roads) = both(&a).await;
    for road in &roads {
        for before in ["", "\r\n"] {
            let mut connection = open(road, &format!("{before}HEAD / HTTP/1.1\r\nHost: a b\r\n\r\n")).await;
            let read = String::from_utf8(connection.rest().await.unwrap()).unwrap();
            assert!(read.starts_with("HTTP/1.1 400 ") && read.ends_with("\r\n\r\n"), "{read}");
        }
    }
}
