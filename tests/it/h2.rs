//! HTTP/2 on both sides: what a client that keeps to the rules gets, over every pair of protocols.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::time::sleep;

use crate::harness::h2::{
    END_HEADERS, END_STREAM, Frame, Frames, H2Client, H2Origin, PREFACE, answer, head, kind, map, read, send_all,
};
use crate::harness::{Connection, Origin, Proxy, Reply, Script, Setup, Step, get, request, until};

const BOTH: &str = r#"
listeners: [{ address: "{listen}", protocols: [h2, h1] }]
upstreams: { web: { backends: [{a}] } }
"#;

/// A proxy that speaks HTTP/2 to both sides.
async fn through(origin: &H2Origin, further: &str) -> Proxy {
    let yaml = r#"
listeners: [{ address: "{listen}", protocols: [h2, h1] LISTENER }]
upstreams: { web: { backends: ["{h}"], protocol: h2 UPSTREAM } }
"#;
    let (listener, upstream) = further.split_once('|').unwrap_or((further, ""));
    let yaml = yaml.replace("LISTENER", listener).replace("UPSTREAM", upstream);
    Setup::new(&[]).word("h", &origin.address.to_string()).start(&yaml).await
}

#[tokio::test]
async fn an_answer_keeps_its_date_and_an_undated_one_gets_one() {
    let a = Origin::start("a").await;
    let dated = "Sun, 06 Nov 1994 08:49:37 GMT";
    a.on("/dated", Reply::ok("old").field("Date", dated));
    let proxy = Proxy::start(&[&a], BOTH).await;
    let mut client = H2Client::connect(proxy.address()).await;

    assert_eq!(client.get("/dated").await.field("date"), Some(dated));
    assert!(client.get("/undated").await.field("date").is_some_and(|date| date != dated));
}

#[tokio::test]
async fn each_pair_of_protocols_carries_a_request_and_its_answer() {
    let a = Origin::start("a").await;
    let h = H2Origin::echo().await;
    let yaml = r#"
listeners: [{ address: "{listen}", protocols: [h2, h1] }]
upstreams:
  one: { backends: [{a}] }
  two: { backends: ["{h}"], protocol: h2 }
routes:
  - { match: [{ path_prefix: /one }], to: one }
  - { match: [{ path_prefix: /two }], to: two }
"#;
    let proxy = Setup::new(&[&a]).word("h", &h.address.to_string()).start(yaml).await;
    let mut client = H2Client::connect(proxy.address()).await;

    let post =
        |client: &H2Client, path: &str| client.request("POST", path).header("x-a", "1").body(()).expect("a request");
    let two_one = client.send(post(&client, "/one?q=1"), b"four").await.expect("an answer");
    let two_two = client.send(post(&client, "/two?q=1"), b"four").await.expect("an answer");
    let one_one = request(proxy.address(), "POST", "/one?q=1", "x-a: 1\r\n", b"four").await;
    let one_two = request(proxy.address(), "POST", "/two?q=1", "x-a: 1\r\n", b"four").await;

    assert_eq!((two_one.status, two_one.text()), (200, "a".to_owned()));
    assert_eq!((two_two.status, two_two.text(), two_two.field("x-trailer")), (200, "four".to_owned(), Some("end")));
    assert_eq!((one_one.status, one_one.text()), (200, "a".to_owned()));
    assert_eq!((one_two.status, one_two.text(), one_two.field("x-a")), (200, "four".to_owned(), Some("1")));

    let received = a.received();
    assert_eq!(received.len(), 2);
    for request in &received {
        assert_eq!((request.target.as_str(), request.body.bytes.as_slice()), ("/one?q=1", b"four".as_slice()));
        assert_eq!(request.head.field("x-a"), Some("1"));
        assert_eq!(request.head.field("host"), Some(proxy.address().to_string().as_str()));
    }
    assert!(received[0].head.field("via").is_some_and(|via| via.starts_with("2.0 ")));
    for head in h.seen() {
        assert_eq!(head.uri.authority().map(ToString::to_string), Some(proxy.address().to_string()));
        assert_eq!(head.uri.path_and_query().map(ToString::to_string).as_deref(), Some("/two?q=1"));
        assert!(
            ["connection", "transfer-encoding", "upgrade", "host"].iter().all(|name| !head.headers.contains_key(*name))
        );
    }
    let line = proxy
        .log_line("the one over HTTP/2", |line| line["path"] == "/one?q=1" && line["protocol"] == "HTTP/2.0")
        .await;
    assert_eq!((&line["bytes_in"], &line["bytes_out"], &line["scheme"]), (&4.into(), &1.into(), &"http".into()));
}

