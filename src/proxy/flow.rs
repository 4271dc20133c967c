//! The request from top to bottom, in the order things happen. READ ME FIRST.
//!
//! The edge has parsed the head and handed it over as an [`Arrival`]; Pingora calls the phases. Each is a few lines that call
//! a room: the route table chooses, the pool lends a backend, `forward` edits fields, `retry` decides what follows a
//! failure, `rescue` what the client is told, `record` what the log is told.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{failure, forward};
use crate::base::path::NormalPath;
use crate::base::request::RequestView;
use crate::config::plan;
use crate::exchange::reply::Answer;
use crate::exchange::rescue::{self, Failure};
use crate::exchange::retry::{self, Standing, Verdict};
use crate::exchange::snapshot::Target;
use crate::exchange::watch::Deadline;
use crate::exchange::{Arrival, Exchange, KeepAlive, record};

use crate::telemetry::reason::Reason;
use crate::upstream::lease::{Ask, Lease};

/// The general road.
#[derive(Debug, Default)]
pub struct Flow;

/// One request on the general road.
#[derive(Debug, Default)]
pub struct Context {
    arrival: Option<Arrival>,
    exchange: Option<Exchange>,
}

impl Context {
    fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("the first phase makes the exchange, and no other phase runs before it")
    }
}

#[async_trait]
impl ProxyHttp for Flow {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    /// The edge hands a request over. Pingora means this for settings of the connection, and calls it first of all.
    fn on_connection_reuse(&self, _: &mut Session, ctx: &mut Context, handed: Box<dyn Any + Send + Sync>) {
        ctx.arrival = handed.downcast::<Arrival>().ok().map(|arrival| *arrival);
    }

