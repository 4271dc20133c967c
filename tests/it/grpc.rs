//! gRPC through the proxy: messages, trailers, deadlines, and failures of the proxy's own as statuses.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::harness::h2::{Call, H2Answer, H2Client, H2Origin, answer, read, send_all};
use crate::harness::{Proxy, Setup, free_address};

/// A message in its envelope.
fn message(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("a short message").to_be_bytes();
    [&[0], length.as_slice(), text].concat()
}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];

async fn serve(mut call: Call) {
    let path = call.head.uri.path().to_owned();
    let status = call.head.headers.get("x-status").and_then(|value| value.to_str().ok()).unwrap_or("0").to_owned();
    match path.as_str() {
        "/test.Echo/Unary" => {
            let body = read(&mut call.body).await.unwrap_or_default();
            call.reply(200, GRPC, &body, &[("grpc-status", &status), ("grpc-message", "said%20so")]).await;
        }
        "/test.Echo/TrailersOnly" => {
            let fields = [GRPC, &[("grpc-status", status.as_str())]].concat();
            call.reply(200, &fields, b"", &[]).await;
        }
        "/test.Echo/Bidi" => {
            let response = http::Response::builder().header("content-type", "application/grpc").body(());
            let Ok(mut send) = call.respond.send_response(response.expect("a response"), false) else { return };
            while let Some(Ok(part)) = call.body.data().await {
                let _ = call.body.flow_control().release_capacity(part.len());
                if send_all(&mut send, &part, false).await.is_err() {
                    return;
                }
            }
            let _ = send.send_trailers(crate::harness::h2::map(&[("grpc-status", "0")]));
        }
        "/test.Echo/Breaks" => {
            let response = http::Response::builder().header("content-type", "application/grpc").body(());
            let Ok(mut send) = call.respond.send_response(response.expect("a response"), false) else { return };
            let _ = send.send_data(Bytes::from(message(b"half")), false);
            sleep(Duration::from_millis(50)).await;
            send.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        _ => sleep(Duration::from_secs(60)).await,
    }
}

async fn through(further: &str) -> (H2Origin, Proxy) {
    let origin = H2Origin::start(serve).await;
    let yaml = r#"
listeners: [{ address: "{listen}", protocols: [h2, h1], limits: { h2_streams: 1000 } }]
upstreams: { web: { backends: ["{h}"], protocol: h2 } }
routes: [{ match: [{ path_prefix: /test.Echo }], to: web FURTHER }]
"#;
    let yaml = yaml.replace("FURTHER", further);
    let proxy = Setup::new(&[]).word("h", &origin.address.to_string()).start(&yaml).await;
    (origin, proxy)
}

async fn call(client: &mut H2Client, method: &str, fields: &[(&str, &str)], body: &[u8]) -> H2Answer {
    let request = client.call(&format!("/test.Echo/{method}"));
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    client.send(request.body(()).expect("a request"), body).await.expect("an answer")
}

#[tokio::test]
async fn every_status_passes_in_trailers_and_alone() {
    let (origin, proxy) = through("").await;
    let mut client = H2Client::connect(proxy.address()).await;
    for status in 0..=16 {
        let status = status.to_string();
        let unary = call(&mut client, "Unary", &[("x-status", &status)], &message(b"ping")).await;
        assert_eq!((unary.status, unary.body), (200, message(b"ping")));
        let trailers = unary.trailers.expect("trailers");
        assert_eq!(trailers["grpc-status"], *status);
        assert_eq!(trailers["grpc-message"], "said%20so");

        let alone = call(&mut client, "TrailersOnly", &[("x-status", &status)], &message(b"ping")).await;
        assert!(alone.head_only && alone.trailers.is_none(), "one frame stays one frame");
        assert_eq!(alone.fields["grpc-status"], *status);
    }
    assert!(origin.seen().iter().all(|head| head.headers["te"] == "trailers"));
}

#[tokio::test]
async fn messages_pass_both_ways_while_both_sides_are_open() {
    let (_origin, proxy) = through("").await;
    let mut client = H2Client::connect(proxy.address()).await;
    let request = client.call("/test.Echo/Bidi").body(()).expect("a request");
    let (response, mut stream) = client.begin(request).await;
    let mut body = response.await.expect("the head comes before any message").into_body();
    for n in 0..100 {
        let one = message(format!("message {n}").as_bytes());
        stream.send_data(Bytes::from(one.clone()), false).expect("sent");
        let mut back = Vec::new();
        while back.len() < one.len() {
            let part = body.data().await.expect("more").expect("data");
            body.flow_control().release_capacity(part.len()).expect("released");
            back.extend_from_slice(&part);
        }
        assert_eq!(back, one);
    }
    stream.send_data(Bytes::new(), true).expect("sent");
    assert!(read(&mut body).await.expect("the end").is_empty());
    assert_eq!(body.trailers().await.expect("trailers").expect("some")["grpc-status"], "0");
}

#[tokio::test]
async fn a_message_of_20_megabytes_passes() {
    let (_origin, proxy) = through("").await;
    let mut client = H2Client::connect(proxy.address()).await;
    let large = message(&vec![b'x'; 20_000_000]);
    let request = client.call("/test.Echo/Unary").body(()).expect("a request");
    let (response, mut stream) = client.begin(request).await;
    let sending = large.clone();
    let sent = tokio::spawn(async move { send_all(&mut stream, &sending, true).await });
    let back = answer(response).await.expect("an answer");
    sent.await.expect("no panic").expect("sent");
    assert!(back.body == large);
    assert_eq!(back.field("grpc-status"), Some("0"));
}

#[tokio::test]
async fn three_hundred_calls_at_once_are_all_answered() {
    let (_origin, proxy) = through("").await;
    // This client takes many small frames before it reads them.
    let mut client = H2Client::with(proxy.address(), h2::client::Builder::new().data_frame_budget(1 << 20)).await;
    let mut calls = Vec::new();
    for n in 0..300 {
        let request = client.call("/test.Echo/Unary").body(()).expect("a request");
        let (response, mut stream) = client.begin(request).await;
        stream.send_data(Bytes::from(message(format!("{n}").as_bytes())), true).expect("sent");
        calls.push(tokio::spawn(answer(response)));
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.expect("no panic").expect("an answer").body, message(format!("{n}").as_bytes()));
    }
}