#[tokio::test]
async fn the_first_bytes_decide_and_short_requests_of_http_1_are_answered() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], BOTH).await;

    let mut short = Connection::open(proxy.address()).await;
    short.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(short.answer().await.status, 200);

    let mut slow = Connection::open(proxy.address()).await;
    for byte in b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n" {
        slow.send([*byte]).await;
    }
    assert_eq!(slow.answer().await.status, 200);

    let mut frames = Frames::silent(proxy.address()).await;
    for byte in PREFACE {
        assert!(frames.bytes(&[*byte]).await);
    }
    assert_eq!(frames.next().await.map(|frame| frame.kind), Some(kind::SETTINGS));
}

#[tokio::test]
async fn a_listener_speaks_only_what_is_written() {
    let a = Origin::start("a").await;
    let only = r#"
listeners: [{ address: "{listen}", protocols: [h2] }]
upstreams: { web: { backends: [{a}] } }
"#;
    let proxy = Proxy::start(&[&a], only).await;
    assert_eq!(get(proxy.address(), "/").await.status, 400);
    assert_eq!(H2Client::connect(proxy.address()).await.get("/").await.status, 200);

    let old = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    let mut connection = Connection::open(old.address()).await;
    connection.send(PREFACE).await;
    assert_eq!(connection.answer().await.status, 400);
}

#[tokio::test]
async fn many_requests_share_a_connection_and_no_more_at_once_than_allowed() {
    let a = Origin::start("a").await;
    let yaml = BOTH.replace("protocols: [h2, h1]", "protocols: [h2, h1], limits: { h2_streams: 3 }");
    let proxy = Proxy::start(&[&a], &yaml).await;
    a.hold();
    let mut client = H2Client::connect(proxy.address()).await;

    let mut waiting = Vec::new();
    for _ in 0..3 {
        let request = client.request("GET", "/held").body(()).expect("a request");
        waiting.push(client.begin_whole(request).await);
    }
    until("three are at the origin", async || a.in_flight() == 3).await;
    let mut frames = Frames::open(proxy.address()).await;
    for stream in [1, 3, 5, 7] {
        frames.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, stream, head("GET", "/over", &[]))).await;
    }
    let refused = frames.outcome(7).await.expect("an outcome");
    assert_eq!((refused.kind, refused.code()), (kind::RST_STREAM, 7));

    a.release();
    for response in waiting {
        assert_eq!(answer(response).await.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn large_bodies_pass_whole_both_ways() {
    let h = H2Origin::echo().await;
    let proxy = through(&h, "").await;
    let body: Vec<u8> = (0..20_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut client = H2Client::connect(proxy.address()).await;

    let post = client.request("POST", "/").body(()).expect("a request");
    let (response, mut stream) = client.begin(post).await;
    let sent = tokio::spawn({
        let body = body.clone();
        async move { send_all(&mut stream, &body, true).await }
    });
    let answer = answer(response).await.expect("an answer");

    sent.await.expect("no panic").expect("sent");
    assert!(answer.body == body, "{} bytes came back", answer.body.len());
}

#[tokio::test]
async fn an_informational_answer_reaches_the_client_before_the_final_one() {
    let a = Origin::start("a").await;
    let early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec();
    a.plays(Script::new([Step::Send(early), Step::Reply(Reply::ok("ok"))]));
    let proxy = Proxy::start(&[&a], BOTH).await;
    let mut frames = Frames::open(proxy.address()).await;

    frames.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, 1, head("GET", "/", &[]))).await;

    let (first, second) = (frames.until(kind::HEADERS).await, frames.until(kind::HEADERS).await);
    assert!(first.is_some_and(|frame| frame.flags & END_STREAM == 0));
    assert_eq!(second.map(|frame| frame.payload[0]), Some(0x88), "the status 200 of the static table");
}

#[tokio::test]
async fn crumbs_of_a_cookie_reach_an_http_1_backend_as_one_field() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], BOTH).await;
    let mut client = H2Client::connect(proxy.address()).await;
    let request =
        client.request("GET", "/").header("cookie", "a=1").header("cookie", "b=2").body(()).expect("a request");

    client.send(request, b"").await.expect("an answer");

    let head = a.received().remove(0).head;
    let cookies: Vec<_> = head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("cookie")).collect();
    assert_eq!(cookies.len(), 1);
    assert_eq!(cookies[0].1, "a=1; b=2");
}

