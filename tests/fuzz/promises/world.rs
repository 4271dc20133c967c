//! The proxy in this process: the edge that serves clients in production, with both its roads, between a client and a backend on
//! unix sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use roundel::base::crypto;
use roundel::config;
use roundel::edge::door::{Door, Entrance, Live};
use roundel::edge::limits::{Connections, Ticket};
use roundel::edge::transport::Transport;
use roundel::exchange::snapshot::{Current, Lasting, Snapshot};
use roundel::server;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::frames::{ACK, DATA, END_STREAM, HEADERS, Message, PING, PREFACE, SETTINGS, frame, frame_at};
use crate::reader::{self, Fields, Reading, Request};

/// Longer than anything here takes: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both roads to one backend. What is tried again would be a second request to the backend. What clients write reaches fields,
/// paths and a redirect; requests on that route say so to the backend by `x-edited`. And what they write chooses: a route, whose rate
/// is used up, the backend that stays theirs, the coding of an answer.
const PLAN: &str = r#"
listeners:
  - { name: lane, address: "127.0.0.1:1", lane: auto, protocols: [h1, h2], timeouts: TIMEOUTS }
  - { name: general, address: "127.0.0.1:2", lane: "off", protocols: [h1, h2], timeouts: TIMEOUTS }
access_log: none
upstreams:
  web:
    backends: ["unix:SOCKET"]
    health_check: none
    outlier: none
    retry: none
    timeouts: { first_byte: 1s, idle: 1s }
  kept:
    backends: ["unix:SOCKET"]
    balance: { hash: { key: "header:x-key" } }
    sticky: { cookie: k }
    health_check: none
    outlier: none
    retry: none
    timeouts: { first_byte: 1s, idle: 1s }
  # A connection serves one client alone, so that what came to one client never lies before the next.
  framed:
    backends: ["unix:FRAMED"]
    protocol: h2
    send_proxy_protocol: v1
    health_check: none
    outlier: none
    retry: none
    timeouts: { first_byte: 1s, idle: 1s }
routes:
  - { name: framed, match: [{ path_prefix: /framed }], to: framed }
  - name: edited
    match: [{ path_prefix: /edited }]
    filters:
      - request_headers: { set: { x-edited: "1", x-of: "{method} {host} {path} {query}" }, remove: [x-gone] }
      - response_headers: { add: { x-of: "{method} {host} {path} {query}" } }
      - rewrite: { path_prefix: /new }
    to: web
  - name: moved
    match: [{ path_prefix: /moved }]
    redirect: { path_prefix: /new, status: 308 }
  - name: chosen
    hosts: ["*.b.example", "c.example"]
    match:
      - { path_prefix: /chosen, headers: { x-a: "1" } }
      - { path_regex: "^/re/[a-z]+/?$", query: { x: "1" }, method: [GET, PUT] }
    filters:
      - rate_limit: { key: "header:x-key", rate: 1000000/s, max_keys: 1000, headers: true }
      - rate_limit: { key: "cookie:k", rate: 1000000/s, max_keys: 1000 }
      - rate_limit: { key: "query:x", rate: 1000000/s, max_keys: 1000 }
      - cors: { origins: ["https://a.example"], methods: [PUT], headers: [x-a], credentials: true }
    to: kept
  - name: compressed
    match: [{ path_prefix: /compressed }]
    filters: [{ compress: { min_bytes: 1B } }]
    to: web
  - { name: all, to: web }
"#;
const TIMEOUTS: &str = "{ header: 1s, body_idle: 1s, keepalive: 1s, write_idle: 1s }";

type Receive = Box<dyn Fn(Transport, Entrance, Ticket) -> JoinHandle<()> + Send + Sync>;

