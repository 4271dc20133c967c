//! Requests with bodies, one after the other and side by side: each reaches the backend whole, once, and alone.

use crate::harness::{Connection, Origin, Proxy, Reply, Script, Step, request, takes_the_lane, until};

const ONE: &str = "upstreams: { web: { backends: [{a}], health_check: none, outlier: none, retry: none } }";

async fn one() -> (Origin, Proxy) {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], ONE).await;
    (a, proxy)
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_order() {
    let (a, proxy) = one().await;
    for path in ["/1", "/2", "/3", "/4"] {
        a.on(path, Reply::ok(path));
    }
    let mut client = Connection::open(proxy.address()).await;
    client
        .send(
            "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: x\r\n\r\n\
             PUT /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;why=not\r\ndef\r\n0\r\nX-Trailer: 1\r\n\r\n\
             GET /4 HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        .await;

    for path in ["/1", "/2", "/3", "/4"] {
        assert_eq!(client.answer().await.text(), path);
    }

    assert_eq!(
        (&a.received_for("/1").body.bytes[..], &a.received_for("/3").body.bytes[..]),
        (&b"abc"[..], &b"def"[..])
    );
    // The lane passes trailers, the general road drops them: nobody behind a proxy can rely on them (RFC 9110, 6.5.1).
    assert_eq!(a.received_for("/3").body.trailers.len(), usize::from(takes_the_lane()));
}

#[tokio::test]
async fn every_byte_of_a_body_is_counted_whoever_answers() {
    let (a, proxy) = one().await;
    a.on("/up", Reply::ok("x".repeat(70_000)));
    request(proxy.address(), "POST", "/up", "", &[b'x'; 300_000]).await;
    let refused = Connection::open(proxy.address()).await.ask("GET", "/", "Host: a b\r\n", b"").await;
    let refused = refused.expect("it is answered").body.bytes.len();
    assert!(refused > 0);

    let count = async |metric: &str| proxy.metric(metric, &[]).await;
    let sent = f64::from(u32::try_from(70_000 + refused).expect("it is small"));
    until("all is counted", async || count("roundel_response_body_bytes_total").await == sent).await;
    assert_eq!(count("roundel_request_body_bytes_total").await, 300_000.0);
}

#[tokio::test]
async fn what_looks_like_a_request_inside_a_body_stays_a_body() {
    let (a, proxy) = one().await;
    let inner = "GET /inner HTTP/1.1\r\nHost: x\r\n\r\n";
    request(proxy.address(), "POST", "/outer", "", inner.as_bytes()).await;
    assert_eq!(a.received_for("/outer").body.bytes, inner.as_bytes());
    assert_eq!((a.requests(), a.requests_for("/inner")), (1, 0));
}

#[tokio::test]
async fn what_could_smuggle_a_request_reaches_no_backend() {
    let (a, proxy) = one().await;
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: 4\n",
        "Connection: Content-Length\r\nContent-Length: 4\r\n",
        "X: a\rTransfer-Encoding: chunked\r\n",
        "Host: y\r\n",
    ] {
        let mut client = Connection::open(proxy.address()).await;
        let inner = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n{inner}")).await;
        assert_eq!(client.answer().await.status, 400, "{fields:?}");
        client.expect_close().await;
    }
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_chunked_body_that_breaks_the_framing_is_refused_and_never_completed_at_the_backend() {
    let (a, proxy) = one().await;
    for chunks in [
        "3 \r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n",
    ] {
        let mut client = Connection::open(proxy.address()).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")).await;
        assert_eq!(client.answer().await.status, 400, "{chunks:?}");
    }
    until("all are counted", async || proxy.metric("roundel_requests_total", &[("code", "400")]).await == 4.0).await;
    // What came with its head was refused before anyone asked the backend.
    assert_eq!(a.requests(), 0);

    let mut client = Connection::open(proxy.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    until("the backend reads the beginning", async || a.open_connections() == 1).await;
    client.send("0x3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    // The backend answers what it has read to the end, and has not.
    until("the backend was let go", async || a.open_connections() == 0).await;
}

#[tokio::test]
async fn a_post_that_finds_its_backend_dead_arrives_whole_at_the_next() {
    let (mut a, b) = (Origin::start("a").await, Origin::start("b").await);
    let yaml = "upstreams: { web: { backends: [{a}, {b}], health_check: none, outlier: none } }";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    a.kill().await;
    let body = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<_>>();

    for _ in 0..4 {
        assert_eq!(request(proxy.address(), "POST", "/", "", &body).await.origin(), "b");
    }

    assert!(b.received().iter().all(|received| received.body.bytes == body));
    assert_eq!((a.requests(), b.requests()), (0, 4));
}

#[tokio::test]
async fn a_body_larger_than_what_is_kept_is_not_sent_again() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let yaml = "upstreams: { web: { backends: [{a}, {b}], health_check: none, outlier: none} }";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    for origin in [&a, &b] {
        origin.plays(Script::close());
    }

    assert_eq!(request(proxy.address(), "PUT", "/kept", "", &[b'x'; 65_536]).await.status, 502);
    assert_eq!(request(proxy.address(), "PUT", "/lost", "", &[b'x'; 65_537]).await.status, 502);

    assert_eq!(a.requests_for("/kept") + b.requests_for("/kept"), 2);
    assert_eq!(a.requests_for("/lost") + b.requests_for("/lost"), 1);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_frees_its_backend() {
    let (a, proxy) = one().await;
    a.on("/down", Script::new([Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()), Step::Hang]));

    let mut client = Connection::open(proxy.address()).await;
    client.send("POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf").await;
    until("the backend reads", async || a.open_connections() == 1).await;
    drop(client);
    let mut client = Connection::open(proxy.address()).await;
    client.send("GET /down HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.until_read(b"half").await;
    drop(client);

    let up = proxy.log_for("/up").await;
    assert_eq!((&up["status"], &up["reason"], &up["bytes_in"]), (&499.into(), &"client_gone".into(), &4.into()));
    let down = proxy.log_for("/down").await;
    assert_eq!((&down["status"], &down["reason"], &down["bytes_out"]), (&200.into(), &"client_gone".into(), &4.into()));
    let status = proxy.admin("/api/v1/status").await;
    assert_eq!(status["upstreams"][0]["backends"][0]["in_flight"], 0);
}

#[tokio::test]
async fn a_backend_that_takes_no_more_of_a_body_meets_the_deadline_of_the_request() {
    let a = Origin::start("a").await;
    a.plays(Script::hang().before_the_body());
    let yaml = "
upstreams: { web: { backends: [{a}], health_check: none, retry: none } }
routes: [{ name: all, timeouts: { request: 300ms }, to: web }]
";
    let proxy = Proxy::start(&[&a], yaml).await;
    let mut client = Connection::open(proxy.address()).await;
    client.send("PUT /stuck HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n").await;
    client.send_what_it_takes(vec![b'x'; 32 << 20]).await;

    assert_eq!(proxy.log_for("/stuck").await["reason"], "request_timeout");
}
