//! What the strict parsers cost: a small head as a load generator sends it, a browser's head, a head that arrives byte by
//! byte, and the framing of a chunked body. Run with `cargo bench --bench head`.

use divan::{Bencher, black_box};
use roundel::wire::framing::{BodyCheck, Framing};
use roundel::wire::head::{HeadParser, Limits, Outcome};

const SMALL: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: bench.example:8080\r\n\r\n";

const BROWSER: &[u8] = b"GET /articles/2026/strict-parsers?utm_source=feed&page=2 HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    Connection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Referer: https://www.example.com/articles\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=yes\r\n\r\n";

fn main() {
    divan::main();
}

#[divan::bench(args = ["small", "browser"])]
fn whole_head(bencher: Bencher<'_, '_>, name: &str) {
    let bytes = if name == "small" { SMALL } else { BROWSER };
    let mut parser = HeadParser::new(Limits::default());
    bencher.bench_local(move || {
        parser.reset();
        assert!(matches!(parser.parse(black_box(bytes)), Outcome::Complete(_)));
    });
}

#[divan::bench]
fn browser_head_byte_by_byte(bencher: Bencher<'_, '_>) {
    let mut parser = HeadParser::new(Limits::default());
    bencher.bench_local(move || {
        parser.reset();
        for end in 1..BROWSER.len() {
            assert!(matches!(parser.parse(black_box(&BROWSER[..end])), Outcome::Partial));
        }
    });
}

#[divan::bench(args = [16, 1024, 65_536])]
fn chunks_of_64_kib(bencher: Bencher<'_, '_>, size: usize) {
    let chunk = [format!("{size:x}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat();
    let body = [chunk.repeat(65_536 / size).as_slice(), b"0\r\n\r\n"].concat();
    bencher.bench_local(|| {
        let mut check = BodyCheck::new(Framing::Chunked);
        assert!(check.advance(black_box(&body)).is_ok_and(|progress| progress.ended));
    });
}
