//! The filters of a request's route, and which of them ended it.

use serde_json::{Value, json};

use crate::exchange::recent::Past;
use crate::exchange::snapshot::{RouteLive, Snapshot};
use crate::filter::ip_rules::Networks;
use crate::telemetry::reason::Reason;

/// Every filter of the route in the order in which they act; empty where the configuration has changed since.
pub(super) fn steps(past: &Past, snapshot: &Snapshot) -> Vec<Value> {
    let Some(name) = past.route.as_deref().filter(|_| past.generation == snapshot.generation) else {
        return Vec::new();
    };
    let Some(route) = snapshot.live.iter().find(|route| *route.plan.name == *name) else { return Vec::new() };
    let end = ending(past, route);
    let mut ended = false;
    let step = |filter: &'static str| {
        let verdict = match end {
            Some((ends, verdict)) if ends == filter => {
                ended = true;
                verdict
            }
            _ if ended && filter != "response_headers" => "not_reached",
            _ => "passed",
        };
        json!({ "filter": filter, "verdict": verdict })
    };
    route.filters.names().map(step).collect()
}

/// The filter that ended the request and what it did, where one did.
fn ending(past: &Past, route: &RouteLive) -> Option<(&'static str, &'static str)> {
    match past.reason {
        Some(Reason::Auth) => Some(("auth", "refused")),
        Some(Reason::RateLimited) => Some(("rate_limit", "refused")),
        Some(Reason::HttpRequestDenied) => {
            let denied =
                |client| Networks::build(route.plan.filters.deny.as_deref()?).contains(client).then_some("deny");
            Some((past.client.and_then(denied).unwrap_or("allow"), "refused"))
        }
        None if past.upstream.is_none() && past.answered => {
            // A preflight is answered before the route's own answer.
            let own = route.filters.names().find(|name| matches!(*name, "redirect" | "respond"));
            let preflight =
                past.method.as_bytes() == b"OPTIONS" && past.status == 204 && route.plan.filters.cors.is_some();
            Some((own.filter(|_| !preflight).unwrap_or("cors"), "answered"))
        }
        _ => None,
    }
}
