//! HTTP/2 against the rules: heads that another protocol would read differently, and floods of frames.

use std::collections::HashMap;

use crate::harness::h2::{END_HEADERS, END_STREAM, Frame, Frames, H2Client, block, head, kind};
use crate::harness::{Connection, Origin, Proxy, Setup, get};

const YAML: &str = r#"
listeners: [{ address: "{listen}", protocols: [h2, h1], timeouts: { header: 2s, write_idle: 1s } }]
upstreams: { web: { backends: [{a}] } }
"#;

/// What became of a hostile request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It was answered; the origin may have seen it.
    Answered,
    /// Its stream was reset.
    Reset(u32),
    /// Its connection was ended.
    Ended(u32),
}

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

const METHOD: (&[u8], &[u8]) = (b":method", b"POST");
const SCHEME: (&[u8], &[u8]) = (b":scheme", b"http");
const PATH: (&[u8], &[u8]) = (b":path", b"/sound");
const AUTHORITY: (&[u8], &[u8]) = (b":authority", b"a.example");

/// A sound head with further fields.
fn with<'a>(further: &[(&'a [u8], &'a [u8])]) -> Fields<'a> {
    [[METHOD, SCHEME, PATH, AUTHORITY].as_slice(), further].concat()
}

/// A sound head in which one pseudo-field is another.
fn instead<'a>(name: &'a [u8], value: &'a [u8]) -> Fields<'a> {
    [METHOD, SCHEME, PATH, AUTHORITY].map(|field| if field.0 == name { (name, value) } else { field }).to_vec()
}

/// A sound head without one pseudo-field.
fn without(name: &[u8]) -> Fields<'static> {
    [METHOD, SCHEME, PATH, AUTHORITY].into_iter().filter(|field| field.0 != name).collect()
}

