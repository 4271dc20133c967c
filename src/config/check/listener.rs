//! `listeners`: where clients are accepted.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{Checker, certificate, pages};
use crate::config::file::File;
use crate::config::file::collection::OrNone;
use crate::config::file::listener::{Lane, Limits, Listener, Protocol, ProxyProtocol, Redirect, Timeouts};
use crate::config::file::term::{Field, Spanned, written_or_default};
use crate::config::plan::{self, ListenAddress};
use crate::config::read::At;

/// Where a proxy without `listeners` accepts clients.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The most listeners.
const MAX_LISTENERS: usize = 1_000;

pub(super) fn plan(file: &File, checker: &mut Checker<'_, '_>) -> Vec<plan::Listener> {
    if file.listeners.is_absent() {
        let name = DEFAULT.to_string();
        return vec![listener(&Listener::default(), &name, ListenAddress::Inet(DEFAULT), checker)];
    }
    let Some(Spanned { value: list, at }) = file.listeners.given() else { return Vec::new() };
    if list.items.is_empty() && !list.is_partial {
        checker.error(*at, "no listener is written", "write one, or remove `listeners` to listen on 127.0.0.1:8080");
    }
    if list.items.len() > MAX_LISTENERS {
        checker.error(*at, "too many listeners", format!("write at most {MAX_LISTENERS}"));
    }
    let mut seen = Seen::default();
    list.items.iter().take(MAX_LISTENERS).filter_map(|item| one(item, &mut seen, checker)).collect()
}

/// The names and addresses so far, with their places.
#[derive(Default)]
struct Seen {
    names: HashMap<String, At>,
    addresses: HashMap<ListenAddress, At>,
}

fn one(item: &Spanned<Listener>, seen: &mut Seen, checker: &mut Checker<'_, '_>) -> Option<plan::Listener> {
    if item.value.address.is_absent() {
        checker.error(item.at, "a listener has no address", "write `address: 0.0.0.0:8080`");
    }
    let Spanned { value: address, at } = item.value.address.given()?;
    if let Some(first) = seen.addresses.insert(address.address.clone(), *at) {
        let message = format!("two listeners on {}", address.written);
        checker.clash(*at, message, (first, "the first is here"), "give each its own address");
    } else if let Some((other, first)) = overlapping(&address.address, &seen.addresses) {
        let message = format!("{} overlaps with {other}", address.written);
        checker.clash(*at, message, (*first, "the other is here"), "give each its own port");
    }
    let (name, name_at) = match item.value.name.given() {
        Some(name) => (name.value.0.as_str(), name.at),
        None => (address.written.as_str(), *at),
    };
    if let Some(first) = seen.names.insert(name.to_owned(), name_at) {
        let is_named = item.value.name.given().is_some();
        if is_named {
            let message = format!("two listeners are called `{name}`");
            checker.clash(name_at, message, (first, "the first is here"), "give each its own name");
        }
    }
    check_protocols(&item.value, checker);
    check_streams(&item.value, checker);
    check_redirect(&item.value, checker);
    Some(listener(&item.value, name, address.address.clone(), checker))
}

/// An address so far, other than this one, that cannot be had beside it.
fn overlapping<'a>(
    address: &ListenAddress,
    seen: &'a HashMap<ListenAddress, At>,
) -> Option<(&'a ListenAddress, &'a At)> {
    seen.iter().find(|(known, _)| *known != address && known.overlaps(address))
}

fn listener(file: &Listener, name: &str, address: ListenAddress, checker: &mut Checker<'_, '_>) -> plan::Listener {
    let trusted =
        file.trusted_proxies.value().and_then(OrNone::as_some).map(|list| list.0.values()).unwrap_or_default();
    plan::Listener {
        name: name.into(),
        address,
        protocols: protocols(file),
        tls: certificate::listener_tls(&file.tls, protocols(file), checker).map(Arc::new),
        redirect: file.redirect.value().map(|Redirect::Https| plan::ListenerRedirect::Https),
        proxy_protocol: proxy_protocol(&file.proxy_protocol, checker),
        trusted_proxies: trusted.into(),
        max_connections: file.max_connections().size(),
        lane: match file.lane.value() {
            Some(Lane::Auto) | None => plan::Lane::Auto,
            Some(Lane::Off) => plan::Lane::Off,
        },
        timeouts: timeouts(&written_or_default(&file.timeouts)),
        limits: limits(&written_or_default(&file.limits)),
        errors: pages::read(&file.errors, checker),
    }
}

