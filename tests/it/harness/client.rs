//! A client that sends the bytes it is given, reads whole answers strictly, and can do both a bounded number of times over
//! many connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::tls::TlsClient;
use super::until;
use super::wire::{Address, Body, Fault, Framing, Head, Stream};

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its head.
    pub(crate) head: Head,
    /// Its body.
    pub(crate) body: Body,
    /// How its body ended.
    pub(crate) framing: Framing,
    /// The 1xx statuses that came before it.
    pub(crate) informational: Vec<u16>,
}

impl Answer {
    /// The first value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.bytes).into_owned()
    }

    /// The name of the origin that gave it; empty where the proxy answered by itself.
    pub(crate) fn origin(&self) -> &str {
        self.field("x-origin").unwrap_or_default()
    }

    /// Whether the connection ends with it.
    pub(crate) fn closes(&self) -> bool {
        self.framing == Framing::UntilClose || self.head.has_token("connection", "close")
    }
}

/// A connection to the proxy.
pub(crate) struct Connection {
    stream: Stream,
    authority: String,
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens there.
    pub(crate) async fn open(address: &Address) -> Self {
        Self::try_open(address).await.unwrap_or_else(|fault| panic!("no connection to {address}: {fault:?}"))
    }

    /// Connects, or says why it could not.
    pub(crate) async fn try_open(address: &Address) -> Result<Self, Fault> {
        Ok(Self { stream: Stream::connect(address).await?, authority: address.authority() })
    }

    /// A connection that stands already.
    pub(crate) fn over(stream: Stream, authority: &str) -> Self {
        Self { stream, authority: authority.to_owned() }
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the connection is broken.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.send(bytes.as_ref()).await.unwrap_or_else(|fault| panic!("could not send: {fault:?}"));
    }

    /// Sends bytes that the proxy may refuse to read to the end.
    pub(crate) async fn send_what_it_takes(&mut self, bytes: impl AsRef<[u8]>) {
        // The answer, or its absence, tells what became of it.
        let _ = self.stream.send(bytes.as_ref()).await;
    }

    /// Ends our sending side.
    pub(crate) async fn finish(&mut self) {
        self.stream.finish().await.unwrap_or_else(|fault| panic!("could not half-close: {fault:?}"));
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.reset();
    }

    /// Reads the answer to a request whose answer may have a body.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer("GET").await.unwrap_or_else(|fault| panic!("no answer: {fault:?}"))
    }

    /// Reads the answer to a request of this method, or says how it failed to come.
    pub(crate) async fn try_answer(&mut self, method: &str) -> Result<Answer, Fault> {
        let mut informational = Vec::new();
        loop {
            let head = self.stream.head().await?.ok_or(Fault::Closed)?;
            let status = status(&head.start)?;
            if (100..200).contains(&status) && status != 101 {
                informational.push(status);
                continue;
            }
            let framing = match head.declared()? {
                _ if method == "HEAD" || matches!(status, 101 | 204 | 304) => Framing::None,
                Some(framing) => framing,
                None => Framing::UntilClose,
            };
            let body = self.stream.body(framing).await?;
            return Ok(Answer { status, head, body, framing, informational });
        }
    }

    /// Sends a request and reads its answer; the connection stays open.
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "", b"").await.unwrap_or_else(|fault| panic!("GET {path}: {fault:?}"))
    }

    /// Sends a request with further fields (whole lines) and a body, and reads its answer.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, fields: &str, body: &[u8]) -> Result<Answer, Fault> {
        let mut bytes = head(method, path, &self.authority, fields, body);
        bytes.extend(body);
        self.stream.send(&bytes).await?;
        self.try_answer(method).await
    }

    /// Waits until the proxy ends the connection.
    ///
    /// # Panics
    /// If bytes come before the end, or the end does not come.
    pub(crate) async fn expect_close(&mut self) {
        match self.stream.drain().await {
            Ok(rest) => assert!(rest.is_empty(), "bytes before the close: {:?}", String::from_utf8_lossy(&rest)),
            Err(Fault::Broken(_)) => {}
            Err(fault) => panic!("the connection was not closed: {fault:?}"),
        }
    }

    /// Reads until these bytes have come, and drops them with all before them.
    ///
    /// # Panics
    /// If they do not come.
    pub(crate) async fn until_read(&mut self, bytes: &[u8]) {
        let read = self.stream.until(bytes).await;
        read.unwrap_or_else(|fault| panic!("{:?} did not come: {fault:?}", String::from_utf8_lossy(bytes)));
    }

    /// Waits until the proxy ends the connection, whatever it sends before.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, Fault> {
        self.stream.drain().await
    }
}

fn head(method: &str, path: &str, authority: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let host =
        if fields.to_ascii_lowercase().starts_with("host:") { String::new() } else { format!("Host: {authority}\r\n") };
    let length = if body.is_empty() && !matches!(method, "POST" | "PUT" | "PATCH") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    format!("{method} {path} HTTP/1.1\r\n{host}{length}{fields}\r\n").into_bytes()
}

fn status(line: &str) -> Result<u16, Fault> {
    line.strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Fault::Malformed(format!("no status line: {line:?}")))
}

/// `GET path` over a connection of its own.
pub(crate) async fn get(address: &Address, path: &str) -> Answer {
    Connection::open(address).await.get(path).await
}