/// The proxy and its backend.
pub struct World {
    runtime: Runtime,
    receive: Receive,
    /// The listeners, by the road that they take.
    doors: Vec<(&'static str, Arc<Door>)>,
    backend: Arc<Mutex<Backend>>,
    /// How many clients there were: each has an address of its own, so that the backend knows whose a request is.
    clients: AtomicU32,
    _directory: TempDir,
    _draining: watch::Sender<bool>,
}

/// What the backend has seen, and what it says.
#[derive(Default)]
pub struct Backend {
    requests: Vec<Request>,
    malformed: Vec<Vec<u8>>,
    /// What it answers to the next request, in place of its usual answer.
    script: Option<Script>,
}

/// An answer in any bytes.
pub struct Script {
    /// The bytes.
    pub answer: Vec<u8>,
    /// Whether the backend closes the connection after them.
    pub closes: bool,
}

/// What became of a client's bytes.
pub struct Seen {
    /// What its requests were to the backend.
    pub requests: Vec<Request>,
    /// What the backend could not read, of whomever.
    malformed: Vec<Vec<u8>>,
    /// What the client read, up to the end of its connection.
    pub answers: Vec<u8>,
}

impl Seen {
    /// Whatever was forwarded, a strict reader takes it.
    pub fn check_well_formed(&self, road: &str) {
        if let Some(malformed) = self.malformed.first() {
            panic!("the {road} forwards what no strict reader takes: {}", malformed.escape_ascii());
        }
    }
}

/// The usual answer of the backend.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nx-backend: 1\r\ncontent-length: 2\r\n\r\nok";

impl World {
    /// A proxy that has served nobody yet.
    pub fn new() -> Self {
        crypto::install();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let inside = runtime.enter();
        // Under libFuzzer nobody else keeps a write to a closed socket from ending the process.
        drop(signal(SignalKind::pipe()).expect("a signal that may be caught"));
        let directory = TempDir::new().expect("the temporary directory can be written");
        let socket = directory.path().join("backend");
        let framed = directory.path().join("framed");
        let text = PLAN
            .replace("TIMEOUTS", TIMEOUTS)
            .replace("SOCKET", &socket.display().to_string())
            .replace("FRAMED", &framed.display().to_string());
        let loaded = config::load_text("fuzz", &text, &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
        let plan = Arc::new(loaded.plan);
        let mut lasting = Lasting::new(1, None);
        let snapshot = Snapshot::build(plan.clone(), 1, &mut lasting).expect("the plan names no files");
        // The backends become members here; nothing else of it is needed.
        drop(server::supervisor(&snapshot).expect("a resolver"));
        let (draining, drains) = watch::channel(false);
        let edge = Arc::new(server::edge(&Current::new(snapshot), drains));
        let receive: Receive = Box::new(move |transport, entrance, ticket| {
            let edge = edge.clone();
            tokio::spawn(async move { edge.receive(transport, entrance, ticket).await })
        });
        let all = Arc::new(Connections::default());
        let door =
            |listener: &config::plan::Listener| Door::new(Arc::new(listener.clone()), Live::default(), all.clone());
        let doors = ["lane", "general"].into_iter().zip(plan.listeners.iter().map(door)).collect();
        let backend = Arc::new(Mutex::new(Backend::default()));
        let bind = |path| UnixListener::bind(path).expect("a new directory");
        runtime.spawn(accept(bind(&socket), backend.clone(), converse));
        runtime.spawn(accept(bind(&framed), backend.clone(), converse_in_frames));
        drop(inside);
        let clients = AtomicU32::new(1);
        Self { runtime, receive, doors, backend, clients, _directory: directory, _draining: draining }
    }

    /// The roads.
    pub fn roads(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.doors.iter().map(|(name, _)| *name)
    }

    /// Lets the backend answer the next request so.
    pub fn prepare(&self, script: Script) {
        lock(&self.backend).script = Some(script);
    }

    /// Sends `bytes` by this road, and then no more, and reads until the connection ends.
    pub fn pass(&self, road: &str, bytes: &[u8]) -> Seen {
        self.with_client(road, async |mut stream: UnixStream| {
            let (mut reading, mut writing) = stream.split();
            let mut answers = Vec::new();
            let write = async {
                // What comes in one piece and what comes in several are read by different turns of the loop.
                let (first, rest) = bytes.split_at(bytes.len() / 2);
                // The proxy may have closed it already.
                if writing.write_all(first).await.is_ok() {
                    tokio::task::yield_now().await;
                    let _ = writing.write_all(rest).await;
                }
                let _ = writing.shutdown().await;
            };
            let (_, read) = tokio::join!(write, reading.read_to_end(&mut answers));
            drop(read);
            answers
        })
    }

    /// Lets `talk` have a connection by this road.
    pub fn with_client(&self, road: &str, talk: impl AsyncFnOnce(UnixStream) -> Vec<u8>) -> Seen {
        let number = self.clients.fetch_add(1, Relaxed) & 0x00ff_ffff;
        let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | number));
        let (_, door) = self.doors.iter().find(|(name, _)| *name == road).expect("a road of this world");
        let answers = self.runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().expect("there are descriptors left");
            let transport = Transport::Unix(theirs);
            let mut entrance = Entrance::by(door, &transport);
            entrance.peer = Some(SocketAddr::new(client, 1));
            let ticket = door.gate().enter().expect("one at a time");
            let served = (self.receive)(transport, entrance, ticket);
            let answers = timeout(PATIENCE, talk(ours)).await.expect("the connection ends");
            timeout(PATIENCE, served).await.expect("the connection is given up").expect("no panic while serving");
            answers
        });
        let mut backend = lock(&self.backend);
        backend.script = None;
        let mut requests = std::mem::take(&mut backend.requests);
        // What a client that left has sent may come late: it is of that client still.
        requests.retain(|request| request.field("x-forwarded-for") == Some(client.to_string().as_bytes()));
        Seen { requests, malformed: std::mem::take(&mut backend.malformed), answers }
    }
}