    /// The request begins.
    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        let arrival = ctx.arrival.take().ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
        if arrival.keep_alive == KeepAlive::Last {
            session.set_keepalive(None);
        }
        // The edge has its own deadline for bodies; Pingora's would be a second one that nobody configured.
        session.set_read_timeout(None);
        ctx.exchange = Some(Exchange::new(arrival, &session.req_header().headers));
        Ok(())
    }

    /// The route is found, and what it refuses is refused.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let exchange = ctx.exchange();
        match admit(session.req_header(), exchange) {
            Ok(()) => Ok(false),
            Err(reason) => answer(session, exchange, reason).await.map(|()| true),
        }
    }

    /// A backend is chosen.
    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let exchange = ctx.exchange();
        exchange.arrival.watch.begin_try();
        let target = exchange.target.clone().ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
        let lease = choose(&target, exchange)?;
        let peer = target.peers.peer(lease.backend());
        exchange.attempts += 1;
        exchange.tried.push(lease.backend().id());
        exchange.lease = Some(lease);
        exchange.try_began = exchange.now();
        exchange.arrival.watch.set_after(Deadline::Try, exchange.try_began, target.plan.timeouts.total);
        Ok(Box::new(peer))
    }

    /// No connection came about: nothing was sent, and another backend is asked.
    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, ctx: &mut Context, error: Box<Error>) -> Box<Error> {
        let exchange = ctx.exchange();
        let failure = failure::of_connect(&error);
        decide(
            error,
            failure,
            exchange,
            Standing { idempotent: false, replayable: true, answer_begun: false, ..standing(exchange) },
        )
    }

    /// A connection stands.
    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        _: std::os::fd::RawFd,
        _: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        let exchange = ctx.exchange();
        exchange.reused = Some(reused);
        exchange.connect = (!reused).then(|| exchange.now().since(exchange.try_began));
        exchange.arrival.snapshot.counters.connected(exchange);
        Ok(())
    }

    /// The request as the backend gets it.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        header: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let exchange = ctx.exchange();
        forward::request(header, exchange)?;
        if session.is_body_done() {
            expect_answer(exchange);
        }
        Ok(())
    }

    /// The request's body on its way. Its framing and bound were checked at the edge.
    async fn request_body_filter(
        &self,
        session: &mut Session,
        _: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        if end_of_stream && session.response_written().is_none() {
            expect_answer(ctx.exchange());
        }
        Ok(())
    }

    /// The answer's head has come.
    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        header: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if !header.status.is_informational() || header.status == http::StatusCode::SWITCHING_PROTOCOLS {
            answered(ctx.exchange(), header.status.as_u16());
        }
        Ok(())
    }

    /// The answer as the client gets it.
    async fn response_filter(
        &self,
        session: &mut Session,
        header: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let upgraded = header.status == http::StatusCode::SWITCHING_PROTOCOLS;
        forward::response(header, upgraded)?;
        if upgraded && session.is_upgrade_req() {
            ctx.exchange().arrival.watch.open_tunnel();
        }
        Ok(())
    }

    /// A try failed after the connection stood: it is over, or it is made again elsewhere.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        _: bool,
    ) -> Box<Error> {
        let exchange = ctx.exchange();
        let answer_begun = session.response_written().is_some();
        let failure = failure::of_request(&error, exchange, answer_begun);
        let standing = Standing {
            idempotent: retry::is_idempotent(&session.req_header().method),
            replayable: !session.as_ref().retry_buffer_truncated(),
            answer_begun,
            ..standing(exchange)
        };
        decide(error, failure, exchange, standing)
    }

    /// The request has failed, and the client is told as much as can still be told.
    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        if ctx.exchange.is_none() {
            // Nothing handed this request over, so that nothing is known of it.
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let exchange = ctx.exchange();
        let answer_begun = session.response_written().is_some();
        let reason = exchange.reason.unwrap_or_else(|| failure::of_request(error, exchange, answer_begun).reason());
        exchange.reason = Some(reason);
        if !answer_begun && reason != Reason::ClientGone {
            session.set_keepalive(None);
            // If the client left meanwhile, the record says so by what was written.
            let _ = answer(session, exchange, reason).await;
        }
        FailToProxy { error_code: reason.status(), can_reuse_downstream: false }
    }

    /// The request is over.
    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Context) {
        let Some(exchange) = ctx.exchange.as_mut() else { return };
        let header = session.req_header();
        let end = record::End {
            method: header.method.as_str().as_bytes(),
            host: header.headers.get(http::header::HOST).map_or(b"", |host| host.as_bytes()),
            target: header.raw_path(),
            version: header.version,
            fields: &header.headers,
            status: session.response_written().map(|answer| answer.status.as_u16()),
            bytes_out: session.body_bytes_sent() as u64,
        };
        record::write(exchange, end);
    }

    /// The access log and the metrics tell of failed requests; a line for each in the process's log would bury the rest.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

/// Finds the route and the upstream of a request, or why it has none.
fn admit(header: &RequestHeader, exchange: &mut Exchange) -> std::result::Result<(), Reason> {
    if forward::is_loop(header, &exchange.arrival.snapshot.pseudonym) {
        return Err(Reason::ProxyLoopDetected);
    }
    let snapshot = exchange.arrival.snapshot.clone();
    let (path, query) = target_of(header);
    let view = RequestView {
        method: header.method.as_str(),
        scheme: exchange.arrival.scheme,
        host: host_of(header),
        path,
        query,
        client: exchange.client_address(),
        fields: &header.headers,
    };
    let normal = NormalPath::new(path).map_err(|_| Reason::HttpRequestError)?;
    let found = snapshot.routes.find(&view, &normal).ok_or(Reason::NoRoute)?;
    let route = snapshot.live[found.index].clone();
    exchange.target = route.target().cloned();
    exchange.route = Some(route);
    refuse_upgrade(header)?;
    bound_body(exchange)
}

/// WebSockets pass; an upgrade to HTTP/2 may be ignored (RFC 9113, 3.1, has withdrawn it); any other is refused.
fn refuse_upgrade(header: &RequestHeader) -> std::result::Result<(), Reason> {
    let Some(upgrade) = header.headers.get(http::header::UPGRADE) else { return Ok(()) };
    if forward::websocket(header) || upgrade.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return Ok(());
    }
    Err(Reason::UpgradeRefused)
}

