//! Deadlines that never come, and bounds that void each other.

use std::sync::Arc;
use std::time::Duration;

use super::{Certainty, Doubt, Step, Written, route, upstream};
use crate::base::units::{format_duration as time, format_size};
use crate::config::plan::{HealthCheck, Listener, Plan, Route, Upstream};

/// Longer than most servers keep an idle connection: Node.js and Apache 5s, gunicorn 2s, Tomcat 60s, nginx 75s.
const LONG_IDLE: Duration = Duration::from_secs(60);
/// As long as a dead backend may go unnoticed by its probes.
const LONG_DETECTION: Duration = Duration::from_secs(60);

pub(super) fn doubts(plan: &Plan) -> Vec<Doubt> {
    let of_upstream = |one: &Arc<Upstream>| {
        let routes = plan.routes.iter().filter(|route| sends_to(route, one)).collect::<Vec<_>>();
        [void_in_a_try(one), idle_connections(one), detection(one), retry_buffer(one, &routes, &plan.listeners)]
    };
    let of_route = |route: &Arc<Route>| [beyond_the_request(route), beyond_the_grace(route, plan)];
    let upstreams = plan.upstreams.iter().flat_map(of_upstream).flatten();
    let routes = plan.routes.iter().flat_map(of_route).flatten();
    upstreams.chain(routes).chain(drain(plan)).collect()
}

fn sends_to(route: &Route, upstream: &Upstream) -> bool {
    route.action.splits().iter().any(|split| split.upstream.name == upstream.name)
}

/// Deadlines inside a try that are not shorter than the try's own.
fn void_in_a_try(one: &Upstream) -> Vec<Doubt> {
    let Some(total) = one.timeouts.total else { return Vec::new() };
    let inner = [("first_byte", one.timeouts.first_byte), ("idle", one.timeouts.idle)];
    let void = inner.into_iter().filter(|(_, inner)| *inner >= total);
    void.map(|(key, _)| Doubt {
        certainty: Certainty::Sure,
        place: Written::Exactly(upstream(&one.name, &["timeouts", key])),
        message: format!("`{key}` never comes: `total` ends the try after {}", time(total)),
        help: format!("write a `{key}` shorter than `total`, or remove it"),
    })
    .collect()
}

fn idle_connections(one: &Upstream) -> Vec<Doubt> {
    if one.keepalive.idle <= LONG_IDLE || one.keepalive.max_idle == 0 {
        return Vec::new();
    }
    vec![Doubt {
        certainty: Certainty::Likely,
        place: Written::Exactly(upstream(&one.name, &["keepalive", "idle"])),
        message: "most servers close idle connections sooner: a request that is sent at that moment fails".to_owned(),
        help: "write less than the keep-alive time of the backends, such as `55s`".to_owned(),
    }]
}

fn detection(one: &Upstream) -> Vec<Doubt> {
    let Some(longest) = one.health_check.as_deref().map(longest_detection) else { return Vec::new() };
    if longest <= LONG_DETECTION {
        return Vec::new();
    }
    vec![Doubt {
        certainty: Certainty::Likely,
        place: Written::Near(upstream(&one.name, &["health_check", "interval"])),
        message: format!("a backend that hangs is probed for up to {} until it is taken out", time(longest)),
        help: "write a shorter `interval` or `timeout`, or a lower `fall`".to_owned(),
    }]
}

/// From the moment a backend hangs, just after a good probe, to the last of `fall` failures: each costs its timeout. The
/// jitter of a tenth is left out.
fn longest_detection(check: &HealthCheck) -> Duration {
    let between = check.fast_interval.saturating_mul(check.fall.saturating_sub(1));
    check.interval.saturating_add(between).saturating_add(check.timeout)
}

