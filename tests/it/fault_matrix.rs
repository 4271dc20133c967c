//! Every fault of a backend times every kind of request: what the client sees, and how often which backend was asked.
//!
//! The faulty backend is asked first, and there is a sound one to turn to. The table below says what must come of each cell;
//! above all, what may have been executed is not sent again unless it is idempotent: both backends count.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use crate::harness::{Address, Connection, Fault as Broken, Origin, Proxy, Reply, Script, Setup, Step};

/// What a client may see in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The answer of the sound backend.
    Saved,
    /// The answer of the faulty backend, or the proxy's own, with this status.
    Status(u16),
    /// An answer that breaks off, so that the client knows.
    Cut,
    /// The answer of the sound one; or one that breaks off, where the fault came too late to be hidden.
    SavedOrCut,
}
use Seen::{Cut, Saved, SavedOrCut, Status};

/// A request: its method, and how large its body is.
#[derive(Debug, Clone, Copy)]
struct Ask {
    method: &'static str,
    body: usize,
}

impl Ask {
    fn idempotent(self) -> bool {
        !matches!(self.method, "POST" | "PATCH")
    }

    /// Whether it may be sent again: up to 64 KiB of a body are kept.
    fn repeatable(self) -> bool {
        self.idempotent() && self.body <= 64 << 10
    }
}

const ASKS: [Ask; 13] = [
    Ask { method: "GET", body: 0 },
    Ask { method: "HEAD", body: 0 },
    Ask { method: "OPTIONS", body: 0 },
    Ask { method: "DELETE", body: 0 },
    Ask { method: "DELETE", body: 10 },
    Ask { method: "PUT", body: 10 },
    Ask { method: "PUT", body: 20_000 },
    Ask { method: "PUT", body: 100_000 },
    Ask { method: "POST", body: 0 },
    Ask { method: "POST", body: 10 },
    Ask { method: "POST", body: 20_000 },
    Ask { method: "POST", body: 100_000 },
    Ask { method: "PATCH", body: 10 },
];

/// What must come of a request at this fault: what the client sees, and how often it reached the faulty and the sound backend.
struct Due {
    seen: Seen,
    faulty: usize,
    sound: usize,
}

/// Nothing can have been sent: everything goes to the sound backend, once.
fn nothing_sent(_: Ask) -> Due {
    Due { seen: Saved, faulty: 0, sound: 1 }
}

/// The request was sent and there is no answer: what is repeatable goes to the sound backend, all else ends with `status`.
fn unanswered(status: u16) -> impl Fn(Ask) -> Due {
    move |ask| match ask.repeatable() {
        true => Due { seen: Saved, faulty: 1, sound: 1 },
        false => Due { seen: Status(status), faulty: 1, sound: 0 },
    }
}

/// The head of an answer has come, and perhaps gone to the client.
fn after_the_head(ask: Ask) -> Due {
    match (ask.method, ask.idempotent() && ask.body == 0) {
        // The head is all there is of this answer.
        ("HEAD", _) => Due { seen: Status(200), faulty: 1, sound: 0 },
        (_, true) => Due { seen: SavedOrCut, faulty: 1, sound: 1 },
        (_, false) => Due { seen: Cut, faulty: 1, sound: 0 },
    }
}

