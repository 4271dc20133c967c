//! Any bytes as the answer of a backend, down both roads and over both protocols: the client reads the answer that a strict reader
//! reads of the backend's bytes, or one of ours that says that there was none, or one that it sees was cut; and the answer to its next
//! request is no other.

use std::io::Read;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use h2::client::SendRequest;
use tokio::net::UnixStream;

use super::world::{Script, World, named_by_connection};
use crate::reader::{self, Answer};

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// What a client asks.
pub struct Asked {
    pub method: &'static str,
    pub path: &'static str,
    pub fields: &'static [(&'static str, &'static str)],
    pub body: &'static str,
    /// Whether its route compresses.
    pub compressed: bool,
}

/// The first request, by the first of the fuzzer's bytes. A second one follows on the same connection.
const ASKED: [Asked; 5] = [
    Asked { method: "GET", path: "/first", fields: &[], body: "", compressed: false },
    Asked { method: "HEAD", path: "/first", fields: &[], body: "", compressed: false },
    Asked { method: "POST", path: "/first", fields: &[("content-length", "3")], body: "abc", compressed: false },
    Asked {
        method: "GET",
        path: "/first",
        fields: &[("accept-encoding", "gzip"), ("x", "1")],
        body: "",
        compressed: false,
    },
    Asked { method: "GET", path: "/compressed", fields: &[("accept-encoding", "gzip")], body: "", compressed: true },
];
const SECOND: Asked = Asked { method: "GET", path: "/second", fields: &[], body: "", compressed: false };

impl Asked {
    /// As it is written over HTTP/1.1, with `more` lines of fields.
    pub fn text(&self, more: &str) -> String {
        let fields: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} {} HTTP/1.1\r\nhost: a\r\n{more}{fields}\r\n{}", self.method, self.path, self.body)
    }

    /// Asks over HTTP/2, and reads the whole answer.
    async fn ask(&self, client: &mut SendRequest<Bytes>) -> Result<Answer, h2::Error> {
        let mut request = http::Request::builder().method(self.method).uri(format!("http://a{}", self.path));
        for (name, value) in self.fields {
            request = request.header(*name, *value);
        }
        let mut client = client.clone().ready().await?;
        let (answer, mut body) = client.send_request(request.body(()).expect("a request"), self.body.is_empty())?;
        if !self.body.is_empty() {
            body.send_data(Bytes::from_static(self.body.as_bytes()), true)?;
        }
        let (head, mut content) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = content.data().await {
            let data = data?;
            content.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        content.trailers().await?;
        let fields = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        Ok(Answer { status: head.status.as_u16(), fields: fields.collect(), body, persistent: true })
    }
}

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let Some((choice, given)) = bytes.split_first() else { return };
    let asked = &ASKED[usize::from(*choice) % ASKED.len()];
    let method = asked.method.as_bytes();
    let ended = reader::final_answer(given, method, false).is_some();
    let truth = reader::final_answer(given, method, true).and_then(|(mut answers, _)| answers.pop());
    // A backend whose answer does not end by itself ends its connection; else it stays for the next request.
    let prepare = || WORLD.prepare(Script { answer: given.to_vec(), closes: !ended });
    for road in WORLD.roads() {
        prepare();
        let both = [asked.text(""), SECOND.text("connection: close\r\n")].concat();
        let seen = WORLD.pass(road, both.as_bytes());
        seen.check_well_formed(road);
        check(road, asked, truth.as_ref(), &seen.answers);
        prepare();
        let mut read = Vec::new();
        WORLD
            .with_client(road, async |stream| converse(stream, [asked, &SECOND], &mut read).await)
            .check_well_formed(road);
        check_h2(road, asked, truth.as_ref(), read);
    }
}

/// Asks both over HTTP/2, one after the other; an answer that was cut is none.
pub async fn converse(stream: UnixStream, both: [&Asked; 2], read: &mut Vec<Option<Answer>>) -> Vec<u8> {
    let (mut client, connection) = h2::client::handshake(stream).await.expect("the proxy speaks HTTP/2");
    let driven = tokio::spawn(connection);
    for asked in both {
        read.push(asked.ask(&mut client).await.ok());
    }
    drop(client);
    let _ = driven.await;
    Vec::new()
}

fn check_h2(road: &str, asked: &Asked, truth: Option<&Answer>, read: Vec<Option<Answer>>) {
    let [first, second] = <[_; 2]>::try_from(read).expect("two were asked for");
    if let Some(first) = first.filter(|first| !is_ours(first)) {
        check_first(&format!("{road}, over HTTP/2"), asked, truth, &first);
    }
    let second = second.unwrap_or_else(|| panic!("no second answer on the {road}, over HTTP/2"));
    assert!(is_ours(&second) || is_usual(&second), "the second answer on the {road}, over HTTP/2");
}