/// Heads that must never reach a backend.
fn hostile_heads() -> Vec<(&'static str, Fields<'static>)> {
    vec![
        ("no method", without(b":method")),
        ("no scheme", without(b":scheme")),
        ("no path", without(b":path")),
        ("no authority", without(b":authority")),
        ("two methods", [with(&[]), vec![METHOD]].concat()),
        ("two methods that differ", with(&[(b":method", b"GET")])),
        ("two paths", with(&[(b":path", b"/admin")])),
        ("two authorities", with(&[(b":authority", b"b.example")])),
        ("two schemes", with(&[(b":scheme", b"https")])),
        ("a status", with(&[(b":status", b"200")])),
        ("an unknown pseudo-field", with(&[(b":admin", b"1")])),
        ("a pseudo-field after a field", vec![METHOD, SCHEME, (b"x-a", b"1"), PATH, AUTHORITY]),
        ("a protocol that was not offered", with(&[(b":protocol", b"websocket")])),
        ("a method with a space", instead(b":method", b"GET /admin HTTP/1.1")),
        ("a method with a line end", instead(b":method", b"GET / HTTP/1.1\r\nhost: b\r\n\r\nGET")),
        ("an empty method", instead(b":method", b"")),
        ("a method of 40 bytes", instead(b":method", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        ("an empty path", instead(b":path", b"")),
        ("a path without a slash", instead(b":path", b"admin")),
        ("a path with a line end", instead(b":path", b"/ HTTP/1.1\r\nhost: b\r\n\r\nGET /admin")),
        ("a path with a space", instead(b":path", b"/ HTTP/1.1")),
        ("a path with a tab", instead(b":path", b"/\tx")),
        ("a path with a NUL", instead(b":path", b"/\0x")),
        ("a path with a bare LF", instead(b":path", b"/\nx")),
        ("a path beyond ASCII", instead(b":path", b"/\xff")),
        ("a path that is a whole address", instead(b":path", b"http://b.example/")),
        ("a path with a bad escape", instead(b":path", b"/%0")),
        ("a path with a quote", instead(b":path", b"/\"x")),
        ("the asterisk for POST", instead(b":path", b"*")),
        ("an authority with user information", instead(b":authority", b"u@a.example")),
        ("an authority with a path", instead(b":authority", b"a.example/admin")),
        ("an authority with a line end", instead(b":authority", b"a\r\nx: 1")),
        ("an authority with a space", instead(b":authority", b"a b")),
        ("an authority with a bad port", instead(b":authority", b"a.example:99999")),
        ("an empty authority", instead(b":authority", b"")),
        ("a list of authorities", instead(b":authority", b"a.example,b.example")),
        ("another Host", with(&[(b"host", b"b.example")])),
        ("two Hosts", with(&[(b"host", b"a.example"), (b"host", b"a.example")])),
        ("a Host with a path", [without(b":authority"), vec![(b"host".as_slice(), b"a/b".as_slice())]].concat()),
        ("a scheme with a line end", instead(b":scheme", b"http://b/ HTTP/1.1\r\n\r\n")),
        ("transfer-encoding", with(&[(b"transfer-encoding", b"chunked")])),
        ("connection", with(&[(b"connection", b"close")])),
        ("keep-alive", with(&[(b"keep-alive", b"1")])),
        ("proxy-connection", with(&[(b"proxy-connection", b"close")])),
        ("upgrade", with(&[(b"upgrade", b"websocket")])),
        ("te beyond trailers", with(&[(b"te", b"gzip")])),
        ("a name in capitals", with(&[(b"X-A", b"1")])),
        ("a name with a colon", with(&[(b"x:a", b"1")])),
        ("a name with a space", with(&[(b"x a", b"1")])),
        ("a name with a line end", with(&[(b"x\r\ny", b"1")])),
        ("an empty name", with(&[(b"", b"1")])),
        ("a value with CRLF", with(&[(b"x-a", b"1\r\ntransfer-encoding: chunked")])),
        ("a value with a bare LF", with(&[(b"x-a", b"1\nx-b: 2")])),
        ("a value with a bare CR", with(&[(b"x-a", b"1\rx-b: 2")])),
        ("a value with a NUL", with(&[(b"x-a", b"1\x002")])),
        ("a value with a space before it", with(&[(b"x-a", b" 1")])),
        ("a value with a tab after it", with(&[(b"x-a", b"1\t")])),
        ("two lengths", with(&[(b"content-length", b"4"), (b"content-length", b"5")])),
        ("the same length twice", with(&[(b"content-length", b"4"), (b"content-length", b"4")])),
        ("a list of lengths", with(&[(b"content-length", b"4, 4")])),
        ("a signed length", with(&[(b"content-length", b"+4")])),
        ("a hexadecimal length", with(&[(b"content-length", b"0x4")])),
        ("a length beyond 64 bits", with(&[(b"content-length", b"18446744073709551620")])),
        ("an expectation that nobody meets", with(&[(b"expect", b"200-ok")])),
    ]
}

async fn send_whole(proxy: &Proxy, fields: &Fields<'_>, body: &[u8]) -> Outcome {
    let mut frames = Frames::open(proxy.address()).await;
    frames.send(&Frame::new(kind::HEADERS, END_HEADERS, 1, block(fields))).await;
    frames.send(&Frame::new(kind::DATA, END_STREAM, 1, body)).await;
    outcome(&mut frames).await
}

async fn outcome(frames: &mut Frames) -> Outcome {
    match frames.outcome(1).await {
        Some(frame) if frame.kind == kind::HEADERS => Outcome::Answered,
        Some(frame) if frame.kind == kind::RST_STREAM => Outcome::Reset(frame.code()),
        Some(frame) => Outcome::Ended(frame.code()),
        None => panic!("the connection ended without a word"),
    }
}

#[tokio::test]
async fn no_hostile_head_reaches_an_http_1_backend() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;
    let heads = hostile_heads();
    assert!(heads.len() >= 50);

    for (what, fields) in &heads {
        send_whole(&proxy, fields, b"four").await;
        assert_eq!(a.requests(), 0, "{what}: {:?}", a.received());
    }

    assert_eq!(send_whole(&proxy, &with(&[]), b"four").await, Outcome::Answered);
    assert_eq!(a.received_for("/sound").body.bytes, b"four");
}

#[tokio::test]
async fn what_breaks_only_our_rules_is_answered_and_logged() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;

    let other = with(&[(b"host", b"b.example")]);
    assert_eq!(send_whole(&proxy, &other, b"four").await, Outcome::Answered);
    let line = proxy.log_line("the refusal", |line| line["status"] == 400).await;
    assert_eq!(
        (&line["method"], &line["path"], &line["protocol"]),
        (&"POST".into(), &"/sound".into(), &"HTTP/2.0".into())
    );
    assert_eq!(line["reason"], "http_request_error");
}

#[tokio::test]
async fn a_body_that_breaks_its_promise_desynchronises_nobody() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;
    let smuggled = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

    for (length, body) in [("4", smuggled.as_slice()), ("400", smuggled), ("0", smuggled), ("400", b"")] {
        let fields = with(&[(b"content-length", length.as_bytes())]);
        let outcome = send_whole(&proxy, &fields, body).await;
        assert!(matches!(outcome, Outcome::Reset(1) | Outcome::Answered), "{length}: {outcome:?}");
        // Whatever connection to the origin it was on, the next request is the next request.
        assert_eq!(get(proxy.address(), "/next").await.text(), "a");
    }

    let mut frames = Frames::open(proxy.address()).await;
    frames
        .send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, 1, block(&with(&[(b"content-length", b"40")]))))
        .await;
    outcome(&mut frames).await;

    assert_eq!(a.requests_for("/smuggled"), 0);
    assert!(
        a.received().iter().filter(|request| request.target == "/sound").all(|request| request.body.bytes.len() <= 4)
    );
}

