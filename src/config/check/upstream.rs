//! `upstreams`: where requests are sent.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Checker, certificate, health_check, pages};
use crate::base::address::parse_host_name;
use crate::base::proxy_protocol::Version;
use crate::base::units::Misread;
use crate::config::file::File;
use crate::config::file::collection::OrNone;
use crate::config::file::leaf;
use crate::config::file::message::header_name;
use crate::config::file::term::{Field, Spanned, written_or_default};
use crate::config::file::upstream::{self as file, Backend, Balance, Upstream, UpstreamTls};
use crate::config::plan::{self, Discovery, HashKey, Target};
use crate::config::read::At;

/// The most backends of an upstream (Pingora's weighted selection counts them in 16 bits).
const MAX_BACKENDS: usize = 65_535;
/// The most of a request's body that Pingora keeps for another try.
const MAX_RETRY_BODY: u64 = 64 * 1024;

pub(super) fn plan(file: &File, checker: &mut Checker<'_, '_>) -> Vec<Arc<plan::Upstream>> {
    match file.upstreams.given() {
        Some(Spanned { value: named, at }) => {
            if named.items.is_empty() && !named.is_partial {
                checker.error(*at, "no upstream is written", "write `web: { backends: [127.0.0.1:8081] }`");
            }
            named.items.iter().map(|(name, upstream)| Arc::new(one(name, upstream, checker))).collect()
        }
        None => Vec::new(),
    }
}

fn one(name: &Spanned<String>, upstream: &Spanned<Upstream>, checker: &mut Checker<'_, '_>) -> plan::Upstream {
    let Spanned { value: written, at } = upstream;
    checker.read(name, leaf::name);
    let tls = tls(&written.tls, checker);
    let discovery = discovery(&written.discovery, checker);
    check_sources(written, *at, discovery.is_some(), checker);
    let backends = backends(written, tls.is_some(), *at, checker);
    let uses_tls = tls.is_some() || backends.iter().any(|backend| backend.tls);
    plan::Upstream {
        name: name.value.as_str().into(),
        backends,
        discovery,
        balance: balance(&written.balance(), &written.balance, checker),
        health_check: health_check::plan(&written.health_check, checker).map(Arc::new),
        outlier: outlier(&written.outlier, checker),
        slow_start: written.slow_start().some().unwrap_or_default(),
        when_none_healthy: match written.when_none_healthy() {
            file::WhenNoneHealthy::Fail => plan::WhenNoneHealthy::Fail,
            file::WhenNoneHealthy::FailOpen => plan::WhenNoneHealthy::FailOpen,
        },
        tls: match (tls, uses_tls) {
            (Some(tls), _) => Some(Arc::new(tls)),
            (None, true) => Some(Arc::new(plain_tls())),
            (None, false) => None,
        },
        protocol: protocol(written, checker),
        send_proxy_protocol: written.send_proxy_protocol.value().and_then(OrNone::as_some).map(
            |version| match version {
                file::ProxyVersion::V1 => Version::V1,
                file::ProxyVersion::V2 => Version::V2,
            },
        ),
        timeouts: timeouts(&written_or_default(&written.timeouts), checker),
        retry: retry(&written.retry, checker),
        limits: limits(&written.limits),
        keepalive: keepalive(&written_or_default(&written.keepalive)),
        sticky: sticky(&written.sticky, checker),
    }
}

fn protocol(written: &Upstream, checker: &mut Checker<'_, '_>) -> plan::UpstreamProtocol {
    let protocol = match written.protocol() {
        file::UpstreamProtocol::H1 => plan::UpstreamProtocol::Http1,
        file::UpstreamProtocol::H2 => plan::UpstreamProtocol::Http2,
        file::UpstreamProtocol::Auto => plan::UpstreamProtocol::Auto,
    };
    if protocol != plan::UpstreamProtocol::Http1
        && let Some(at) = written.keepalive.value().and_then(|keepalive| keepalive.max_requests.at())
    {
        let message =
            "`max_requests` counts the requests of a connection one after the other, which HTTP/2 does not have";
        checker.error(at, message, "remove it, or write `protocol: h1`");
    }
    protocol
}

