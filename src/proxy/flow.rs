//! The request from top to bottom, in the order things happen. READ ME FIRST.
//!
//! The edge has parsed the head and handed it over as an [`Arrival`]; Pingora calls the phases. Each is a few lines that call
//! a room: `admission` finds the route and asks its filters, the pool lends a backend, `forward` edits fields, `retry`
//! decides what follows a failure, `rescue` what the client is told, `record` what the log is told.

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use pingora_core::protocols::Digest;
use pingora_core::server::ShutdownWatch;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::answer_head::{self, Asked};
use super::forward::{self, view};
use super::gate::Gate;
use super::link::{Given, Link, OTHER_TONGUE};
use super::{answer, departure, failure};
use crate::config::plan::UpstreamProtocol;
use crate::exchange::admission::{self, Admission};
use crate::exchange::attempt;
use crate::exchange::rescue::{Connect, Failure};
use crate::exchange::retry::{Standing, Verdict};
use crate::exchange::{Arrival, Exchange, KeepAlive, progress, record};
use crate::filter::compress::Coding;
use crate::filter::encode::Encoder;
use crate::telemetry::reason::Reason;
use crate::upstream::backend::Tongue;
use crate::upstream::connection::Connector;
use crate::upstream::doubt::Knocking;
use crate::upstream::peer::SHORTEST;

/// A try whose answer is passed over in favour of another try.
const PASSED_OVER: ErrorType = ErrorType::Custom("the status is tried again");

/// The general road.
#[derive(Debug)]
pub struct Flow {
    /// Turns true when the process drains: no connection carries another request then.
    pub draining: ShutdownWatch,
    /// Makes the connections of HTTP/1.1.
    pub connector: Arc<Connector>,
}

/// One request on the general road.
#[derive(Debug, Default)]
pub struct Context {
    arrival: Option<Arrival>,
    /// Boxed, as Pingora moves the context about.
    exchange: Option<Box<Exchange>>,
    /// What compresses the answer's body, where it is compressed.
    encoder: Option<Encoder>,
    /// What gives the present try its connection, where its backend is spoken to in HTTP/1.1.
    link: Option<Arc<Link>>,
    /// Holds the answer back until the request has ended, where it may become a tunnel.
    gate: Option<Gate>,
    /// The present try's connect where Pingora makes it, as far as it has not ended.
    knocking: Option<Knocking>,
    /// Whether the present try is to be begun again, in the version of HTTP that its backend turned out to speak.
    again: bool,
    /// Whether it was.
    begun_again: bool,
}