/// A request with further fields (whole lines; a first `Host:` line replaces the usual one) and a body, over a connection of
/// its own.
pub(crate) async fn request(address: &Address, method: &str, path: &str, fields: &str, body: &[u8]) -> Answer {
    let answer = Connection::open(address).await.ask(method, path, fields, body).await;
    answer.unwrap_or_else(|fault| panic!("{method} {path}: {fault:?}"))
}

/// A bounded number of requests over keep-alive connections, one at a time on each.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    requests: usize,
    connections: usize,
    method: &'static str,
    path: &'static str,
    body: &'static [u8],
    ends_when_refused: bool,
    tls: Option<TlsClient>,
}

impl Load {
    /// So many `GET /` over so many connections. Every request carries its number in `x-number`.
    pub(crate) fn of(requests: usize, connections: usize) -> Self {
        Self { requests, connections, method: "GET", path: "/", body: b"", ends_when_refused: false, tls: None }
    }

    /// Ends without a fault where nobody listens any more.
    pub(crate) fn until_refused(mut self) -> Self {
        self.ends_when_refused = true;
        self
    }

    /// Over TLS.
    pub(crate) fn over_tls(mut self, client: &TlsClient) -> Self {
        self.tls = Some(client.clone());
        self
    }

    /// With another method, path and body.
    pub(crate) fn with(mut self, method: &'static str, path: &'static str, body: &'static [u8]) -> Self {
        (self.method, self.path, self.body) = (method, path, body);
        self
    }

    /// Runs to the end.
    pub(crate) async fn run(self, address: &Address) -> Tally {
        self.start(address).finish().await
    }

    /// Starts, and leaves the test free to do harm meanwhile.
    pub(crate) fn start(self, address: &Address) -> Running {
        let shared = Arc::new(Progress::default());
        let mut workers = JoinSet::new();
        for _ in 0..self.connections {
            workers.spawn(work(self.clone(), address.clone(), Arc::clone(&shared)));
        }
        Running { shared, workers }
    }
}

#[derive(Default)]
struct Progress {
    taken: AtomicUsize,
    done: AtomicUsize,
    stop: AtomicBool,
}

/// A load that is running.
pub(crate) struct Running {
    shared: Arc<Progress>,
    workers: JoinSet<Tally>,
}

impl Running {
    /// Requests that have ended, well or badly.
    pub(crate) fn done(&self) -> usize {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// Waits until so many more requests have ended, or all.
    pub(crate) async fn after(&self, more: usize) {
        let goal = self.done() + more;
        let ended = async || self.done() >= goal || self.workers.is_empty();
        until("the load goes on", ended).await;
    }

    /// Sends no further requests, and waits for the answers that are due.
    pub(crate) async fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.finish().await
    }

    /// Waits for the end.
    pub(crate) async fn finish(mut self) -> Tally {
        let mut tally = Tally::default();
        while let Some(part) = self.workers.join_next().await {
            tally.add(part.unwrap_or_else(|error| panic!("a worker of the load panicked: {error}")));
        }
        tally
    }
}

/// What became of a load.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, usize>,
    /// Answers by origin.
    pub(crate) origins: BTreeMap<String, usize>,
    /// Requests without an answer, and why.
    pub(crate) faults: Vec<(usize, Fault)>,
}

impl Tally {
    /// Answers with this status.
    pub(crate) fn with_status(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Answers from this origin.
    pub(crate) fn from(&self, origin: &str) -> usize {
        self.origins.get(origin).copied().unwrap_or(0)
    }

    /// All requests.
    pub(crate) fn total(&self) -> usize {
        self.statuses.values().sum::<usize>() + self.faults.len()
    }

    /// Checks that every request was answered with 200.
    ///
    /// # Panics
    /// If one was not.
    pub(crate) fn expect_all_ok(&self) {
        assert!(self.faults.is_empty(), "{} without an answer, the first: {:?}", self.faults.len(), self.faults[0]);
        assert_eq!(self.with_status(200), self.total(), "{:?}", self.statuses);
    }

    fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (origin, count) in other.origins {
            *self.origins.entry(origin).or_default() += count;
        }
        self.faults.extend(other.faults);
    }
}

async fn work(load: Load, address: Address, progress: Arc<Progress>) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None::<Connection>;
    loop {
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => open_for(&load, &address).await,
        };
        if load.ends_when_refused && open.is_err() {
            return tally;
        }
        let number = progress.taken.fetch_add(1, Ordering::SeqCst);
        if number >= load.requests || progress.stop.load(Ordering::SeqCst) {
            return tally;
        }
        match one(&load, number, open).await {
            Ok((answer, open)) => {
                *tally.statuses.entry(answer.status).or_default() += 1;
                *tally.origins.entry(answer.origin().to_owned()).or_default() += 1;
                connection = (!answer.closes()).then_some(open);
            }
            Err(fault) => tally.faults.push((number, fault)),
        }
        progress.done.fetch_add(1, Ordering::SeqCst);
    }
}

async fn open_for(load: &Load, address: &Address) -> Result<Connection, Fault> {
    match &load.tls {
        Some(client) => Ok(client.try_connect(address).await?.0),
        None => Connection::try_open(address).await,
    }
}

async fn one(load: &Load, number: usize, connection: Result<Connection, Fault>) -> Result<(Answer, Connection), Fault> {
    let mut connection = connection?;
    let fields = format!("x-number: {number}\r\n");
    let answer = connection.ask(load.method, load.path, &fields, load.body).await?;
    Ok((answer, connection))
}