fn bound_body(exchange: &Exchange) -> std::result::Result<(), Reason> {
    let Some(limit) = exchange.body_limit() else { return Ok(()) };
    exchange.arrival.watch.limit_body(limit);
    match exchange.arrival.body {
        Some(length) if length > limit => Err(Reason::BodyTooLarge),
        _ => Ok(()),
    }
}

/// Path and query of a request in origin form or absolute form.
fn target_of(header: &RequestHeader) -> (&str, Option<&str>) {
    let target = match std::str::from_utf8(header.raw_path()) {
        Ok(target) if target.starts_with('/') || target == "*" => target,
        _ => header.uri.path_and_query().map_or("/", |target| target.as_str()),
    };
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

fn host_of(header: &RequestHeader) -> &str {
    header.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("")
}

/// Leases a backend that has not been tried yet.
fn choose(target: &Arc<Target>, exchange: &mut Exchange) -> Result<Lease> {
    // The last lease ends before the next begins, so that a request is never in flight at two backends.
    exchange.lease = None;
    let ask = Ask { hash: None, tried: &exchange.tried, sticky: None };
    target.pool.lease(&ask).map_err(|why| {
        exchange.reason = Some(rescue::no_backend(&why, exchange.failure));
        Error::new_in(ErrorType::InternalError)
    })
}

fn standing(exchange: &Exchange) -> Standing {
    let left = exchange.target.as_ref().is_some_and(|target| target.pool.untried(&exchange.tried));
    Standing {
        idempotent: false,
        replayable: false,
        answer_begun: false,
        retries: exchange.retries,
        backends_left: left,
    }
}

/// Carries out what follows a failed try.
fn decide(mut error: Box<Error>, failure: Failure, exchange: &mut Exchange, standing: Standing) -> Box<Error> {
    exchange.try_failed(failure);
    let policy = exchange.target.as_ref().map(|target| target.plan.clone());
    let verdict = policy
        .map_or(Verdict::GiveUp, |upstream: Arc<plan::Upstream>| retry::after(failure, standing, &upstream.retry));
    match verdict {
        Verdict::Failover => {}
        Verdict::Retry => {
            exchange.retries += 1;
            if !standing.backends_left {
                // There is no other backend: the same one gets a second chance.
                exchange.tried.clear();
            }
        }
        Verdict::GiveUp => exchange.reason = Some(failure.reason()),
    }
    error.set_retry(verdict != Verdict::GiveUp);
    error
}

/// The whole request has been sent: the answer's time begins.
fn expect_answer(exchange: &mut Exchange) {
    let now = exchange.now();
    exchange.sent = Some(now);
    let first_byte = exchange.target.as_ref().map(|target| target.plan.timeouts.first_byte);
    exchange.arrival.watch.set_after(Deadline::FirstByte, now, first_byte);
}

/// The answer has begun.
fn answered(exchange: &mut Exchange, status: u16) {
    exchange.arrival.watch.clear(Deadline::FirstByte);
    let latency = exchange.now().since(exchange.sent.unwrap_or(exchange.try_began));
    exchange.first_byte = Some(latency);
    if let Some(lease) = &mut exchange.lease {
        match status {
            502..=504 => lease.failed(crate::upstream::state::Failure::Gateway, &format!("status {status}")),
            _ => lease.succeeded(latency),
        }
    }
}

/// Answers in the proxy's own name.
async fn answer(session: &mut Session, exchange: &mut Exchange, reason: Reason) -> Result<()> {
    exchange.reason = Some(reason);
    let answer = Answer::new(reason, &session.req_header().headers, exchange.style());
    let mut header = ResponseHeader::build(answer.status, Some(answer.headers.len() + 2))?;
    for (name, value) in answer.headers {
        header.append_header(name, value)?;
    }
    header.insert_header("x-request-id", exchange.id.as_str())?;
    header.set_content_length(answer.body.len())?;
    let head_only = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(header), head_only).await?;
    if !head_only {
        session.write_response_body(Some(answer.body), true).await?;
    }
    Ok(())
}
