//! Properties of the parsers that tables cannot show: pieces do not matter, nothing panics, and a second, naive reading of
//! the grammar agrees.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use regex::bytes::Regex;

use super::framing::{BodyCheck, Framing};
use super::head::{HeadParser, Limits, Outcome};
use super::refusal::Refusal;

/// An outcome without its borrows: None for a head that has not ended.
fn outcome(parser: &mut HeadParser, bytes: &[u8]) -> Option<Result<String, Refusal>> {
    match parser.parse(bytes) {
        Outcome::Partial => None,
        Outcome::Complete(head) => Some(Ok(format!("{head:?}"))),
        Outcome::Refused(refusal) => Some(Err(refusal)),
    }
}

/// The first outcome of a head that arrives in pieces.
fn in_pieces(bytes: &[u8], pieces: &[usize], limits: Limits) -> Option<Result<String, Refusal>> {
    let mut parser = HeadParser::new(limits);
    let mut pieces = pieces.iter().cycle();
    let mut end = 0;
    while end < bytes.len() {
        end = (end + pieces.next().unwrap()).min(bytes.len());
        if let Some(outcome) = outcome(&mut parser, &bytes[..end]) {
            return Some(outcome);
        }
    }
    None
}

/// What a chunked body comes to: where it ends and its content, None where it has not ended.
fn body_in_pieces(bytes: &[u8], pieces: &[usize]) -> Result<Option<(usize, u64)>, Refusal> {
    let mut check = BodyCheck::new(Framing::Chunked);
    let mut pieces = pieces.iter().cycle();
    let mut at = 0;
    while at < bytes.len() && !check.ended() {
        let end = (at + pieces.next().unwrap()).min(bytes.len());
        let progress = check.advance(&bytes[at..end])?;
        assert!(progress.ended || progress.taken == end - at, "bytes are left only behind the end");
        at += progress.taken;
    }
    Ok(check.ended().then_some((at, check.decoded())))
}

/// A second reading of the rules: regular expressions over the whole head, written from the RFCs and not from the parser.
struct Naive {
    head: Regex,
    field: Regex,
    origin: Regex,
    absolute: Regex,
    host: Regex,
    length: Regex,
    tokens: Regex,
    protocols: Regex,
}

impl Naive {
    fn new() -> Self {
        let token = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]";
        let path = "(?:[A-Za-z0-9\\-._~!$&'()*+,;=:@/\\[\\]|^]|%[0-9A-Fa-f]{2})*";
        let query = "(?:[A-Za-z0-9\\-._~!$&'()*+,;=:@/\\[\\]|^?{}\\\\`]|%[0-9A-Fa-f]{2})*";
        let regex = |text: String| Regex::new(&format!("(?s-u){text}")).unwrap();
        Self {
            head: regex(format!(
                "^(?:\r\n)?({token}{{1,32}}) ([^ \r\n]+) HTTP/1\\.([01])\r\n((?:{token}+:[\t\\x20-\\x7e\\x80-\\xff]*\r\n)*)\r\n"
            )),
            field: regex(format!("({token}+):[ \t]*([^\r\n]*?)[ \t]*\r\n")),
            origin: regex(format!("^/{path}(?:\\?{query})?$")),
            absolute: regex(format!("^(?i:https?)://([^/?]+)(?:/{path})?(?:\\?{query})?$")),
            host: regex("^(?:[A-Za-z0-9\\-._~]{1,255}|\\[([0-9A-Fa-f:.]+)\\])(?::([0-9]{1,5}))?$".to_owned()),
            length: regex("^[0-9]{1,19}$".to_owned()),
            tokens: regex(format!("^[ \t]*{token}*[ \t]*(?:,[ \t]*{token}*[ \t]*)*$")),
            protocols: regex("^[!#$%&'*+\\-.^_`|~0-9A-Za-z/, \t]+$".to_owned()),
        }
    }

    fn host_is_valid(&self, host: &[u8]) -> bool {
        let Some(parts) = self.host.captures(host) else { return false };
        let text = |group: usize| parts.get(group).map(|part| String::from_utf8_lossy(part.as_bytes()).into_owned());
        text(1).is_none_or(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
            && text(2).is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    }

    /// The length of the head that `bytes` begin with, if it is one.
    fn accepts(&self, bytes: &[u8]) -> Option<usize> {
        let head = self.head.captures(bytes)?;
        let (method, target, minor) = (&head[1], &head[2], &head[3]);
        let fields: Vec<(String, Vec<u8>)> = self
            .field
            .captures_iter(&head[4])
            .map(|field| (String::from_utf8_lossy(&field[1]).to_ascii_lowercase(), field[2].to_vec()))
            .collect();
        let all =
            |name: &str| fields.iter().filter(|field| field.0 == name).map(|field| &field.1[..]).collect::<Vec<_>>();
        let (hosts, lengths, codings) = (all("host"), all("content-length"), all("transfer-encoding"));
        let authority = self.absolute.captures(target).map(|parts| parts[1].to_vec());
        let target_is_valid = match &authority {
            Some(authority) => {
                self.host_is_valid(authority) && hosts.first().is_none_or(|host| host.eq_ignore_ascii_case(authority))
            }
            None => self.origin.is_match(target) || target == b"*" && method == b"OPTIONS",
        };
        let connection_is_valid = all("connection").iter().all(|value| {
            let named = String::from_utf8_lossy(value).to_ascii_lowercase();
            self.tokens.is_match(value)
                && !named.split(',').any(|t| ["host", "content-length", "transfer-encoding"].contains(&t.trim()))
        });
        let valid = method != b"CONNECT"
            && target_is_valid
            && hosts.len() <= 1
            && (minor == b"0" || hosts.len() == 1)
            && hosts.iter().all(|host| self.host_is_valid(host))
            && lengths.len() + codings.len() <= 1
            && lengths.iter().all(|n| self.length.is_match(n) && String::from_utf8_lossy(n).parse::<i64>().is_ok())
            && codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked") && minor == b"1")
            && connection_is_valid
            && all("expect").iter().all(|value| value.eq_ignore_ascii_case(b"100-continue"))
            && all("upgrade").len() <= 1
            && all("upgrade").iter().all(|value| self.protocols.is_match(value));
        valid.then_some(head[0].len())
    }
}

