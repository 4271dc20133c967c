//! A backend that does what the test says, also what no backend should, and remembers what it was sent.
//!
//! By default it answers 200 with its name in `x-origin` and in the body. A [`Script`] changes that, for all requests, for a
//! path, or for the next request only; all while running.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::tls::Issued;
use super::until;
use super::wire::{Address, Body, Framing, Head, Stream};

/// How many requests are remembered whole; all are counted.
const REMEMBERED: usize = 20_000;

/// An answer as an origin gives it, framed by `Content-Length` unless told otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    framing: ReplyFraming,
}

#[derive(Debug, Clone, Copy)]
enum ReplyFraming {
    Length(Option<u64>),
    Chunked,
    Close,
}

impl Reply {
    /// An answer with this status and an empty body.
    pub(crate) fn status(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new(), framing: ReplyFraming::Length(None) }
    }

    /// 200 with this body.
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// With a field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With this `Content-Length`, whatever the body's length is.
    pub(crate) fn declared_length(mut self, length: u64) -> Self {
        self.framing = ReplyFraming::Length(Some(length));
        self
    }

    /// In chunks of at most 1,000 bytes.
    pub(crate) fn chunked(mut self) -> Self {
        self.framing = ReplyFraming::Chunked;
        self
    }

    /// Ended by closing the connection.
    pub(crate) fn until_close(mut self) -> Self {
        self.framing = ReplyFraming::Close;
        self
    }

    fn bytes(&self, origin: &str, head_only: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {} Scripted\r\nx-origin: {origin}\r\n", self.status);
        for (name, value) in &self.fields {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        let bodiless = self.status == 204 || self.status == 304;
        match self.framing {
            ReplyFraming::Length(_) if bodiless => {}
            ReplyFraming::Length(length) => {
                out.push_str(&format!("content-length: {}\r\n", length.unwrap_or(self.body.len() as u64)));
            }
            ReplyFraming::Chunked => out.push_str("transfer-encoding: chunked\r\n"),
            ReplyFraming::Close => out.push_str("connection: close\r\n"),
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        if head_only || bodiless {
            return out;
        }
        if let ReplyFraming::Chunked = self.framing {
            for chunk in self.body.chunks(1_000) {
                out.extend(format!("{:x}\r\n", chunk.len()).bytes());
                out.extend(chunk);
                out.extend(b"\r\n");
            }
            out.extend(b"0\r\n\r\n");
        } else {
            out.extend(&self.body);
        }
        out
    }
}

/// One thing an origin does on a connection.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Gives an answer.
    Reply(Reply),
    /// Sends bytes as they are.
    Send(Vec<u8>),
    /// Sends bytes one by one with a pause after each.
    Drip(Vec<u8>, Duration),
    /// Does nothing for a while.
    Wait(Duration),
    /// Never goes on, but keeps the connection open.
    Hang,
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
}

/// What an origin does with a request.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    reads_body: bool,
    steps: Vec<Step>,
}

impl Script {
    /// Reads the request, then does this, then waits for the next request unless a step ended the connection.
    pub(crate) fn new(steps: impl Into<Vec<Step>>) -> Self {
        Self { reads_body: true, steps: steps.into() }
    }

    /// Does not read the request's body first.
    pub(crate) fn before_the_body(mut self) -> Self {
        self.reads_body = false;
        self
    }

    /// Reads the request and never answers.
    pub(crate) fn hang() -> Self {
        Self::new([Step::Hang])
    }

    /// Reads the request and resets the connection.
    pub(crate) fn reset() -> Self {
        Self::new([Step::Reset])
    }

    /// Reads the request and closes the connection.
    pub(crate) fn close() -> Self {
        Self::new([Step::Close])
    }

    /// Sends these bytes and closes the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new([Step::Send(bytes.into()), Step::Close])
    }

    /// Sends these bytes and keeps the connection open.
    pub(crate) fn raw_open(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new([Step::Send(bytes.into())])
    }
}

impl From<Reply> for Script {
    fn from(reply: Reply) -> Self {
        Self::new([Step::Reply(reply)])
    }
}

/// A request as an origin received it.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// Its head.
    pub(crate) head: Head,
    /// Its method.
    pub(crate) method: String,
    /// Its target.
    pub(crate) target: String,
    /// Its body, as far as it was read.
    pub(crate) body: Body,
    /// The number of the connection it came on.
    pub(crate) connection: usize,
}

