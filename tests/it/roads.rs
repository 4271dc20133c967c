//! Both roads keep the same promises: random requests, legal and hostile, and random answers of a backend go down the lane
//! and down the general road of one process, and client and backend must see the same.
//!
//! Differences that harm nobody, and are left out of the comparison: the order of fields of different names and the case of names,
//! `Date`, the id of a request, where chunks are cut, and trailers (the lane passes them). Where one road says 502 to an answer that breaks the
//! grammar, the other may have begun with it, and breaks off.
//!
//! `ROUNDEL_DIFFERENTIAL` is the number of exchanges; `ROUNDEL_SEED` repeats a run.

use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tokio::net::TcpListener;

use crate::harness::h2::{self, H2Client, map, send_all};
use crate::harness::wire::{Framing, Stream};
use crate::harness::{Address, Connection, Fault, Proxy, Setup, free_address};

const BOTH: &str = r#"
listeners:
  - { name: lane, address: "{listen}", protocols: [h2, h1], lane: auto, trusted_proxies: [10.0.0.0/8], timeouts: { body_idle: 5s } }
  - { name: general, address: "{general}", protocols: [h2, h1], lane: "off", trusted_proxies: [10.0.0.0/8], timeouts: { body_idle: 5s } }
  - { name: trusting_lane, address: "{trusting}", lane: auto, trusted_proxies: [127.0.0.0/8] }
  - { name: trusting_general, address: "{trusting_general}", lane: "off", trusted_proxies: [127.0.0.0/8] }
upstreams:
  web: { backends: [{backend}], health_check: none, outlier: none, retry: none, timeouts: { first_byte: 5s, idle: 5s } }
routes:
  - name: edited
    match: [{ path_prefix: /edited }]
    filters:
      - request_headers: { set: { x-set: "{host}{path}" }, add: { x-add: "1" }, remove: [x-gone] }
      - response_headers: { set: { x-set: "{method}" }, add: { vary: x }, remove: [server] }
      - rewrite: { path_prefix: /new }
    to: web
  - name: all
    to: web
"#;

/// What the backend says next, and what it was asked.
#[derive(Default)]
struct Script {
    answer: Vec<u8>,
    closes: bool,
    seen: Vec<Seen>,
}

/// A message without what may differ.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    start: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} and {} bytes", self.start, self.fields, self.body.len())
    }
}

const LEFT_OUT: [&str; 3] = ["date", "x-request-id", "trailer"];

fn seen(start: &str, fields: &[(String, String)], body: &[u8]) -> Seen {
    let mut fields: Vec<(String, String)> =
        fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    fields.retain(|(name, _)| !LEFT_OUT.contains(&name.as_str()));
    // Stable: values of one name stay in their order.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Seen { start: start.to_owned(), fields, body: body.to_vec() }
}

/// A backend that answers every request with the script's bytes.
async fn backend() -> (Address, Arc<Mutex<Script>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address").into();
    let script = Arc::new(Mutex::new(Script::default()));
    let shared = script.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(Stream::tcp(stream), shared.clone()));
        }
    });
    (address, script)
}

async fn converse(mut stream: Stream, script: Arc<Mutex<Script>>) {
    while let Ok(Some(head)) = stream.head().await {
        let framing = head.declared().ok().flatten().unwrap_or(Framing::None);
        let Ok(body) = stream.body(framing).await else { return };
        let (answer, closes) = {
            let mut script = script.lock().expect("no test thread panics with it");
            script.seen.push(seen(&head.start, &head.fields, &body.bytes));
            (script.answer.clone(), script.closes)
        };
        if stream.send(&answer).await.is_err() || closes {
            return;
        }
    }
}

/// What a client saw: the answer, or how it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    statuses: Vec<u16>,
    answer: Result<Seen, &'static str>,
}