fn lock(backend: &Mutex<Backend>) -> MutexGuard<'_, Backend> {
    backend.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The fields that `Connection` names, in small letters.
pub fn named_by_connection(fields: &Fields) -> Vec<Vec<u8>> {
    reader::all(fields, "connection")
        .flat_map(|value| value.split(|byte| *byte == b',').map(|option| option.trim_ascii().to_ascii_lowercase()))
        .collect()
}

async fn accept<C>(
    listener: UnixListener,
    backend: Arc<Mutex<Backend>>,
    converse: fn(UnixStream, Arc<Mutex<Backend>>) -> C,
) where
    C: Future<Output = ()> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, backend.clone()));
    }
}

/// Answers whatever requests come by one connection.
async fn converse(mut stream: UnixStream, backend: Arc<Mutex<Backend>>) {
    let mut bytes = Vec::new();
    loop {
        match reader::request(&bytes) {
            Reading::Whole(request, length) => {
                bytes.drain(..length);
                let is_head = request.method == b"HEAD";
                let script = {
                    let mut backend = lock(&backend);
                    backend.requests.push(request);
                    backend.script.take()
                };
                let script = script.unwrap_or_else(|| Script { answer: usual(is_head), closes: false });
                if stream.write_all(&script.answer).await.is_err() || script.closes {
                    return;
                }
            }
            Reading::Malformed => return lock(&backend).malformed.push(bytes),
            Reading::Begun if matches!(stream.read_buf(&mut bytes).await, Ok(1..)) => {}
            Reading::Begun => return,
        }
    }
}

/// The same over HTTP/2, behind a header of the PROXY protocol. After its usual answer it ends the connection.
async fn converse_in_frames(mut stream: UnixStream, backend: Arc<Mutex<Backend>>) {
    let mut bytes = Vec::new();
    let mut at = loop {
        if let Some(begin) = bytes.windows(PREFACE.len()).position(|window| window == PREFACE) {
            break begin + PREFACE.len();
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    };
    let mut out = frame(SETTINGS, 0, 0, b"");
    loop {
        let mut closes = false;
        while let Some((read, len)) = frame_at(&bytes[at..]) {
            match read.kind {
                SETTINGS if read.flags & ACK == 0 => out.extend(frame(SETTINGS, ACK, 0, b"")),
                PING if read.flags & ACK == 0 => out.extend(frame(PING, ACK, 0, read.payload)),
                HEADERS | DATA if read.flags & END_STREAM != 0 => {
                    let script = lock(&backend).script.take();
                    closes |= script.as_ref().is_none_or(|script| script.closes);
                    out.extend(script.map_or_else(|| usual_in_frames(read.stream), |script| script.answer));
                }
                _ => {}
            }
            at += len;
        }
        if stream.write_all(&out).await.is_err() || closes || !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
        out.clear();
    }
}

fn usual_in_frames(stream: u32) -> Vec<u8> {
    Message::parse(b":status: 200\nx-backend: 1\n\nok").frames(stream)
}

fn usual(is_head: bool) -> Vec<u8> {
    let end = if is_head { ANSWER.len() - 2 } else { ANSWER.len() };
    ANSWER[..end].to_vec()
}