fn check_sources(written: &Upstream, at: At, is_discovered: bool, checker: &mut Checker<'_, '_>) {
    match (written.backends.given(), is_discovered) {
        (Some(backends), true) => {
            let first = written.discovery.at().unwrap_or(at);
            let help = "keep one of the two";
            checker.clash(
                backends.at,
                "`backends` and `discovery` are both written",
                (first, "`discovery` is here"),
                help,
            );
        }
        (Some(Spanned { value, at }), false) if value.items.is_empty() && !value.is_partial => {
            checker.error(*at, "no backend is written", "write at least one, such as `[127.0.0.1:8081]`");
        }
        (None, false) if written.backends.is_absent() && !matches!(written.discovery, Field::Faulty) => {
            checker.error(at, "an upstream has no backends", "write `backends: [127.0.0.1:8081]`");
        }
        _ => {}
    }
}

fn backends(written: &Upstream, section: bool, at: At, checker: &mut Checker<'_, '_>) -> Vec<plan::Backend> {
    let Some(Spanned { value: list, at: list_at }) = written.backends.given() else { return Vec::new() };
    let mut seen: HashMap<Target, At> = HashMap::new();
    let mut planned = Vec::with_capacity(list.items.len());
    for item in &list.items {
        let Some(backend) = backend(item, written, section, checker) else { continue };
        if let Some(first) = seen.insert(backend.target.clone(), item.at) {
            let message = format!("the backend `{}` is written twice", backend.name);
            checker.clash(
                item.at,
                message,
                (first, "first written here"),
                "keep one, with a higher `weight` if it shall get more",
            );
        }
        planned.push(backend);
    }
    if planned.len() > MAX_BACKENDS {
        let message = format!("{} backends are too many", planned.len());
        checker.error(*list_at, message, format!("write at most {MAX_BACKENDS}"));
    }
    if !planned.is_empty() && !list.is_partial && planned.iter().all(|backend| backend.weight == 0) {
        checker.error(at, "all backends have the weight 0", "give at least one a weight of 1 or more");
    }
    planned
}

fn backend(
    item: &Spanned<Backend>,
    written: &Upstream,
    section: bool,
    checker: &mut Checker<'_, '_>,
) -> Option<plan::Backend> {
    if item.value.address.is_absent() {
        checker.error(item.at, "a backend has no address", "write `address: 10.0.0.7:8080`");
    }
    let Spanned { value: address, at } = item.value.address.given()?;
    if let (Some(tls_at), Some(false)) = (written.tls.at().filter(|_| section), address.tls) {
        let message = format!("`{}` is without TLS, and the upstream is with", address.written);
        checker.clash(*at, message, (tls_at, "`tls` is here"), "write `https://`, or remove `tls`");
    }
    Some(plan::Backend {
        name: address.written.as_str().into(),
        target: address.target.clone(),
        tls: address.tls.unwrap_or(section),
        weight: item.value.weight().small(),
        backup: item.value.backup(),
        max_requests: item.value.max_requests().some().map(|count| count.small()),
        max_connections: item.value.max_connections().some().map(|count| count.small()),
    })
}

fn discovery(field: &Field<OrNone<file::Discovery>>, checker: &mut Checker<'_, '_>) -> Option<Discovery> {
    let Spanned { value, at } = field.given()?;
    let written = value.as_some()?;
    let sources = [
        !written.dns.is_absent(),
        !written.file.is_absent(),
        !written.etcd.is_absent(),
        !written.kubernetes.is_absent(),
    ];
    if sources.iter().filter(|is_written| **is_written).count() != 1 {
        checker.error(*at, "backends are found in exactly one way", "write one of `dns`, `file`, `etcd`, `kubernetes`");
        return None;
    }
    if written.dns.is_absent() {
        refuse_beside(&written.port, "`port` belongs to `dns`", checker);
        refuse_beside(&written.refresh, "`refresh` belongs to `dns`", checker);
    }
    if let Some(dns) = written.dns.given() {
        let name = checker.read(dns, parse_host_name)?;
        let port = written.port.value().and_then(|port| u16::try_from(port.0).ok());
        return Some(Discovery::Dns { name: name.into(), port, refresh: written.refresh().0 });
    }
    let Spanned { value: leaf::FilePath(path), at } = written.file.given()?;
    if let Err(fault) = pages::regular_file(path) {
        checker.warning(*at, fault, "write it: there is no backend until it can be read");
    }
    Some(Discovery::File { path: path.clone() })
}

/// Refuses a key that belongs to something else than what is written.
fn refuse_beside<T>(field: &Field<T>, message: &str, checker: &mut Checker<'_, '_>) {
    if let Some(at) = field.at() {
        checker.error(at, message, "remove it");
    }
}

