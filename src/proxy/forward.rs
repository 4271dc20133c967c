//! Header fields on their way: what a backend gets of a request, and what a client gets of an answer.
//!
//! Fields that belong to one connection stay there (RFC 9110, 7.6.1), in both directions. What a client says about itself
//! (`X-Forwarded-*`, `Forwarded`) is dropped unless the client is a trusted proxy, and then continued.

use std::fmt::Write;
use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::base::request::RequestView;
use crate::config::plan::UpstreamProtocol;
use crate::exchange::Exchange;
use crate::exchange::grpc;
use crate::exchange::retry::MARK;
use crate::exchange::watch::Deadline;
use crate::filter::compress::Coding;
use crate::filter::edit::Edit;
use crate::filter::headers::Variables;
use crate::upstream::idle::Afterwards;
use crate::upstream::sticky::{self, Token};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields that belong to one connection whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    TE,
    TRAILER,
    UPGRADE,
];

/// Turns the request as the client sent it into the request as the backend gets it. The body's framing is Pingora's part.
///
/// `header` is in the version that the backend speaks; `came` is the request as the client sent it.
///
/// # Errors
/// A value cannot be a header field: cannot happen for what the edge let in, and is answered 500 if it does.
pub(super) fn request(header: &mut RequestHeader, came: &RequestHeader, exchange: &Exchange) -> Result<()> {
    let over_http2 = header.version == http::Version::HTTP_2;
    let upgrade = websocket(header);
    let original_host = header.headers.get(HOST).cloned();
    for name in connection_options(header.headers.get_all(CONNECTION).iter()) {
        // The framing and the host are not the client's to remove.
        if name != TRANSFER_ENCODING && name != CONTENT_LENGTH && name != HOST {
            header.remove_header(&name);
        }
    }
    for name in HOP_BY_HOP {
        header.remove_header(&name);
    }
    header.remove_header(&CONNECTION);
    if upgrade {
        header.insert_header(CONNECTION, "Upgrade")?;
        header.insert_header(UPGRADE, "websocket")?;
    }
    to_origin_form(header)?;
    forwarded(header, exchange, original_host.as_ref())?;
    via(header, came.version, &exchange.arrival.snapshot.pseudonym)?;
    header.insert_header(X_REQUEST_ID, exchange.id.as_str())?;
    mark(header, exchange)?;
    if let Some(parent) = exchange.traceparent() {
        header.insert_header(TRACEPARENT, parent)?;
        if exchange.trace.is_some_and(|trace| trace.parent.is_none()) {
            // It belongs to a trace that could not be read.
            header.remove_header(&TRACESTATE);
        }
    }
    if over_http2 && came.version == http::Version::HTTP_2 {
        trailers_wanted(header, came)?;
    }
    pass_patience_on(header, exchange)?;
    if exchange.afterwards == Afterwards::Close && !over_http2 {
        header.insert_header(CONNECTION, "close")?;
    }
    rewrite(header, exchange)
}

/// Marks a request that is sent again; the mark of a trusted proxy stays.
fn mark(header: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    if exchange.retries > 0 {
        header.insert_header(MARK, exchange.retries.to_string())?;
    } else if !exchange.marked {
        header.remove_header(&MARK);
    }
    Ok(())
}

/// Whether the backend speaks the protocol that its upstream is said to speak.
pub(super) fn speaks_as_agreed(version: http::Version, exchange: &Exchange) -> bool {
    let agreed = exchange.target.as_ref().map(|target| target.plan.protocol);
    agreed != Some(UpstreamProtocol::Http2) || version == http::Version::HTTP_2
}

/// Tells the backend that trailers reach the client (RFC 9110, 10.1.4); servers of gRPC insist on it.
fn trailers_wanted(header: &mut RequestHeader, came: &RequestHeader) -> Result<()> {
    let asked = came.headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if asked || grpc::is_grpc(&came.headers) { header.insert_header(TE, "trailers") } else { Ok(()) }
}

/// A backend of gRPC is told how much is left of the time that the client waits, tries before this one included.
fn pass_patience_on(header: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    if grpc::timeout(&header.headers).is_none() {
        return Ok(());
    }
    match exchange.arrival.watch.at(Deadline::Request) {
        Some(at) => header.insert_header(grpc::TIMEOUT, grpc::written(at.since(exchange.now()))),
        None => Ok(()),
    }
}

