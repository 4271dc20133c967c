//! Answers that go on: events as they happen, as server-sent events (WHATWG HTML, 9.2).
//!
//! A reader that is too slow loses events and is told how many; one that takes nothing for a while is cut off by the
//! listener's own deadline. Nobody waits for either.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use serde_json::json;

use super::{Admin, Answer, Reply, guard};
use crate::telemetry::events::{Batch, Reader};

/// How many readers there may be at once; the rest of the listener's connections is for questions.
pub(super) const READERS: usize = 64;
/// How often a silent stream shows that it lives, and finds out whether its reader does.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The events that a request asks for: those after `Last-Event-ID`, else the `last` so many and all that follow.
pub(super) fn events(admin: &Admin, header: &RequestHeader) -> Reply {
    let journal = &admin.current.load().events;
    let seen = header.headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let reader = match (seen, guard::query(header)) {
        (Some(seen), _) => journal.read_after(seen),
        (None, "") => journal.read_last(0),
        (None, query) => match query.strip_prefix("last=").and_then(|count| count.parse().ok()) {
            Some(count) => journal.read_last(count),
            None => {
                let detail = "unknown parameter (events know `last`, a number: `last=10`)";
                return Answer::problem(StatusCode::BAD_REQUEST, detail).into();
            }
        },
    };
    match admin.readers.0.clone().try_acquire_owned() {
        Ok(place) => Reply::Events(reader, place),
        Err(_) => {
            let detail = "too many readers of events at once (close one, or ask later)";
            Answer::problem(StatusCode::SERVICE_UNAVAILABLE, detail).into()
        }
    }
}

/// Sends events until the client leaves.
pub(super) async fn send(session: &mut ServerSession, mut reader: Reader) -> Result<()> {
    let mut header = ResponseHeader::build(StatusCode::OK, Some(5))?;
    header.insert_header("content-type", "text/event-stream")?;
    header.insert_header("cache-control", "no-store")?;
    header.insert_header("x-content-type-options", "nosniff")?;
    if session.req_header().version == Version::HTTP_11 {
        header.insert_header("transfer-encoding", "chunked")?;
    }
    let head_only = session.req_header().method == Method::HEAD;
    session.set_keepalive(None);
    session.write_response_header(Box::new(header)).await?;
    if head_only {
        return Ok(());
    }
    // The first line goes out at once, so that the reader knows that it listens.
    session.write_response_body(Bytes::from_static(b": events\n\n"), false).await?;
    loop {
        let text = match tokio::time::timeout(HEARTBEAT, reader.next()).await {
            Ok(batch) => text(&batch),
            Err(_) => ": \n\n".to_owned(),
        };
        session.write_response_body(text.into(), false).await?;
    }
}

fn text(batch: &Batch) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    if batch.lost > 0 {
        let _ = write!(
            text,
            "data: {}\n\n",
            json!({ "kind": "lost", "lost": batch.lost, "text": format!("{} events were lost: this reader is too slow", batch.lost) })
        );
    }
    for event in &batch.events {
        let _ = write!(text, "id: {}\ndata: {}\n\n", event.number, event.to_json());
    }
    text
}
