//! From a head to an upstream, or to the answer that it gets instead: what both roads do before a backend is chosen.
//!
//! The filters act here in their fixed order. Nothing waits: where a password must be hashed, the road does that on a thread
//! that may block and comes back with the result.

use std::sync::Arc;

use crate::base::clock::Moment;
use crate::base::path::NormalPath;
use crate::base::request::RequestView;
use crate::config::plan::RouteMatch;
use crate::exchange::grpc;
use crate::exchange::hops;
use crate::exchange::key;
use crate::exchange::retry;
use crate::exchange::snapshot::RouteLive;
use crate::exchange::watch::Deadline;
use crate::exchange::{Exchange, Rewritten};
use crate::filter::auth::basic::Job;
use crate::filter::redirect::Redirect;
use crate::filter::{self, Decision, Refusal};
use crate::route::Found;
use crate::telemetry::reason::Reason;

/// What becomes of a request.
#[derive(Debug)]
pub enum Admission {
    /// It is sent to the upstream that the exchange now holds.
    Forward,
    /// It is refused.
    Refuse(Refusal),
    /// It is answered by its route.
    Answer(filter::Answer),
    /// Its password must be hashed; [`resume`] goes on.
    MustHash(Job),
}

impl From<Reason> for Admission {
    fn from(reason: Reason) -> Self {
        Self::Refuse(refusal(reason))
    }
}

fn refusal(reason: Reason) -> Refusal {
    Refusal { reason, fields: Vec::new() }
}

/// Finds the route of a request and lets its filters decide.
pub fn begin(exchange: &mut Exchange, request: &RequestView<'_>) -> Admission {
    begin_where(exchange, request, |_| true).unwrap_or(Reason::ProxyInternalError.into())
}

/// The same on a road that not every route fits; none where the one that wins does not, and then nothing has happened.
pub fn begin_where(
    exchange: &mut Exchange,
    request: &RequestView<'_>,
    fits: impl Fn(&RouteLive) -> bool,
) -> Option<Admission> {
    let snapshot = exchange.arrival.snapshot.clone();
    if is_loop(request, &snapshot.pseudonym) {
        return Some(Reason::ProxyLoopDetected.into());
    }
    let Ok(path) = NormalPath::new(request.path) else { return Some(Reason::HttpRequestError.into()) };
    if exchange.arrival.listener.redirect.is_some() {
        return Some(redirected(request, &path));
    }
    let Some(found) = snapshot.routes.find(request, &path) else { return Some(Reason::NoRoute.into()) };
    let route = &snapshot.live[found.index];
    fits(route).then(|| filtered(exchange, request, route, &path, found))
}

/// Lets the filters of the route decide.
fn filtered(
    exchange: &mut Exchange,
    request: &RequestView<'_>,
    route: &Arc<RouteLive>,
    path: &NormalPath<'_>,
    found: Found<'_>,
) -> Admission {
    exchange.route = Some(route.clone());
    if let Some(reason) = refused_upgrade(request, route.plan.websocket) {
        return reason.into();
    }
    match route.filters.admit(request) {
        Decision::Continue => {}
        decision => return decided(decision),
    }
    let now = exchange.arrival.received;
    if let Some(refusal) = limit(exchange, request, route, now) {
        return Admission::Refuse(refusal);
    }
    match route.filters.authenticate(request, now) {
        Decision::Continue => finish(exchange, request, path, found),
        decision => decided(decision),
    }
}

/// Asks the rate limits of the route, once for each request: one that is begun again has had its turn.
fn limit(exchange: &mut Exchange, request: &RequestView<'_>, route: &RouteLive, now: Moment) -> Option<Refusal> {
    if route.filters.rate_limits().is_empty() || exchange.limited_before {
        return None;
    }
    let passage = route.filters.limit(request, now);
    exchange.dry_run = passage.on_trial.then_some(Reason::RateLimited);
    exchange.limit_fields = passage.fields;
    exchange.arrival.snapshot.counters.limited(route.index, passage.refusal.is_some(), passage.on_trial);
    passage.refusal
}

/// The answer of a listener that serves nothing itself.
fn redirected(request: &RequestView<'_>, path: &NormalPath<'_>) -> Admission {
    match Redirect::to_https().answer(request, path, &RouteMatch::default()) {
        Some(answer) => Admission::Answer(answer),
        None => Reason::HttpRequestError.into(),
    }
}

