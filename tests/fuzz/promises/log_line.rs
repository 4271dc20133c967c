//! Any template and any request: each record is one line, whatever clients put into it, and JSON stays JSON.

use std::time::{Duration, SystemTime};

use roundel::base::request::Scheme;
use roundel::config;
use roundel::config::plan::{LogFormat, TemplatePart};
use roundel::telemetry::access_log::{Format, Record, Second};
use roundel::telemetry::reason::Reason;

/// Ends the template and each value in the fuzzer's bytes.
const END: u8 = 0x1f;

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == END);
    let template = parts.next().and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default();
    let texts: [&[u8]; 7] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let text = |at: usize| Some(texts[at]).filter(|text| !text.is_empty());
    let record = Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        request_id: "0123456789abcdef",
        client: None,
        listener: "public",
        method: text(0),
        scheme: Scheme::Http,
        host: text(1),
        path: text(2),
        query: text(3),
        protocol: Some(http::Version::HTTP_11),
        status: 200,
        reason: Some(Reason::HttpRequestError),
        dry_run: None,
        route: std::str::from_utf8(texts[6]).ok(),
        upstream: None,
        backend: None,
        attempts: None,
        duration: Duration::from_micros(1_234),
        connect: None,
        first_byte: None,
        reused: None,
        bytes_in: 0,
        bytes_out: 0,
        user_agent: text(4),
        referer: text(5),
        tls: None,
        trace_id: None,
    };
    for format in formats(template) {
        let mut line = Vec::new();
        Format::new(&format).write(&record, &mut Second::new(), &mut line);
        let text = line.strip_suffix(b"\n").expect("a line ends");
        assert!(!text.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)), "{}", line.escape_ascii());
        match format {
            LogFormat::Json => {
                let json: serde_json::Value = serde_json::from_slice(text).expect("JSON");
                assert_eq!(json["request_id"], "0123456789abcdef");
                assert_eq!(json["status"], 200);
            }
            LogFormat::Combined => check_combined(text),
            LogFormat::Template(_) => {}
        }
    }
}

/// Quotes in `combined` stand in pairs: nobody can write the rest of the line.
fn check_combined(text: &[u8]) {
    let quotes = text.iter().filter(|byte| **byte == b'"').count();
    assert_eq!(quotes, 6, "{}", text.escape_ascii());
}

fn formats(template: &str) -> Vec<LogFormat> {
    // JSON is YAML, and quotes what the template holds.
    let text = serde_json::json!({
        "access_log": { "path": "stdout", "format": template },
        "upstreams": { "a": { "backends": ["127.0.0.1:1"] } },
    });
    let loaded = config::load_text("fuzz", &text.to_string(), &|_| None);
    let written = loaded.ok().and_then(|loaded| loaded.plan.access_log).map(|log| log.format);
    let literal = LogFormat::Template(vec![TemplatePart::Text(template.to_owned())]);
    [LogFormat::Json, LogFormat::Combined, literal].into_iter().chain(written).collect()
}
