//! Which backends of an upstream could get a request, how long each part may take, and what is tried again.

use std::sync::Arc;
use std::time::Duration;

use super::Question;
use crate::base::request::RequestView;
use crate::base::units::{format_duration, format_share, format_size};
use crate::config::plan::{self, Balance, Discovery, Split, Target, Upstream};
use crate::exchange::key;
use crate::exchange::rescue::{Connect, Failure};
use crate::exchange::retry::{self, Standing};
use crate::upstream::breaker;

/// An upstream that may get the request.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// Its weight beside the other upstreams of the route.
    pub weight: u32,
    /// How one of its backends is chosen, in words.
    pub balance: String,
    /// Its backends as written.
    pub backends: Vec<Backend>,
    /// Where further backends come from, in words.
    pub discovery: Option<String>,
    /// How long each part of the request may take, in the order in which they begin.
    pub limits: Vec<Limit>,
    /// What is tried again.
    pub retries: Retries,
}

/// A backend as far as a file can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `10.0.0.7:8080`, `web.internal:8080`, `unix:/run/app.sock`.
    pub address: String,
    /// Whether the request may be sent there.
    pub eligible: bool,
    /// Why, or why not.
    pub why: String,
}

/// A deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name in the configuration.
    pub name: &'static str,
    /// How long; none: no limit.
    pub time: Option<Duration>,
    /// Whose it is, in words.
    pub whose: String,
    /// What it limits, in words.
    pub what: &'static str,
    /// The shorter deadline that makes it void.
    pub void: Option<String>,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How often the request may be sent again after it was sent once.
    pub attempts: u32,
    /// Bytes of its body that are kept for that.
    pub body: u64,
    /// Whether its method is idempotent (RFC 9110, 9.2.2).
    pub idempotent: bool,
    /// What follows each kind of failure, a sentence each.
    pub words: Vec<String>,
}

impl Delivery {
    pub(super) fn of(split: &Split, question: &Question<'_>, request: &RequestView<'_>, route: &plan::Route) -> Self {
        let upstream = &split.upstream;
        let backends = backends(upstream);
        Self {
            upstream: upstream.name.clone(),
            weight: split.weight,
            balance: choice(upstream, request),
            discovery: upstream.discovery.as_ref().map(discovery),
            limits: limits(upstream, question, route),
            retries: retries(upstream, question, &backends),
            backends,
        }
    }
}

fn backends(upstream: &Upstream) -> Vec<Backend> {
    let has_primaries = upstream.backends.iter().any(|backend| backend.weight > 0 && !backend.backup);
    let judge = |backend: &plan::Backend| match (backend.weight, backend.backup) {
        (0, _) => (false, "weight 0: no new requests".to_owned()),
        (_, true) if has_primaries => (false, "backup: only when no other backend is usable".to_owned()),
        (1, _) => (true, "not probed: this is a file, not a running proxy".to_owned()),
        (weight, _) => (true, format!("weight {weight}; not probed: this is a file, not a running proxy")),
    };
    let bound =
        |backend: &plan::Backend| most_at_once(backend).map(|most| format!("; at most {most} requests at once"));
    let backend = |backend: &plan::Backend| {
        let (eligible, why) = judge(backend);
        let tls = if backend.tls { "; over TLS" } else { "" };
        let why = format!("{why}{tls}{}", bound(backend).unwrap_or_default());
        Backend { address: address(&backend.target), eligible, why }
    };
    upstream.backends.iter().map(backend).collect()
}

/// How many requests a backend takes at once, where that is bounded.
fn most_at_once(backend: &plan::Backend) -> Option<u32> {
    breaker::most_at_once(backend.max_requests, backend.max_connections)
}

