//! One request and its answer as they pass over a connection to a backend, in both directions.
//!
//! It is told the bytes before they go on, and refuses what does not keep to the grammar: what is written to a backend is one
//! strict request and nothing after it; what is read from it are the heads and the body of its answer, framed in one way. At the
//! end it knows whether the connection may carry another request: only where both messages passed whole.

use super::answer::{self, AnswerParser, Body};
use super::framing::{BodyCheck, Framing};
use super::head::{HeadParser, Limits, Outcome};
use super::refusal::Refusal;

/// What a request that we write may take: more than clients may send, because fields are added on the way.
const LIMITS: Limits = Limits { header_bytes: 1024 * 1024, header_count: 4096 };
/// The most 1xx answers before the final one.
const MOST_INFORMATIONAL: u8 = 32;

/// One request and its answer on one connection.
#[derive(Debug)]
pub struct Dialogue {
    request: Option<Request>,
    /// How many bytes were judged that the connection has not taken yet.
    judged: usize,
    answer: Answer,
}

/// The request, from its head on.
#[derive(Debug)]
struct Request {
    body: BodyCheck,
    is_head: bool,
    upgrades: bool,
    persistent: bool,
}

/// How far the answer has come.
#[derive(Debug)]
enum Answer {
    /// A head is awaited, after so many of status 1xx.
    Head { parser: AnswerParser, informational: u8 },
    /// Its body ends as its framing says.
    Body { check: BodyCheck, persistent: bool },
    /// Its body ends with the connection.
    UntilClose,
    /// The connection has left HTTP (RFC 9110, 15.2.2).
    Tunnel,
    /// All of it has come.
    Over { reusable: bool },
}

/// What is read next from the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// A head, which is gathered until it is whole: [`Dialogue::head`].
    Head,
    /// Parts of a body, which pass as they come: [`Dialogue::body`].
    Body,
    /// Nothing: the answer is over.
    Nothing,
}

impl Default for Dialogue {
    fn default() -> Self {
        let answer = Answer::Head { parser: AnswerParser::default(), informational: 0 };
        Self { request: None, judged: 0, answer }
    }
}

impl Dialogue {
    /// Judges `bytes` before they are written. The first call sees the whole head of the request. Bytes that the connection did
    /// not take ([`Self::sent`]) come again, at the start of the next call.
    ///
    /// # Errors
    /// They are not one strict request, or go on after its end.
    pub fn sending(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if matches!(self.answer, Answer::Tunnel) {
            return Ok(());
        }
        let fresh = bytes.get(self.judged..).unwrap_or_default();
        let body = match &mut self.request {
            Some(request) => request.body_of(fresh),
            None => {
                let (request, len) = Request::parse(fresh)?;
                self.request.insert(request).body_of(&fresh[len..])
            }
        };
        self.judged = self.judged.max(bytes.len());
        body
    }

    /// The connection took so many bytes.
    pub fn sent(&mut self, count: usize) {
        self.judged = self.judged.saturating_sub(count);
    }

    /// What comes next from the backend.
    #[must_use]
    pub const fn awaited(&self) -> Awaited {
        match self.answer {
            Answer::Head { .. } => Awaited::Head,
            Answer::Body { .. } | Answer::UntilClose | Answer::Tunnel => Awaited::Body,
            Answer::Over { .. } => Awaited::Nothing,
        }
    }

    /// Judges what was gathered of a head, from its first byte on: its length where it is whole, so that it may pass.
    ///
    /// # Errors
    /// It is no head that everybody reads alike.
    pub fn head(&mut self, gathered: &[u8]) -> Result<Option<usize>, Refusal> {
        let Answer::Head { parser, informational } = &mut self.answer else { return Ok(None) };
        let head = match parser.parse(gathered) {
            answer::Outcome::Partial => return Ok(None),
            answer::Outcome::Refused(refusal) => return Err(refusal),
            answer::Outcome::Complete(head) => head,
        };
        let Some(request) = &self.request else {
            return Err(answer::faulty("the answer came before the request", "RFC 9112, 9.2"));
        };
        let len = head.len;
        let next = match head.status {
            101 if request.upgrades => Answer::Tunnel,
            101 => {
                let detail = "the answer switches to a protocol that the request did not ask for";
                return Err(answer::faulty(detail, "RFC 9110, 15.2.2"));
            }
            100..=199 => {
                *informational += 1;
                if *informational > MOST_INFORMATIONAL {
                    return Err(answer::faulty("there are more than 32 informational answers", "RFC 9110, 15.2"));
                }
                parser.reset();
                return Ok(Some(len));
            }
            _ => match head.body(if request.is_head { "HEAD" } else { "" }) {
                Body::Framed(framing) => Answer::framed(framing, head.persistent),
                Body::UntilClose => Answer::UntilClose,
            },
        };
        self.answer = next;
        Ok(Some(len))
    }

    /// Judges the next bytes of a body: how many of them may pass. Where that is not all of them the answer is over, and what
    /// comes after it was not asked for.
    ///
    /// # Errors
    /// They break the framing.
    pub fn body(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match &mut self.answer {
            Answer::Body { check, persistent } => {
                let progress = check.advance(bytes)?;
                if progress.ended {
                    let reusable = *persistent && progress.taken == bytes.len();
                    self.answer = Answer::Over { reusable };
                }
                Ok(progress.taken)
            }
            Answer::UntilClose | Answer::Tunnel => Ok(bytes.len()),
            Answer::Over { reusable } => {
                *reusable &= bytes.is_empty();
                Ok(0)
            }
            Answer::Head { .. } => Ok(0),
        }
    }

