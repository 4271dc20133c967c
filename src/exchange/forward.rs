//! Header fields on their way: what a backend gets of a request, and what a client gets of an answer.
//!
//! Fields that belong to one connection stay there (RFC 9110, 7.6.1), in both directions. What a client says about itself
//! (`X-Forwarded-*`, `Forwarded`) is dropped unless the client is a trusted proxy, and then continued.
//!
//! Both roads go by these rules, each with fields in a form of its own: which of them pass is told by name, what is added is
//! told as name and value.

use std::net::IpAddr;

use crate::base::request::{Fields, RequestView};
use crate::base::text;
use crate::exchange::retry::MARK;
use crate::exchange::watch::Deadline;
use crate::exchange::{Exchange, grpc, hops};
use crate::filter::edit::Edit;
use crate::filter::headers::Variables;
use crate::upstream::idle::Afterwards;
use crate::upstream::sticky::{self, Token};

/// Whether a field belongs to one connection whether `Connection` names it or not.
fn is_of_one_hop(name: &str) -> bool {
    // Few names share a length, so that most fields are passed over by one jump.
    match name.len() {
        2 => name.eq_ignore_ascii_case("te"),
        7 => name.eq_ignore_ascii_case("trailer") || name.eq_ignore_ascii_case("upgrade"),
        10 => name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("keep-alive"),
        14 => name.eq_ignore_ascii_case("http2-settings"),
        16 => name.eq_ignore_ascii_case("proxy-connection"),
        _ => false,
    }
}

/// Whether a field of a request is written anew, from what it said where the client is trusted.
fn is_continued(name: &str) -> bool {
    match name.len() {
        3 => name.eq_ignore_ascii_case("via"),
        9 => name.eq_ignore_ascii_case("forwarded"),
        12 => name.eq_ignore_ascii_case("x-request-id"),
        15 => name.eq_ignore_ascii_case("x-forwarded-for"),
        _ => false,
    }
}

/// Whether a field tells of the client what only a trusted proxy may tell.
fn tells_of_the_client(name: &str) -> bool {
    match name.len() {
        9 => name.eq_ignore_ascii_case("x-real-ip"),
        16 => name.eq_ignore_ascii_case("x-forwarded-host") || name.eq_ignore_ascii_case("x-forwarded-port"),
        17 => name.eq_ignore_ascii_case("x-forwarded-proto"),
        18 => name.eq_ignore_ascii_case("x-forwarded-server"),
        _ => false,
    }
}

/// Whether a field tells of a trace what we tell ourselves, or belongs to a trace that could not be read.
fn is_traced_anew(name: &str, exchange: &Exchange) -> bool {
    let Some(trace) = exchange.trace else { return false };
    name.eq_ignore_ascii_case("traceparent") || trace.parent.is_none() && name.eq_ignore_ascii_case("tracestate")
}

/// Whether a field is meant for the next proxy alone, and we are that proxy (RFC 9110, 11.7).
fn is_for_this_proxy(name: &str) -> bool {
    match name.len() {
        18 => name.eq_ignore_ascii_case("proxy-authenticate"),
        19 => name.eq_ignore_ascii_case("proxy-authorization"),
        _ => false,
    }
}

/// Whether a field of the request goes to the backend as it came, where `Connection` does not name it.
#[must_use]
pub fn passes_to_backend(name: &str, exchange: &Exchange) -> bool {
    !(is_of_one_hop(name)
        || is_continued(name)
        || is_traced_anew(name, exchange)
        || exchange.patience.is_some() && name.eq_ignore_ascii_case(grpc::TIMEOUT)
        || exchange.hops.is_some() && name.eq_ignore_ascii_case(hops::FIELD)
        || name.eq_ignore_ascii_case(MARK) && (exchange.retries > 0 || !exchange.marked)
        || is_for_this_proxy(name)
        || !exchange.client.via_trusted && tells_of_the_client(name))
}

