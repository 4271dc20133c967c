//! What each endpoint answers.

use std::time::SystemTime;

use http::{Method, StatusCode};
use pingora_http::RequestHeader;
use serde_json::{Value, json};

use super::drain::Order;
use super::reload::{self, Wish};
use super::{Admin, Answer, Readiness, Reply, guard, requests, stream, upgrade};
use crate::base::clock::{Moment, rfc3339};
use crate::config::{dump, plan};
use crate::exchange::snapshot::{Snapshot, Target};
use crate::telemetry::metrics::{self, Observe, Scrape};

/// The description of the API (OpenAPI 3.1).
const OPENAPI: &str = include_str!("openapi.json");

/// What can be asked for. `openapi.json` describes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Page,
    Health,
    Readiness,
    Metrics,
    Status,
    Config,
    History,
    OpenApi,
    Requests,
    Request,
    Events,
    Reload,
    Upgrade,
    Drain,
    Resume,
}

impl Endpoint {
    /// Every endpoint with its path; what stands in braces is any name.
    const TABLE: [(Self, &'static str); 15] = [
        (Self::Page, "/"),
        (Self::Health, "/healthz"),
        (Self::Readiness, "/readyz"),
        (Self::Metrics, "/metrics"),
        (Self::Status, "/api/v1/status"),
        (Self::Config, "/api/v1/config"),
        (Self::History, "/api/v1/history"),
        (Self::OpenApi, "/api/v1/openapi.json"),
        (Self::Requests, "/api/v1/requests"),
        (Self::Request, "/api/v1/requests/{id}"),
        (Self::Events, "/api/v1/events"),
        (Self::Reload, "/api/v1/reload"),
        (Self::Upgrade, upgrade::PATH),
        (Self::Drain, "/api/v1/upstreams/{upstream}/backends/{backend}/drain"),
        (Self::Resume, "/api/v1/upstreams/{upstream}/backends/{backend}/resume"),
    ];

    /// The endpoint at a path. A name may have slashes of its own: the first brace takes up to what follows it first, the last
    /// one up to what follows it last.
    fn at(path: &str) -> Option<Self> {
        let found = Self::TABLE.iter().find(|(_, pattern)| match pattern.split_once('{') {
            None => *pattern == path,
            Some((before, names)) => {
                let after = names.rsplit_once('}').map_or("", |(_, after)| after);
                let between = names.split_once('}').map_or("", |(_, rest)| rest);
                let between = between.split_once('{').map_or("", |(between, _)| between);
                let inner = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                inner.is_some_and(|inner| inner.contains(between))
            }
        });
        found.map(|(endpoint, _)| *endpoint)
    }

    /// Whether it is written to; all others are only read.
    const fn is_written(self) -> bool {
        matches!(self, Self::Reload | Self::Upgrade | Self::Drain | Self::Resume)
    }

    /// The refusal of a method that it does not take.
    fn check(self, method: &Method) -> Result<(), Answer> {
        let refuse = |detail| Err(Answer::problem(StatusCode::METHOD_NOT_ALLOWED, detail));
        match self.is_written() {
            true if *method == Method::POST => Ok(()),
            true => refuse("this endpoint is written to (POST)").map_err(|refusal| Answer { allow: "POST", ..refusal }),
            false if matches!(*method, Method::GET | Method::HEAD) => Ok(()),
            false => refuse("this endpoint is only read (GET, HEAD)"),
        }
    }
}

/// The answer to a request that may be answered.
pub(super) async fn answer(admin: &Admin, header: &RequestHeader, address: &plan::ListenAddress) -> Reply {
    let (path, query) = (guard::path(header), guard::query(header));
    let Some(endpoint) = Endpoint::at(path) else { return nothing_here().into() };
    if let Err(refusal) = endpoint.check(&header.method) {
        return refusal.into();
    }
    let snapshot = admin.current.load();
    let answer = match endpoint {
        Endpoint::Events => return stream::events(admin, header),
        Endpoint::Page => Answer::page(),
        Endpoint::Health => Answer::text(StatusCode::OK, "ok\n"),
        Endpoint::Readiness => ready((admin.readiness)()),
        Endpoint::Metrics if snapshot.plan.prometheus => {
            // Backends that discovery no longer finds leave nothing behind.
            snapshot.counters.registry().prune();
            Answer::new(StatusCode::OK, metrics::CONTENT_TYPE, snapshot.counters.registry().expose(&Present(&snapshot)))
        }
        Endpoint::Metrics => nothing_here(),
        Endpoint::Config => Answer::json(StatusCode::OK, &dump::dump(&snapshot.plan)),
        Endpoint::History => Answer::json(StatusCode::OK, &snapshot.counters.registry().history()),
        Endpoint::Status => Answer::json(StatusCode::OK, &status(&snapshot)),
        Endpoint::OpenApi => Answer::new(StatusCode::OK, "application/json", OPENAPI),
        Endpoint::Requests => requests::last(&snapshot, query),
        Endpoint::Request => requests::one(&snapshot, path.strip_prefix("/api/v1/requests/").unwrap_or_default()),
        Endpoint::Upgrade => upgrade::answer(&admin.upgrades, query, address).await,
        Endpoint::Reload => match (Wish::parse(query), admin.reload.get()) {
            (Ok(wish), Some(reload)) => reload::answer(&**reload, wish).await,
            (Ok(_), None) => Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the process is starting"),
            (Err(refusal), _) => refusal,
        },
        Endpoint::Drain | Endpoint::Resume => match Order::parse(path, query) {
            Some(Ok(order)) => order.carry_out(&snapshot).await,
            Some(Err(refusal)) => refusal,
            None => nothing_here(),
        },
    };
    answer.into()
}

fn nothing_here() -> Answer {
    Answer::problem(StatusCode::NOT_FOUND, "there is no such endpoint")
}

fn ready(readiness: Readiness) -> Answer {
    match readiness {
        Readiness::Ready => Answer::text(StatusCode::OK, "ready\n"),
        Readiness::NotReady(why) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// What metrics ask for at each scrape.
struct Present<'a>(&'a Snapshot);

impl Observe for Present<'_> {
    fn observe(&self, scrape: &mut Scrape) {
        for target in &self.0.targets {
            let name = &target.plan.name;
            for backend in target.pool.backends().backends.iter() {
                scrape.backend(name, backend.address(), backend.usable(), backend.in_flight().into());
            }
            scrape.failing_open(name, target.pool.failing_open());
            scrape.breakers(name, target.pool.limits().pending as u64, target.pool.retry_budget().left);
        }
        for route in self.0.live.iter().filter(|route| !route.filters.rate_limits().is_empty()) {
            scrape.buckets_forgotten(&route.plan.name, route.filters.rate_limits().forgotten());
        }
        for serving in self.0.terminators.values().flat_map(|terminator| terminator.serving()) {
            let not_after = serving.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            scrape.certificate(serving.path.display().to_string(), not_after.as_secs());
        }
        if let Some(log) = &self.0.access_log {
            scrape.access_log_dropped(log.dropped());
        }
        if self.0.plan.tracing.is_some() {
            scrape.spans(self.0.spans.counts());
        }
    }
}

fn status(snapshot: &Snapshot) -> Value {
    let started = snapshot.clock.wall(Moment::START);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "generation": snapshot.generation,
        "config_hash": snapshot.plan.hash,
        "started_at": rfc3339(started),
        "listeners": snapshot.plan.listeners.iter().map(|one| listener_status(snapshot, one)).collect::<Vec<_>>(),
        "upstreams": snapshot.targets.iter().map(|target| upstream_status(target)).collect::<Vec<_>>(),
    })
}