#[tokio::test]
async fn trailers_of_a_request_end_it_and_go_no_further() {
    let a = Origin::start("a").await;
    let h = H2Origin::echo().await;
    let yaml = r#"
listeners: [{ address: "{listen}", protocols: [h2] }]
upstreams: { one: { backends: [{a}] }, two: { backends: ["{h}"], protocol: h2 } }
routes: [{ match: [{ path: /one }], to: one }, { match: [{ path: /two }], to: two }]
"#;
    let proxy = Setup::new(&[&a]).word("h", &h.address.to_string()).start(yaml).await;
    let mut client = H2Client::connect(proxy.address()).await;
    for path in ["/one", "/two"] {
        let post = client.request("POST", path).body(()).expect("a request");
        let (response, mut stream) = client.begin(post).await;
        stream.send_data(Bytes::from_static(b"four"), false).expect("sent");
        stream.send_trailers(map(&[("x-trailer", "1")])).expect("sent");
        assert_eq!(answer(response).await.expect("an answer").status, 200, "{path}");
    }
    assert_eq!(a.received_for("/one").body.bytes, b"four");
}

#[tokio::test]
async fn an_answer_without_content_by_its_status_gets_none_of_its_backend() {
    let h = H2Origin::start(|call| async move {
        let status = call.head.uri.path()[1..].parse().expect("a status");
        call.reply(status, &[], b"abc", &[]).await;
    })
    .await;
    let proxy = through(&h, "").await;
    let mut client = H2Client::connect(proxy.address()).await;

    for (status, text) in [(204, ""), (304, ""), (205, "abc"), (404, "abc")] {
        let answer = client.get(&format!("/{status}")).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, text));
    }
}

#[tokio::test]
async fn bodies_of_an_http_1_backend_come_bare_and_their_trailers_after_them() {
    let a = Origin::start("a").await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n";
    a.on("/trailers", Script::raw(format!("{chunked}X-Sum: 6\r\nx-sum: 7\r\n\r\n")));
    a.on("/chunks", Script::raw(format!("{chunked}\r\n")));
    a.on("/until-close", Script::new([Step::Send(b"HTTP/1.1 200 OK\r\n\r\nabc".to_vec()), Step::Close]));
    let proxy = Proxy::start(&[&a], &BOTH.replace("protocols: [h2, h1]", "protocols: [h2, h1], lane: auto")).await;
    let mut client = H2Client::connect(proxy.address()).await;

    for path in ["/trailers", "/chunks", "/until-close"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.text()), (200, "abc".to_owned()), "{path}");
        assert!(!answer.fields.contains_key("transfer-encoding"), "{path}");
        let sums = answer.trailers.iter().flat_map(|trailers| trailers.get_all("x-sum")).count();
        assert_eq!(sums, if path == "/trailers" { 2 } else { 0 }, "{path}");
        assert_eq!(proxy.log_for(path).await["bytes_out"], 3);
    }
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_answered_413_and_the_connection_lives() {
    let a = Origin::start("a").await;
    let yaml = BOTH.replace("protocols: [h2, h1]", "protocols: [h2, h1], limits: { body: 1KiB }");
    let proxy = Proxy::start(&[&a], &yaml).await;
    let mut client = H2Client::connect(proxy.address()).await;

    let told = client.request("POST", "/told").header("content-length", "5000").body(()).expect("a request");
    let (response, _open) = client.begin(told).await;
    assert_eq!(answer(response).await.expect("an answer").status, 413);

    let post = client.request("POST", "/found").body(()).expect("a request");
    let (response, mut stream) = client.begin(post).await;
    let sending = tokio::spawn(async move { send_all(&mut stream, &[0; 5_000], false).await.map(|()| stream) });
    assert_eq!(answer(response).await.expect("an answer").status, 413);
    drop(sending.await);

    assert_eq!(client.get("/after").await.status, 200);
    assert_eq!(proxy.log_for("/found").await["reason"], "body");
}

