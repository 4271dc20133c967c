//! The probe that sends a request: Pingora's own check where the head decides, ours where the body has a say.

use std::sync::Arc;

use async_trait::async_trait;
use http::header;
use parking_lot::Mutex;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_load_balancing::Backend as Target;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck};

use super::cause::unexpected;
use crate::config::plan::{HttpProbe, StatusSet};

/// How much of a body is looked at.
const BODY_LIMIT: usize = 64 * 1024;

/// The request of a probe to the backend whose host is `host` (its name as written, without scheme).
pub(super) fn request(probe: &HttpProbe, host: &str) -> Result<RequestHeader> {
    let mut request = RequestHeader::build(probe.method.clone(), probe.path.as_bytes(), None)?;
    match &probe.host {
        Some(host) => request.insert_header(header::HOST, host)?,
        None => request.insert_header(header::HOST, host)?,
    }
    request.insert_header(header::USER_AGENT, USER_AGENT)?;
    for (name, value) in &probe.headers {
        request.insert_header(name.clone(), value)?;
    }
    Ok(request)
}

/// Who asks.
pub(super) const USER_AGENT: &str = concat!("roundel/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Pingora's HTTP checks, lent out one for each probe that is under way.
///
/// Such a check owns its request, its peer and its connector. Each backend has a `Host` and perhaps an SNI of its own; a
/// check for each of ten thousand backends would cost more memory than the proxy itself, so a few are dressed anew each time.
pub(super) struct Checks {
    idle: Mutex<Vec<HttpHealthCheck>>,
    connector: ConnectorOptions,
}

impl Checks {
    pub(super) fn new(connector: ConnectorOptions) -> Self {
        Self { idle: Mutex::new(Vec::new()), connector }
    }

    /// Sends one request by Pingora's check, which reads the answer to its end: one that never ends is bounded by the
    /// probe's timeout alone. A probe that is dropped in between takes its check with it.
    pub(super) async fn run(
        &self,
        target: &Target,
        peer: HttpPeer,
        request: RequestHeader,
        good: StatusSet,
    ) -> Result<()> {
        let mut check = self.take();
        check.peer_template = peer;
        check.req = request;
        check.validator = Some(Box::new(move |response| judge_status(&good, response)));
        let verdict = check.check(target).await;
        self.idle.lock().push(check);
        verdict
    }

    fn take(&self) -> HttpHealthCheck {
        let idle = self.idle.lock().pop();
        idle.unwrap_or_else(|| {
            HttpHealthCheck::new_custom("localhost", false, Connector::new(Some(self.connector.clone())))
        })
    }
}

/// Pingora's check shows its validator the head alone; this one reads the first 64 KiB of the body too.
pub(super) struct BodyCheck {
    /// How to connect.
    pub(super) peer: HttpPeer,
    /// What to send.
    pub(super) request: RequestHeader,
    /// The statuses that are good.
    pub(super) status: StatusSet,
    /// What the body must contain.
    pub(super) body: String,
    /// Who connects.
    pub(super) connector: Arc<Connector>,
}

#[async_trait]
impl HealthCheck for BodyCheck {
    async fn check(&self, _target: &Target) -> Result<()> {
        let (mut session, _) = self.connector.get_http_session(&self.peer).await?;
        session.set_write_timeout(self.peer.options.write_timeout);
        session.set_read_timeout(self.peer.options.read_timeout);
        session.write_request_header(Box::new(self.request.clone())).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        if let Some(response) = session.response_header() {
            judge_status(&self.status, response)?;
        }
        if body_contains(&mut session, self.body.as_bytes()).await? {
            Ok(())
        } else {
            Err(unexpected(format!("body does not contain {:?}", self.body)))
        }
    }

    /// The state machine of the backend counts; this check only answers for one probe.
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}

async fn body_contains(session: &mut HttpSession, wanted: &[u8]) -> Result<bool> {
    let finder = memchr::memmem::Finder::new(wanted);
    let mut body = Vec::new();
    while body.len() < BODY_LIMIT {
        let Some(chunk) = session.read_response_body().await? else { break };
        // A match may span two chunks.
        let from = body.len().saturating_sub(wanted.len());
        body.extend_from_slice(&chunk[..chunk.len().min(BODY_LIMIT - body.len())]);
        if finder.find(&body[from..]).is_some() {
            return Ok(true);
        }
    }
    Ok(wanted.is_empty())
}

fn judge_status(good: &StatusSet, response: &ResponseHeader) -> Result<()> {
    let status = response.status.as_u16();
    if good.contains(status) { Ok(()) } else { Err(unexpected(format!("status {status}"))) }
}