/// Whether a field of an answer with this status goes to the client as it came, where `Connection` does not name it.
#[must_use]
pub fn passes_to_client(name: &str, status: u16) -> bool {
    // A 1xx and a 204 have no body whatever these say (RFC 9110, 8.6; RFC 9112, 6.1), and a client might believe them.
    let misleads = matches!(status, 100..=199 | 204)
        && (name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding"));
    !is_of_one_hop(name) && !misleads
}

/// Whether a field stays though `Connection` names it: framing and host are not one hop's to remove.
#[must_use]
pub fn outlives_connection(name: &str) -> bool {
    ["transfer-encoding", "content-length", "host"].iter().any(|kept| name.eq_ignore_ascii_case(kept))
}

/// Tells `set` the fields that the backend gets besides those that pass: who asked, by which way, and under which id.
/// `fields` are the client's, `host` is the one it asked for, and `value` is room to write in.
pub fn told_to_backend(
    exchange: &Exchange,
    fields: &dyn Fields,
    version: http::Version,
    host: Option<&[u8]>,
    value: &mut Vec<u8>,
    set: &mut dyn FnMut(&'static str, &[u8]),
) {
    let trusted = exchange.client.via_trusted;
    let peer = exchange.arrival.peer.map(|peer| peer.ip().to_canonical());
    let scheme = exchange.arrival.scheme.as_str();
    if trusted || peer.is_some() {
        value.clear();
        if trusted {
            continue_list(fields, "x-forwarded-for", value);
        }
        if let Some(peer) = peer {
            next_element(value);
            text::address(value, peer);
        }
        if !value.is_empty() {
            set("x-forwarded-for", value);
        }
    }
    if !(trusted && fields.get("x-forwarded-proto").is_some()) {
        set("x-forwarded-proto", scheme.as_bytes());
    }
    if let Some(host) = host
        && !(trusted && fields.get("x-forwarded-host").is_some())
    {
        set("x-forwarded-host", host);
    }
    value.clear();
    if trusted {
        continue_list(fields, "forwarded", value);
    }
    if let Some(host) = host {
        next_element(value);
        element(peer, host, scheme, value);
    }
    if !value.is_empty() {
        set("forwarded", value);
    }
    value.clear();
    continue_list(fields, "via", value);
    next_element(value);
    value.extend_from_slice(match version {
        http::Version::HTTP_10 => b"1.0 ",
        http::Version::HTTP_2 => b"2.0 ",
        _ => b"1.1 ",
    });
    value.extend_from_slice(exchange.arrival.snapshot.pseudonym.as_bytes());
    set("via", value);
    set("x-request-id", exchange.id.as_str().as_bytes());
    if exchange.retries > 0 {
        // It is sent again. The mark of a trusted proxy stays where it is not.
        set(MARK, itoa::Buffer::new().format(exchange.retries).as_bytes());
    }
    if let Some(at) = exchange.patience.and_then(|_| exchange.arrival.watch.at(Deadline::Request)) {
        // What is left of the time that the client waits, tries before this one included.
        set(grpc::TIMEOUT, grpc::written(at.since(exchange.now())).as_bytes());
    }
    if let Some(hops) = exchange.hops {
        set(hops::FIELD, itoa::Buffer::new().format(hops.saturating_sub(1)).as_bytes());
    }
    if let Some(parent) = exchange.traceparent() {
        set("traceparent", parent.as_bytes());
    }
    if exchange.afterwards == Afterwards::Close {
        set("connection", b"close");
    }
}

/// Copies the list that a field holds, however many lines it is spread over.
fn continue_list(fields: &dyn Fields, name: &str, list: &mut Vec<u8>) {
    fields.each(name, &mut |before| {
        next_element(list);
        list.extend_from_slice(before);
    });
}

fn next_element(list: &mut Vec<u8>) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
}

/// One element of `Forwarded` (RFC 7239, 4).
fn element(peer: Option<IpAddr>, host: &[u8], scheme: &str, list: &mut Vec<u8>) {
    match peer {
        Some(address @ IpAddr::V4(_)) => {
            list.extend_from_slice(b"for=");
            text::address(list, address);
        }
        Some(address @ IpAddr::V6(_)) => {
            list.extend_from_slice(b"for=\"[");
            text::address(list, address);
            list.extend_from_slice(b"]\"");
        }
        None => list.extend_from_slice(b"for=unknown"),
    }
    // A host that the edge let in has no quote and no backslash.
    list.extend_from_slice(b";host=\"");
    list.extend_from_slice(host);
    list.extend_from_slice(b"\";proto=");
    list.extend_from_slice(scheme.as_bytes());
}

/// What the values of header filters may speak of.
#[must_use]
pub fn variables<'a>(view: &RequestView<'a>, exchange: &'a Exchange) -> Variables<'a> {
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

/// The changes that the route makes to a request on its way. Their values speak of the request as the client sent it.
#[must_use]
pub fn request_edits(view: &RequestView<'_>, exchange: &Exchange) -> Vec<Edit> {
    let Some(route) = &exchange.route else { return Vec::new() };
    route.filters.request_edits(&variables(view, exchange))
}

/// The changes that the route makes to all its answers, its own included.
#[must_use]
pub fn response_edits(view: &RequestView<'_>, exchange: &Exchange) -> Vec<Edit> {
    exchange.response_edits(view, &variables(view, exchange))
}

/// The cookie that binds the client to the backend that answered it, where its own does not do so already.
#[must_use]
pub fn sticky_cookie(exchange: &Exchange) -> Option<String> {
    let (target, lease) = (exchange.target.as_ref()?, exchange.lease.as_ref()?);
    let sticky = target.plan.sticky.as_ref()?;
    let token = Token::of(&target.plan.name, lease.backend().id());
    let bound = exchange.sticky.as_deref().and_then(Token::parse) == Some(token);
    (!bound).then(|| sticky::set_cookie(sticky, token, exchange.arrival.scheme))
}
