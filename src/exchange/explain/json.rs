//! An explanation as JSON: what `roundel explain --json` prints.

use serde_json::{Map, Value as Json, json};

use super::{Delivery, Explanation, Outcome, Step, Verdict};
use crate::base::units::format_duration;

impl Explanation {
    /// The explanation as JSON. Where a route has several upstreams, `upstream`, `timeouts` and `retry` are those of the one
    /// with the largest share, and `upstreams` has all.
    #[must_use]
    pub fn to_json(&self) -> Json {
        // Of equals the first as written.
        let main = self.deliveries.iter().rev().max_by_key(|delivery| delivery.weight);
        let is_forwarded = self.outcome == Outcome::Forwarded;
        let backends = self.deliveries.iter().flat_map(|delivery| backends(delivery, is_forwarded)).collect::<Vec<_>>();
        json!({
            "listener": &*self.listener,
            "client": self.client.map(|client| client.to_string()),
            "outcome": match self.outcome {
                Outcome::Forwarded => "forwarded",
                Outcome::Answered { .. } => "answered",
                Outcome::Refused { .. } => "refused",
            },
            "status": self.outcome.status(),
            "reason": match self.outcome {
                Outcome::Refused { reason, .. } => Some(reason.as_str()),
                _ => None,
            },
            "route": self.route.as_ref().map(|route| &*route.name),
            "filters": self.filters.iter().map(step).collect::<Vec<_>>(),
            "upstream": main.map(|delivery| &*delivery.upstream),
            "upstreams": self.shares(),
            "backends": backends,
            "timeouts": main.map(timeouts),
            "retry": main.map(|delivery| json!({
                "attempts": delivery.retries.attempts,
                "body": delivery.retries.body,
                "idempotent": delivery.retries.idempotent,
                "words": delivery.retries.words,
            })),
            "body_limit": self.body_limit,
            "rejected_routes": self.rules.rejected().iter().map(|rule| json!({
                "route": &*rule.route,
                "why": rule.verdict.why(),
            })).collect::<Vec<_>>(),
        })
    }

    /// Each upstream with its share of the requests, 0.0 to 1.0.
    fn shares(&self) -> Vec<Json> {
        let total: u64 = self.deliveries.iter().map(|delivery| u64::from(delivery.weight)).sum();
        let share = |delivery: &Delivery| f64::from(delivery.weight) / (total.max(1) as f64);
        self.deliveries
            .iter()
            .map(|delivery| json!({ "name": &*delivery.upstream, "share": share(delivery) }))
            .collect()
    }
}

fn step(step: &Step) -> Json {
    let (verdict, status) = match step.verdict {
        Verdict::Passes => ("passes", None),
        Verdict::Answers(status) => ("answers", Some(status)),
        Verdict::Refuses(reason) => ("refuses", Some(reason.status())),
        Verdict::NotReached => ("not_reached", None),
    };
    json!({ "filter": step.filter, "verdict": verdict, "status": status, "does": step.does })
}

/// A file knows no state: `unknown`.
fn backends(delivery: &Delivery, is_forwarded: bool) -> impl Iterator<Item = Json> {
    delivery.backends.iter().map(move |backend| {
        let (eligible, why) = match delivery.weight {
            _ if !is_forwarded => (false, "the request does not get this far"),
            0 => (false, "the upstream has the weight 0 in this route"),
            _ => (backend.eligible, backend.why.as_str()),
        };
        json!({
            "upstream": &*delivery.upstream, "address": backend.address, "state": "unknown", "eligible": eligible, "why": why,
        })
    })
}

fn timeouts(delivery: &Delivery) -> Json {
    let time = |time: Option<_>| time.map_or(json!("none"), |time| json!(format_duration(time)));
    delivery.limits.iter().map(|limit| (limit.name.to_owned(), time(limit.time))).collect::<Map<_, _>>().into()
}
