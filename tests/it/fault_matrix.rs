//! Every fault of a backend times every kind of request: what the client sees, and how often which backend was asked.
//!
//! The faulty backend is asked first, and there is a sound one to turn to. The table below says what must come of each cell;
//! above all, what may have been executed is not sent again unless it is idempotent: both backends count. Twenty faults times
//! seventeen requests times both roads.

use std::time::Duration;

use futures::future::join_all;

use crate::harness::wire::Framing;
use crate::harness::{
    Address, Answer, Authority, Blackhole, Connection, Fault as Broken, Origin, Proxy, Reply, Road, Script, Setup,
    Step, on_both_roads,
};

on_both_roads!(
    refused,
    hangs_on_connect,
    speaks_no_tls,
    hangs_in_the_tls_handshake,
    shows_a_certificate_that_nobody_trusts,
    resets_before_the_head,
    closes_before_the_head,
    resets_in_the_head,
    drips_the_head,
    sends_garbage,
    answers_too_late,
    resets_after_the_head,
    sends_garbage_after_the_head,
    truncates_the_body,
    stalls_in_the_body,
    answers_502,
    answers_503,
    answers_503_which_is_chosen_for_retries,
    answers_503_before_it_has_read_the_body,
    with_retries_turned_off_only_failed_connects_go_elsewhere,
);

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
    /// The proxy's own 502, or an answer that breaks off.
    RefusedOrCut,
}
use Seen::{Cut, RefusedOrCut, Saved, SavedOrCut, Status};

/// A request: its method, and how large its body is.
#[derive(Debug, Clone, Copy)]
struct Ask {
    method: &'static str,
    body: usize,
    framing: Framing,
}

impl Ask {
    /// With a body of so many bytes, announced by `Content-Length`.
    const fn sized(method: &'static str, body: usize) -> Self {
        Self { method, body, framing: Framing::Length(body as u64) }
    }

    /// With a body of so many bytes in one chunk.
    const fn chunked(method: &'static str, body: usize) -> Self {
        Self { method, body, framing: Framing::Chunked }
    }

    fn idempotent(self) -> bool {
        !matches!(self.method, "POST" | "PATCH" | "PURGE")
    }

    /// Whether it may be sent again: up to 64 KiB of a body are kept.
    fn repeatable(self) -> bool {
        self.idempotent() && self.body <= 64 << 10
    }

    /// Whether it says that it has no body.
    fn bare(self) -> bool {
        self.framing == Framing::Length(0)
    }

    async fn send(self, address: &Address, path: &str) -> Result<Answer, Broken> {
        let mut connection = Connection::open(address).await;
        let body = vec![b'x'; self.body];
        if self.framing != Framing::Chunked {
            return connection.ask(self.method, path, "", &body).await;
        }
        let head = format!("{} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", self.method);
        let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        connection.send_what_it_takes([head.as_bytes(), &chunk].concat()).await;
        connection.try_answer(self.method).await
    }
}