fn address(target: &Target) -> String {
    match target {
        Target::Inet(address) => address.to_string(),
        Target::Name(name, port) => format!("{name}:{port}"),
        Target::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// How one backend is chosen for this request.
fn choice(upstream: &Upstream, request: &RequestView<'_>) -> String {
    let cookie = upstream.sticky.as_ref().map(|sticky| &sticky.cookie);
    let balance = balance(&upstream.balance, request);
    match cookie {
        Some(name) if key::cookie(request.fields, name).is_some() => {
            format!("by its cookie `{name}`; where that is nobody's, {balance}")
        }
        Some(name) => format!("{balance}; later ones of the client stay with it, by the cookie `{name}`"),
        None => balance,
    }
}

fn balance(balance: &Balance, request: &RequestView<'_>) -> String {
    match balance {
        Balance::RoundRobin => "in turn, by weight".to_owned(),
        Balance::LeastRequests => "the one with the fewest requests in flight per weight".to_owned(),
        Balance::PeakEwma => "of two random ones the one with the lower latency x load".to_owned(),
        Balance::Random { choices: 1 } => "at random, by weight".to_owned(),
        Balance::Random { choices } => format!("of {choices} random ones the least loaded"),
        Balance::Hash { .. } if key::hash(balance, request).is_none() => {
            "any: the request does not have what is hashed".to_owned()
        }
        Balance::Hash { .. } => "by a hash: requests with the same key go to the same backend".to_owned(),
    }
}

fn discovery(discovery: &Discovery) -> String {
    match discovery {
        Discovery::Dns { name, port: Some(port), .. } => format!("the addresses of {name}, port {port}"),
        Discovery::Dns { name, port: None, .. } => format!("the SRV records of {name}"),
        Discovery::File { path } => format!("the list in {}", path.display()),
    }
}

fn limits(upstream: &Upstream, question: &Question<'_>, route: &plan::Route) -> Vec<Limit> {
    let (client, backend) = (&question.listener.timeouts, &upstream.timeouts);
    let listener = format!("listener `{}`", question.listener.name);
    let route_name = format!("route `{}`", route.name);
    let upstream_name = format!("upstream `{}`", upstream.name);
    let limit = |name, time, whose: &String, what| Limit { name, time, whose: whose.clone(), what, void: None };
    let mut limits = vec![
        limit("header", Some(client.header), &listener, "from the first byte of the head to its last"),
        limit("request", route.request_timeout, &route_name, "all tries, waits and the answer"),
        limit("total", backend.total, &upstream_name, "one try, from connect to the last byte"),
        limit("connect", Some(backend.connect), &upstream_name, "one connect, TLS included"),
        limit("body_idle", Some(client.body_idle), &listener, "each wait for more of the request's body"),
        limit(
            "first_byte",
            Some(backend.first_byte),
            &upstream_name,
            "from the request's last byte to the answer's first",
        ),
        limit("idle", Some(backend.idle), &upstream_name, "each read or write at the backend"),
        limit("write_idle", Some(client.write_idle), &listener, "each wait for the client to take more of the answer"),
    ];
    let bounds = &upstream.limits;
    let bounded = bounds.requests.is_some() || bounds.connections.is_some();
    if bounded || upstream.backends.iter().any(|backend| most_at_once(backend).is_some()) {
        let pending = limit("pending_timeout", Some(bounds.pending_timeout), &upstream_name, "the wait for a place");
        limits.insert(2, pending);
        void(&mut limits, "pending_timeout", &["request"]);
    }
    void(&mut limits, "total", &["request"]);
    for name in ["connect", "first_byte", "idle"] {
        void(&mut limits, name, &["total", "request"]);
    }
    limits
}

/// Notes where the deadline `name` never comes, because one that holds it is as short.
fn void(limits: &mut [Limit], name: &str, holders: &[&str]) {
    let time_of = |name: &str| limits.iter().find(|limit| limit.name == name).and_then(|limit| limit.time);
    let Some(time) = time_of(name) else { return };
    let holder =
        holders.iter().find_map(|holder| time_of(holder).filter(|held| *held <= time).map(|held| (*holder, held)));
    let Some((holder, held)) = holder else { return };
    if let Some(limit) = limits.iter_mut().find(|limit| limit.name == name) {
        limit.void = Some(format!("`{holder}` ends it before, after {}", format_duration(held)));
    }
}

fn retries(upstream: &Upstream, question: &Question<'_>, backends: &[Backend]) -> Retries {
    let plan = &upstream.retry;
    let idempotent = retry::is_idempotent(question.method);
    let several = backends.iter().filter(|backend| backend.eligible).count() > 1
        || upstream.discovery.is_some()
        || upstream.backends.iter().any(|backend| matches!(backend.target, Target::Name(..)));
    let standing = Standing {
        idempotent,
        replayable: true,
        answer_begun: false,
        marked: false,
        retries: 0,
        backends_left: several,
    };
    let after = |failure| retry::after(failure, standing, plan);
    let connect = match after(Failure::Connect(Connect::Refused)) {
        retry::Verdict::GiveUp => "a failed connect: given up, there is no other backend",
        _ => "a failed connect: another backend, each once (nothing was sent, so the method does not matter)",
    };
    let sent = match after(Failure::Closed) {
        retry::Verdict::GiveUp if plan.attempts == 0 => "once sent: never again (`attempts` is 0)".to_owned(),
        retry::Verdict::GiveUp => format!("once sent: never again ({} is not idempotent)", question.method),
        _ => format!(
            "closed, no HTTP, or too slow before the answer began: sent {} ({} is idempotent), while its \
             body is at most {}",
            again(plan.attempts),
            question.method,
            format_size(plan.body)
        ),
    };
    let mut words = vec![connect.to_owned(), sent];
    if plan.attempts > 0 && idempotent {
        words.extend((!plan.statuses.0.is_empty()).then(|| statuses(plan)));
    }
    if plan.attempts > 0 && !plan.grpc_statuses.is_empty() {
        let codes = plan.grpc_statuses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        words.push(format!("a gRPC call answered by nothing but the status {codes}: made {}", again(plan.attempts)));
    }
    if plan.attempts > 0 && (idempotent || !plan.grpc_statuses.is_empty()) {
        words.push(within(plan));
    }
    words.push("once the answer has begun: never again".to_owned());
    Retries { attempts: plan.attempts, body: plan.body, idempotent, words }
}

fn statuses(plan: &plan::Retry) -> String {
    let ranges = plan.statuses.0.iter();
    let words = ranges.map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") });
    format!(
        "answered {}: likewise, unless its `Retry-After` asks to wait for more than {}",
        words.collect::<Vec<_>>().join(", "),
        format_duration(plan.max_backoff)
    )
}

fn within(plan: &plan::Retry) -> String {
    format!(
        "each after a random wait of at most {}, doubled each time up to {}; and while retries are no more than {} of the \
         requests and {} a second",
        format_duration(plan.backoff.min(plan.max_backoff)),
        format_duration(plan.max_backoff),
        format_share(plan.budget),
        plan.min_per_second
    )
}

fn again(count: u32) -> String {
    if count == 1 { "once more".to_owned() } else { format!("again up to {count} times") }
}