/// To a backend over HTTP/1.1 a request without content is whole with its head, so that its end is awaited first.
#[tokio::test]
async fn content_where_none_was_promised_reaches_no_backend() {
    for lane in ["auto", "off"] {
        let a = Origin::start("a").await;
        let proxy = Proxy::start(&[&a], &YAML.replace("timeouts:", &format!("lane: '{lane}', timeouts:"))).await;
        let fields = with(&[(b"content-length", b"0")]);

        assert_eq!(send_whole(&proxy, &fields, b"four").await, Outcome::Reset(1), "{lane}");
        let line = proxy.log_line("the refusal", |line| line["status"] == 400).await;
        assert_eq!((&line["path"], a.requests()), (&"/sound".into(), 0), "{lane}");

        assert_eq!(send_whole(&proxy, &fields, b"").await, Outcome::Answered, "{lane}");
        assert_eq!(a.received_for("/sound").body.bytes, b"", "{lane}");
    }
}

#[tokio::test]
async fn bytes_of_a_body_stay_in_the_body() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;
    let chunk_like = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

    let mut frames = Frames::open(proxy.address()).await;
    frames.send(&Frame::new(kind::HEADERS, END_HEADERS, 1, block(&with(&[])))).await;
    for byte in chunk_like {
        frames.send(&Frame::new(kind::DATA, 0, 1, [*byte])).await;
    }
    frames.send(&Frame::new(kind::DATA, END_STREAM, 1, [])).await;

    assert_eq!(outcome(&mut frames).await, Outcome::Answered);
    assert_eq!(a.received_for("/sound").body.bytes, chunk_like);
    assert_eq!(a.requests(), 1, "{:#?}", a.received());
}

#[tokio::test]
async fn trailers_cannot_change_a_request() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;
    for trailers in [
        block(&[(b"content-length", b"400")]),
        block(&[(b"transfer-encoding", b"chunked")]),
        block(&[(b":path", b"/admin")]),
        block(&[(b"host", b"b.example")]),
    ] {
        let mut frames = Frames::open(proxy.address()).await;
        frames.send(&Frame::new(kind::HEADERS, END_HEADERS, 1, block(&with(&[])))).await;
        frames.send(&Frame::new(kind::DATA, 0, 1, b"four")).await;
        frames.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, 1, trailers)).await;
        outcome(&mut frames).await;
    }
    assert_eq!((a.requests_for("/admin"), get(proxy.address(), "/next").await.status), (0, 200));
    let sound = a.received().into_iter().filter(|request| request.target == "/sound");
    assert!(sound.into_iter().all(|request| request.head.field("host") == Some("a.example")));
}

/// The code that every flood is answered with.
const CALM: u32 = 11;

/// A flood: what opens it, and what is repeated, by its number.
struct Flood {
    name: &'static str,
    opening: Vec<Frame>,
    repeated: Box<dyn Fn(u32) -> Vec<Frame> + Send>,
    times: u32,
}

fn flood(name: &'static str, times: u32, repeated: impl Fn(u32) -> Vec<Frame> + Send + 'static) -> Flood {
    Flood { name, opening: Vec::new(), repeated: Box::new(repeated), times }
}

fn open_stream() -> Frame {
    Frame::new(kind::HEADERS, END_HEADERS, 1, head("POST", "/open", &[]))
}

fn floods() -> Vec<Flood> {
    let rapid = |n: u32| {
        let stream = 2 * n + 1;
        vec![
            Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, stream, head("GET", "/rapid", &[])),
            Frame::new(kind::RST_STREAM, 0, stream, [0, 0, 0, 8]),
        ]
    };
    let made = |n: u32| {
        let stream = 2 * n + 1;
        vec![
            Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, stream, head("GET", "/made", &[])),
            // A window beyond 2^31 is an error of the stream, which the server must reset.
            Frame::new(kind::WINDOW_UPDATE, 0, stream, [0x7f, 0xff, 0xff, 0xff]),
        ]
    };
    let over = |n: u32| vec![Frame::new(kind::HEADERS, END_HEADERS, 2 * n + 1, head("POST", "/open", &[]))];
    let opened = |flood: Flood| Flood { opening: vec![open_stream()], ..flood };
    vec![
        flood("rapid reset", 5_000, rapid),
        flood("made-you-reset", 5_000, made),
        flood("streams beyond the bound", 5_000, over),
        flood("PING", 10_000, |_| vec![Frame::new(kind::PING, 0, 0, [0; 8])]),
        flood("SETTINGS", 10_000, |_| vec![Frame::new(kind::SETTINGS, 0, 0, [])]),
        flood("PRIORITY", 10_000, |n| vec![Frame::new(kind::PRIORITY, 0, 2 * n + 1, [0, 0, 0, 0, 1])]),
        flood("unknown frames", 10_000, |_| vec![Frame::new(0xfa, 0, 0, [1, 2, 3])]),
        flood("PRIORITY_UPDATE", 10_000, |_| vec![Frame::new(0x10, 0, 0, *b"\0\0\0\x01u=1")]),
        flood("WINDOW_UPDATE", 10_000, |_| vec![Frame::new(kind::WINDOW_UPDATE, 0, 0, [0, 0, 0, 1])]),
        opened(flood("empty DATA", 10_000, |_| vec![Frame::new(kind::DATA, 0, 1, [])])),
        Flood {
            opening: vec![Frame::new(kind::HEADERS, 0, 1, head("GET", "/", &[]))],
            ..flood("CONTINUATION", 10_000, |_| vec![Frame::new(kind::CONTINUATION, 0, 1, block(&[(b"x-a", b"1")]))])
        },
        Flood {
            opening: vec![Frame::new(kind::HEADERS, 0, 1, head("GET", "/", &[]))],
            ..flood("empty CONTINUATION", 10_000, |_| vec![Frame::new(kind::CONTINUATION, 0, 1, [])])
        },
        Flood {
            opening: vec![Frame::new(kind::HEADERS, 0, 1, bomb())],
            ..flood("a header bomb", 200, |_| vec![Frame::new(kind::CONTINUATION, 0, 1, vec![0xbe; 16_000])])
        },
    ]
}