#[tokio::test]
async fn a_deadline_is_passed_on_and_bounds_the_call() {
    let (origin, proxy) = through("").await;
    let mut client = H2Client::connect(proxy.address()).await;

    let late = call(&mut client, "Never", &[("grpc-timeout", "300m")], &message(b"ping")).await;

    assert_eq!((late.status, late.field("grpc-status")), (200, Some("4")));
    assert!(late.head_only && late.fields["content-type"] == "application/grpc", "{late:?}");
    let passed = origin.seen()[0].headers["grpc-timeout"].to_str().expect("text").to_owned();
    // The unit is the finest that what is left can be written in with eight digits.
    let nanos = |unit, each: u64| passed.strip_suffix(unit).and_then(|count| Some(count.parse::<u64>().ok()? * each));
    let left = nanos('u', 1_000).or_else(|| nanos('n', 1));
    assert!(left.is_some_and(|left| left <= 300_000_000), "{passed}");
    assert_eq!(proxy.log_for("/test.Echo/Never").await["reason"], "request_timeout");
}

#[tokio::test]
async fn the_time_of_the_route_bounds_a_longer_deadline() {
    let (origin, proxy) = through(", timeouts: { request: 300ms }").await;
    let mut client = H2Client::connect(proxy.address()).await;
    let late = call(&mut client, "Never", &[("grpc-timeout", "1H")], &message(b"ping")).await;
    assert_eq!(late.field("grpc-status"), Some("4"));
    assert!(origin.seen()[0].headers["grpc-timeout"].to_str().is_ok_and(|passed| passed.ends_with('u')));
}

#[tokio::test]
async fn failures_of_the_proxy_are_statuses_of_the_call() {
    let origin = H2Origin::start(serve).await;
    let yaml = r#"
listeners: [{ address: "{listen}", protocols: [h2] }]
upstreams:
  web: { backends: ["{h}"], protocol: h2 }
  gone: { backends: ["{gone}"], protocol: h2, health_check: none }
routes:
  - { match: [{ path: /test.Echo/Unary }], to: web, limits: { body: 10B } }
  - { match: [{ path: /test.Echo/Gone }], to: gone }
  - { match: [{ path: /test.Echo/Denied }], filters: [{ deny: [127.0.0.0/8] }], to: web }
"#;
    let setup = Setup::new(&[]).word("h", &origin.address.to_string()).word("gone", &free_address().to_string());
    let proxy = setup.start(yaml).await;
    let mut client = H2Client::connect(proxy.address()).await;
    for (method, body, status) in [
        ("Gone", b"x".as_slice(), "14"),
        ("Denied", b"x", "7"),
        ("Nowhere", b"x", "12"),
        ("Unary", b"longer than ten bytes", "8"),
    ] {
        let failed = call(&mut client, method, &[], &message(body)).await;
        assert_eq!((failed.status, failed.field("grpc-status")), (200, Some(status)), "{method}");
        assert!(failed.head_only, "{method}: trailers only");
        assert!(failed.field("grpc-message").is_some_and(|text| !text.is_empty()), "{method}");
    }
    // Whoever does not speak gRPC gets what HTTP says.
    let request = client.request("GET", "/test.Echo/Denied").body(()).expect("a request");
    assert_eq!(client.send(request, b"").await.expect("an answer").status, 403);
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_a_status() {
    let (_origin, proxy) = through("").await;
    let mut client = H2Client::connect(proxy.address()).await;
    let broken = call(&mut client, "Breaks", &[], &message(b"ping")).await;
    assert_eq!(broken.body, message(b"half"));
    assert_eq!(broken.trailers.expect("trailers")["grpc-status"], "14");
    assert_eq!(proxy.log_for("/test.Echo/Breaks").await["reason"], "http_response_incomplete");
}
