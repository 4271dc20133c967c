//! Bounds on how many requests come in a time, by client, by what a request carries, or by route.
//!
//! A route may have several limits: a request passes where all of them let it, and takes a token of each; where one refuses,
//! it takes none of any. Limits on trial count what they would refuse and let it pass. `key` says what is counted by, `table`
//! holds the buckets, `tables` carries them from snapshot to snapshot and from process to process.

pub mod key;
pub mod table;
pub mod tables;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, RETRY_AFTER};

use self::table::Table;
use self::tables::{Secret, Tables};
use super::Refusal;
use crate::base::clock::Moment;
use crate::base::gcra::Gcra;
use crate::base::request::RequestView;
use crate::config::plan;
use crate::telemetry::reason::Reason;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The limits of one route.
#[derive(Debug, Default)]
pub struct RateLimits {
    /// Those that refuse, in the order in which their tables are locked.
    strict: Box<[Limit]>,
    /// Those on trial.
    trial: Box<[Limit]>,
}

#[derive(Debug)]
struct Limit {
    key: plan::RateKey,
    gcra: Gcra,
    table: Arc<Table>,
    secret: Secret,
    most: usize,
    headers: bool,
    /// Its name in fields of answers, quoted.
    name: String,
    /// Its member of `RateLimit-Policy`.
    policy: String,
}

/// What the limits say of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// Why it is refused, if it is.
    pub refusal: Option<Refusal>,
    /// Whether a limit on trial would have refused it.
    pub on_trial: bool,
    /// Fields of its answer, where it passes.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

impl RateLimits {
    /// The limits of a route, with the buckets that `tables` has of it.
    #[must_use]
    pub fn build(route: &str, plans: &[plan::RateLimit], tables: &Tables) -> Self {
        let of = |(index, plan): (usize, &plan::RateLimit)| {
            let nth = plans[..index].iter().filter(|earlier| earlier.key == plan.key).count();
            (plan.dry_run, Limit::build(route, plan, nth, tables))
        };
        let (trial, strict): (Vec<_>, Vec<_>) = plans.iter().enumerate().map(of).partition(|(dry_run, _)| *dry_run);
        let [mut strict, trial] = [strict, trial].map(|limits| limits.into_iter().map(|of| of.1).collect::<Box<[_]>>());
        // Snapshots that name the same limits in another order lock the same tables at the same time.
        strict.sort_by_key(|limit| limit.table.number());
        Self { strict, trial }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.strict.is_empty() && self.trial.is_empty()
    }

    /// Decides on a request at `now`, and takes a token of every limit if it passes.
    #[must_use]
    pub fn decide(&self, request: &RequestView<'_>, now: Moment) -> Passage {
        if let Err(wait) = take(&self.strict, request, now, Ok(())) {
            return Passage { refusal: Some(self.refusal(request, now, wait)), ..Passage::default() };
        }
        let on_trial = self.trial.iter().map(|limit| take(std::slice::from_ref(limit), request, now, Ok(())));
        let on_trial = on_trial.filter(Result::is_err).count() > 0;
        Passage {
            refusal: None,
            on_trial,
            fields: fields(self.strict.iter().filter(|limit| limit.headers), request, now),
        }
    }

    /// How many buckets were forgotten for want of room.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.strict.iter().chain(&self.trial).map(|limit| limit.table.forgotten()).sum()
    }

    /// The memory of all buckets in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.strict.iter().chain(&self.trial).map(|limit| limit.table.bytes()).sum()
    }

    fn refusal(&self, request: &RequestView<'_>, now: Moment, wait: Duration) -> Refusal {
        let mut all = vec![(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)))];
        all.extend(fields(self.strict.iter(), request, now));
        Refusal { reason: Reason::RateLimited, fields: all }
    }
}

/// Takes a token of each limit if all have one and `so_far` says that others had; else the longest time to wait.
///
/// Every bucket stays locked until the last has spoken, so that no token is taken in vain, not even for a moment.
fn take(
    limits: &[Limit],
    request: &RequestView<'_>,
    now: Moment,
    so_far: Result<(), Duration>,
) -> Result<(), Duration> {
    let Some((limit, rest)) = limits.split_first() else { return so_far };
    let Some(fingerprint) = limit.fingerprint(request) else { return take(rest, request, now, so_far) };
    let mut bucket = limit.table.bucket(fingerprint);
    let taken = limit.gcra.take(bucket.full_at(), now);
    let so_far = match (so_far, taken) {
        (Err(wait), Err(longer)) => Err(wait.max(longer)),
        (so_far, taken) => so_far.and(taken.map(drop)),
    };
    take(rest, request, now, so_far)?;
    if let Ok(full_at) = taken {
        bucket.keep(full_at, now, limit.most);
    }
    Ok(())
}

/// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11) for the limits that count this request.
fn fields<'l>(
    limits: impl Iterator<Item = &'l Limit>,
    request: &RequestView<'_>,
    now: Moment,
) -> Vec<(HeaderName, HeaderValue)> {
    let (mut policies, mut states) = (String::new(), String::new());
    for limit in limits {
        let Some(fingerprint) = limit.fingerprint(request) else { continue };
        let full_at = limit.table.bucket(fingerprint).full_at();
        for list in [&mut policies, &mut states].into_iter().filter(|list| !list.is_empty()) {
            list.push_str(", ");
        }
        policies.push_str(&limit.policy);
        let (left, next) = (limit.gcra.left(full_at, now), limit.gcra.next(full_at, now));
        // Writing to a `String` cannot fail.
        let _ = write!(states, "{};r={left}", limit.name);
        if next > Duration::ZERO {
            let _ = write!(states, ";t={}", whole_seconds(next));
        }
    }
    [(POLICY, policies), (LIMIT, states)]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .filter_map(|(name, list)| Some((name, HeaderValue::try_from(list).ok()?)))
        .collect()
}

/// Whole seconds that are not too few.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Limit {
    fn build(route: &str, plan: &plan::RateLimit, nth: usize, tables: &Tables) -> Self {
        let plan::Rate { count, per } = plan.rate;
        let name = key::quoted(&plan.key, nth);
        let mut policy = format!("{name};q={count};w={}", per.as_secs());
        if plan.burst != count {
            policy.push_str(&format!(";roundel-burst={}", plan.burst));
        }
        Self {
            gcra: Gcra::new(count, per, plan.burst),
            table: tables.table(route, &plan.key, nth),
            secret: tables.secret().clone(),
            most: plan.max_keys,
            headers: plan.headers,
            key: plan.key.clone(),
            name,
            policy,
        }
    }

    fn fingerprint(&self, request: &RequestView<'_>) -> Option<table::Fingerprint> {
        key::fingerprint(&self.key, request, self.secret.get())
    }
}

#[cfg(test)]
mod tests;