/// A block that puts 4,000 bytes into the table (RFC 7541, 6.2.1), which each byte after it names again.
fn bomb() -> Vec<u8> {
    let mut bomb = head("GET", "/", &[]);
    let value = [b'x'; 4_000];
    let mut entry = block(&[(b"x-bomb", &value)]);
    entry[0] = 0x40;
    bomb.extend(entry);
    bomb
}

#[tokio::test]
async fn every_flood_ends_its_connection_and_harms_nobody_else() {
    let a = Origin::start("a").await;
    let proxy = Setup::new(&[&a]).start(YAML).await;
    let mut bystander = H2Client::connect(proxy.address()).await;
    let mut codes = HashMap::new();

    for flood in floods() {
        let mut frames = Frames::open(proxy.address()).await;
        for frame in &flood.opening {
            frames.send(frame).await;
        }
        // A hundred at a time: the peer closes long before the end, and then takes no more.
        for batch in 0..flood.times / 100 {
            let bytes: Vec<u8> =
                (0..100).flat_map(|n| (flood.repeated)(batch * 100 + n)).flat_map(|frame| frame.bytes()).collect();
            if !frames.bytes(&bytes).await {
                break;
            }
        }
        codes.insert(flood.name, frames.goaway().await);
        assert_eq!(bystander.get("/bystander").await.status, 200, "{}", flood.name);
        assert_eq!(get(proxy.address(), "/bystander").await.status, 200, "{}", flood.name);
    }

    let wrong: Vec<_> = codes.iter().filter(|(_, code)| **code != Some(CALM)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    proxy.log_line("a flood", |line| line["reason"] == "enhance_your_calm").await;
    assert!(proxy.metric("roundel_answers_total", &[("reason", "enhance_your_calm")]).await >= 1.0);
}

#[tokio::test]
async fn the_rules_of_the_connection_are_kept_with_their_codes() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;
    let cases: Vec<(&str, Vec<Frame>, u32)> = vec![
        ("DATA on the connection", vec![Frame::new(kind::DATA, 0, 0, [1])], 1),
        ("HEADERS on an even stream", vec![Frame::new(kind::HEADERS, 5, 2, head("GET", "/", &[]))], 1),
        ("a window beyond 2^31", vec![Frame::new(kind::WINDOW_UPDATE, 0, 0, [0x7f, 0xff, 0xff, 0xff])], 3),
        ("a window of nothing", vec![Frame::new(kind::WINDOW_UPDATE, 0, 0, [0; 4])], 1),
        ("CONTINUATION out of place", vec![Frame::new(kind::CONTINUATION, 4, 1, [])], 1),
        ("a block that is no HPACK", vec![Frame::new(kind::HEADERS, 5, 1, [0x80])], 1),
        ("a push", vec![Frame::new(5, 4, 1, [0, 0, 0, 2])], 1),
    ];
    for (what, frames, code) in cases {
        let mut connection = Frames::open(proxy.address()).await;
        for frame in frames {
            connection.send(&frame).await;
        }
        assert_eq!(connection.goaway().await, Some(code), "{what}");
    }
    let mut large = Frames::open(proxy.address()).await;
    large.bytes(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]).await;
    assert_eq!(large.goaway().await, Some(6), "a frame beyond the size that was agreed");
}

#[tokio::test]
async fn a_broken_preface_is_no_http_2() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], YAML).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    assert_eq!(connection.answer().await.status, 400);
}