/// A running origin; gone when dropped.
pub(crate) struct Origin {
    shared: Arc<Shared>,
    // Bound to the port but not listening: while the origin is down, nobody else can take its port.
    reserved: Option<Socket>,
    address: Address,
    tls: Option<TlsAcceptor>,
    accepting: Option<AbortHandle>,
}

struct Shared {
    name: String,
    state: Mutex<State>,
    connections: Mutex<JoinSet<()>>,
    open: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    held: watch::Sender<bool>,
}

struct State {
    script: Script,
    by_path: HashMap<String, Script>,
    next: VecDeque<Script>,
    at_accept: Vec<Step>,
    close_after: Option<usize>,
    accepted: usize,
    total: usize,
    by_method: BTreeMap<String, usize>,
    by_path_count: BTreeMap<String, usize>,
    received: Vec<Received>,
}

impl Origin {
    /// An origin on a loopback port from the system.
    pub(crate) async fn start(name: &str) -> Self {
        let (reserved, address) = reserve();
        Self::up(name, Some(reserved), address, None).await
    }

    /// An origin on a unix socket.
    pub(crate) async fn start_unix(name: &str, path: &Path) -> Self {
        Self::up(name, None, Address::Unix(path.to_owned()), None).await
    }

    /// An origin that speaks TLS and shows a certificate of `authority`.
    pub(crate) async fn start_tls(name: &str, authority: &Authority, hosts: &[&str]) -> Self {
        let (reserved, address) = reserve();
        Self::up(name, Some(reserved), address, Some(authority.acceptor(hosts, None))).await
    }

    /// The same that serves only who shows a certificate of `clients`.
    pub(crate) async fn start_mutual(name: &str, authority: &Authority, hosts: &[&str], clients: &Authority) -> Self {
        let (reserved, address) = reserve();
        Self::up(name, Some(reserved), address, Some(authority.acceptor(hosts, Some(clients)))).await
    }

    async fn up(name: &str, reserved: Option<Socket>, address: Address, tls: Option<TlsAcceptor>) -> Self {
        let state = State {
            script: Reply::ok(name).into(),
            by_path: HashMap::new(),
            next: VecDeque::new(),
            at_accept: Vec::new(),
            close_after: None,
            accepted: 0,
            total: 0,
            by_method: BTreeMap::new(),
            by_path_count: BTreeMap::new(),
            received: Vec::new(),
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            state: Mutex::new(state),
            connections: Mutex::new(JoinSet::new()),
            open: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            held: watch::Sender::new(false),
        });
        let mut origin = Self { shared, reserved, address, tls, accepting: None };
        origin.revive().await;
        origin
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// From now on, every request without a script of its own is answered so.
    pub(crate) fn plays(&self, script: impl Into<Script>) {
        self.shared.state().script = script.into();
    }

    /// From now on, requests for this path (without query) are answered so.
    pub(crate) fn on(&self, path: &str, script: impl Into<Script>) {
        self.shared.state().by_path.insert(path.to_owned(), script.into());
    }

    /// The next request that has no script by its path is answered so; called again: the one after it.
    pub(crate) fn next(&self, script: impl Into<Script>) {
        self.shared.state().next.push_back(script.into());
    }

    /// From now on, a new connection begins with these steps, before its first request is read.
    pub(crate) fn at_accept(&self, steps: impl Into<Vec<Step>>) {
        self.shared.state().at_accept = steps.into();
    }

    /// From now on, a connection is closed without notice after so many answers.
    pub(crate) fn close_after(&self, answers: usize) {
        self.shared.state().close_after = Some(answers);
    }

