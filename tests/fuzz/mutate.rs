//! Mutations of inputs, drawn from a seed: what a fuzzer does without coverage to guide it.

use fastrand::Rng;

/// The longest input.
const LONGEST: usize = 4096;
/// Bytes that mean something to one parser or another.
const BYTES: &[u8] = b"\r\n\0 \t:;,=\"\\/?#%[]@0129afxAF+-.*\x0b\x1b\x1d\x1e\x1f\x7f\x80\xc3\xff";
/// Words that do.
const WORDS: [&str; 48] = [
    "\r\n",
    "\r\n\r\n",
    "0\r\n\r\n",
    "\r\n ",
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD ",
    "OPTIONS * ",
    "TRACE ",
    "CONNECT a:1 ",
    "http://a/",
    "http://a?",
    "https://b",
    " HTTP/1.0\r\n",
    " HTTP/1.1\r\n",
    " HTTP/2.0\r\n",
    "HTTP/1.1 100 \r\n\r\n",
    "HTTP/1.1 101 \r\n\r\n",
    "HTTP/1.1 204 \r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: +1\r\n",
    "Content-Length: 18446744073709551616\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: host\r\n",
    "Connection: x-a, via\r\n",
    "Connection: upgrade\r\nUpgrade: websocket\r\n",
    "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "Host: b\r\n",
    "Host: [::1]:80\r\n",
    "Expect: 100-continue\r\n",
    "TE: trailers\r\n",
    "Trailer: x\r\n",
    "X-Forwarded-For: 1.2.3.4\r\n",
    "Forwarded: for=\"[::1]\";host=x\r\n",
    "x-a: 1\r\n",
    "ffffffffffffffff\r\n",
    ";a=\"b\"",
    "a: b\r\n",
    "::ffff:1.2.3.4",
    "%2e%2e/",
    "{host}",
    ":authority: b\n",
    "content-length: 1\n",
];

/// Makes inputs out of others.
pub struct Mutator {
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// Begins with these.
    pub fn new(seeds: Vec<Vec<u8>>) -> Self {
        Self { seeds }
    }

    /// Another input.
    pub fn next(&mut self, rng: &mut Rng) -> Vec<u8> {
        let mut input = self.pick(rng).clone();
        for _ in 0..=rng.usize(..4) {
            self.change(&mut input, rng);
        }
        input.truncate(LONGEST);
        input
    }

    fn pick(&self, rng: &mut Rng) -> &Vec<u8> {
        &self.seeds[rng.usize(..self.seeds.len())]
    }

    fn change(&self, input: &mut Vec<u8>, rng: &mut Rng) {
        let at = rng.usize(..=input.len());
        let end = at + rng.usize(..=(input.len() - at).min(40));
        match rng.u8(..8) {
            0 => insert(input, at, &[BYTES[rng.usize(..BYTES.len())]]),
            1 if at < input.len() => input[at] = BYTES[rng.usize(..BYTES.len())],
            2 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                insert(input, at, &copy);
            }
            5 => {
                let other = self.pick(rng);
                let from = rng.usize(..=other.len());
                let part = other[from..].to_vec();
                insert(input, at, &part);
            }
            6 => input.truncate(at),
            _ => {
                // A word does most at the beginning of a line.
                let begin = input[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |lf| lf + 1);
                let at = if rng.bool() { begin } else { at };
                insert(input, at, WORDS[rng.usize(..WORDS.len())].as_bytes());
            }
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}