const ASKS: [Ask; 17] = [
    Ask::sized("GET", 0),
    Ask::sized("HEAD", 0),
    Ask::sized("OPTIONS", 0),
    Ask::sized("DELETE", 0),
    Ask::sized("DELETE", 10),
    Ask::sized("PUT", 10),
    Ask::sized("PUT", 20_000),
    Ask::sized("PUT", 100_000),
    Ask::chunked("PUT", 10),
    Ask::chunked("PUT", 100_000),
    Ask::sized("POST", 0),
    Ask::sized("POST", 10),
    Ask::sized("POST", 20_000),
    Ask::sized("POST", 100_000),
    Ask::chunked("POST", 10),
    Ask::sized("PATCH", 10),
    Ask::sized("PURGE", 0),
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
    match (ask.method, ask.idempotent() && ask.bare()) {
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

/// What comes after the head of an answer is no body.
fn nonsense_after_the_head(ask: Ask) -> Due {
    match (ask.method, ask.repeatable()) {
        ("HEAD", _) => Due { seen: Status(200), faulty: 1, sound: 0 },
        (_, true) => Due { seen: SavedOrCut, faulty: 1, sound: 1 },
        (_, false) => Due { seen: RefusedOrCut, faulty: 1, sound: 0 },
    }
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
    let check = async |(number, ask): (usize, Ask)| {
        let path = format!("/{number}");
        let seen = match ask.send(proxy.address(), &path).await {
            Ok(answer) if answer.origin() == "sound" => Saved,
            Ok(answer) => Status(answer.status),
            Err(Broken::Malformed(why)) => panic!("{ask:?}: {why}"),
            Err(Broken::Late) => panic!("{ask:?}: no answer"),
            Err(_) => Cut,
        };
        let due = due(ask);
        let counts = (faulty.map_or(0, |faulty| faulty.requests_for(&path)), sound.requests_for(&path));
        if !ask.idempotent() {
            assert!(counts.0 + counts.1 <= 1, "{ask:?} was sent {counts:?} times");
        }
        let fits = match due.seen {
            SavedOrCut => matches!((seen, counts.1), (Saved, 1) | (Cut, 0)) && counts.0 == due.faulty,
            RefusedOrCut => matches!(seen, Status(502) | Cut) && counts == (due.faulty, due.sound),
            due_seen => seen == due_seen && counts == (due.faulty, due.sound),
        };
        let expected = (due.faulty, due.sound);
        (!fits).then(|| format!("{ask:?}: {seen:?} after {counts:?}, and not {:?} after {expected:?}", due.seen))
    };
    let wrong: Vec<String> = join_all(ASKS.into_iter().enumerate().map(check)).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A backend that does as scripted, first in line.
async fn scripted(road: Road, script: impl Into<Script>, retry: &str, due: impl Fn(Ask) -> Due) {
    let [faulty, sound] = [Origin::start("faulty").await, Origin::start("sound").await];
    faulty.plays(script);
    let proxy = proxy(Setup::new(&[&faulty, &sound]).on(road), "{faulty}", retry).await;
    compare(&proxy, Some(&faulty), &sound, due).await;
}

async fn refused(road: Road) {
    let [mut faulty, sound] = [Origin::start("faulty").await, Origin::start("sound").await];
    faulty.kill().await;
    let proxy = proxy(Setup::new(&[&faulty, &sound]).on(road), "{faulty}", "{}").await;
    compare(&proxy, Some(&faulty), &sound, nothing_sent).await;
}

async fn hangs_on_connect(road: Road) {
    let (hole, sound) = (Blackhole::new(), Origin::start("sound").await);
    let setup = Setup::new(&[&sound]).on(road).word("hole", &hole.address().to_string());
    let proxy = proxy(setup, "{hole}", "{}").await;
    compare(&proxy, None, &sound, nothing_sent).await;
}

async fn speaks_no_tls(road: Road) {
    let [faulty, sound] = [Origin::start("faulty").await, Origin::start("sound").await];
    faulty.at_accept([Step::Send(b"220 mail.example ready\r\n".to_vec()), Step::Close]);
    let proxy = proxy(Setup::new(&[&faulty, &sound]).on(road), "https://{faulty}", "{}").await;
    compare(&proxy, Some(&faulty), &sound, nothing_sent).await;
}

async fn hangs_in_the_tls_handshake(road: Road) {
    let [faulty, sound] = [Origin::start("faulty").await, Origin::start("sound").await];
    faulty.at_accept([Step::Hang]);
    let proxy = proxy(Setup::new(&[&faulty, &sound]).on(road), "https://{faulty}", "{}").await;
    compare(&proxy, Some(&faulty), &sound, nothing_sent).await;
}

async fn shows_a_certificate_that_nobody_trusts(road: Road) {
    let faulty = Origin::start_tls("faulty", &Authority::new(), &["127.0.0.1"]).await;
    let sound = Origin::start("sound").await;
    let proxy = proxy(Setup::new(&[&faulty, &sound]).on(road), "https://{faulty}", "{}").await;
    compare(&proxy, Some(&faulty), &sound, nothing_sent).await;
}

async fn resets_before_the_head(road: Road) {
    scripted(road, Script::reset(), "{}", unanswered(502)).await;
}

async fn closes_before_the_head(road: Road) {
    scripted(road, Script::close(), "{}", unanswered(502)).await;
}

async fn resets_in_the_head(road: Road) {
    let half = Step::Send(b"HTTP/1.1 200 OK\r\nconte".to_vec());
    scripted(road, Script::new([half, Step::Reset]), "{}", unanswered(502)).await;
}

async fn drips_the_head(road: Road) {
    let drip = Step::Drip(HEAD.into(), Duration::from_millis(100));
    scripted(road, Script::new([drip]), "{}", unanswered(504)).await;
}

async fn sends_garbage(road: Road) {
    scripted(road, Script::raw("220 mail.example ready\r\n\r\n"), "{}", unanswered(502)).await;
}

async fn answers_too_late(road: Road) {
    scripted(road, Script::hang(), "{}", unanswered(504)).await;
}

async fn resets_after_the_head(road: Road) {
    scripted(road, Script::new([Step::Send(HEAD.into()), Step::Reset]), "{}", after_the_head).await;
}

async fn sends_garbage_after_the_head(road: Road) {
    let nonsense = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno chunk\r\n";
    scripted(road, Script::raw(nonsense), "{}", nonsense_after_the_head).await;
}

async fn truncates_the_body(road: Road) {
    scripted(road, Script::raw(format!("{HEAD}half")), "{}", in_the_body).await;
}

async fn stalls_in_the_body(road: Road) {
    scripted(road, Script::raw_open(format!("{HEAD}half")), "{}", in_the_body).await;
}

async fn answers_502(road: Road) {
    scripted(road, Reply::status(502), "{}", |_| Due { seen: Status(502), faulty: 1, sound: 0 }).await;
}

async fn answers_503(road: Road) {
    let as_it_is = |_| Due { seen: Status(503), faulty: 1, sound: 0 };
    scripted(road, Reply::status(503), "{}", as_it_is).await;
}

async fn answers_503_which_is_chosen_for_retries(road: Road) {
    scripted(road, Reply::status(503), "{ statuses: [502, 503] }", unanswered(503)).await;
}

async fn answers_503_before_it_has_read_the_body(road: Road) {
    let early = Script::new([Step::Reply(Reply::status(503)), Step::Close]).before_the_body();
    scripted(road, early, "{}", |_| Due { seen: Status(503), faulty: 1, sound: 0 }).await;
}

async fn with_retries_turned_off_only_failed_connects_go_elsewhere(road: Road) {
    scripted(road, Script::reset(), "none", |_| Due { seen: Status(502), faulty: 1, sound: 0 }).await;
}