    /// From now on, requests are read, but not answered until [`Origin::release`].
    pub(crate) fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Lets go what [`Origin::hold`] has held.
    pub(crate) fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Refuses new connections from now on; those that are open live on.
    pub(crate) async fn refuse(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            until("the origin has stopped listening", async || accepting.is_finished()).await;
        }
    }

    /// Dies as a killed process dies: refuses new connections and drops those that are open.
    pub(crate) async fn kill(&mut self) {
        self.refuse().await;
        self.shared.connections().abort_all();
        until("the origin has dropped its connections", async || self.open_connections() == 0).await;
    }

    /// Listens again at the same address.
    pub(crate) async fn revive(&mut self) {
        let shared = Arc::clone(&self.shared);
        let task = match &self.address {
            Address::Inet(address) => {
                let listener = listen(*address);
                let tls = self.tls.clone();
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        let (shared, tls) = (Arc::clone(&shared), tls.clone());
                        let counted = shared.admit();
                        Arc::clone(&shared).connections().spawn(async move {
                            let stream = match tls {
                                None => Stream::tcp(stream),
                                Some(tls) => match tls.accept(stream).await {
                                    Ok(stream) => Stream::tls(stream),
                                    Err(_) => return,
                                },
                            };
                            serve(&shared, stream, &counted).await;
                        });
                    }
                })
            }
            Address::Unix(path) => {
                // The file of an earlier life; there is none in the first.
                let _ = std::fs::remove_file(path);
                let listener = UnixListener::bind(path).expect("the socket's directory exists and is ours");
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        let shared = Arc::clone(&shared);
                        let counted = shared.admit();
                        Arc::clone(&shared).connections().spawn(async move {
                            serve(&shared, Stream::over(stream), &counted).await;
                        });
                    }
                })
            }
        };
        self.accepting = Some(task.abort_handle());
    }

    /// Requests received, whatever became of them.
    pub(crate) fn requests(&self) -> usize {
        self.shared.state().total
    }

    /// Requests received with this method.
    pub(crate) fn requests_with(&self, method: &str) -> usize {
        self.shared.state().by_method.get(method).copied().unwrap_or(0)
    }

    /// Requests received for this path (without query).
    pub(crate) fn requests_for(&self, path: &str) -> usize {
        self.shared.state().by_path_count.get(path).copied().unwrap_or(0)
    }

    /// Requests that are being answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// The most requests that were being answered at once.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::SeqCst)
    }

    /// Connections accepted since the start.
    pub(crate) fn connections(&self) -> usize {
        self.shared.state().accepted
    }

    /// Connections that are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The first 20,000 requests as they came, in the order of their heads.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.state().received.clone()
    }

    /// The only request for this path.
    ///
    /// # Panics
    /// If there was none, or more than one.
    pub(crate) fn received_for(&self, path: &str) -> Received {
        let mut all = self.received();
        all.retain(|request| request.target == path);
        assert_eq!(all.len(), 1, "requests for {path} at {}: {all:#?}", self.name());
        all.remove(0)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
        self.shared.connections().abort_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the origin's state")
    }

    fn connections(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.connections.lock().expect("nothing panics while it holds the origin's connections")
    }

    fn admit(self: &Arc<Self>) -> Counted {
        let mut state = self.state();
        state.accepted += 1;
        self.open.fetch_add(1, Ordering::SeqCst);
        Counted { shared: Arc::clone(self), number: state.accepted }
    }

    /// Counts a request and returns what to do with it, and where its body will be remembered.
    fn receive(&self, request: Received) -> (Script, Option<usize>) {
        let mut state = self.state();
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        state.total += 1;
        *state.by_method.entry(request.method.clone()).or_default() += 1;
        *state.by_path_count.entry(path.clone()).or_default() += 1;
        let script = match state.by_path.get(&path) {
            Some(script) => script.clone(),
            None => state.next.pop_front().unwrap_or_else(|| state.script.clone()),
        };
        let slot = (state.received.len() < REMEMBERED).then_some(state.received.len());
        if slot.is_some() {
            state.received.push(request);
        }
        (script, slot)
    }

    fn remember(&self, slot: Option<usize>, body: Body) {
        if let Some(slot) = slot {
            self.state().received[slot].body = body;
        }
    }
}

