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

/// The answer to a request that may be answered.
pub(super) async fn answer(admin: &Admin, header: &RequestHeader, address: &plan::ListenAddress) -> Reply {
    let snapshot = admin.current.load();
    if guard::path(header) == upgrade::PATH && header.method == Method::POST {
        return upgrade::answer(&admin.upgrades, guard::query(header), address).await.into();
    }
    if let Some(order) = Order::parse(guard::path(header), guard::query(header)) {
        let answer = match order {
            _ if header.method != Method::POST => {
                let refusal = Answer::problem(StatusCode::METHOD_NOT_ALLOWED, "this endpoint is written to (POST)");
                Answer { allow: "POST", ..refusal }
            }
            Ok(order) => order.carry_out(&snapshot).await,
            Err(refusal) => refusal,
        };
        return answer.into();
    }
    if guard::path(header) == "/api/v1/reload" {
        let answer = match (Wish::parse(guard::query(header)), admin.reload.get()) {
            _ if header.method != Method::POST => {
                let refusal = Answer::problem(StatusCode::METHOD_NOT_ALLOWED, "this endpoint is written to (POST)");
                Answer { allow: "POST", ..refusal }
            }
            (Ok(wish), Some(reload)) => reload::answer(&**reload, wish).await,
            (Ok(_), None) => Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the process is starting"),
            (Err(refusal), _) => refusal,
        };
        return answer.into();
    }
    if guard::path(header) == upgrade::PATH {
        let refusal = Answer::problem(StatusCode::METHOD_NOT_ALLOWED, "this endpoint is written to (POST)");
        return Answer { allow: "POST", ..refusal }.into();
    }
    if !matches!(header.method, Method::GET | Method::HEAD) {
        return Answer::problem(StatusCode::METHOD_NOT_ALLOWED, "this endpoint is only read (GET, HEAD)").into();
    }
    let answer = match guard::path(header) {
        "/" => Answer::page(),
        "/api/v1/events" => return stream::events(admin, header),
        "/healthz" => Answer::text(StatusCode::OK, "ok\n"),
        "/readyz" => ready((admin.readiness)()),
        "/metrics" if snapshot.plan.prometheus => {
            // Backends that discovery no longer finds leave nothing behind.
            snapshot.counters.registry().prune();
            Answer::new(StatusCode::OK, metrics::CONTENT_TYPE, snapshot.counters.registry().expose(&Present(&snapshot)))
        }
        "/api/v1/config" => Answer::json(StatusCode::OK, &dump::dump(&snapshot.plan)),
        "/api/v1/history" => Answer::json(StatusCode::OK, &snapshot.counters.registry().history()),
        "/api/v1/status" => Answer::json(StatusCode::OK, &status(&snapshot)),
        "/api/v1/openapi.json" => Answer::new(StatusCode::OK, "application/json", OPENAPI),
        "/api/v1/requests" => requests::last(&snapshot, guard::query(header)),
        path => match path.strip_prefix("/api/v1/requests/") {
            Some(id) => requests::one(&snapshot, id),
            None => Answer::problem(StatusCode::NOT_FOUND, "there is no such endpoint"),
        },
    };
    answer.into()
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
