//! The rules of `exchange::forward` applied to Pingora's headers, and what only the general road does to them.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::base::request::RequestView;
use crate::config::plan::UpstreamProtocol;
use crate::exchange::{Exchange, forward, grpc};
use crate::filter::compress::Coding;
use crate::filter::edit::Edit;
use crate::upstream::peer::authority_of;
use crate::wire::target;

/// Turns the request as the client sent it into the request as the backend gets it. The body's framing is Pingora's part.
///
/// `header` is in the version that the backend speaks; `came` is the request as the client sent it.
///
/// # Errors
/// A value cannot be a header field: cannot happen for what the edge let in, and is answered 500 if it does.
pub(super) fn request(header: &mut RequestHeader, came: &RequestHeader, exchange: &Exchange) -> Result<()> {
    let over_http2 = header.version == http::Version::HTTP_2;
    let upgrade = websocket(header);
    name_host_of_target(header)?;
    let (host, version) = (header.headers.get(HOST).cloned(), came.version);
    for name in connection_options(header.headers.get_all(CONNECTION).iter()) {
        if !forward::outlives_connection(name.as_str()) {
            header.remove_header(&name);
        }
    }
    let mut told = Vec::new();
    let host = host.as_ref().map(HeaderValue::as_bytes);
    forward::told_to_backend(exchange, &header.headers, version, host, &mut Vec::new(), &mut |name, value| {
        told.push((name, value.to_vec()));
    });
    let names: Vec<HeaderName> = header.headers.keys().cloned().collect();
    for name in names.iter().filter(|name| !forward::passes_to_backend(name.as_str(), exchange)) {
        header.remove_header(name);
    }
    if upgrade {
        header.insert_header(CONNECTION, "Upgrade")?;
        header.insert_header(UPGRADE, "websocket")?;
    }
    to_origin_form(header)?;
    for (name, value) in told {
        // HTTP/2 knows no `Connection` (RFC 9113, 8.2.2).
        if !(over_http2 && name == "connection") {
            header.insert_header(HeaderName::from_static(name), value)?;
        }
    }
    if over_http2 && came.version == http::Version::HTTP_2 {
        trailers_wanted(header, came)?;
    }
    rewrite(header, exchange)?;
    name_host(header, exchange)
}

/// An absolute target says whom the request is for where a client of HTTP/1.0 has sent no Host (RFC 9112, 3.2.2).
fn name_host_of_target(header: &mut RequestHeader) -> Result<()> {
    match target::authority(header.raw_path()).map(HeaderValue::from_str) {
        Some(Ok(authority)) if !header.headers.contains_key(HOST) => header.insert_header(HOST, authority),
        _ => Ok(()),
    }
}

/// HTTP/1.1 has one Host always (RFC 9112, 3.2), and a client of HTTP/1.0 may have sent none: the backend's own name stands for it.
fn name_host(header: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    match &exchange.lease {
        Some(lease) if header.version != http::Version::HTTP_2 && !header.headers.contains_key(HOST) => {
            header.insert_header(HOST, authority_of(&lease.backend().name()))
        }
        _ => Ok(()),
    }
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

/// What a request's route does to its path, host and fields.
fn rewrite(header: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let edits = forward::request_edits(&view(header, exchange), exchange);
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
        host: host_of(header),
        path,
        query,
        client: exchange.client_address(),
        fields: &header.headers,
    }
}

/// Whom a request is for: its `Host`, or the authority of its target; empty where it has neither.
pub(super) fn host_of(header: &RequestHeader) -> &str {
    let host = header.headers.get(HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| target::authority(header.raw_path())).unwrap_or("")
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

/// Makes the changes that the route makes to all its answers, its own included.
///
/// # Errors
/// As for [`request`].
pub(super) fn edit_response(header: &mut ResponseHeader, request: &RequestHeader, exchange: &Exchange) -> Result<()> {
    apply(forward::response_edits(&view(request, exchange), exchange), header)
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
    if let Some(cookie) = forward::sticky_cookie(exchange) {
        header.append_header(http::header::SET_COOKIE, cookie)?;
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
    let named = connection_options(header.headers.get_all(CONNECTION).iter());
    let upgrade = header.headers.get(UPGRADE).cloned();
    let status = header.status.as_u16();
    let passes = |name: &HeaderName| {
        forward::passes_to_client(name.as_str(), status)
            && (forward::outlives_connection(name.as_str()) || !named.contains(name))
    };
    let names: Vec<HeaderName> = header.headers.keys().cloned().collect();
    for name in names.iter().filter(|name| !passes(name)) {
        header.remove_header(name);
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