#[tokio::test]
async fn heads_beyond_their_bounds_are_answered_and_the_connection_lives() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], BOTH).await;
    let mut client = H2Client::connect(proxy.address()).await;
    let ask = |client: &H2Client, fields: usize, size: usize| {
        let value = "x".repeat(size);
        let request = client.request("GET", "/bound");
        let request = (0..fields).fold(request, |request, n| request.header(format!("x-{n}"), value.as_str()));
        request.body(()).expect("a request")
    };

    let bytes = client.send(ask(&client, 1, 40_000), b"").await.expect("an answer");
    let count = client.send(ask(&client, 120, 1), b"").await.expect("an answer");
    let beyond = client.send(ask(&client, 90, 800), b"").await;

    assert_eq!((bytes.status, count.status), (431, 431));
    assert!(beyond.as_ref().is_ok_and(|answer| answer.status == 431) || beyond.is_err_and(|error| error.is_reset()));
    assert_eq!(client.get("/after").await.status, 200);
    let reasons: Vec<_> = proxy.log().iter().map(|line| line["reason"].clone()).collect();
    assert!(reasons.contains(&"header_bytes".into()) && reasons.contains(&"header_count".into()), "{reasons:?}");
}

#[tokio::test]
async fn a_connection_that_is_idle_for_too_long_is_told_and_closed() {
    let a = Origin::start("a").await;
    let yaml = BOTH.replace("protocols: [h2, h1]", "protocols: [h2, h1], timeouts: { keepalive: 200ms }");
    let proxy = Proxy::start(&[&a], &yaml).await;
    let mut client = H2Client::connect(proxy.address()).await;
    client.get("/").await;
    client.ended().await.expect("a graceful end");

    let mut silent = Frames::open(proxy.address()).await;
    assert_eq!(silent.goaway().await, Some(0));
}

#[tokio::test]
async fn a_connection_carries_no_more_requests_than_allowed() {
    let a = Origin::start("a").await;
    let yaml = BOTH.replace("protocols: [h2, h1]", "protocols: [h2, h1], limits: { keepalive_requests: 3 }");
    let proxy = Proxy::start(&[&a], &yaml).await;
    let mut client = H2Client::connect(proxy.address()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    client.ended().await.expect("a graceful end");
    assert_eq!(a.requests(), 3);
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_takes_no_more() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], BOTH).await;
    a.hold();
    let mut client = H2Client::connect(proxy.address()).await;
    let request = client.request("GET", "/held").body(()).expect("a request");
    let response = client.begin_whole(request).await;
    until("it is at the origin", async || a.in_flight() == 1).await;

    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    let mut late = None;
    until("no stream can be begun", async || {
        let request = client.request("GET", "/late").body(()).expect("a request");
        match client.try_whole(request).await {
            Ok(response) => late = Some(response),
            Err(_) => return true,
        }
        false
    })
    .await;
    a.release();

    assert_eq!(answer(response).await.expect("an answer").status, 200);
    if let Some(late) = late {
        // It came before the connection's last word, or was refused: it may be made again elsewhere.
        let late = answer(late).await;
        assert!(
            late.as_ref().map_or_else(|error| error.is_go_away() || error.is_reset(), |answer| answer.status == 200),
            "{late:?}"
        );
    }
    drop(client);
    assert!(proxy.wait_exit().await.success());
}

#[tokio::test]
async fn a_client_that_sends_no_more_of_a_body_is_told_so() {
    let a = Origin::start("a").await;
    let yaml = BOTH.replace("protocols: [h2, h1]", "protocols: [h2, h1], timeouts: { body_idle: 200ms }");
    let proxy = Proxy::start(&[&a], &yaml).await;
    let mut client = H2Client::connect(proxy.address()).await;
    let post = client.request("POST", "/slow").header("content-length", "10").body(()).expect("a request");
    let (response, mut stream) = client.begin(post).await;
    stream.send_data(Bytes::from_static(b"four"), false).expect("sent");

    assert_eq!(answer(response).await.expect("an answer").status, 408);
    assert_eq!(proxy.log_for("/slow").await["reason"], "client_timeout");
    assert_eq!(client.get("/after").await.status, 200);
}