impl Context {
    fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_deref_mut().expect("the first phase makes the exchange, and no other phase runs before it")
    }

    /// Whether a try that has failed so is begun again at once: nothing was sent, and its backend was only asked in the wrong
    /// version of HTTP.
    fn begins_again(&mut self, error: &Error) -> bool {
        self.again = *error.etype() == OTHER_TONGUE && !std::mem::replace(&mut self.begun_again, true);
        self.again
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
        let arrival = ctx
            .arrival
            .take()
            .or_else(|| handed_over(session))
            .ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
        if arrival.keep_alive == KeepAlive::Last {
            session.set_keepalive(None);
        }
        // A client of HTTP/1.0 knows no 1xx (RFC 9110, 15.2).
        let old = session.req_header().version == http::Version::HTTP_10;
        session.set_ignore_info_resp(old);
        // The edge has its own deadline for bodies; Pingora's would be a second one that nobody configured.
        session.set_read_timeout(None);
        ctx.exchange = Some(Box::new(Exchange::new(arrival, &session.req_header().headers)));
        Ok(())
    }

    /// The route is found, and its filters decide.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let exchange = ctx.exchange();
        let mut admission = admission::begin(exchange, &view(session.req_header(), exchange));
        if let Admission::MustHash(job) = admission {
            // A thread pool that takes no more work is as good as a wrong password.
            let right = tokio::task::spawn_blocking(move || job.run()).await.unwrap_or(false);
            admission = admission::resume(exchange, &view(session.req_header(), exchange), right);
        }
        match admission {
            Admission::Forward | Admission::MustHash(_) => Ok(false),
            Admission::Refuse(refusal) => answer::refuse(session, exchange, refusal).await.map(|()| true),
            Admission::Answer(answer) => answer::send(session, exchange, answer).await.map(|()| true),
        }
    }

    /// A backend is chosen.
    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let asked = asked(session);
        if !std::mem::take(&mut ctx.again) {
            begin_try(session, ctx.exchange()).await.map_err(|_| Error::new_in(ErrorType::InternalError))?;
            ctx.begun_again = false;
        }
        ctx.gate = (asked == Asked::WebSocket).then(Gate::default);
        ctx.link = Link::of(ctx.exchange.as_deref(), &self.connector, ctx.gate.clone());
        let link = ctx.link.clone();
        let exchange = ctx.exchange();
        let mut peer = peer(exchange, link).ok_or_else(|| Error::new_in(ErrorType::InternalError))?;
        let watch = &exchange.arrival.watch;
        if asked == Asked::WebSocket {
            // A tunnel is idle by its own measure, and the connection to the client keeps it.
            let read = &mut peer.options.read_timeout;
            *read = read.map(|read| read.max(exchange.arrival.listener.timeouts.tunnel_idle));
        }
        if let Some((at, _)) = watch.next() {
            bear_deadline(&mut peer, at.since(exchange.try_began), asked);
        }
        ctx.knocking = ctx.link.is_none().then(|| knocking(ctx.exchange.as_deref())).flatten();
        Ok(Box::new(peer))
    }

    /// No connection came about: nothing was sent, and another backend is asked.
    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
        let failure = failure::of_connect(&error);
        let is_silent = matches!(failure, Failure::Connect(Connect::TimedOut | Connect::OutOfDescriptors));
        ctx.knocking.take().filter(|_| !is_silent).into_iter().for_each(Knocking::answered);
        if ctx.begins_again(&error) {
            error.set_retry(true);
            return error;
        }
        let exchange = ctx.exchange();
        let failure = if exchange.out_of_time() { Failure::OutOfTime } else { failure };
        let standing = Standing { replayable: true, ..attempt::standing(exchange) };
        decide(error, failure, exchange, standing)
    }

    /// A connection stands.
    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        connection: RawFd,
        _: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        // Another stream on a connection that stood says nothing of the machine behind it.
        ctx.knocking.take().filter(|_| !reused).into_iter().for_each(Knocking::answered);
        let given = ctx.link.as_ref().and_then(|link| link.given());
        let Given { descriptor, reused } = given.unwrap_or(Given { descriptor: connection, reused });
        ctx.exchange().connected(descriptor, reused);
        Ok(())
    }

    /// The request as the backend gets it.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        header: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let checked = ctx.link.is_some();
        let exchange = ctx.exchange();
        if !forward::speaks_as_agreed(header.version, exchange) {
            return Err(Error::explain(ErrorType::InvalidH2, "the backend does not speak HTTP/2").into_up());
        }
        if !checked && header.version != http::Version::HTTP_2 {
            exchange.lease.iter().for_each(|lease| lease.backend().speaks(Tongue::Http1));
            return Err(Error::new_up(OTHER_TONGUE));
        }
        forward::request(header, session.req_header(), exchange)?;
        if session.is_body_done() {
            progress::sent(exchange);
        }
        if let Some(gate) = &ctx.gate {
            gate.shut();
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
        if end_of_stream && status_sent(session).is_none() {
            progress::sent(ctx.exchange());
        }
        if end_of_stream && let Some(gate) = &ctx.gate {
            gate.open();
        }
        Ok(())
    }

    /// The answer's head has come.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        header: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        answer_head::check(header, asked(session))?;
        if !header.status.is_informational() || header.status == StatusCode::SWITCHING_PROTOCOLS {
            let exchange = ctx.exchange();
            progress::answered(exchange, header.status.as_u16(), idle_bound(exchange));
            if passes_over(session, header, exchange) {
                return Err(Error::new_up(PASSED_OVER));
            }
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
        let exchange = ctx.exchange();
        let upgraded = header.status == StatusCode::SWITCHING_PROTOCOLS;
        forward::response(header, upgraded)?;
        if upgraded && session.is_upgrade_req() {
            exchange.arrival.watch.open_tunnel();
            exchange.given.status = Some(header.status.as_u16());
        }
        if header.status.is_informational() {
            return Ok(());
        }
        if *self.draining.borrow() {
            session.set_keepalive(None);
        }
        let method = &session.req_header().method;
        if exchange.idempotent
            && *method != http::Method::HEAD
            && exchange.arrival.body == Some(0)
            && forward::has_length(header)
        {
            exchange.arrival.watch.hold();
        }
        let coding = forward::compress(header, session.req_header(), exchange)?;
        if session.req_header().version == http::Version::HTTP_10 && forward::unchunk(header) {
            session.set_keepalive(None);
        }
        forward::stick(header, exchange)?;
        forward::edit_response(header, session.req_header(), exchange)?;
        if forward::has_no_body(header, session.req_header()) {
            exchange.arrival.watch.end_answer();
        }
        exchange.given.status = Some(header.status.as_u16());
        ctx.encoder = coding.map(Coding::encoder).transpose().map_err(failed_encoding)?;
        Ok(())
    }

    /// The answer's body on its way.
    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        let exchange = ctx.exchange();
        exchange.arrival.watch.release();
        if end_of_stream {
            exchange.arrival.watch.end_answer();
        } else {
            exchange.arrival.watch.answer_moved(exchange.now());
        }
        if ctx.encoder.is_some() {
            *body = encode(&mut ctx.encoder, body.take(), end_of_stream).map_err(failed_encoding)?;
        }
        ctx.exchange().given.bytes += body.as_ref().map_or(0, |body| body.len() as u64);
        Ok(None)
    }

    /// A try failed after the connection stood: it is over, or it is made again elsewhere.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        _: bool,
    ) -> Box<Error> {
        if ctx.begins_again(&error) {
            error.set_retry(true);
            return error;
        }
        let exchange = ctx.exchange();
        if exchange.is_answered() {
            return error;
        }
        if *error.etype() == PASSED_OVER {
            error.set_retry(true);
            return error;
        }
        let head_given = status_sent(session).is_some();
        let answer_begun = head_given && exchange.arrival.watch.is_on_wire();
        let failure = failure::of_request(&error, exchange, answer_begun);
        let kept = !session.as_ref().retry_buffer_truncated() && exchange.body_is_kept();
        let standing = Standing {
            replayable: if head_given { exchange.arrival.body == Some(0) } else { kept },
            answer_begun,
            ..attempt::standing(exchange)
        };
        let mut error = decide(error, failure, exchange, standing);
        if head_given && error.retry() {
            exchange.begin_again();
            error.set_retry(false);
        }
        error
    }

    /// The request has failed, and the client is told as much as can still be told.
    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        if ctx.exchange.is_none() {
            // Nothing handed this request over, so that nothing is known of it.
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let exchange = ctx.exchange();
        if exchange.is_answered() || exchange.arrival.watch.begins_again() {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let answer_begun = status_sent(session).is_some();
        let reason = exchange.reason.unwrap_or_else(|| failure::of_request(error, exchange, answer_begun).reason());
        exchange.reason = Some(reason);
        if answer_begun && reason != Reason::ClientGone {
            // As below.
            let _ = answer::break_off(session, reason).await;
        } else if reason != Reason::ClientGone {
            session.set_keepalive(None);
            // If the client left meanwhile, the record says so by what was written.
            let _ = answer::fail(session, exchange, reason).await;
        }
        FailToProxy { error_code: reason.status(), can_reuse_downstream: false }
    }

    /// The request is over.
    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Context) {
        let Some(exchange) = ctx.exchange.as_deref_mut() else { return };
        if exchange.arrival.watch.begins_again() {
            return;
        }
        let header = session.req_header();
        let end = record::End {
            method: header.method.as_str().as_bytes(),
            host: forward::host_of(header).as_bytes(),
            target: header.raw_path(),
            version: header.version,
            fields: &header.headers,
            status: status_sent(session),
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

/// The arrival of a request over HTTP/2: its stream carries it, as streams have no settings of a connection.
fn handed_over(session: &Session) -> Option<Arrival> {
    let digest = session.as_downstream().digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arrival>().cloned()
}

/// The status that the client was sent. A 1xx before it is no answer: another try, or an answer of our own, may still follow.
fn status_sent(session: &Session) -> Option<u16> {
    let status = session.response_written()?.status;
    (!status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS).then_some(status.as_u16())
}

/// What the client asks for.
fn asked(session: &Session) -> Asked {
    if forward::websocket(session.req_header()) { Asked::WebSocket } else { Asked::Answer }
}

/// Lets the connection to the backend bear a deadline that is `left` away. Nobody polls the client's connection, which bears
/// it else, during a connect or while the backend takes no more of the body.
fn bear_deadline(peer: &mut HttpPeer, left: Duration, asked: Asked) {
    let left = left.max(SHORTEST);
    let options = &mut peer.options;
    let mut bounded = vec![&mut options.total_connection_timeout, &mut options.write_timeout];
    if asked == Asked::Answer {
        bounded.push(&mut options.read_timeout);
    }
    for bound in bounded {
        *bound = Some(bound.map_or(left, |bound| bound.min(left)));
    }
}

/// Begins the next try, unless the client leaves while it waits for one.
async fn begin_try(session: &mut Session, exchange: &mut Exchange) -> std::result::Result<(), Reason> {
    let watch = exchange.arrival.watch.clone();
    tokio::select! {
        biased;
        begun = attempt::begin(exchange) => return begun,
        () = departure::of_client(session) => {}
    }
    let reason = watch.ended().unwrap_or(Reason::ClientGone);
    exchange.reason = Some(reason);
    Err(reason)
}

/// The peer of the leased backend.
fn peer(exchange: &Exchange, link: Option<Arc<Link>>) -> Option<HttpPeer> {
    let (target, lease) = (exchange.target.as_ref()?, exchange.lease.as_ref()?);
    Some(match link {
        Some(link) => target.peers.linked(lease.backend(), link),
        None => target.peers.peer(lease.backend(), exchange.ends()),
    })
}

/// The connect that Pingora is about to make for the present try.
fn knocking(exchange: Option<&Exchange>) -> Option<Knocking> {
    let (target, lease) = (exchange?.target.as_ref()?, exchange?.lease.as_ref()?);
    Some(Knocking::at(lease.backend(), &target.peers, &exchange?.arrival.snapshot.clock))
}

/// Carries out what follows a failed try.
fn decide(mut error: Box<Error>, failure: Failure, exchange: &mut Exchange, standing: Standing) -> Box<Error> {
    error.set_retry(attempt::failed(exchange, failure, standing) != Verdict::GiveUp);
    error
}

/// Whether the request is tried again in place of passing on an answer with the status that has come.
fn passes_over(session: &Session, header: &ResponseHeader, exchange: &mut Exchange) -> bool {
    let status = header.status.as_u16();
    let Some(failure) = attempt::chosen(exchange, status, &header.headers) else { return false };
    let standing = Standing {
        replayable: !session.as_ref().retry_buffer_truncated() && exchange.body_is_kept(),
        ..attempt::standing(exchange)
    };
    attempt::answered(exchange, status, failure, standing) != Verdict::GiveUp
}

/// Puts a part of the answer's body through the encoder; none where nothing of it comes out yet.
fn encode(encoder: &mut Option<Encoder>, body: Option<Bytes>, end_of_stream: bool) -> std::io::Result<Option<Bytes>> {
    let mut out = BytesMut::new();
    if let (Some(encoder), Some(body)) = (encoder.as_mut(), body) {
        out.extend_from_slice(&encoder.write(&body)?);
    }
    if end_of_stream && let Some(encoder) = encoder.take() {
        out.extend_from_slice(&encoder.finish()?);
    }
    Ok((!out.is_empty()).then(|| out.freeze()))
}

fn failed_encoding(error: std::io::Error) -> Box<Error> {
    Error::because(ErrorType::InternalError, "compressing the answer", error)
}

/// How long the next part of an answer may take, where Pingora allows more: it has one timeout for all reads, the longer of the two,
/// and over HTTP/2 none.
fn idle_bound(exchange: &Exchange) -> Option<Duration> {
    let plan = &exchange.target.as_ref()?.plan;
    let bounds = plan.timeouts.idle < plan.timeouts.first_byte || plan.protocol != UpstreamProtocol::Http1;
    bounds.then_some(plan.timeouts.idle)
}
