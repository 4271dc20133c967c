//! Why a request that has ended went as it did: the answer of `roundel why`.
//!
//! What was recorded (`recent`) is told as it was; what was not is worked out by the functions that serve requests, where the
//! configuration is still the one that the request was served by. How it looks on a terminal is left to `cli`.

mod filters;
mod tries;
mod words;

use serde_json::{Value, json};

use crate::base::clock::rfc3339;
use crate::base::path::NormalPath;
use crate::base::request::{RequestView, Scheme};
use crate::exchange::recent::Past;
use crate::exchange::refused::NoFields;
use crate::exchange::snapshot::Snapshot;
use crate::route;

/// A request in one line of a list.
#[must_use]
pub fn summary(past: &Past, snapshot: &Snapshot) -> Value {
    json!({
        "request_id": past.id.text(),
        "time": rfc3339(snapshot.clock.wall(past.received)),
        "client": past.client.map(|client| client.to_string()),
        "method": past.method.text(),
        "host": past.host.text(),
        "path": past.path.text(),
        "status": past.status,
        "reason": past.reason.map(|reason| reason.as_str()),
        "route": past.route,
        "upstream": past.upstream,
        "backend": past.trail.last().map(|last| &*last.backend),
        "attempts": past.trail.len(),
        "duration_ms": words::millis(past.duration),
        "verdict": words::verdict(past),
    })
}

/// Every decision that was made for a request.
#[must_use]
pub fn explain(past: &Past, snapshot: &Snapshot) -> Value {
    let mut told = summary(past, snapshot);
    let (route, notes) = route(past, snapshot);
    let more = json!({
        "listener": past.listener,
        "scheme": past.scheme.map(Scheme::as_str),
        "protocol": past.version.map(words::protocol),
        "answered": past.answered,
        "bytes_in": past.bytes_in,
        "bytes_out": past.bytes_out,
        "generation": past.generation,
        "trace_id": past.trace.map(|id| format!("{id:032x}")),
        "route": route,
        "filters": filters::steps(past, snapshot),
        "attempts": tries::all(past, snapshot),
        "attempts_left_out": past.trail.passed_over(),
        "excluded": past.roll.as_deref().map(tries::excluded),
        "notes": notes,
    });
    if let (Value::Object(told), Value::Object(more)) = (&mut told, more) {
        told.extend(more);
    }
    told
}

/// The route and why it won, with what must be said where that cannot be told.
fn route(past: &Past, snapshot: &Snapshot) -> (Value, Vec<String>) {
    let mut notes = Vec::new();
    let explained = match judged(past, snapshot) {
        Ok(explained) => Some(explained),
        Err(note) => {
            notes.extend(note);
            None
        }
    };
    notes.extend(past.on_trial.map(|reason| format!("a filter on trial would have refused it: {}", reason.as_str())));
    let rejected = explained.iter().flat_map(route::Explanation::rejected);
    let rejected: Vec<_> = rejected.map(|rule| json!({ "route": &*rule.route, "why": rule.verdict.why() })).collect();
    let rule = explained.as_ref().and_then(route::Explanation::winner).map(|rule| rule.rule.as_str());
    let told = match &past.route {
        Some(name) => json!({ "name": name, "rule": rule, "rejected": rejected }),
        None => json!({ "name": null, "rule": null, "rejected": rejected }),
    };
    (told, notes)
}

/// What became of every rule of the route table; else why that is not told, where something is to be said.
fn judged(past: &Past, snapshot: &Snapshot) -> Result<route::Explanation, Option<String>> {
    if past.method.is_empty() || past.version.is_none() {
        // There never was a request.
        return Err(None);
    }
    if past.generation != snapshot.generation {
        let (then, now) = (past.generation, snapshot.generation);
        return Err(Some(format!(
            "the configuration has changed since (generation {then}, now {now}): routes are not judged anew"
        )));
    }
    if past.path.is_cut() || past.host.is_cut() {
        return Err(Some("the request's host or path is too long to be kept whole: routes are not judged anew".into()));
    }
    let (method, host, target) = (past.method.text(), past.host.text(), past.path.text());
    let (path, query) = path_and_query(&target);
    let request = RequestView {
        method: &method,
        scheme: past.scheme.unwrap_or(Scheme::Http),
        host: &host,
        path,
        query,
        client: past.client,
        fields: &NoFields,
    };
    let path =
        NormalPath::new(path).map_err(|_| Some("the path has no normal form, so that no route is asked".into()))?;
    Ok(snapshot.routes.recall(&request, &path, past.route.as_deref()))
}

/// Path and query of a target, which may be in absolute form (RFC 9112, 3.2.2).
fn path_and_query(target: &str) -> (&str, Option<&str>) {
    let rest = target
        .split_once("://")
        .filter(|_| !target.starts_with('/'))
        .map_or(target, |(_, rest)| rest.find(['/', '?']).map_or("/", |at| &rest[at..]));
    rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_in_absolute_form_has_a_path_too() {
        for (target, expected) in [
            ("/a?b=c", ("/a", Some("b=c"))),
            ("/a", ("/a", None)),
            ("http://host/a?b", ("/a", Some("b"))),
            ("http://host", ("/", None)),
            ("/x://y", ("/x://y", None)),
        ] {
            assert_eq!(path_and_query(target), expected, "{target}");
        }
    }
}
