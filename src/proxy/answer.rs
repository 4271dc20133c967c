//! Sending answers in the proxy's own name.

use http::Method;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::forward;
use crate::exchange::Exchange;
use crate::exchange::grpc;
use crate::exchange::reply;
use crate::filter::{self, Refusal};
use crate::telemetry::reason::Reason;

/// Answers a request that has failed, or was refused without more to say.
pub(super) async fn fail(session: &mut Session, exchange: &mut Exchange, reason: Reason) -> Result<()> {
    refuse(session, exchange, Refusal { reason, fields: Vec::new() }).await
}

/// Answers a request that a filter has refused.
pub(super) async fn refuse(session: &mut Session, exchange: &mut Exchange, refusal: Refusal) -> Result<()> {
    exchange.reason = Some(refusal.reason);
    let reply = match is_call(session) {
        true => reply::Answer::grpc(refusal.reason),
        false => reply::Answer::new(refusal.reason, &session.req_header().headers, exchange.style()),
    };
    let mut fields = reply.headers;
    fields.extend(refusal.fields);
    send(session, exchange, filter::Answer { status: reply.status, fields, body: reply.body }).await
}

/// Ends the answer to a call of gRPC that has begun and cannot be finished: in its trailers, its client looks for the outcome.
pub(super) async fn break_off(session: &mut Session, reason: Reason) -> Result<()> {
    let answered_as_call =
        session.response_written().is_some_and(|header| header.status == 200 && grpc::is_grpc(&header.headers));
    if !is_call(session) || !answered_as_call {
        return Ok(());
    }
    session.write_response_trailers(grpc::end(reason).into_iter().collect()).await
}

/// Whether a request is a call of gRPC, whose client reads trailers.
fn is_call(session: &Session) -> bool {
    let header = session.req_header();
    header.version == http::Version::HTTP_2 && grpc::is_grpc(&header.headers)
}

/// Sends an answer with the id of its request and the changes that the route makes to all its answers.
pub(super) async fn send(session: &mut Session, exchange: &mut Exchange, answer: filter::Answer) -> Result<()> {
    let mut header = ResponseHeader::build(answer.status, Some(answer.fields.len() + 4))?;
    for (name, value) in answer.fields {
        header.append_header(name, value)?;
    }
    header.insert_header("x-request-id", exchange.id.as_str())?;
    let bodiless = matches!(answer.status, 204 | 304) || header.headers.contains_key(grpc::STATUS);
    if !bodiless && !header.headers.contains_key(http::header::CONTENT_LENGTH) {
        header.set_content_length(answer.body.len())?;
    }
    forward::edit_response(&mut header, session.req_header(), exchange)?;
    let head_only = bodiless || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(header), head_only).await?;
    if head_only && session.req_header().version == http::Version::HTTP_2 {
        // The head of an answer over HTTP/2 goes out with what follows it, and here nothing does.
        session.finish_body().await?;
    }
    if !head_only {
        session.write_response_body(Some(answer.body), true).await?;
    }
    Ok(())
}
