//! The spans of a request that has ended: one for itself, one for each try. Named by OpenTelemetry's semantic conventions for
//! HTTP (1.23 and later), where they have a name.

use crate::base::clock::Moment;
use crate::exchange::Exchange;
use crate::exchange::record::End;
use crate::exchange::rescue::Failure;
use crate::exchange::trail::Try;
use crate::telemetry::trace::{Kind, Span, Trace, Value};

/// Lets the spans of a request wait to be sent, where its trace is sampled or it failed.
pub(super) fn tell(exchange: &Exchange, end: &End<'_>, status: u16, ended: Moment) {
    let Some(trace) = exchange.trace else { return };
    let failed = status >= 500 || exchange.reason.is_some_and(|reason| reason.status() >= 500);
    if !trace.sampled && !failed {
        return;
    }
    let tries = exchange.trail.iter().enumerate();
    let mut spans: Vec<_> = tries.map(|(before, one)| of_try(exchange, trace, one, before, end)).collect();
    spans.push(of_request(exchange, trace, end, status, failed, ended));
    exchange.arrival.snapshot.spans.add(spans);
}

fn of_request(exchange: &Exchange, trace: Trace, end: &End<'_>, status: u16, failed: bool, ended: Moment) -> Span {
    let clock = &exchange.arrival.snapshot.clock;
    let method = String::from_utf8_lossy(end.method).into_owned();
    let route = exchange.route.as_ref().map(|route| route.plan.name.to_string());
    let target = String::from_utf8_lossy(end.target).into_owned();
    let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
    let mut attributes = vec![
        ("http.request.method", Value::Text(method.clone())),
        ("url.path", Value::Text(path.to_owned())),
        ("url.scheme", Value::Text(exchange.arrival.scheme.as_str().to_owned())),
        ("network.protocol.version", Value::Text(version(end.version).to_owned())),
        ("http.response.status_code", Value::Number(status.into())),
        ("http.response.body.size", Value::Number(i64::try_from(end.bytes_out).unwrap_or(i64::MAX))),
        ("roundel.listener", Value::Text(exchange.arrival.listener.name.to_string())),
        ("roundel.request_id", Value::Text(exchange.id.as_str().to_owned())),
    ];
    let mut add = |name, value: Option<String>| attributes.extend(value.map(|value| (name, Value::Text(value))));
    add("url.query", query.map(str::to_owned));
    add("server.address", (!end.host.is_empty()).then(|| String::from_utf8_lossy(end.host).into_owned()));
    add("client.address", exchange.client_address().map(|client| client.to_string()));
    add("user_agent.original", end.fields.get("user-agent").map(|agent| String::from_utf8_lossy(agent).into_owned()));
    add("roundel.route", route.clone());
    add("roundel.upstream", exchange.target.as_ref().map(|target| target.plan.name.to_string()));
    add("error.type", exchange.reason.map(|reason| reason.as_str().to_owned()).or(failed.then(|| status.to_string())));
    Span {
        trace: trace.id,
        id: trace.span,
        parent: trace.parent,
        kind: Kind::Server,
        name: route.map_or_else(|| method.clone(), |route| format!("{method} {route}")),
        began: clock.wall(exchange.arrival.received),
        ended: clock.wall(ended),
        attributes,
        failed,
    }
}

fn of_try(exchange: &Exchange, trace: Trace, one: &Try, before: usize, end: &End<'_>) -> Span {
    let clock = &exchange.arrival.snapshot.clock;
    let method = String::from_utf8_lossy(end.method).into_owned();
    let (host, port) =
        one.backend.rsplit_once(':').filter(|_| !one.backend.starts_with("unix:")).unwrap_or((&one.backend, ""));
    let mut attributes =
        vec![("http.request.method", Value::Text(method.clone())), ("server.address", Value::Text(host.to_owned()))];
    attributes.extend(port.parse().ok().map(|port| ("server.port", Value::Number(port))));
    if before > 0 {
        attributes.push(("http.request.resend_count", Value::Number(i64::try_from(before).unwrap_or(i64::MAX))));
    }
    let status = match one.failure {
        Some(Failure::Status { status, .. }) => Some(status),
        Some(_) => None,
        None => end.status,
    };
    attributes.extend(status.map(|status| ("http.response.status_code", Value::Number(status.into()))));
    let error = match (one.failure, status) {
        (_, Some(status @ 400..)) => Some(status.to_string()),
        (Some(failure), None) => Some(failure.reason().as_str().to_owned()),
        _ => None,
    };
    let failed = error.is_some();
    attributes.extend(error.map(|error| ("error.type", Value::Text(error))));
    attributes
        .extend(exchange.target.as_ref().map(|target| ("roundel.upstream", Value::Text(target.plan.name.to_string()))));
    Span {
        trace: trace.id,
        id: one.span,
        parent: Some(trace.span),
        kind: Kind::Client,
        name: method,
        began: clock.wall(one.began),
        ended: clock.wall(one.began + one.took),
        attributes,
        failed,
    }
}

fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