/// One of `legal`, or now and then one of `odd`.
fn mostly(legal: &'static [&'static str], odd: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![9 => prop::sample::select(legal), 1 => prop::sample::select(odd)].prop_map(str::to_owned)
}

/// Requests that are mostly legal, of parts that are often nearly so.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let lead = mostly(&["", "\r\n"], &["\r\n\r\n", "\n"]);
    let method = mostly(&["GET", "POST", "OPTIONS", "get", "M-SEARCH", "PRI"], &["CONNECT", "G(T", ""]);
    let target = mostly(
        &["/", "/a?b=c", "/%20", "/[x]|^?{y}`\\", "//", "http://a/", "HTTP://A?q", "http://a"],
        &["*", "/{x}", "/%zz", "HTTPS://a:1?q", "http://[::1]/x", "a:1", "/x#y"],
    );
    let version = mostly(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/1.2", "HTTP/2.0"]);
    let host = mostly(&["Host: a", "host:\ta "], &["Host: a:1", "Host: [::1]", "Host:", "Host: a,b", "X: y"]);
    let field = mostly(
        &[
            "X-Y: z",
            "x:\t caf\u{e9} \t",
            "Connection: close",
            "Connection: keep-alive, Upgrade,",
            "Expect: 100-continue",
            "_x_: y",
        ],
        &[
            "Host: a",
            "Content-Length: 5, 5",
            "Transfer-Encoding: gzip, chunked",
            "Connection: a b",
            "Connection: content-length",
            "Expect: x",
            "Upgrade: \"",
            "A b: c",
            " x",
            "x :y",
        ],
    );
    let framing = mostly(
        &[
            "",
            "",
            "Content-Length: 5\r\n",
            "Content-Length:05\r\n",
            "transfer-encoding:CHUNKED\r\n",
            "Upgrade: websocket\r\n",
        ],
        &["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Content-Length: 9223372036854775808\r\n"],
    );
    (lead, method, target, version, host, prop::collection::vec(field, 0..4), framing).prop_map(
        |(lead, method, target, version, host, fields, framing)| {
            let lines: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
            format!("{lead}{method} {target} {version}\r\n{host}\r\n{lines}{framing}\r\n").into_bytes()
        },
    )
}

/// Chunked bodies that are mostly legal.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let chunk = mostly(
        &["1\r\na\r\n", "5;x\r\nab\r\nc\r\n", "0003;a=b;c=\"d\\\"e\"\r\nabc\r\n", "A\r\n0\r\n\r\n01234\r\n"],
        &["2 \r\nab\r\n", "1;\r\na\r\n"],
    );
    let trailer = mostly(&["", "x: y\r\n", "a:\r\nb: c\r\n"], &["Host: a\r\n", " x: y\r\n"]);
    (prop::collection::vec(chunk, 0..4), trailer)
        .prop_map(|(chunks, trailer)| format!("{}0\r\n{trailer}\r\nGET /", chunks.concat()).into_bytes())
}