async fn ask(address: &Address, request: &[u8], method: &str) -> Told {
    let mut connection = Connection::open(address).await;
    connection.send_what_it_takes(request).await;
    match connection.try_answer(method).await {
        Ok(answer) => Told {
            statuses: answer.informational.iter().copied().chain([answer.status]).collect(),
            answer: Ok(seen(&answer.head.start, &answer.head.fields, &answer.body.bytes)),
        },
        Err(Fault::Late) => panic!("no answer to {:?}", String::from_utf8_lossy(request)),
        Err(_) => Told { statuses: Vec::new(), answer: Err("broken off") },
    }
}

/// The same over HTTP/2.
async fn ask_over_http_2(address: &Address, request: &H2Request) -> Told {
    let mut client = H2Client::connect(address).await;
    let head = http::Request::builder().method(request.method).uri(format!("http://shop.example{}", request.path));
    let head = request.fields.iter().fold(head, |head, (name, value)| head.header(*name, value.as_str()));
    let head = head.body(()).expect("a request");
    let answer = match &request.body {
        None => client.send(head, b"").await,
        Some(pieces) => {
            let (response, mut stream) = client.begin(head).await;
            let (pieces, trailers) = (pieces.clone(), request.trailers);
            let sending = tokio::spawn(async move {
                for (at, piece) in pieces.iter().enumerate() {
                    send_all(&mut stream, piece, at + 1 == pieces.len() && !trailers).await?;
                }
                if trailers { stream.send_trailers(map(&[("x-trailer", "1")])) } else { Ok(()) }
            });
            let answer = h2::answer(response).await;
            // What nobody reads any more is not sent.
            sending.abort();
            answer
        }
    };
    match answer {
        Ok(answer) => {
            let text = |value: &http::HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
            let fields: Vec<(String, String)> =
                answer.fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            Told { statuses: vec![answer.status], answer: Ok(seen("", &fields, &answer.body)) }
        }
        Err(_) => Told { statuses: Vec::new(), answer: Err("broken off") },
    }
}

fn pick<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

fn some_body(rng: &mut Rng) -> Vec<u8> {
    let length = if rng.u8(..8) == 0 { rng.usize(..200_000) } else { rng.usize(..300) };
    (0..length).map(|_| rng.u8(..)).collect()
}

