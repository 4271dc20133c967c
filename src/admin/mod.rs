//! The admin listener: what operators and their tools ask of a running proxy.
//!
//! Reading needs no token on loopback and on the unix socket; beyond loopback all but the health endpoints does. Writing
//! needs one wherever it comes by TCP. `Host` is checked, so that a page in an operator's browser cannot reach it under a name of its own (DNS rebinding).

mod api;
mod drain;
mod guard;
mod page;
mod reload;
mod requests;
mod stream;
pub mod upgrade;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::StatusCode;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use self::guard::Rules;
pub use self::reload::{Done, Refusal, Reload, Wish};
use crate::config::plan::ListenAddress;
use crate::exchange::Arrival;
use crate::exchange::snapshot::Current;
use crate::telemetry::events::Reader;

/// Whether requests are served, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// They are.
    Ready,
    /// They are not, or soon not any more: why.
    NotReady(&'static str),
}

/// The admin API.
pub struct Admin {
    /// What is being served.
    pub current: Current,
    /// Whether it is.
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// Who may ask what.
    pub rules: ArcSwap<Rules>,
    /// Who reloads; empty until all that it may change is there.
    pub reload: OnceLock<Box<dyn Reload>>,
    /// Where an order to upgrade goes.
    pub upgrades: upgrade::Orders,
    /// Places for those who read events.
    pub readers: Readers,
}

/// Places for those who read events: so many at once, so that there is always room for questions.
#[derive(Debug, Clone)]
pub struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(stream::READERS)))
    }
}

/// What a request gets.
enum Reply {
    /// An answer that is there.
    Whole(Answer),
    /// Events as they happen, and the reader's place.
    Events(Reader, OwnedSemaphorePermit),
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::Whole(answer)
    }
}

/// What is answered.
struct Answer {
    status: StatusCode,
    content_type: &'static str,
    /// The methods that a 405 names.
    allow: &'static str,
    /// What a page may do in the browser; none where it is no page.
    policy: Option<String>,
    body: Vec<u8>,
    /// Dropped when the answer has been sent: somebody waits for that.
    held: Option<oneshot::Sender<()>>,
}

impl Answer {
    fn new(status: StatusCode, content_type: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type, allow: "GET, HEAD", policy: None, body: body.into().into_bytes(), held: None }
    }

    fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        Self::new(status, "application/json", format!("{value}\n"))
    }

    fn page() -> Self {
        let (page, policy) = page::compose();
        Self { policy: Some(policy), ..Self::new(StatusCode::OK, "text/html; charset=utf-8", page) }
    }

    fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text)
    }

    /// A refusal, as `application/problem+json` (RFC 9457).
    fn problem(status: StatusCode, detail: &str) -> Self {
        Self::problem_with(status, detail, serde_json::Map::new())
    }

    /// A refusal with more to tell, in members of its own.
    fn problem_with(status: StatusCode, detail: &str, more: serde_json::Map<String, serde_json::Value>) -> Self {
        let title = status.canonical_reason().unwrap_or_default();
        let mut problem =
            serde_json::json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
        if let Some(problem) = problem.as_object_mut() {
            problem.extend(more);
        }
        Self { content_type: "application/problem+json", ..Self::json(status, &problem) }
    }
}

#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        let address = address(&mut session)?;
        let admitted = self.rules.load().guard(&address).admit(session.req_header());
        let reply = match admitted {
            Ok(()) => api::answer(self, session.req_header(), &address).await,
            Err(refusal) => refusal.into(),
        };
        match reply {
            Reply::Whole(answer) => write(&mut session, answer).await.ok()?,
            Reply::Events(reader, place) => {
                // It ends when the reader leaves; that is no fault.
                let _ = stream::send(&mut session, reader).await;
                drop(place);
            }
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

/// Where a request came in: different rules hold on a socket and beyond loopback.
fn address(session: &mut ServerSession) -> Option<ListenAddress> {
    let arrival = session.take_connection_user_context()?.downcast::<Arrival>().ok()?;
    Some(arrival.listener.address.clone())
}

async fn write(session: &mut ServerSession, answer: Answer) -> Result<()> {
    let mut header = ResponseHeader::build(answer.status, Some(8))?;
    header.insert_header("content-type", answer.content_type)?;
    header.insert_header("cache-control", "no-store")?;
    header.insert_header("x-content-type-options", "nosniff")?;
    if let Some(policy) = &answer.policy {
        header.insert_header("content-security-policy", policy)?;
        header.insert_header("referrer-policy", "no-referrer")?;
    }
    if answer.status == StatusCode::UNAUTHORIZED {
        header.insert_header("www-authenticate", "Bearer realm=\"roundel admin\"")?;
    }
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        header.insert_header("allow", answer.allow)?;
    }
    header.set_content_length(answer.body.len())?;
    let head_only = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(header)).await?;
    if !head_only {
        session.write_response_body(answer.body.into(), true).await?;
    }
    drop(answer.held);
    Ok(())
}
