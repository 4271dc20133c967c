//! The tries of a request: which backend, why that one, who was left out, and what became of it.

use serde_json::{Value, json};

use super::words;
use crate::config::plan::{Balance, HashKey, Upstream};
use crate::exchange::recent::Past;
use crate::exchange::rescue::Failure;
use crate::exchange::snapshot::Snapshot;
use crate::exchange::trail::Try;
use crate::upstream::roll::Roll;

/// Every try that was kept, in order.
pub(super) fn all(past: &Past, snapshot: &Snapshot) -> Vec<Value> {
    let name = past.upstream.as_deref().unwrap_or_default();
    let target = snapshot.targets.iter().find(|target| *target.plan.name == *name);
    let upstream = target.map(|target| &*target.plan);
    past.trail.iter().enumerate().map(|(before, one)| told(past, one, before, upstream)).collect()
}

fn told(past: &Past, one: &Try, before: usize, upstream: Option<&Upstream>) -> Value {
    let outcome = match one.failure {
        Some(failure @ Failure::Status { status, .. }) => json!({ "answered": status, "why": words::failed(failure) }),
        Some(failure) => json!({ "failed": failure.reason().as_str(), "why": words::failed(failure) }),
        None => json!({ "answered": past.answered.then_some(past.status) }),
    };
    json!({
        "backend": &*one.backend,
        "chosen": chosen(one, before, upstream),
        "eligible": one.roll.present,
        "members": one.roll.members,
        "excluded": excluded(&one.roll),
        "began_ms": words::millis(one.began.since(past.received)),
        "connect_ms": one.connect.map(words::millis),
        "reused": one.reused,
        "first_byte_ms": one.first_byte.map(words::millis),
        "took_ms": words::millis(one.took),
        "outcome": outcome,
    })
}

/// Those that could not be chosen, and why.
pub(super) fn excluded(roll: &Roll) -> Vec<Value> {
    let absent = roll.absent.iter();
    absent.map(|one| json!({ "backend": &*one.backend, "state": one.state, "why": &*one.why })).collect()
}

/// Why it was this backend.
fn chosen(one: &Try, before: usize, upstream: Option<&Upstream>) -> String {
    let policy = match upstream {
        Some(upstream) if one.choice.by_cookie => {
            let cookie = upstream.sticky.as_ref().map_or("", |sticky| &sticky.cookie);
            return format!("the request's cookie `{cookie}` binds it to this backend");
        }
        Some(upstream) => policy(&upstream.balance, one.choice.hashed),
        None => "the upstream is not configured any more".to_owned(),
    };
    let mut text = match one.roll.present {
        1 if one.roll.members > 1 => format!("the only one of {} that could be chosen", one.roll.members),
        1 => "the only backend".to_owned(),
        present => format!("{policy}, of {present} that could be chosen"),
    };
    match before {
        0 => {}
        1 => text.push_str(", after the one that had been tried"),
        tried => text.push_str(&format!(", after the {tried} that had been tried")),
    }
    if one.choice.backup {
        text.push_str("; a backup, because no other backend could serve");
    }
    if one.choice.trial {
        text.push_str("; it was ejected, and this request shows whether it serves again");
    }
    if one.roll.failing_open {
        text.push_str("; no backend is usable, and the upstream fails open");
    }
    text
}

fn policy(balance: &Balance, hashed: bool) -> String {
    match balance {
        Balance::RoundRobin => "its turn, by weight".to_owned(),
        Balance::LeastRequests => "the fewest requests in flight per weight".to_owned(),
        Balance::PeakEwma => "of two drawn at random the lower latency x load".to_owned(),
        Balance::Random { choices: 1 } => "drawn at random, by weight".to_owned(),
        Balance::Random { choices } => format!("of {choices} drawn at random the least loaded"),
        Balance::Hash { key, .. } if hashed => format!("the hash of {} leads here", key_words(key)),
        Balance::Hash { key, .. } => format!("any will do, because the request has no {}", key_words(key)),
    }
}

fn key_words(key: &HashKey) -> String {
    match key {
        HashKey::ClientIp => "client address".to_owned(),
        HashKey::Uri => "path and query".to_owned(),
        HashKey::Path => "path".to_owned(),
        HashKey::Header(name) => format!("header `{name}`"),
        HashKey::Cookie(name) => format!("cookie `{name}`"),
        HashKey::Query(name) => format!("query parameter `{name}`"),
    }
}