fn in_chunks(rng: &mut Rng, body: &[u8], trailers: bool) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), body);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rng.usize(1..=rest.len()));
        let extension = pick(rng, &["", "", "", ";a", ";a=\"b c\""]);
        out.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = after;
    }
    out.extend_from_slice(b"0\r\n");
    if trailers {
        out.extend_from_slice(b"x-trailer: 1\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// A request, its method, and whether it keeps to the grammar.
fn some_request(rng: &mut Rng) -> (Vec<u8>, &'static str) {
    let method = pick(rng, &["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"]);
    let target = pick(rng, &["/", "/a/b?c=d&e", "/edited/x?y", "/edited", "/%41/../b", "//a", "/a|b", "http://x/abs"]);
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", pick(rng, &["x", "x", "shop.example:81"]));
    for _ in 0..rng.usize(..6) {
        head.push_str(pick(
            rng,
            &[
                "Accept: */*\r\n",
                "Cookie: a=b; c=d\r\n",
                "cookie: e=f\r\n",
                "X-Forwarded-For: 6.6.6.6\r\n",
                "X-Forwarded-For: 7.7.7.7, 8.8.8.8\r\n",
                "X-Forwarded-Proto: https\r\n",
                "X-Forwarded-Host: bank\r\n",
                "X-Forwarded-Port: 1\r\n",
                "Forwarded: for=6.6.6.6\r\n",
                "X-Real-IP: 6.6.6.6\r\n",
                "Via: 1.0 other, 1.1 third\r\n",
                "X-Request-Id: forged\r\n",
                "x-roundel-attempt: 1\r\n",
                "Connection: close\r\n",
                "Connection: keep-alive\r\n",
                "Connection: x-gone, close\r\n",
                "Keep-Alive: timeout=5\r\n",
                "Proxy-Connection: keep-alive\r\n",
                "Proxy-Authorization: Basic eDp5\r\n",
                "TE: trailers\r\n",
                "Trailer: x-trailer\r\n",
                "Upgrade: h2c\r\n",
                "X-Gone: 1\r\n",
                "x-set: mine\r\n",
                "X-Empty:\r\n",
                "X-Latin: caf\u{e9}\r\n",
                "User-Agent:  padded \r\n",
            ],
        ));
    }
    let body = some_body(rng);
    let bodiless = matches!(method, "GET" | "HEAD" | "OPTIONS") && rng.u8(..6) > 0;
    let rest = match rng.u8(..3) {
        _ if bodiless => Vec::new(),
        0 => {
            head.push_str("Transfer-Encoding: chunked\r\n");
            let trailers = rng.bool();
            in_chunks(rng, &body, trailers)
        }
        _ => {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            body
        }
    };
    let mut bytes = head.into_bytes();
    let is_hurt = rng.u8(..8) == 0;
    if is_hurt {
        hurt(rng, &mut bytes);
    }
    bytes.extend_from_slice(b"\r\n");
    // A length that was added must not leave the proxy waiting.
    bytes.extend_from_slice(if is_hurt && rest.is_empty() { b"abc" } else { &rest });
    (bytes, method)
}

/// A request over HTTP/2, which the codec on the other side takes.
#[derive(Debug)]
struct H2Request {
    method: &'static str,
    path: &'static str,
    fields: Vec<(&'static str, String)>,
    /// The parts that it comes in; none where its head ends it.
    body: Option<Vec<Vec<u8>>>,
    trailers: bool,
}

fn some_request_over_http_2(rng: &mut Rng) -> H2Request {
    let method = pick(rng, &["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"]);
    let path = pick(rng, &["/", "/a/b?c=d&e", "/edited/x?y", "/edited", "/%41/../b", "//a", "/a|b"]);
    let lines = [
        "accept: */*",
        "cookie: a=b",
        "cookie: e=f",
        "x-forwarded-for: 6.6.6.6",
        "x-forwarded-proto: https",
        "forwarded: for=6.6.6.6",
        "via: 1.0 other, 1.1 third",
        "x-request-id: forged",
        "x-roundel-attempt: 1",
        "proxy-authorization: Basic eDp5",
        "te: trailers",
        "trailer: x-trailer",
        "x-gone: 1",
        "x-set: mine",
        "x-empty:",
        "content-type: application/grpc",
        "expect: 100-continue",
        "max-forwards: 3",
    ];
    let mut fields: Vec<_> = (0..rng.usize(..6))
        .map(|_| pick(rng, &lines).split_once(':').expect("each has a colon"))
        .map(|(name, value)| (name, value.trim_start().to_owned()))
        .collect();
    let body =
        (rng.u8(..3) == 0 || !matches!(method, "GET" | "HEAD" | "OPTIONS") && rng.bool()).then(|| some_body(rng));
    if let Some(body) = body.as_ref().filter(|_| rng.bool()) {
        fields.push(("content-length", body.len().to_string()));
    }
    let body = body.map(|body| {
        let (first, second) = body.split_at(rng.usize(..=body.len()));
        [first, second].into_iter().filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
    });
    // An end without a body is said by the head.
    let body = body.filter(|parts: &Vec<Vec<u8>>| !parts.is_empty());
    H2Request { method, path, fields, trailers: body.is_some() && rng.u8(..4) == 0, body }
}

/// Breaks a head somewhere after its first word, so that both sides still agree on the method.
fn hurt(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.usize(8..bytes.len());
    match rng.u8(..4) {
        0 => bytes[at] = pick(rng, &["\0", "\n", "\r", " ", ":", "\x7f", "\t"]).as_bytes()[0],
        1 => bytes.insert(at, b"\r\n :\0"[rng.usize(..5)]),
        2 => bytes.extend_from_slice(b"Content-Length: 3\r\n"),
        _ => bytes.extend_from_slice(
            pick(rng, &["Transfer-Encoding: gzip\r\n", "bad name: 1\r\n", "x : 1\r\n", " folded\r\n", "Host: y\r\n"])
                .as_bytes(),
        ),
    }
}

/// An answer, whether the backend closes after it, and whether it keeps to the grammar.
fn some_answer(rng: &mut Rng, method: &str) -> (Vec<u8>, bool, bool) {
    let status =
        pick(rng, &["200 OK", "200", "201 Made", "204 No Content", "304 Not Modified", "404 ", "500 Oh", "599 Far"]);
    let version = pick(rng, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]);
    let mut head = String::new();
    if rng.u8(..8) == 0 && version == "HTTP/1.1" {
        head.push_str("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nKeep-Alive: 1\r\n\r\n");
    }
    head.push_str(&format!("{version} {status}\r\n"));
    for _ in 0..rng.usize(..5) {
        head.push_str(pick(
            rng,
            &[
                "Server: s/1\r\n",
                "Set-Cookie: a=b\r\n",
                "Set-Cookie: c=d\r\n",
                "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
                "Connection: close\r\n",
                "Connection: keep-alive\r\n",
                "Connection: x-inner\r\n",
                "X-Inner: 1\r\n",
                "Keep-Alive: timeout=5\r\n",
                "Proxy-Connection: x\r\n",
                "Upgrade: h2c\r\n",
                "Vary: a\r\n",
                "x-set: theirs\r\n",
                "ETag: \"x\"\r\n",
                "X-Empty:\r\n",
            ],
        ));
    }
    let none = method == "HEAD" || matches!(&status[..3], "204" | "304");
    let body = some_body(rng);
    let kind = rng.u8(..4);
    let (rest, mut closes) = match kind {
        0 if version == "HTTP/1.1" => {
            head.push_str("Transfer-Encoding: chunked\r\n");
            let trailers = rng.bool();
            (in_chunks(rng, &body, trailers), false)
        }
        1 => (body, true),
        _ => {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            (body, false)
        }
    };
    let mut bytes = head.into_bytes();
    let sound = rng.u8(..5) > 0;
    let mut rest = if none { Vec::new() } else { rest };
    if !sound {
        closes = true;
        match rng.u8(..5) {
            0 => hurt(rng, &mut bytes),
            1 => rest.truncate(rest.len() / 2),
            2 => {
                bytes.extend_from_slice(pick(rng, &["Content-Length: 3\r\n", "Transfer-Encoding: gzip\r\n"]).as_bytes())
            }
            3 => bytes = b"nonsense\r\n".to_vec(),
            _ => rest.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&rest);
    (bytes, closes || rng.u8(..4) == 0, sound)
}

/// Whether two clients were told the same. Of an answer that is not sound, one road may say 502 where the other has begun to pass
/// it on and breaks off.
fn alike(lane: &Told, general: &Told, sound: bool) -> bool {
    let refused = |told: &Told| told.statuses.last() == Some(&502) || told.answer.is_err();
    lane == general || !sound && refused(lane) && refused(general)
}

/// How many exchanges, and by which seed.
fn extent(usual: u64) -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    (number("ROUNDEL_DIFFERENTIAL").unwrap_or(usual), number("ROUNDEL_SEED").unwrap_or(7))
}

/// The beginning of a message, as far as it is text.
fn beginning(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte >= 0x80).next().unwrap_or(bytes)).into_owned()
}

