//! What a client sends, and what its backend gets, are the same requests to a strict reader that shares nothing with the proxy.
//!
//! Streams of requests, most of them legal, some pipelined, some broken or with a second request hidden in a body, go down both roads
//! in pieces of any size. The backend writes down what it reads by a strict reader of its own; the same reader reads what the
//! client has sent. What the backend got must be the beginning of what the client sent, request by request, and never malformed.
//!
//! `ROUNDEL_ROAD` is the number of streams; `ROUNDEL_SEED` repeats a run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::harness::{Address, PATIENCE, Setup, free_address};
use crate::reader::{self, Reading, Request};

/// How long a client waits before it says that it sends no more.
const LULL: Duration = Duration::from_millis(100);

/// Method, target and content: the targets tell the streams apart.
type Meaning = (Vec<u8>, Vec<u8>, Vec<u8>);

/// What a backend has read, and what it could not.
#[derive(Default)]
struct Record {
    requests: Vec<Meaning>,
    malformed: Vec<Vec<u8>>,
}

async fn backend() -> (Address, Arc<Mutex<Record>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address").into();
    let record = Arc::new(Mutex::new(Record::default()));
    let shared = record.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(write_down(stream, shared.clone()));
        }
    });
    (address, record)
}

async fn write_down(mut stream: TcpStream, record: Arc<Mutex<Record>>) {
    let mut bytes = Vec::new();
    loop {
        match reader::request(&bytes) {
            Reading::Whole(request, length) => {
                bytes.drain(..length);
                record.lock().expect("no test thread panics with it").requests.push(request.meaning());
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
            Reading::Malformed => return record.lock().expect("no test thread panics with it").malformed.push(bytes),
            Reading::Begun if matches!(stream.read_buf(&mut bytes).await, Ok(1..)) => {}
            Reading::Begun => return,
        }
    }
}

fn pick<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

/// Some requests one after the other, the last of which ends the connection; their targets bear the stream's name.
fn some_stream(rng: &mut Rng, name: &str) -> Vec<u8> {
    let hidden = format!("GET /{name}/hidden HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut out = Vec::new();
    for number in 0..rng.usize(1..4) {
        let method = pick(rng, &["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"]);
        let mut request =
            format!("{method} /{name}/{number}{} HTTP/1.1\r\nHost: x\r\n", pick(rng, &["", "?a=b", "/c%20d"]));
        let body = pick(rng, &["", "a", &hidden, "0\r\n\r\n", "five5"]);
        for _ in 0..rng.usize(..3) {
            request.push_str(pick(rng, &["X-A: b\r\n", "x-empty:\r\n", "Cookie: a=b; c\r\n", "Accept:  */*\t\r\n"]));
        }
        match rng.u8(..10) {
            0..4 => request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len())),
            4..7 => request.push_str(&format!(
                "Transfer-Encoding: chunked\r\n\r\n{}0\r\n{}\r\n",
                if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) },
                pick(rng, &["", "", "x-trailer: 1\r\n"])
            )),
            7 => {
                let fields = pick(
                    rng,
                    &[
                        "Content-Length: 5\r\nContent-Length: 0\r\n",
                        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
                        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
                        "Transfer-Encoding: chunked, identity\r\n",
                        "Transfer-Encoding : chunked\r\n",
                        "Transfer-Encoding:\x0bchunked\r\n",
                        "Content-Length: +5\r\n",
                        "Content-Length: 5\n",
                        "X: y\r\n Content-Length: 5\r\n",
                        "Connection: content-length\r\nContent-Length: 5\r\n",
                    ],
                );
                request.push_str(&format!("{fields}\r\n{body}{hidden}"));
            }
            _ => request.push_str("\r\n"),
        }
        out.extend_from_slice(request.as_bytes());
    }
    out.extend_from_slice(format!("GET /{name}/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    for _ in 0..pick(rng, &["", "", "", "x", "xx"]).len() {
        let at = rng.usize(..out.len());
        match rng.u8(..3) {
            0 => out[at] = b"\r\n\0 \t:;0aA\x7f"[rng.usize(..11)],
            1 => out.insert(at, b"\r\n\0 :0"[rng.usize(..6)]),
            _ => drop(out.remove(at)),
        }
    }
    out
}

/// Sends the stream in pieces and waits for the end of the connection.
async fn send(address: &Address, bytes: &[u8], rng: &mut Rng) {
    let mut stream = TcpStream::connect(address.to_string()).await.expect("the proxy listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.usize(1..=rest.len()));
        // The proxy may have closed it already.
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
        rest = after;
    }
    // What waits for more than was sent is told that there is no more.
    let mut answers = Vec::new();
    if timeout(LULL, stream.read_to_end(&mut answers)).await.is_err() {
        let _ = stream.shutdown().await;
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answers)).await.expect("the connection ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_reader_reads_the_same_requests_on_both_sides() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (count, seed) = (number("ROUNDEL_ROAD").unwrap_or(600), number("ROUNDEL_SEED").unwrap_or(11));
    let (address, record) = backend().await;
    let general = free_address();
    let yaml = "
listeners:
  - { name: lane, address: \"{listen}\", lane: auto, timeouts: { header: 1s, body_idle: 1s, keepalive: 1s } }
  - { name: general, address: \"{general}\", lane: \"off\", timeouts: { header: 1s, body_idle: 1s, keepalive: 1s } }
upstreams: { web: { backends: [{backend}], health_check: none, outlier: none, retry: none } }
";
    let setup = Setup::new(&[]).word("backend", &address.to_string()).word("general", &general.to_string());
    let proxy = setup.start(yaml).await;

    let mut rng = Rng::with_seed(seed);
    let (mut passed, mut before) = (0, Vec::new());
    for round in 0..count {
        for (road, address) in [("lane", proxy.address()), ("general", &general)] {
            let bytes = some_stream(&mut rng, &format!("{round}-{road}"));
            let sent: Vec<Meaning> = reader::requests(&bytes).iter().map(Request::meaning).collect();
            send(address, &bytes, &mut rng).await;
            let mut got = std::mem::take(&mut *record.lock().expect("no test thread panics with it"));
            // The backend may come to what the stream before this one has sent only now.
            got.requests.retain(|request| sent.contains(request) || !before.contains(request));
            let told = || format!("round {round} of seed {seed} on the {road}: {}", bytes.escape_ascii());
            assert!(got.malformed.is_empty(), "{}\n{:?}", told(), got.malformed);
            assert!(sent.starts_with(&got.requests), "{}\nsent {sent:#?}\ngot {:#?}", told(), got.requests);
            passed += got.requests.len();
            before = sent;
        }
    }
    assert!(passed as u64 > count, "{passed} requests of {count} streams reached the backend: the test says little");
}