fn balance(written: &Balance, field: &Field<Balance>, checker: &mut Checker<'_, '_>) -> plan::Balance {
    match written {
        Balance::RoundRobin => plan::Balance::RoundRobin,
        Balance::LeastRequests => plan::Balance::LeastRequests,
        Balance::PeakEwma => plan::Balance::PeakEwma,
        Balance::Random(random) => plan::Balance::Random { choices: random.choices().size() },
        Balance::Hash(hash) => {
            if let (true, Some(at)) = (hash.key.is_absent(), field.at()) {
                checker.error(at, "`hash` needs a key", "write `{ hash: { key: client_ip } }`");
            }
            let key = hash.key.given().and_then(|key| checker.read(key, hash_key));
            let load_factor = hash.load_factor().some().map(|factor| factor.0);
            plan::Balance::Hash { key: key.unwrap_or(HashKey::ClientIp), load_factor }
        }
    }
}

fn hash_key(text: &str) -> Result<HashKey, Misread> {
    let wrong = || {
        let forms = "write `client_ip`, `uri`, `path`, `header:NAME`, `cookie:NAME` or `query:NAME`";
        Misread::new(format!("`{text}` cannot be hashed"), forms)
    };
    match text.split_once(':') {
        None if text == "client_ip" => Ok(HashKey::ClientIp),
        None if text == "uri" => Ok(HashKey::Uri),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", name)) => header_name(name).map(HashKey::Header),
        Some(("cookie", name)) => cookie_name(name).map(HashKey::Cookie),
        Some(("query", name)) if !name.is_empty() => Ok(HashKey::Query(name.to_owned())),
        _ => Err(wrong()),
    }
}

/// Reads the name of a cookie (a token, RFC 6265, 4.1.1).
fn cookie_name(text: &str) -> Result<String, Misread> {
    let is_token = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_token) {
        true => Ok(text.to_owned()),
        false => {
            Err(Misread::new(format!("`{text}` is not the name of a cookie"), "write letters, digits, `-` and `_`"))
        }
    }
}

/// A lower and an upper bound, each with the place where it is written: a default gives way to what is written, so that
/// nobody is told of a key that they have not written.
fn in_order(lower: (Duration, Option<At>), upper: (Duration, Option<At>)) -> (Duration, Duration) {
    match (lower, upper) {
        ((low, _), (high, _)) if low <= high => (low, high),
        ((_, None), (high, _)) => (high, high),
        ((low, Some(_)), (_, None)) => (low, low),
        ((low, Some(_)), (high, Some(_))) => (low, high),
    }
}

fn outlier(field: &Field<OrNone<file::Outlier>>, checker: &mut Checker<'_, '_>) -> Option<plan::Outlier> {
    let written = match field.value() {
        Some(OrNone::None) => return None,
        Some(OrNone::Some(written)) => written.clone(),
        None => file::Outlier::default(),
    };
    let first = (written.base_ejection().0, written.base_ejection.at());
    let (base, max) = in_order(first, (written.max_ejection().0, written.max_ejection.at()));
    if let (true, Some(at)) = (base > max, written.base_ejection.at()) {
        checker.error(at, "`base_ejection` is longer than `max_ejection`", "write a shorter `base_ejection`");
    }
    Some(plan::Outlier {
        consecutive_errors: written.consecutive_errors().small(),
        base_ejection: base,
        max_ejection: max,
        max_ejected: written.max_ejected().0,
    })
}

fn tls(field: &Field<OrNone<UpstreamTls>>, checker: &mut Checker<'_, '_>) -> Option<plan::UpstreamTls> {
    let Spanned { value, .. } = field.given()?;
    let written = value.as_some()?;
    if let (Some(at), false) = (written.verify.at(), written.verify()) {
        checker.warning(at, "certificates of backends are not verified", "write `ca` with the root that signed them");
    }
    let sni = written.sni.given().and_then(|sni| checker.read(sni, parse_host_name));
    Some(plan::UpstreamTls {
        sni,
        ca: certificate::roots(&written.ca, checker),
        verify: written.verify(),
        identity: identity(written, checker),
    })
}

/// What a backend written `https://` has where no `tls` section is written.
fn plain_tls() -> plan::UpstreamTls {
    plan::UpstreamTls { sni: None, ca: None, verify: true, identity: None }
}