/// What a request's route does to its path, host and fields.
fn rewrite(header: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let Some(route) = &exchange.route else { return Ok(()) };
    // The values of fields speak of the request as the client sent it.
    let edits = route.filters.request_edits(&variables(&view(header, exchange), exchange));
    if let Some(path) = &exchange.rewritten.path {
        let (_, query) = target_of(header);
        let target = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        header.set_raw_path(target.as_bytes())?;
    }
    if let Some(host) = &exchange.rewritten.host {
        header.insert_header(HOST, host.clone())?;
    }
    for edit in edits {
        match edit {
            Edit::Set(name, value) => header.insert_header(name, value)?,
            Edit::Add(name, value) => drop(header.append_header(name, value)?),
            Edit::Remove(name) => drop(header.remove_header(&name)),
        }
    }
    Ok(())
}

/// What routes and filters see of a request.
pub(super) fn view<'a>(header: &'a RequestHeader, exchange: &Exchange) -> RequestView<'a> {
    let (path, query) = target_of(header);
    RequestView {
        method: header.method.as_str(),
        scheme: exchange.arrival.scheme,
        host: header.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or(""),
        path,
        query,
        client: exchange.client_address(),
        fields: &header.headers,
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

fn variables<'a>(view: &RequestView<'a>, exchange: &'a Exchange) -> Variables<'a> {
    Variables {
        client_ip: view.client,
        request_id: exchange.id.as_str(),
        scheme: view.scheme.as_str(),
        host: view.host,
        method: view.method,
        path: view.path,
        query: view.query.unwrap_or(""),
        listener: &exchange.arrival.listener.name,
        route: exchange.route.as_ref().map_or("", |route| &*route.plan.name),
        tls: exchange.arrival.tls.as_deref(),
    }
}

/// Makes the changes that the route makes to all its answers, its own included.
///
/// # Errors
/// As for [`request`].
pub(super) fn edit_response(header: &mut ResponseHeader, request: &RequestHeader, exchange: &Exchange) -> Result<()> {
    let view = view(request, exchange);
    apply(exchange.response_edits(&view, &variables(&view, exchange)), header)
}

/// Decides whether the body of an answer is compressed, and says so in its fields.
///
/// # Errors
/// As for [`request`].
pub(super) fn compress(
    header: &mut ResponseHeader,
    request: &RequestHeader,
    exchange: &Exchange,
) -> Result<Option<Coding>> {
    let Some(route) = &exchange.route else { return Ok(None) };
    let compression = route.filters.compression(&view(request, exchange), header.status.as_u16(), &header.headers);
    apply(compression.edits, header)?;
    if compression.coding.is_some() && request.version == http::Version::HTTP_11 {
        header.insert_header(TRANSFER_ENCODING, "chunked")?;
    }
    Ok(compression.coding)
}

/// Makes an answer one that HTTP/1.0 can read: a body without a length ends with the connection (RFC 9112, 6.1 and 6.3). Whether
/// the connection must end.
pub(super) fn unchunk(header: &mut ResponseHeader) -> bool {
    header.remove_header(&TRANSFER_ENCODING);
    !header.headers.contains_key(CONTENT_LENGTH)
}

/// Whether the head is all there is of an answer (RFC 9112, 6.3).
pub(super) fn has_no_body(header: &ResponseHeader, request: &RequestHeader) -> bool {
    let length = header.headers.get(CONTENT_LENGTH);
    matches!(header.status.as_u16(), 204 | 304)
        || request.method == http::Method::HEAD
        || length.is_some_and(|length| length.as_bytes().iter().all(|digit| *digit == b'0'))
}

/// Binds the client to the backend that answered it, where its cookie does not do so already.
///
/// # Errors
/// As for [`request`].
pub(super) fn stick(header: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    let (Some(target), Some(lease)) = (&exchange.target, &exchange.lease) else { return Ok(()) };
    let Some(sticky) = &target.plan.sticky else { return Ok(()) };
    let token = Token::of(&target.plan.name, lease.backend().id());
    if exchange.sticky.as_deref().and_then(Token::parse) != Some(token) {
        header.append_header(http::header::SET_COOKIE, sticky::set_cookie(sticky, token, exchange.arrival.scheme))?;
    }
    Ok(())
}

fn apply(edits: Vec<Edit>, header: &mut ResponseHeader) -> Result<()> {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => header.insert_header(name, value)?,
            Edit::Add(name, value) => drop(header.append_header(name, value)?),
            Edit::Remove(name) => drop(header.remove_header(&name)),
        }
    }
    Ok(())
}