#[tokio::test]
async fn a_head_that_never_ends_ends_the_connection() {
    let a = Origin::start("a").await;
    let yaml = BOTH.replace("protocols: [h2, h1]", "protocols: [h2, h1], timeouts: { header: 300ms }");
    let proxy = Proxy::start(&[&a], &yaml).await;

    let mut open = Frames::open(proxy.address()).await;
    open.send(&Frame::new(kind::HEADERS, END_STREAM, 1, head("GET", "/", &[]))).await;
    assert_eq!(open.goaway().await, Some(0));

    let mut preface = Frames::silent(proxy.address()).await;
    preface.bytes(PREFACE).await;
    preface.bytes(&[0, 0]).await;
    assert_eq!(preface.goaway().await, Some(0));
    proxy.log_line("the slow one", |line| line["reason"] == "client_timeout").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_stream_and_nobody_else_waits() {
    let a = Origin::start("a").await;
    a.on("/big", Reply::ok(vec![b'x'; 1_000_000]));
    let yaml = BOTH.replace("protocols: [h2, h1]", "protocols: [h2, h1], timeouts: { write_idle: 300ms }");
    let proxy = Proxy::start(&[&a], &yaml).await;
    let mut frames = Frames::open(proxy.address()).await;

    frames.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, 1, head("GET", "/big", &[]))).await;
    let reset = frames.until(kind::RST_STREAM).await.expect("the stream is reset");
    assert_eq!(reset.code(), 2, "INTERNAL_ERROR: the answer is not whole");
    assert_eq!(proxy.log_for("/big").await["reason"], "client_timeout");

    frames.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, 3, head("GET", "/small", &[]))).await;
    assert_eq!(frames.outcome(3).await.map(|frame| frame.kind), Some(kind::HEADERS));
}

#[tokio::test]
async fn a_request_that_is_reset_is_ended_at_the_backend() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&cancelled);
    let h = H2Origin::start(move |mut call| {
        let seen = Arc::clone(&seen);
        async move {
            // Never answers; the end of the stream is all there is.
            let _ = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
            seen.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let proxy = through(&h, "").await;
    let mut client = H2Client::connect(proxy.address()).await;
    let request = client.request("GET", "/gone").body(()).expect("a request");
    let (response, mut stream) = client.begin(request).await;
    until("it is at the backend", async || h.seen().len() == 1).await;

    stream.send_reset(h2::Reason::CANCEL);
    drop(response);

    until("the backend knows", async || cancelled.load(Ordering::SeqCst) == 1).await;
    let line = proxy.log_for("/gone").await;
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_gone".into()));
}

#[tokio::test]
async fn the_deadlines_of_an_upstream_hold_over_http_2() {
    let h = H2Origin::start(|mut call| async move {
        match call.head.uri.path() {
            "/never" => sleep(Duration::from_secs(60)).await,
            _ => {
                let Ok(mut send) = call.respond.send_response(http::Response::new(()), false) else { return };
                let _ = send.send_data(Bytes::from_static(b"half"), false);
                sleep(Duration::from_secs(60)).await;
            }
        }
    })
    .await;
    let timeouts = "|, retry: { attempts: 0 }, timeouts: { first_byte: 200ms, idle: 300ms }";
    let proxy = through(&h, timeouts).await;
    let mut client = H2Client::connect(proxy.address()).await;

    assert_eq!(client.get("/never").await.status, 504);
    let request = client.request("GET", "/half").body(()).expect("a request");
    let broken = client.send(request, b"").await.expect_err("the answer breaks off");
    assert_eq!(broken.reason(), Some(h2::Reason::INTERNAL_ERROR));
    assert_eq!(proxy.log_for("/never").await["reason"], "http_response_timeout");
    assert_eq!(proxy.log_for("/half").await["reason"], "http_response_timeout");
}

#[tokio::test]
async fn a_slow_upload_is_no_slow_answer() {
    let h = H2Origin::echo().await;
    let proxy = through(&h, "|, timeouts: { first_byte: 300ms, idle: 400ms }").await;
    let mut client = H2Client::connect(proxy.address()).await;
    let post = client.request("POST", "/upload").body(()).expect("a request");
    let (response, mut stream) = client.begin(post).await;
    for n in 0..6 {
        sleep(Duration::from_millis(150)).await;
        stream.send_data(Bytes::from_static(b"part"), n == 5).expect("sent");
    }
    assert_eq!(answer(response).await.expect("an answer").text(), "part".repeat(6));
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_its_method() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let h = H2Origin::start(move |mut call| {
        let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                call.respond.send_reset(h2::Reason::REFUSED_STREAM);
                return;
            }
            let body = read(&mut call.body).await.unwrap_or_default();
            call.reply(200, &[], &body, &[]).await;
        }
    })
    .await;
    let proxy = through(&h, "").await;
    let mut client = H2Client::connect(proxy.address()).await;
    let post = client.request("POST", "/again").body(()).expect("a request");

    let answer = client.send(post, b"four").await.expect("an answer");

    assert_eq!((answer.status, answer.text(), count.load(Ordering::SeqCst)), (200, "four".to_owned(), 2));
    assert_eq!(proxy.log_for("/again").await["attempts"], 2);
}

