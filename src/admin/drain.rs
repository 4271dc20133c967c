//! Draining one backend, and taking it back: no new request goes to a drained one, whatever its health.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::Answer;
use crate::base::units::parse_duration;
use crate::exchange::snapshot::{Snapshot, Target};
use crate::upstream::Backend;

/// How long a drain may be waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How often the requests in flight are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// What is done to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Drain,
    Resume,
}

/// How a deed is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Manner {
    /// How long the end of what is in flight is waited for.
    wait: Option<Duration>,
    /// Whether too little may be left in use.
    force: bool,
}

/// `/api/v1/upstreams/U/backends/B/drain` or `.../resume`, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    upstream: String,
    backend: String,
    deed: Deed,
    manner: Manner,
}

impl Order {
    /// The order that a path and query give, if they give one; B is percent-encoded where needed.
    ///
    /// # Errors
    /// The answer that says what is wrong with the query.
    pub(super) fn parse(path: &str, query: &str) -> Option<Result<Self, Answer>> {
        let rest = path.strip_prefix("/api/v1/upstreams/")?;
        let (upstream, rest) = rest.split_once("/backends/")?;
        let (backend, deed) = rest.rsplit_once('/')?;
        let deed = match deed {
            "drain" => Deed::Drain,
            "resume" => Deed::Resume,
            _ => return None,
        };
        let text = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let order = |manner| Self { upstream: text(upstream), backend: text(backend), deed, manner };
        Some(manner(query, deed).map(order))
    }

    /// Carries the order out; waits until nothing is in flight where that was asked for.
    pub(super) async fn carry_out(&self, snapshot: &Snapshot) -> Answer {
        let Some(target) = snapshot.targets.iter().find(|target| *target.plan.name == *self.upstream) else {
            return Answer::problem(
                StatusCode::NOT_FOUND,
                "there is no upstream of that name (`roundel status` names all)",
            );
        };
        let backends = match self.deed {
            Deed::Drain if self.manner.force => target.pool.drain(&self.backend),
            Deed::Drain => match target.pool.drain_down_to(&self.backend, snapshot.plan.drain.floor) {
                Ok(backends) => backends,
                Err(shortage) => {
                    return Answer::problem(
                        StatusCode::CONFLICT,
                        &format!("not drained: {shortage} (force it, or wait)"),
                    );
                }
            },
            Deed::Resume => target.pool.resume(&self.backend),
        };
        if backends.is_empty() {
            return Answer::problem(
                StatusCode::NOT_FOUND,
                "the upstream has no backend of that name or address (`roundel status` names all)",
            );
        }
        if let Some(wait) = self.manner.wait {
            // What is still in flight then is told in the answer.
            let _ = tokio::time::timeout(wait, until_idle(&backends)).await;
        }
        Answer::json(StatusCode::OK, &told(target, &backends))
    }
}

fn manner(query: &str, deed: Deed) -> Result<Manner, Answer> {
    let fault = |detail| Err(Answer::problem(StatusCode::BAD_REQUEST, detail));
    let mut manner = Manner::default();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("wait", text)) if deed == Deed::Drain => match parse_duration(text) {
                Ok(wait) => manner.wait = Some(wait.min(LONGEST_WAIT)),
                Err(_) => return fault("`wait` is no duration (write `wait=30s`)"),
            },
            Some(("force", "true")) if deed == Deed::Drain => manner.force = true,
            Some(("force", "false")) if deed == Deed::Drain => manner.force = false,
            _ => return fault("unknown parameter (a drain knows `wait=30s` and `force=true`, a resume none)"),
        }
    }
    Ok(manner)
}

async fn until_idle(backends: &[Arc<Backend>]) {
    while backends.iter().any(|backend| backend.in_flight() > 0) {
        tokio::time::sleep(LOOK).await;
    }
}

fn told(target: &Target, backends: &[Arc<Backend>]) -> serde_json::Value {
    let ours = |address: &str| backends.iter().any(|backend| **backend.address() == *address);
    let statuses: Vec<_> = target.pool.status().into_iter().filter(|status| ours(&status.address)).collect();
    json!({ "upstream": target.plan.name, "backends": statuses })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(path: &str, query: &str) -> Option<Order> {
        Order::parse(path, query).and_then(Result::ok)
    }

    #[test]
    fn an_order_names_its_backend_percent_encoded_where_needed() {
        let drain = Order {
            upstream: "web".into(),
            backend: "unix:/run/a.sock".into(),
            deed: Deed::Drain,
            manner: Manner { wait: Some(Duration::from_secs(30)), force: true },
        };
        assert_eq!(
            order("/api/v1/upstreams/web/backends/unix:%2Frun%2Fa.sock/drain", "force=true&wait=30s"),
            Some(drain)
        );
        assert!(order("/api/v1/upstreams/web/backends/10.0.0.1:80/resume", "").is_some());
        assert!(Order::parse("/api/v1/upstreams/web", "").is_none());
    }

    #[test]
    fn an_unknown_parameter_is_refused() {
        for (deed, query) in [("drain", "wait=30"), ("drain", "force=1"), ("resume", "wait=30s")] {
            let path = format!("/api/v1/upstreams/web/backends/a/{deed}");
            assert!(Order::parse(&path, query).is_some_and(|order| order.is_err()), "{deed} {query}");
        }
    }

    proptest! {
        #[test]
        fn any_path_and_query_is_an_order_or_none(
            name in "[a-z%/0-9\u{0}é]{0,8}", deed in "drain|resume|x|", query in "(wait|force|x)?=?[a-z0-9&=%]{0,8}"
        ) {
            let path = format!("/api/v1/upstreams/{name}/backends/{name}/{deed}");
            let _ = Order::parse(&path, &query);
            let _ = Order::parse(&name, &query);
        }
    }
}