/// What an exchange came to on each of two roads: for the client, and for the backend.
async fn on_both(
    script: &Mutex<Script>,
    roads: [&Address; 2],
    (answer, closes): (&[u8], bool),
    ask: impl AsyncFn(&Address) -> Told,
) -> ([Told; 2], [Vec<Seen>; 2]) {
    let once = async |road| {
        *script.lock().expect("no test thread panics with it") =
            Script { answer: answer.to_vec(), closes, seen: Vec::new() };
        let told = ask(road).await;
        (told, std::mem::take(&mut script.lock().expect("no test thread panics with it").seen))
    };
    let both = async || {
        let [(lane, by_lane), (general, by_general)] = [once(roads[0]).await, once(roads[1]).await];
        ([lane, general], [by_lane, by_general])
    };
    let mut outcome = both().await;
    for _ in 0..2 {
        if met_a_closing_connection(&outcome) {
            outcome = both().await;
        }
    }
    outcome
}

/// Whether a request may have met a waiting connection while the backend closed it: that is nobody's difference.
fn met_a_closing_connection((told, backend_saw): &([Told; 2], [Vec<Seen>; 2])) -> bool {
    told.iter().zip(backend_saw).any(|(told, saw)| saw.is_empty() && matches!(told.statuses[..], [200 | 502]))
}