#[tokio::test]
async fn a_backend_that_goes_away_is_asked_again_on_another_connection() {
    // By hand: the first connection refuses with GOAWAY what it has not begun with; others answer 200.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, respond))) = connection.accept().await {
                    let mut respond: h2::server::SendResponse<Bytes> = respond;
                    if first {
                        connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                    } else {
                        let _ = respond.send_response(http::Response::new(()), true);
                    }
                }
            });
        }
    });
    let yaml = r#"
listeners: [{ address: "{listen}", protocols: [h2] }]
upstreams: { web: { backends: ["{h}"], protocol: h2, health_check: none } }
"#;
    let proxy = Setup::new(&[]).word("h", &address).start(yaml).await;
    let mut client = H2Client::connect(proxy.address()).await;

    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn connections_to_a_backend_are_shared_and_closed_when_idle() {
    let h = H2Origin::echo().await;
    let proxy = through(&h, "|, health_check: none, keepalive: { idle: 300ms }").await;
    let mut client = H2Client::connect(proxy.address()).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // On a machine that stands still for a moment, one may have been idle for long enough in between.
    let shared = h.connections();
    assert!(shared < 10, "{shared} connections for 50 requests");
    until("an idle connection is not used again", async || {
        sleep(Duration::from_millis(400)).await;
        client.get("/").await;
        h.connections() > shared
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_does_not_speak_http_2_is_told_of() {
    let a = Origin::start("a").await;
    let yaml = r#"
listeners: [{ address: "{listen}", protocols: [h2, h1] }]
upstreams: { web: { backends: [{a}], protocol: h2 } }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;
    assert_eq!(get(proxy.address(), "/").await.status, 502);
}

#[tokio::test]
async fn probes_speak_the_protocol_of_their_upstream() {
    let h = H2Origin::echo().await;
    let check = "|, health_check: { type: http, path: /healthz, interval: 1s, timeout: 500ms }";
    let proxy = through(&h, check).await;
    proxy.until_state("web", &h.address, "healthy").await;
    assert!(h.seen().iter().any(|head| head.uri.path() == "/healthz"));
}

#[tokio::test]
async fn connect_is_refused() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], BOTH).await;
    let mut client = H2Client::connect(proxy.address()).await;

    let connect = Request::builder().method("CONNECT").uri("a.example:443").body(()).expect("a request");
    assert_eq!(client.send(connect, b"").await.expect("an answer").status, 405);

    let mut frames = Frames::open(proxy.address()).await;
    let extended = head("CONNECT", "/chat", &[(b":protocol", b"websocket")]);
    frames.send(&Frame::new(kind::HEADERS, END_HEADERS, 1, extended)).await;
    let refused = frames.outcome(1).await.expect("an outcome");
    assert_eq!((refused.kind, refused.code()), (kind::RST_STREAM, 1), "PROTOCOL_ERROR: it was not offered");
    assert_eq!(client.get("/after").await.status, 200);
}

#[tokio::test]
async fn a_head_alone_is_answered_by_a_head_alone() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], BOTH).await;
    let mut client = H2Client::connect(proxy.address()).await;
    let request = client.request("HEAD", "/").body(()).expect("a request");
    let whole = client.send(request, b"").await.expect("an answer");
    assert_eq!((whole.status, whole.body.len(), whole.field("content-length")), (200, 0, Some("1")));

    let denied = client.request("HEAD", "/nowhere").header("expect", "gold").body(()).expect("a request");
    let denied = client.send(denied, b"").await.expect("an answer");
    assert_eq!((denied.status, denied.body.len()), (417, 0));
}