fn check(road: &str, asked: &Asked, truth: Option<&Answer>, read: &[u8]) {
    let method = asked.method.as_bytes();
    let Some((answers, len)) = reader::final_answer(read, method, false) else {
        // The client sees that it was cut: it is framed, and not whole.
        assert!(reader::final_answer(read, method, true).is_none(), "a cut that cannot be seen on the {road}");
        return;
    };
    let (first, rest) = (answers.last().expect("the final one"), &read[len..]);
    if !is_ours(first) {
        check_first(road, asked, truth, first);
    }
    if !first.persistent {
        assert!(rest.is_empty(), "after the end on the {road}: {}", rest.escape_ascii());
        return;
    }
    let Some((answers, len)) = reader::final_answer(rest, b"GET", false) else {
        panic!("no second answer on the {road}: {}", rest.escape_ascii());
    };
    let second = answers.last().expect("the final one");
    assert!(is_ours(second) || is_usual(second), "the second answer on the {road}");
    assert_eq!(len, rest.len(), "after the end on the {road}");
}

/// What was passed on is what a strict reader reads.
fn check_first(road: &str, asked: &Asked, truth: Option<&Answer>, first: &Answer) {
    let Some(truth) = truth else {
        panic!("the {road} passes on what a strict reader does not take: {} {:?}", first.status, first.fields);
    };
    let first = &if asked.compressed { uncompressed(road, truth, first) } else { first.clone() };
    assert_eq!(
        (first.status, first.body.escape_ascii().to_string()),
        (truth.status, truth.body.escape_ascii().to_string()),
        "on the {road}"
    );
    check_fields(road, asked, truth, first);
}

/// The answer as it was before the proxy has compressed it, where it has.
fn uncompressed(road: &str, truth: &Answer, read: &Answer) -> Answer {
    let coding = |answer: &Answer| answer.field("content-encoding").map(<[u8]>::to_vec);
    let mut answer = read.clone();
    if coding(read).as_deref() == Some(b"gzip") && coding(truth).is_none() {
        answer.body.clear();
        let decoded = MultiGzDecoder::new(read.body.as_slice()).read_to_end(&mut answer.body);
        assert!(decoded.is_ok(), "the {road} compresses into what is not gzip: {}", read.body.escape_ascii());
    }
    answer
}

/// Whether it is what the backend answers when nobody tells it otherwise.
pub fn is_usual(answer: &Answer) -> bool {
    answer.status == 200 && answer.body == b"ok" && answer.field("x-backend").is_some()
}

/// Whether the proxy says that it got no answer.
pub fn is_ours(answer: &Answer) -> bool {
    matches!(answer.status, 502 | 504) && answer.field("x-request-id").is_some_and(|id| id.len() == 32)
}

/// Fields that belong to the message pass as they came, those of one hop do not.
fn check_fields(road: &str, asked: &Asked, truth: &Answer, read: &Answer) {
    const OF_ONE_HOP: [&str; 7] =
        ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"];
    const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "date"];
    // What a form of an answer says of itself (RFC 9110, 8.8.3.3 and 12.5.5).
    const OF_CODING: [&str; 4] = ["content-encoding", "vary", "etag", "accept-ranges"];
    let may_change = |name: &str| FRAMING.contains(&name) || asked.compressed && OF_CODING.contains(&name);
    let named = named_by_connection(&truth.fields);
    let is_named = |name: &str| named.iter().any(|option| option == name.as_bytes());
    for (name, _) in &truth.fields {
        let values = |answer: &Answer| {
            reader::all(&answer.fields, name).map(|value| value.escape_ascii().to_string()).collect::<Vec<_>>()
        };
        if !(OF_ONE_HOP.contains(&name.as_str()) || may_change(name) || is_named(name)) {
            assert_eq!(values(read), values(truth), "the field {name} on the {road}");
        }
    }
    for (name, value) in &read.fields {
        let of_one_hop = OF_ONE_HOP.contains(&name.as_str()) && name != "connection";
        let named = is_named(name) && !may_change(name) && name != "connection";
        assert!(!of_one_hop && !named, "the {road} passes {name} on");
        let known = may_change(name) || name == "connection" || truth.fields.iter().any(|(found, _)| found == name);
        assert!(known, "the {road} adds {name}: {}", value.escape_ascii());
    }
}