    /// Whether the connection may carry another request: this one and its answer passed whole, nothing came after them, and both
    /// sides mean to go on.
    #[must_use]
    pub fn may_carry_another(&self) -> bool {
        let sent = self.request.as_ref().is_some_and(|request| request.persistent && request.body.ended());
        sent && self.judged == 0 && matches!(self.answer, Answer::Over { reusable: true })
    }
}

impl Request {
    /// Reads the head that `bytes` begin with, and says how long it is.
    fn parse(bytes: &[u8]) -> Result<(Self, usize), Refusal> {
        let mut parser = HeadParser::new(LIMITS);
        match parser.parse(bytes) {
            Outcome::Complete(head) => {
                let request = Self {
                    body: BodyCheck::new(head.body),
                    is_head: head.method == "HEAD",
                    upgrades: head.upgrade.is_some(),
                    persistent: head.persistent,
                };
                Ok((request, head.len))
            }
            Outcome::Partial => Err(Refusal::malformed("the head was not written in one piece", "RFC 9112, 3")),
            Outcome::Refused(refusal) => Err(refusal),
        }
    }

    fn body_of(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        match self.body.advance(bytes)?.taken {
            taken if taken == bytes.len() => Ok(()),
            _ => Err(Refusal::malformed("bytes follow the end of the request", "RFC 9112, 6.3")),
        }
    }
}

impl Answer {
    fn framed(framing: Framing, persistent: bool) -> Self {
        let check = BodyCheck::new(framing);
        match check.ended() {
            true => Self::Over { reusable: persistent },
            false => Self::Body { check, persistent },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// A dialogue whose request was sent.
    fn asked(request: &str) -> Dialogue {
        let mut dialogue = Dialogue::default();
        dialogue.sending(request.as_bytes()).unwrap();
        dialogue.sent(request.len());
        dialogue
    }

    /// What passes of `bytes` that come in pieces of at most `piece`, as a connection would pass them on.
    fn passes(dialogue: &mut Dialogue, bytes: &[u8], piece: usize) -> Result<usize, Refusal> {
        let (mut head, mut passed) = (0, 0);
        for end in (0..=bytes.len()).step_by(piece).chain([bytes.len()]) {
            while dialogue.awaited() == Awaited::Head
                && let Some(len) = dialogue.head(&bytes[head..end])?
            {
                head += len;
                passed = head;
            }
            if dialogue.awaited() != Awaited::Head && end > passed {
                passed += dialogue.body(&bytes[passed..end])?;
                if dialogue.awaited() == Awaited::Nothing {
                    break;
                }
            }
        }
        Ok(passed)
    }

    #[test]
    fn a_connection_is_used_again_only_after_two_whole_messages() {
        const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        for (request, answer, again) in [
            (GET, OK, true),
            (GET, "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            (GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", true),
            (GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", true),
            ("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", true),
            ("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab", OK, true),
            ("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na", OK, false),
            ("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", OK, false),
            (GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", false),
            (GET, "HTTP/1.1 200 OK\r\n\r\nok", false),
            (GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", false),
            (GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", false),
            (GET, "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n", false),
            (GET, "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", false),
            (GET, "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", true),
        ] {
            let mut dialogue = asked(request);
            passes(&mut dialogue, answer.as_bytes(), answer.len()).unwrap();
            assert_eq!(dialogue.may_carry_another(), again, "{request:?} {answer:?}");
        }
    }

    #[test]
    fn nothing_is_written_but_one_strict_request() {
        for request in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx: a\nb: c\r\n\r\n",
            "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n",
            "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nab",
            "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert!(Dialogue::default().sending(request.as_bytes()).is_err(), "{request:?}");
        }
    }

    #[test]
    fn bytes_that_were_not_taken_are_judged_once() {
        let request = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab";
        let mut dialogue = Dialogue::default();
        dialogue.sending(request.as_bytes()).unwrap();
        dialogue.sent(request.len() - 1);
        dialogue.sending(b"bcd").unwrap();
        dialogue.sent(3);
        assert!(dialogue.sending(b"e").is_err());
    }

    #[test]
    fn a_tunnel_is_open_only_where_it_was_asked_for() {
        let switch = "HTTP/1.1 101 Go\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nbytes";
        let mut dialogue = asked("GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
        assert_eq!(passes(&mut dialogue, switch.as_bytes(), 1000), Ok(switch.len()));
        assert!(dialogue.sending(b"anything").is_ok() && !dialogue.may_carry_another());
        assert!(passes(&mut asked(GET), switch.as_bytes(), 1000).is_err());
    }

    #[test]
    fn hints_without_end_are_no_answer() {
        let hints = "HTTP/1.1 103 Hints\r\n\r\n";
        assert!(passes(&mut asked(GET), hints.repeat(32).as_bytes(), 1000).is_ok());
        assert!(passes(&mut asked(GET), hints.repeat(33).as_bytes(), 1000).is_err());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            head in prop::sample::select(vec![
                "content-length: 5", "transfer-encoding: chunked", "connection: close", "content-length: 0",
            ]),
            body in prop::sample::select(vec!["", "hello", "5\r\nhello\r\n0\r\n\r\n", "5\r\nhelloX", "hello and more"]),
            piece in 1_usize..40,
        ) {
            let bytes = format!("HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").into_bytes();
            let whole = passes(&mut asked(GET), &bytes, bytes.len());
            let pieces = passes(&mut asked(GET), &bytes, piece);
            prop_assert_eq!(whole.is_err(), pieces.is_err());
            if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
                prop_assert_eq!(whole, pieces);
            }
        }
    }
}