/// Turns the answer of a backend into the answer that the client gets.
///
/// # Errors
/// As for [`request`].
pub(super) fn response(header: &mut ResponseHeader, upgraded: bool) -> Result<()> {
    for name in connection_options(header.headers.get_all(CONNECTION).iter()) {
        if name != TRANSFER_ENCODING && name != CONTENT_LENGTH {
            header.remove_header(&name);
        }
    }
    let upgrade = header.headers.get(UPGRADE).cloned();
    for name in HOP_BY_HOP {
        header.remove_header(&name);
    }
    header.remove_header(&CONNECTION);
    if header.status == http::StatusCode::NO_CONTENT {
        // It has no body whatever these say (RFC 9110, 8.6; RFC 9112, 6.1), and a client might believe them.
        header.remove_header(&CONTENT_LENGTH);
        header.remove_header(&TRANSFER_ENCODING);
    }
    // The version is that of the one who sends, and we send (RFC 9110, 2.5).
    header.set_version(http::Version::HTTP_11);
    if upgraded {
        header.insert_header(CONNECTION, "Upgrade")?;
        header.insert_header(UPGRADE, upgrade.unwrap_or_else(|| HeaderValue::from_static("websocket")))?;
    }
    Ok(())
}

/// Whether an answer says how long its body is, and that it has one.
pub(super) fn has_length(header: &ResponseHeader) -> bool {
    header.headers.get(http::header::CONTENT_LENGTH).is_some_and(|length| length != "0")
        && !matches!(header.status.as_u16(), 204 | 304)
}

/// Whether the request asks for a WebSocket (RFC 6455, 4.1).
pub(super) fn websocket(header: &RequestHeader) -> bool {
    header.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && connection_options(header.headers.get_all(CONNECTION).iter()).contains(&UPGRADE)
}

/// The fields that `Connection` names.
fn connection_options<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Vec<HeaderName> {
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .collect()
}

/// A backend is no proxy: it gets path and query alone, whatever form the client used (RFC 9112, 3.2.1).
fn to_origin_form(header: &mut RequestHeader) -> Result<()> {
    if header.raw_path().starts_with(b"/") || header.raw_path() == b"*" {
        return Ok(());
    }
    let target = header.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    header.set_raw_path(target.as_bytes())
}

fn forwarded(header: &mut RequestHeader, exchange: &Exchange, host: Option<&HeaderValue>) -> Result<()> {
    let peer = exchange.arrival.peer.map(|peer| peer.ip().to_canonical());
    let scheme = exchange.arrival.scheme.as_str();
    if !exchange.client.via_trusted {
        for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, FORWARDED] {
            header.remove_header(&name);
        }
        for name in ["x-real-ip", "x-forwarded-port", "x-forwarded-server"] {
            header.remove_header(name);
        }
    }
    if let Some(peer) = peer {
        append(header, X_FORWARDED_FOR, &peer.to_string())?;
    }
    if !header.headers.contains_key(X_FORWARDED_PROTO) {
        header.insert_header(X_FORWARDED_PROTO, scheme)?;
    }
    if let Some(host) = host {
        if !header.headers.contains_key(X_FORWARDED_HOST) {
            header.insert_header(X_FORWARDED_HOST, host.clone())?;
        }
        append(header, FORWARDED, &element(peer, host, scheme))?;
    }
    Ok(())
}

/// One element of `Forwarded` (RFC 7239, 4).
fn element(peer: Option<IpAddr>, host: &HeaderValue, scheme: &str) -> String {
    let mut element = match peer {
        Some(IpAddr::V4(address)) => format!("for={address}"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\""),
        None => "for=unknown".to_owned(),
    };
    if let Ok(host) = host.to_str() {
        // A host that the edge let in has no quote and no backslash. Writing into a string cannot fail.
        let _ = write!(element, ";host=\"{host}\"");
    }
    let _ = write!(element, ";proto={scheme}");
    element
}

/// Adds to the list that a field holds, as one field.
fn append(header: &mut RequestHeader, name: HeaderName, value: &str) -> Result<()> {
    let mut list = Vec::new();
    for before in header.headers.get_all(&name) {
        list.extend_from_slice(before.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value.as_bytes());
    header.insert_header(name, list)
}

fn via(header: &mut RequestHeader, came: http::Version, pseudonym: &str) -> Result<()> {
    let version = match came {
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    append(header, VIA, &format!("{version} {pseudonym}"))
}