/// What differed in a run.
struct Differences {
    seed: u64,
    found: Vec<String>,
}

impl Differences {
    /// Judges one exchange; whether that is enough.
    fn enough(
        &mut self,
        round: u64,
        request: &str,
        (answer, closes, sound): (&[u8], bool, bool),
        (told, backend_saw): &([Told; 2], [Vec<Seen>; 2]),
    ) -> bool {
        if backend_saw[0] != backend_saw[1] || !alike(&told[0], &told[1], sound) {
            self.found.push(format!(
                "round {round} of seed {}, sound: {sound}, closes: {closes}\nlane:    {:?}\ngeneral: {:?}\nthe backend saw by the lane: {:?}\nby the general road: {:?}\n{request}\n{}",
                self.seed, told[0], told[1], backend_saw[0], backend_saw[1], beginning(answer)
            ));
        }
        self.found.len() == 5
    }

    fn are_none(&self) {
        assert!(self.found.is_empty(), "{}", self.found.join("\n\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_roads_tell_client_and_backend_the_same() {
    let (count, seed) = extent(1_200);
    let (address, script) = backend().await;
    let others = [free_address(), free_address(), free_address()];
    let proxy = proxy(&address, &others).await;

    let mut rng = Rng::with_seed(seed);
    let mut differences = Differences { seed, found: Vec::new() };
    for round in 0..count {
        let (request, method) = some_request(&mut rng);
        let (answer, closes, sound) = some_answer(&mut rng, method);
        let roads = match rng.bool() {
            true => [proxy.address(), &others[0]],
            false => [&others[1], &others[2]],
        };
        let asked = async |road: &Address| ask(road, &request, method).await;
        let outcome = on_both(&script, roads, (&answer, closes), asked).await;
        if differences.enough(round, &beginning(&request), (&answer, closes, sound), &outcome) {
            break;
        }
    }
    differences.are_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_roads_tell_client_and_backend_the_same_over_http_2() {
    let (count, seed) = extent(600);
    let (address, script) = backend().await;
    let others = [free_address(), free_address(), free_address()];
    let proxy = proxy(&address, &others).await;

    let mut rng = Rng::with_seed(seed);
    let mut differences = Differences { seed, found: Vec::new() };
    for round in 0..count {
        let request = some_request_over_http_2(&mut rng);
        let (answer, closes, sound) = some_answer(&mut rng, request.method);
        let roads = [proxy.address(), &others[0]];
        let asked = async |road: &Address| ask_over_http_2(road, &request).await;
        let outcome = on_both(&script, roads, (&answer, closes), asked).await;
        let sent = format!("{} {} {:?}", request.method, request.path, request.fields);
        if differences.enough(round, &sent, (&answer, closes, sound), &outcome) {
            break;
        }
    }
    differences.are_none();
}

/// A proxy with both roads to a backend.
async fn proxy(backend: &Address, others: &[Address; 3]) -> Proxy {
    let setup = Setup::new(&[])
        .word("backend", &backend.to_string())
        .word("general", &others[0].to_string())
        .word("trusting", &others[1].to_string())
        .word("trusting_general", &others[2].to_string());
    setup.start(BOTH).await
}