/// A retry buffer that is larger than any body that is let in.
fn retry_buffer(one: &Upstream, routes: &[&Arc<Route>], listeners: &[Listener]) -> Vec<Doubt> {
    let listeners_let = listeners.iter().map(|listener| listener.limits.body);
    let lets = |route: &&Arc<Route>| match route.body_limit {
        Some(limit) => limit,
        None => listeners_let.clone().try_fold(0, |most, limit| limit.map(|limit| limit.max(most))),
    };
    let largest = routes.iter().map(lets).try_fold(0, |most, limit| limit.map(|limit| limit.max(most)));
    match largest {
        Some(largest) if !routes.is_empty() && one.retry.attempts > 0 && one.retry.body > largest => vec![Doubt {
            certainty: Certainty::Likely,
            place: Written::Exactly(upstream(&one.name, &["retry", "body"])),
            message: format!("no body is that large: `limits.body` lets in at most {}", format_size(largest)),
            help: format!("write `{}` or less, or a larger `limits.body`", format_size(largest)),
        }],
        _ => Vec::new(),
    }
}

/// Tries at the upstreams of a route that the route's own deadline cuts off.
fn beyond_the_request(one: &Route) -> Vec<Doubt> {
    let Some(request) = one.request_timeout else { return Vec::new() };
    one.action.splits().iter().filter_map(|split| cut_off(one, request, &split.upstream)).collect()
}

fn cut_off(one: &Route, request: Duration, at: &Upstream) -> Option<Doubt> {
    let (key, each) = match at.timeouts.total {
        Some(total) => ("total", total),
        None => ("first_byte", at.timeouts.first_byte),
    };
    let tries = at.retry.attempts.saturating_add(1);
    let all = each.saturating_mul(tries);
    let is_beyond = all > request;
    let request_key = Written::Near(route(&one.name, &["timeouts", "request"]));
    let (ends, each, all) = (time(request), time(each), time(all));
    if at.timeouts.total.is_some_and(|total| total > request) {
        return Some(Doubt {
            certainty: Certainty::Sure,
            place: request_key,
            message: format!("the request ends after {ends}, before `total` of `{}` ends one try ({each})", at.name),
            help: format!("write a `total` shorter than {ends}, or a longer `request`"),
        });
    }
    if tries > 1 && is_beyond {
        return Some(Doubt {
            certainty: Certainty::Likely,
            place: request_key,
            message: format!(
                "the request ends after {ends}, but {tries} tries at `{}` may take {all} (`{key}` {each})",
                at.name
            ),
            help: format!(
                "write a shorter `{key}` in the upstream, or `{all}` here: a try that is cut off helps nobody"
            ),
        });
    }
    let is_void = tries == 1 && at.timeouts.total.is_none() && at.timeouts.first_byte >= request;
    is_void.then(|| Doubt {
        certainty: Certainty::Likely,
        place: Written::Exactly(upstream(&at.name, &["timeouts", "first_byte"])),
        message: format!("`first_byte` never comes on the route `{}`: `request` ends after {ends}", one.name),
        help: "write a shorter `first_byte`, or a longer `request`".to_owned(),
    })
}

/// Requests that a stop ends sooner than their route.
fn beyond_the_grace(one: &Route, plan: &Plan) -> Vec<Doubt> {
    let grace = plan.server.grace_period;
    let Some(request) = one.request_timeout.filter(|request| *request > grace) else { return Vec::new() };
    if one.action.splits().is_empty() {
        return Vec::new();
    }
    vec![Doubt {
        certainty: Certainty::Likely,
        place: Written::Near(route(&one.name, &["timeouts", "request"])),
        message: format!(
            "requests may take {}, but a process that stops ends them after {}",
            time(request),
            time(grace)
        ),
        help: format!(
            "write `server: {{ grace_period_seconds: {} }}`, or a shorter `request`",
            request.as_secs_f64().ceil()
        ),
    }]
}

/// Idle connections that a stop closes sooner than `drain` says.
fn drain(plan: &Plan) -> Option<Doubt> {
    let grace = plan.server.grace_period;
    (plan.drain.idle > grace).then(|| Doubt {
        certainty: Certainty::Likely,
        place: Written::Exactly(vec![Step::Key("drain"), Step::Key("idle")]),
        message: format!("`idle` never comes: a process that stops closes its connections after {}", time(grace)),
        help: "write a shorter `idle`, or a longer `server.grace_period_seconds`".to_owned(),
    })
}