fn identity(written: &UpstreamTls, checker: &mut Checker<'_, '_>) -> Option<(PathBuf, PathBuf)> {
    match (written.cert.at(), written.key.at()) {
        (Some(at), None) if written.key.is_absent() => checker.error(at, "`cert` without `key`", "write both"),
        (None, Some(at)) if written.cert.is_absent() => checker.error(at, "`key` without `cert`", "write both"),
        _ => {}
    }
    certificate::identity(&written.cert, &written.key, checker)
}

fn timeouts(written: &file::UpstreamTimeouts, checker: &mut Checker<'_, '_>) -> plan::UpstreamTimeouts {
    let total = written.total().some().map(|total| total.0);
    if let (Some(total), Some(at), Some(connect)) = (total, written.total.at(), written.connect.value())
        && total <= connect.0
    {
        checker.error(at, "`total` leaves no time after `connect`", "write a longer `total`, or a shorter `connect`");
    }
    let connect = written.connect().0;
    plan::UpstreamTimeouts {
        connect: total.map_or(connect, |total| total.min(connect)),
        first_byte: written.first_byte().0,
        idle: written.idle().0,
        total,
    }
}

fn retry(field: &Field<OrNone<file::Retry>>, checker: &mut Checker<'_, '_>) -> plan::Retry {
    let written = match field.value() {
        Some(OrNone::None) => return no_retry(),
        Some(OrNone::Some(written)) => written.clone(),
        None => file::Retry::default(),
    };
    let first = (written.backoff(), written.backoff.at());
    let (backoff, max_backoff) = in_order(first, (written.max_backoff(), written.max_backoff.at()));
    if let (true, Some(at)) = (backoff > max_backoff, written.backoff.at()) {
        checker.error(at, "`backoff` is longer than `max_backoff`", "write a shorter `backoff`");
    }
    if let (true, Some(at)) = (written.body().0 > MAX_RETRY_BODY, written.body.at()) {
        checker.error(at, "no more than 64 KiB of a body are kept for another try", "write `64KiB` or less");
    }
    plan::Retry {
        attempts: written.attempts().small(),
        budget: written.budget().0,
        min_per_second: written.min_per_second().small(),
        statuses: written.statuses(),
        grpc_statuses: written.grpc_statuses().values().into_iter().map(grpc_code).collect(),
        backoff,
        max_backoff,
        body: written.body().0.min(MAX_RETRY_BODY),
    }
}

/// Nothing is sent twice.
fn no_retry() -> plan::Retry {
    plan::Retry {
        attempts: 0,
        budget: 0.0,
        min_per_second: 0,
        statuses: plan::StatusSet(Vec::new()),
        grpc_statuses: Vec::new(),
        backoff: Duration::ZERO,
        max_backoff: Duration::ZERO,
        body: 0,
    }
}

/// The number of a status (the enum `Code` of gRPC).
fn grpc_code(status: file::GrpcStatus) -> u8 {
    match status {
        file::GrpcStatus::Cancelled => 1,
        file::GrpcStatus::DeadlineExceeded => 4,
        file::GrpcStatus::ResourceExhausted => 8,
        file::GrpcStatus::Aborted => 10,
        file::GrpcStatus::Internal => 13,
        file::GrpcStatus::Unavailable => 14,
    }
}

fn limits(field: &Field<OrNone<file::UpstreamLimits>>) -> plan::UpstreamLimits {
    let written = field.value().and_then(OrNone::as_some).cloned().unwrap_or_default();
    plan::UpstreamLimits {
        connections: written.connections().some().map(|count| count.small()),
        requests: written.requests().some().map(|count| count.small()),
        pending: written.pending().some().map(|count| count.size()),
        pending_timeout: written.pending_timeout().0,
    }
}

fn keepalive(written: &file::Keepalive) -> plan::Keepalive {
    plan::Keepalive {
        idle: written.idle().0,
        max_idle: written.max_idle().size(),
        max_requests: written.max_requests().some().map(|count| count.small()),
    }
}

fn sticky(field: &Field<OrNone<file::Sticky>>, checker: &mut Checker<'_, '_>) -> Option<plan::Sticky> {
    let Spanned { value, at } = field.given()?;
    let written = value.as_some()?;
    if written.cookie.is_absent() {
        checker.error(*at, "`sticky` needs the name of a cookie", "write `{ cookie: ROUNDEL }`");
    }
    let cookie = written.cookie.given().and_then(|cookie| checker.read(cookie, cookie_name))?;
    Some(plan::Sticky { cookie, max_age: written.max_age().some().map(|age| age.0) })
}