/// An open connection; counted until it is dropped.
struct Counted {
    shared: Arc<Shared>,
    number: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request in flight; counted until it is dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a connection goes on after a script.
enum Next {
    Request(Stream),
    End,
}

async fn serve(shared: &Shared, stream: Stream, connection: &Counted) {
    let opening = shared.state().at_accept.clone();
    let Next::Request(mut stream) = play(shared, stream, &opening, "").await else { return };
    let mut answered = 0;
    loop {
        let Ok(Some(head)) = stream.head().await else { return };
        let Ok(framing) = head.declared() else { return };
        let mut words = head.start.split(' ').map(str::to_owned);
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let last = head.has_token("connection", "close");
        let asks_first = head.has_token("expect", "100-continue");
        let request =
            Received { method: method.clone(), target, head, body: Body::default(), connection: connection.number };

        let _in_flight = InFlight::enter(&shared.in_flight);
        shared.most_in_flight.fetch_max(shared.in_flight.load(Ordering::SeqCst), Ordering::SeqCst);
        let (script, slot) = shared.receive(request);
        if script.reads_body {
            if asks_first && stream.send(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
                return;
            }
            let Ok(body) = stream.body(framing.unwrap_or(Framing::None)).await else { return };
            shared.remember(slot, body);
        }
        // An error means that the sender is gone, and with it the origin.
        let _ = shared.held.subscribe().wait_for(|held| !*held).await;
        match play(shared, stream, &script.steps, &method).await {
            Next::Request(open) => stream = open,
            Next::End => return,
        }
        answered += 1;
        let enough = shared.state().close_after.is_some_and(|limit| answered >= limit);
        if last || enough {
            return;
        }
    }
}

async fn play(shared: &Shared, mut stream: Stream, steps: &[Step], method: &str) -> Next {
    for step in steps {
        let sent = match step {
            Step::Reply(reply) => {
                let sent = stream.send(&reply.bytes(&shared.name, method == "HEAD")).await;
                if let ReplyFraming::Close = reply.framing {
                    return Next::End;
                }
                sent
            }
            Step::Send(bytes) => stream.send(bytes).await,
            Step::Drip(bytes, pause) => drip(&mut stream, bytes, *pause).await,
            Step::Wait(pause) => {
                sleep(*pause).await;
                Ok(())
            }
            Step::Hang => std::future::pending().await,
            Step::Close => return Next::End,
            Step::Reset => {
                stream.reset();
                return Next::End;
            }
        };
        if sent.is_err() {
            return Next::End;
        }
    }
    Next::Request(stream)
}

async fn drip(stream: &mut Stream, bytes: &[u8], pause: Duration) -> Result<(), super::Fault> {
    for byte in bytes {
        stream.send(&[*byte]).await?;
        sleep(pause).await;
    }
    Ok(())
}

/// A port of the system's choice, kept from everybody who does not ask for it by number.
fn reserve() -> (Socket, Address) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("the system has sockets");
    socket.set_reuse_address(true).expect("SO_REUSEADDR exists on every system that is supported");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback has a free port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket_ipv4());
    let address: SocketAddrV4 = address.expect("a bound IPv4 socket has an IPv4 address");
    (socket, Address::Inet(address.into()))
}

/// Listens on a port that [`reserve`] keeps: both sockets carry SO_REUSEADDR, and only this one listens.
fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("the system has sockets");
    socket.set_reuse_address(true).expect("SO_REUSEADDR exists on every system that is supported");
    socket.bind(&address.into()).expect("the port is reserved for us");
    socket.listen(1_024).expect("a bound socket can listen");
    socket.set_nonblocking(true).expect("a socket can be made non-blocking");
    TcpListener::from_std(socket.into()).expect("the test runs in a runtime")
}

/// A listener that never accepts, with its queue full: a further connect hangs.
pub(crate) struct Blackhole {
    _listener: Socket,
    _queued: Vec<Socket>,
    address: SocketAddr,
}

impl Blackhole {
    /// One on a loopback port from the system.
    pub(crate) fn new() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("the system has sockets");
        let listener = socket();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback has a free port");
        listener.listen(0).expect("a bound socket can listen");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("it is bound");
        let queued = std::iter::repeat_with(|| {
            let client = socket();
            client.set_nonblocking(true).expect("a socket can be made non-blocking");
            // It is under way, or stays so for ever: either fills the queue.
            let _ = client.connect(&address.into());
            client
        });
        Self { _queued: queued.take(4).collect(), _listener: listener, address }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        Address::Inet(self.address)
    }
}

/// A certificate authority of the test's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new authority that nobody trusts yet.
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("the system has randomness");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a fresh key signs").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate, for the `ca` of an upstream.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A new certificate for these hosts, and its key.
    pub(crate) fn issue(&self, hosts: &[&str]) -> Issued {
        self.issue_with(hosts, |_| ())
    }

    /// A new certificate for these hosts with something of the test's own.
    pub(crate) fn issue_with(&self, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let key = KeyPair::generate().expect("the system has randomness");
        let names = hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("the test gives valid names");
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).expect("a fresh key signs");
        Issued { leaf, key }
    }

    fn acceptor(&self, hosts: &[&str], clients: Option<&Authority>) -> TlsAcceptor {
        let Issued { leaf, key } = self.issue(hosts);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                let root = CertificateDer::from_pem_slice(clients.pem().as_bytes()).expect("the authority is PEM");
                roots.add(root).expect("it is a certificate");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("there is a root"))
            }
        };
        let config =
            builder.with_single_cert(vec![leaf.der().clone()], key).expect("the key belongs to the certificate");
        TlsAcceptor::from(Arc::new(config))
    }
}
