//! Sends spans to an OpenTelemetry receiver: OTLP over HTTP, in its JSON form (OTLP specification 1.x).
//!
//! A post goes over a connection of its own: there is one a second at most where little happens.

use std::io::{Error, ErrorKind, Result};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Kind, Span, Spans, Value};
use crate::config::plan::Tracing;

/// How long a receiver may take for all of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than the status line of any answer.
const LONGEST_LINE: usize = 1024;

/// Sends all that waits, a batch at a time. What could not be sent is dropped and counted.
///
/// # Errors
/// The receiver cannot be reached, or does not take the spans.
pub async fn send_all(spans: &Spans, tracing: &Tracing) -> Result<()> {
    loop {
        let batch = spans.take();
        if batch.is_empty() {
            return Ok(());
        }
        let sent = timeout(PATIENCE, post(tracing, &body(&batch))).await;
        match sent.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "it took too long"))) {
            Ok(()) => spans.count_sent(batch.len()),
            Err(error) => {
                spans.count_dropped(batch.len());
                return Err(error);
            }
        }
    }
}

async fn post(tracing: &Tracing, body: &str) -> Result<()> {
    let mut stream = TcpStream::connect((tracing.host.as_str(), tracing.port)).await?;
    let (host, port, path) = (&tracing.host, tracing.port, &tracing.path);
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: roundel/{}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::with_capacity(LONGEST_LINE);
    while !answer.contains(&b'\n') && answer.len() < LONGEST_LINE {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "it closed the connection without an answer"));
        }
    }
    let line = String::from_utf8_lossy(&answer);
    match line.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()) {
        Some(200..300) => Ok(()),
        Some(status) => Err(Error::other(format!("it answered {status}"))),
        None => Err(Error::new(ErrorKind::InvalidData, "what it answered is no HTTP")),
    }
}

/// The body of an `ExportTraceServiceRequest`.
fn body(spans: &[Span]) -> String {
    json!({
        "resourceSpans": [{
            "resource": { "attributes": attributes(&[
                ("service.name", Value::Text("roundel".to_owned())),
                ("service.version", Value::Text(env!("CARGO_PKG_VERSION").to_owned())),
                ("process.pid", Value::Number(i64::from(std::process::id()))),
            ]) },
            "scopeSpans": [{
                "scope": { "name": "roundel", "version": env!("CARGO_PKG_VERSION") },
                "spans": spans.iter().map(span).collect::<Vec<_>>(),
            }],
        }],
    })
    .to_string()
}

fn span(span: &Span) -> Json {
    json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id),
        "parentSpanId": span.parent.map_or_else(String::new, |parent| format!("{parent:016x}")),
        "name": span.name,
        "kind": match span.kind {
            Kind::Server => 2,
            Kind::Client => 3,
        },
        "startTimeUnixNano": nanos(span.began),
        "endTimeUnixNano": nanos(span.ended),
        "attributes": attributes(&span.attributes),
        "status": { "code": if span.failed { 2 } else { 0 } },
    })
}

fn attributes(attributes: &[(&'static str, Value)]) -> Vec<Json> {
    let value = |value: &Value| match value {
        Value::Text(text) => json!({ "stringValue": text }),
        // 64-bit numbers are texts in the JSON form of protocol buffers.
        Value::Number(number) => json!({ "intValue": number.to_string() }),
    };
    attributes.iter().map(|(key, one)| json!({ "key": key, "value": value(one) })).collect()
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}