fn listener_status(snapshot: &Snapshot, listener: &plan::Listener) -> Value {
    json!({
        "name": listener.name,
        "address": listener.address.to_string(),
        "connections": snapshot.counters.listener(&listener.name).map(|counts| counts.open()),
    })
}

fn upstream_status(target: &Target) -> Value {
    let unresolved = target.pool.unresolved();
    let unresolved: Vec<_> = unresolved.iter().map(|(name, why)| json!({"name": name, "reason": why})).collect();
    json!({
        "name": target.plan.name,
        "balance": target.plan.balance.to_string(),
        "backends": target.pool.status(),
        "unresolved": unresolved,
        "limits": target.pool.limits(),
        "retry_budget": target.pool.retry_budget(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_endpoint_stands_in_the_openapi_document_with_its_method_and_no_other_does() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let described = document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (path.clone(), method.clone()))
        });
        let method = |endpoint: Endpoint| if endpoint.is_written() { "post" } else { "get" };
        let served = Endpoint::TABLE.map(|(endpoint, path)| (path.to_owned(), method(endpoint).to_owned()));
        assert_eq!(described.collect::<BTreeSet<_>>(), BTreeSet::from(served));
    }

    #[test]
    fn a_path_leads_to_its_endpoint_whatever_a_name_is() {
        for (endpoint, pattern) in Endpoint::TABLE {
            let path =
                pattern.replace("{upstream}", "web").replace("{backend}", "unix:/run/a.sock").replace("{id}", "a%2Fb");
            assert_eq!(Endpoint::at(&path), Some(endpoint), "{path}");
        }
        for path in
            ["", "/api", "/api/v1/statuses", "/api/v1/upstreams/web/drain", "/api/v1/upstreams/web/backends/a/eject"]
        {
            assert_eq!(Endpoint::at(path), None, "{path}");
        }
    }
}