/// `bytes`, with up to two bytes replaced, removed or doubled.
fn mutated(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![prop::sample::select(b"\r\n\t \0:;,%/\x7f\xff\"0Aa".as_slice()), any::<u8>()];
    let change = (0u8..3, any::<prop::sample::Index>(), byte);
    (bytes, prop::collection::vec(change, 0..3)).prop_map(|(mut bytes, changes)| {
        for (kind, at, byte) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

/// Many and cheap cases for the comparisons.
fn cases() -> ProptestConfig {
    ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() }
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(1usize), 1usize..40], 1..8)
}

#[test]
fn a_naive_reading_of_the_grammar_agrees() {
    let naive = Naive::new();
    let taken = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(cases());
    let result = runner.run(&mutated(request()), |bytes| {
        let ours = match HeadParser::new(Limits::default()).parse(&bytes) {
            Outcome::Complete(head) => {
                taken.set(taken.get() + 1);
                Some(head.len)
            }
            Outcome::Partial | Outcome::Refused(_) => None,
        };
        prop_assert_eq!(ours, naive.accepts(&bytes), "{}", bytes.escape_ascii());
        Ok(())
    });
    assert!(result.is_ok(), "{}", result.unwrap_err());
    assert!(
        (800..3200).contains(&taken.get()),
        "{} of 4000 requests were taken: the property says little",
        taken.get()
    );
}

#[test]
fn a_naive_reading_of_chunks_agrees() {
    let token = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+";
    let quoted = "\"(?:[\t !#-\\[\\]-~\\x80-\\xff]|\\\\[\t -~\\x80-\\xff])*\"";
    let line = Regex::new(&format!("(?s-u)^([0-9A-Fa-f]{{1,16}})(?:;{token}(?:=(?:{token}|{quoted}))?)*\r\n")).unwrap();
    let trailers = Regex::new("(?s-u)^(?:[!#$%&'*+\\-.^_`|~0-9A-Za-z]+:[\t -~\\x80-\\xff]*\r\n)*\r\n").unwrap();
    let host = Regex::new("(?is-u)(?:^|\n)host:").unwrap();
    let naive = |bytes: &[u8]| {
        let (mut at, mut decoded) = (0, 0);
        loop {
            let parts = line.captures(&bytes[at..])?;
            let size = usize::from_str_radix(std::str::from_utf8(&parts[1]).unwrap(), 16).unwrap();
            at += parts[0].len();
            if size == 0 {
                let section = trailers.find(&bytes[at..]).filter(|section| !host.is_match(section.as_bytes()))?;
                return Some((at + section.len(), decoded));
            }
            let end = at.checked_add(size)?;
            if bytes.get(end..end.checked_add(2)?) != Some(b"\r\n") {
                return None;
            }
            decoded += size as u64;
            at = end + 2;
        }
    };
    let mut runner = TestRunner::new(cases());
    let result = runner.run(&mutated(chunks()), |bytes| {
        prop_assert_eq!(
            body_in_pieces(&bytes, &[bytes.len()]).ok().flatten(),
            naive(&bytes),
            "{}",
            bytes.escape_ascii()
        );
        Ok(())
    });
    assert!(result.is_ok(), "{}", result.unwrap_err());
}

proptest! {
    #[test]
    fn a_head_is_the_same_in_any_pieces(bytes in mutated(request()), pieces in pieces(), header_bytes in 2usize..200) {
        for limits in [Limits::default(), Limits { header_bytes, header_count: 3 }] {
            let whole = outcome(&mut HeadParser::new(limits), &bytes);
            // A head is complete with its last byte, whatever has come with it: the fields show the head's bytes alone.
            prop_assert_eq!(in_pieces(&bytes, &pieces, limits), whole, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_body_is_the_same_in_any_pieces(bytes in mutated(chunks()), pieces in pieces()) {
        let whole = body_in_pieces(&bytes, &[bytes.len()]);
        prop_assert_eq!(body_in_pieces(&bytes, &pieces), whole);
        prop_assert_eq!(body_in_pieces(&bytes, &[1]), whole);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), pieces in pieces()) {
        let limits = Limits { header_bytes: 300, header_count: 4 };
        prop_assert_eq!(in_pieces(&bytes, &pieces, limits), outcome(&mut HeadParser::new(limits), &bytes));
        let _ = body_in_pieces(&bytes, &pieces);
    }
}