/// Goes on after a password was hashed, and was `right` or not.
pub fn resume(exchange: &mut Exchange, request: &RequestView<'_>, right: bool) -> Admission {
    let snapshot = exchange.arrival.snapshot.clone();
    let Some(route) = exchange.route.clone() else { return Reason::ProxyInternalError.into() };
    if !right {
        return Admission::Refuse(route.filters.unauthorised());
    }
    // Finding the route again is cheaper than keeping what it borrows while the password is hashed.
    let Ok(path) = NormalPath::new(request.path) else { return Reason::HttpRequestError.into() };
    let Some(found) = snapshot.routes.find(request, &path) else { return Reason::NoRoute.into() };
    finish(exchange, request, &path, found)
}

/// What comes after authentication: the route's own answer, or the upstream.
fn finish(exchange: &mut Exchange, request: &RequestView<'_>, path: &NormalPath<'_>, found: Found<'_>) -> Admission {
    let Some(route) = exchange.route.clone() else { return Reason::ProxyInternalError.into() };
    match route.filters.answer(request, path, found.matched) {
        Decision::Continue => {}
        decision => return decided(decision),
    }
    exchange.hops = hops::left(request);
    if exchange.hops == Some(0) {
        return hops::last(request.method);
    }
    if let Some(reason) = bound_body(exchange) {
        return reason.into();
    }
    let watch = exchange.arrival.watch.clone();
    // The client of a gRPC call says how long it waits: all tries together must not take longer.
    exchange.patience = grpc::timeout(request.fields);
    let bound = [route.plan.request_timeout, exchange.patience].into_iter().flatten().min();
    watch.set_after(Deadline::Request, exchange.arrival.received, bound);
    if let Some(rewrite) = route.filters.rewrite() {
        exchange.rewritten = Rewritten {
            path: rewrite.path(path, found.matched).map(|path| path.into_owned()),
            host: rewrite.host().cloned(),
        };
    }
    let Some((target, cookie)) = route.target(request.fields) else { return Reason::DestinationUnavailable.into() };
    exchange.idempotent = retry::is_idempotent(request.method);
    exchange.hash = key::hash(&target.plan.balance, request);
    exchange.sticky = cookie;
    exchange.target = Some(target.clone());
    Admission::Forward
}

fn decided(decision: Decision) -> Admission {
    match decision {
        Decision::Continue => Admission::Forward,
        Decision::Refuse(refusal) => Admission::Refuse(refusal),
        Decision::Answer(answer) => Admission::Answer(answer),
        Decision::MustHash(job) => Admission::MustHash(job),
    }
}

fn bound_body(exchange: &Exchange) -> Option<Reason> {
    let limit = exchange.body_limit()?;
    let watch = &exchange.arrival.watch;
    watch.limit_body(limit);
    let known = exchange.arrival.body.unwrap_or_else(|| watch.body_received());
    (known > limit).then_some(Reason::BodyTooLarge)
}

/// Whether the request has come through this very process before: it is going round in circles (RFC 9110, 7.6.3).
fn is_loop(request: &RequestView<'_>, pseudonym: &str) -> bool {
    let mut found = false;
    request.fields.each("via", &mut |value| {
        found |= value
            .split(|byte| *byte == b',')
            .any(|pass| pass.trim_ascii().split(|byte| *byte == b' ').nth(1) == Some(pseudonym.as_bytes()));
    });
    found
}

/// WebSockets pass where the route lets them; an upgrade to HTTP/2 is ignored (RFC 9113, 3.1, has withdrawn it), and so is one
/// that `Connection` does not name (RFC 9110, 7.8); any other is refused.
pub(super) fn refused_upgrade(request: &RequestView<'_>, websocket: bool) -> Option<Reason> {
    let upgrade = request.fields.get("upgrade")?;
    let mut named = false;
    request.fields.each("connection", &mut |value| {
        named |= value.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    });
    if !named {
        return None;
    }
    let passes = upgrade.eq_ignore_ascii_case(b"websocket") && websocket || upgrade.eq_ignore_ascii_case(b"h2c");
    (!passes).then_some(Reason::UpgradeRefused)
}
