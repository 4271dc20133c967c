//! What backends answer, in every odd way that has one meaning: it is passed on. What has two is `hostile_answers`.

use crate::harness::{Connection, Origin, Proxy, Reply, Script, Step, get, request};
use std::time::Duration;

const ONE: &str = "upstreams: { web: { backends: [{a}], health_check: none, outlier: none, retry: none } }";

async fn one() -> (Origin, Proxy) {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], ONE).await;
    (a, proxy)
}

#[tokio::test]
async fn an_answer_without_a_length_keeps_the_clients_connection() {
    let (a, proxy) = one().await;
    a.on("/old", Script::raw("HTTP/1.0 200 OK\r\n\r\nuntil the end"));

    let mut client = Connection::open(proxy.address()).await;

    assert_eq!(client.get("/old").await.text(), "until the end");
    assert_eq!(client.get("/next").await.status, 200);
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_no_1xx() {
    let (a, proxy) = one().await;
    let hints = Step::Send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec());
    a.plays(Script::new([hints, Step::Reply(Reply::ok("in chunks").chunked())]));
    let mut client = Connection::open(proxy.address()).await;
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;

    let answer = String::from_utf8(client.rest().await.expect("the answer ends with the connection")).expect("ASCII");

    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nin chunks"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn answers_without_a_body_have_none_whatever_they_say() {
    let (a, proxy) = one().await;
    a.on("/204", Script::raw_open("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"));
    a.on("/304", Script::raw_open("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: \"x\"\r\n\r\n"));
    a.on("/head", Script::raw_open("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"));
    let mut client = Connection::open(proxy.address()).await;

    let no_content = client.get("/204").await;
    assert_eq!((no_content.status, no_content.field("content-length")), (204, None));
    assert_eq!(client.get("/304").await.field("etag"), Some("\"x\""));
    let head = client.ask("HEAD", "/head", "", b"").await.expect("a head");
    assert_eq!(head.field("content-length"), Some("1000"));
    assert_eq!(client.get("/next").await.text(), "a");
}

#[tokio::test]
async fn hints_are_no_answer_so_that_a_failure_after_them_is_told() {
    let (a, proxy) = one().await;
    a.on("/hints", Script::raw("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"));

    let answer = get(proxy.address(), "/hints").await;

    assert_eq!((answer.informational.clone(), answer.status), (vec![103], 502));
    let line = proxy.log_for("/hints").await;
    assert_eq!((&line["status"], &line["reason"]), (&502.into(), &"connection_terminated".into()));
}

#[tokio::test]
async fn what_trickles_reaches_the_client_as_it_comes() {
    let (a, proxy) = one().await;
    let head = Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst".to_vec());
    a.on("/length", Script::new([head, Step::Hang]));
    let head = Step::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n".to_vec());
    a.on("/chunks", Script::new([head, Step::Hang]));
    for path in ["/length", "/chunks"] {
        let mut client = Connection::open(proxy.address()).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        client.until_read(b"first").await;
    }
}

#[tokio::test]
async fn a_body_that_drips_is_whole_at_the_end() {
    let (a, proxy) = one().await;
    let head = Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".to_vec());
    a.plays(Script::new([head, Step::Drip(b"0123456789".to_vec(), Duration::from_millis(5))]));

    assert_eq!(get(proxy.address(), "/").await.text(), "0123456789");
}

#[tokio::test]
async fn an_answer_to_half_a_body_is_an_answer() {
    let (a, proxy) = one().await;
    a.on("/refused", Script::new([Step::Reply(Reply::status(413).body("too much"))]).before_the_body());
    let mut client = Connection::open(proxy.address()).await;
    client.send("POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\nsome").await;

    let answer = client.answer().await;

    // The client still sends, or thinks it over: neither keeps the request, and its backend, any longer.
    assert_eq!((answer.status, answer.closes(), answer.text()), (413, true, "too much".to_owned()));
    let line = proxy.log_for("/refused").await;
    assert_eq!((&line["status"], line.get("reason")), (&413.into(), None));
}

#[tokio::test]
async fn expectations_are_passed_on_and_answered_by_the_backend() {
    let (a, proxy) = one().await;
    let go_on = Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec());
    a.on("/yes", Script::new([go_on, Step::Reply(Reply::ok("taken"))]).before_the_body());
    a.on("/no", Script::new([Step::Reply(Reply::status(417))]).before_the_body());
    let ask = "HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

    let mut client = Connection::open(proxy.address()).await;
    client.send(format!("PUT /yes {ask}")).await;
    client.until_read(b"100 Continue\r\n\r\n").await;
    client.send("body").await;
    assert_eq!(client.answer().await.text(), "taken");

    let mut client = Connection::open(proxy.address()).await;
    client.send(format!("PUT /no {ask}")).await;
    assert_eq!(client.answer().await.status, 417);
    assert_eq!(proxy.log_for("/no").await.get("reason"), None);
}

#[tokio::test]
async fn refused_requests_are_counted_as_they_are_logged() {
    let (_a, proxy) = one().await;
    let mut client = Connection::open(proxy.address()).await;
    client.send("GET  / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    assert_eq!(request(proxy.address(), "GET", "/fine", "", b"").await.status, 200);
    proxy.log_for("/fine").await;

    let counted = proxy.metric("roundel_requests_total", &[]).await;

    assert_eq!((counted, proxy.log().len()), (2.0, 2));
    assert_eq!(proxy.metric("roundel_requests_total", &[("code", "400")]).await, 1.0);
}