fn proxy_protocol(field: &Field<OrNone<ProxyProtocol>>, checker: &mut Checker<'_, '_>) -> Option<Arc<[IpNet]>> {
    let Spanned { value, at } = field.given()?;
    let written = value.as_some()?;
    checker.required(&written.from, *at, "`proxy_protocol` needs the peers that send it", "write `from: [10.0.0.0/8]`");
    Some(written.from.value().map(|list| list.0.values()).unwrap_or_default().into())
}

fn timeouts(file: &Timeouts) -> plan::ListenerTimeouts {
    plan::ListenerTimeouts {
        tls_handshake: file.tls_handshake().0,
        header: file.header().0,
        body_idle: file.body_idle().0,
        write_idle: file.write_idle().0,
        tunnel_idle: file.tunnel_idle().0,
        keepalive: file.keepalive().0,
    }
}

fn limits(file: &Limits) -> plan::ListenerLimits {
    plan::ListenerLimits {
        header_bytes: usize::try_from(file.header_bytes().0).unwrap_or(usize::MAX),
        header_count: file.header_count().size(),
        body: file.body().some().map(|size| size.0),
        keepalive_requests: file.keepalive_requests().small(),
        h2_streams: file.h2_streams().small(),
        connections_per_client: file.connections_per_client().some().map(|count| count.size()),
    }
}

fn check_redirect(file: &Listener, checker: &mut Checker<'_, '_>) {
    if let (Some(at), Some(Spanned { value: OrNone::Some(_), at: tls })) = (file.redirect.at(), file.tls.given()) {
        let message = "a listener with TLS has nowhere to redirect to";
        checker.clash(at, message, (*tls, "`tls` is here"), "write `redirect` on the listener for plain HTTP");
    }
}

/// The protocols as written; else both with TLS, and HTTP/1 alone without.
fn protocols(file: &Listener) -> plan::Protocols {
    let written = file.protocols.value().map_or(&[][..], |list| &list.items);
    let has = |protocol| written.iter().any(|item| item.value == protocol);
    match (has(Protocol::H1), has(Protocol::H2)) {
        (true, true) => plan::Protocols::Both,
        (true, false) => plan::Protocols::Http1,
        (false, true) => plan::Protocols::Http2,
        (false, false) if matches!(file.tls.value(), Some(OrNone::Some(_))) => plan::Protocols::Both,
        (false, false) => plan::Protocols::Http1,
    }
}

/// A bound on streams where there are none would do nothing.
fn check_streams(file: &Listener, checker: &mut Checker<'_, '_>) {
    let written = file.limits.value().and_then(|limits| limits.h2_streams.at());
    if let Some(at) = written.filter(|_| !protocols(file).http2()) {
        checker.error(at, "`h2_streams` needs HTTP/2", "write `protocols: [h2, h1]`, or remove it");
    }
}

fn check_protocols(file: &Listener, checker: &mut Checker<'_, '_>) {
    let Some(Spanned { value: list, at }) = file.protocols.given() else { return };
    if list.items.is_empty() && !list.is_partial {
        checker.error(*at, "no protocol is written", "write `protocols: [h1]`");
    }
    for protocol in [Protocol::H1, Protocol::H2] {
        let mut same = list.items.iter().filter(|item| item.value == protocol);
        if let (Some(first), Some(second)) = (same.next(), same.next()) {
            let message = format!("`{}` is written twice", protocol.as_str());
            checker.clash(second.at, message, (first.at, "first written here"), "keep one of the two");
        }
    }
}
