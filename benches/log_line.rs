//! What a line of the access log costs the thread that served the request: made, and put into the queue. The lines go to
//! /dev/null, so that the writer keeps up; what it drops all the same is told.

mod measure;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use measure::measure;
use roundel::base::request::Scheme;
use roundel::config::plan::{self, LogFormat, LogPath};
use roundel::telemetry::access_log::{AccessLog, Record};

const TIMES: usize = 100_000;

fn main() {
    bench("json, a small request", &LogFormat::Json, &small());
    bench("json, a browser's", &LogFormat::Json, &browser());
    bench("combined, a browser's", &LogFormat::Combined, &browser());
    let hostile = Record { path: Some(b"/\"\\\x00\xff\xfe\r\n\x1b[31m".as_slice()), ..browser() };
    bench("json, a path to be escaped", &LogFormat::Json, &hostile);
}

fn bench(name: &str, format: &LogFormat, record: &Record<'_>) {
    let plan = plan::AccessLog { path: LogPath::File(PathBuf::from("/dev/null")), format: format.clone(), sample: 1.0 };
    let log = AccessLog::open(&plan).expect("/dev/null can be written to");
    measure(name, TIMES, |_| log.write(record));
    log.flush(Duration::from_secs(5));
    if log.dropped() > 0 {
        println!("{:<48} {:>9} lines dropped: the queue was full", "", log.dropped());
    }
}

fn small() -> Record<'static> {
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
        request_id: "48e1a09d01c72dd075c8cdd125c316dc",
        client: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        listener: "public",
        method: Some(b"GET"),
        scheme: Scheme::Http,
        host: Some(b"example.com"),
        path: Some(b"/"),
        query: None,
        protocol: Some(http::Version::HTTP_11),
        status: 200,
        reason: None,
        dry_run: None,
        route: Some("site"),
        upstream: Some("web"),
        backend: Some("10.0.0.1:8080"),
        attempts: Some(1),
        duration: Duration::from_micros(12_345),
        connect: None,
        first_byte: Some(Duration::from_micros(7_000)),
        reused: Some(true),
        bytes_in: 0,
        bytes_out: 512,
        user_agent: None,
        referer: None,
        tls: None,
        trace_id: None,
    }
}

fn browser() -> Record<'static> {
    Record {
        path: Some(b"/articles/2026/strict-parsers?utm_source=feed&page=2"),
        user_agent: Some(
            b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
        ),
        referer: Some(b"https://www.example.com/articles"),
        tls: Some("TLSv1.3"),
        ..small()
    }
}