/// Some of the body has gone to the client.
fn in_the_body(ask: Ask) -> Due {
    let seen = if ask.method == "HEAD" { Status(200) } else { Cut };
    Due { seen, faulty: 1, sound: 0 }
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nx-origin: faulty\r\ncontent-length: 8\r\n\r\n";

/// A proxy whose first choice is at `address` (`{faulty}`, or with a scheme).
async fn proxy(setup: Setup, address: &str, retry: &str) -> Proxy {
    let yaml = format!(
        "
upstreams:
  web:
    backends: [\"{address}\", {{ address: {{sound}}, backup: true }}]
    health_check: none
    outlier: none
    timeouts: {{ connect: 700ms, first_byte: 700ms, idle: 700ms }}
    retry: {retry}
"
    );
    setup.start(&yaml).await
}

/// Sends every kind of request through `proxy`, and compares.
async fn compare(proxy: &Proxy, faulty: Option<&Origin>, sound: &Origin, due: impl Fn(Ask) -> Due) {
    let mut wrong = Vec::new();
    for (number, ask) in ASKS.into_iter().enumerate() {
        let path = format!("/{number}");
        let body = vec![b'x'; ask.body];
        let answer = Connection::open(proxy.address()).await.ask(ask.method, &path, "", &body).await;
        let seen = match &answer {
            Ok(answer) if answer.origin() == "sound" => Saved,
            Ok(answer) => Status(answer.status),
            Err(Broken::Malformed(why)) => panic!("{ask:?}: {why}"),
            Err(_) => Cut,
        };
        let due = due(ask);
        let counts = (faulty.map_or(0, |faulty| faulty.requests_for(&path)), sound.requests_for(&path));
        if !ask.idempotent() {
            assert!(counts.0 + counts.1 <= 1, "{ask:?} was sent {counts:?} times");
        }
        let fits = match due.seen {
            SavedOrCut => matches!((seen, counts.1), (Saved, 1) | (Cut, 0)) && counts.0 == due.faulty,
            due_seen => seen == due_seen && counts == (due.faulty, due.sound),
        };
        if !fits {
            wrong.push(format!(
                "{ask:?}: {seen:?} after {counts:?}, and not {:?} after {:?}",
                due.seen,
                (due.faulty, due.sound)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A backend that does as scripted, first in line.
async fn scripted(script: impl Into<Script>, retry: &str, due: impl Fn(Ask) -> Due) {
    let [faulty, sound] = [Origin::start("faulty").await, Origin::start("sound").await];
    faulty.plays(script);
    let proxy = proxy(Setup::new(&[&faulty, &sound]), "{faulty}", retry).await;
    compare(&proxy, Some(&faulty), &sound, due).await;
}

#[tokio::test]
async fn refused() {
    let [mut faulty, sound] = [Origin::start("faulty").await, Origin::start("sound").await];
    faulty.kill().await;
    let proxy = proxy(Setup::new(&[&faulty, &sound]), "{faulty}", "{}").await;
    compare(&proxy, Some(&faulty), &sound, nothing_sent).await;
}

/// A listener that never accepts, with its queue full: a further connect hangs.
struct Blackhole {
    _listener: Socket,
    _queued: Vec<Socket>,
    address: SocketAddr,
}

impl Blackhole {
    fn new() -> Self {
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
}

#[tokio::test]
async fn hangs_on_connect() {
    let (hole, sound) = (Blackhole::new(), Origin::start("sound").await);
    let setup = Setup::new(&[&sound]).word("hole", &Address::Inet(hole.address).to_string());
    let proxy = proxy(setup, "{hole}", "{}").await;
    compare(&proxy, None, &sound, nothing_sent).await;
}

#[tokio::test]
async fn speaks_no_tls() {
    let [faulty, sound] = [Origin::start("faulty").await, Origin::start("sound").await];
    faulty.at_accept([Step::Send(b"220 mail.example ready\r\n".to_vec()), Step::Close]);
    let proxy = proxy(Setup::new(&[&faulty, &sound]), "https://{faulty}", "{}").await;
    compare(&proxy, Some(&faulty), &sound, nothing_sent).await;
}

#[tokio::test]
async fn resets_before_the_head() {
    scripted(Script::reset(), "{}", unanswered(502)).await;
}

#[tokio::test]
async fn closes_before_the_head() {
    scripted(Script::close(), "{}", unanswered(502)).await;
}

#[tokio::test]
async fn resets_in_the_head() {
    let half = Step::Send(b"HTTP/1.1 200 OK\r\nconte".to_vec());
    scripted(Script::new([half, Step::Reset]), "{}", unanswered(502)).await;
}

#[tokio::test]
async fn sends_garbage() {
    scripted(Script::raw("220 mail.example ready\r\n\r\n"), "{}", unanswered(502)).await;
}

#[tokio::test]
async fn answers_too_late() {
    scripted(Script::hang(), "{}", unanswered(504)).await;
}

#[tokio::test]
async fn resets_after_the_head() {
    scripted(Script::new([Step::Send(HEAD.into()), Step::Reset]), "{}", after_the_head).await;
}

#[tokio::test]
async fn truncates_the_body() {
    scripted(Script::raw(format!("{HEAD}half")), "{}", in_the_body).await;
}

#[tokio::test]
async fn stalls_in_the_body() {
    scripted(Script::raw_open(format!("{HEAD}half")), "{}", in_the_body).await;
}

#[tokio::test]
async fn answers_503() {
    let as_it_is = |_| Due { seen: Status(503), faulty: 1, sound: 0 };
    scripted(Reply::status(503), "{}", as_it_is).await;
}

#[tokio::test]
async fn answers_503_which_is_chosen_for_retries() {
    scripted(Reply::status(503), "{ statuses: [502, 503] }", unanswered(503)).await;
}

#[tokio::test]
async fn answers_503_before_it_has_read_the_body() {
    let early = Script::new([Step::Reply(Reply::status(503)), Step::Close]).before_the_body();
    scripted(early, "{}", |_| Due { seen: Status(503), faulty: 1, sound: 0 }).await;
}

#[tokio::test]
async fn with_retries_turned_off_only_failed_connects_go_elsewhere() {
    scripted(Script::reset(), "none", |_| Due { seen: Status(502), faulty: 1, sound: 0 }).await;
}
