//! Any values of the fields by which clients and proxies tell of a request (X-Forwarded-For, Forwarded, X-Request-Id, traceparent,
//! grpc-timeout, cookies): no panic, nobody believed who is not trusted, and nothing kept that could split a line.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use roundel::exchange::request_id::RequestId;
use roundel::exchange::{client, grpc, key};
use roundel::telemetry::trace::Trace;
use roundel::upstream::sticky::Token;

/// The fields, in the order in which the fuzzer's lines fill them; a line too many begins again.
const FIELDS: [&str; 7] =
    ["x-forwarded-for", "forwarded", "x-request-id", "traceparent", "grpc-timeout", "cookie", "grpc-retry-pushback-ms"];
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let mut fields = HeaderMap::new();
    fields.insert("content-type", HeaderValue::from_static("application/grpc"));
    for (line, name) in
        bytes.split(|byte| *byte == b'\n').zip(FIELDS.iter().cycle()).filter(|(line, _)| !line.is_empty())
    {
        fields.extend(HeaderValue::from_bytes(line).map(|value| (HeaderName::from_static(name), value)));
    }
    let trusted = ["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
    let found = client::find(Some(PEER), &[], &fields);
    assert!(found.address == Some(PEER) && !found.via_trusted, "nobody is trusted");
    let found = client::find(Some(PEER), &trusted, &fields);
    assert!(found.via_trusted && found.address.is_some_and(|address| address == address.to_canonical()));

    for trust in [false, true] {
        let id = RequestId::of(&fields, trust);
        assert!((1..=128).contains(&id.as_str().len()) && id.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        let trace = Trace::begin(&fields, trust, 0.5);
        let told = HeaderValue::from_str(&trace.traceparent(trace.span)).expect("hex digits and dashes");
        let mut next = HeaderMap::new();
        next.insert("traceparent", told);
        let next = Trace::begin(&next, true, 0.5);
        assert_eq!((next.id, next.parent, next.sampled), (trace.id, Some(trace.span), trace.sampled));
    }
    if let Some(left) = grpc::timeout(&fields) {
        check_timeout(left);
    }
    let _ = grpc::pushback(&fields);
    if let Some(token) = key::cookie(&fields, "ROUNDEL").as_deref().and_then(Token::parse) {
        assert_eq!(Token::parse(&token.to_string()), Some(token));
    }
}

/// A timeout passed on never grows, and loses no more than a thousandth, or an hour.
fn check_timeout(left: Duration) {
    let mut fields = HeaderMap::new();
    fields.insert("content-type", HeaderValue::from_static("application/grpc"));
    fields.insert(grpc::TIMEOUT, grpc::written(left).parse().expect("digits and a letter"));
    let passed = grpc::timeout(&fields).expect("what we write we read");
    assert!(passed <= left && left - passed <= (left / 1000).max(Duration::from_nanos(1)).max(hour(left)), "{left:?}");
}

/// What the coarsest unit may lose.
fn hour(left: Duration) -> Duration {
    if left.as_secs() > 99_999_999 { Duration::from_secs(3600) } else { Duration::ZERO }
}
