//! What an upstream loses of its capacity by a change of plan.
//!
//! A backend counts with its weight. Those that stay keep what they had, whatever their weight is now: a new weight shifts
//! requests and takes no machine away, unless it is 0. Those that come make up for those that go; their weight is measured
//! by that of the backends that stay, so that a list whose weights are all ten times as large is not ten times as strong.
//! Backends that stand by (`backup`) are no capacity. A host name is one backend, as nobody knows here what it stands for;
//! of an upstream that is discovered nothing can be said.

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::plan::{Backend, Plan, Upstream};

/// The share of its capacity that an upstream may lose without a word from the operator.
pub const MOST_LOST: f64 = 0.5;

/// What one upstream loses.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// The upstream.
    pub upstream: Arc<str>,
    /// How many of its backends go.
    pub backends: usize,
    /// How many it has.
    pub of: usize,
    /// The share of its capacity that goes with them and is not made up for (0.0 to 1.0).
    pub share: f64,
    /// Whether it goes as a whole, with the requests that it served.
    pub whole: bool,
}

impl Loss {
    /// Whether it is so much that somebody must have meant it.
    #[must_use]
    pub fn is_grave(&self) -> bool {
        self.share > MOST_LOST
    }
}

/// What the upstreams of `old` lose in `new`.
pub(super) fn losses(old: &Plan, new: &Plan) -> Vec<Loss> {
    let lost = |upstream: &Arc<Upstream>| match new.upstreams.iter().find(|one| one.name == upstream.name) {
        Some(successor) => shrinks(upstream, successor),
        None => vanishes(upstream, old, new),
    };
    old.upstreams.iter().filter_map(lost).collect()
}

fn shrinks(old: &Upstream, new: &Upstream) -> Option<Loss> {
    if old.discovery.is_some() || new.discovery.is_some() {
        return None;
    }
    let (before, after) = (serving(old), serving(new));
    let total = weight(before.iter().copied());
    if total <= 0.0 {
        return None;
    }
    let [known, wanted] =
        [&before, &after].map(|list| list.iter().map(|backend| &backend.target).collect::<HashSet<_>>());
    let stays = |backend: &&Backend| wanted.contains(&backend.target);
    let comes = |backend: &&Backend| !known.contains(&backend.target);
    let kept = weight(before.iter().copied().filter(stays));
    let kept_now = weight(after.iter().copied().filter(|backend| !comes(backend)));
    // What one unit of the new weights is worth in the old ones.
    let unit = if kept_now > 0.0 {
        kept / kept_now
    } else {
        (total / before.len() as f64) / (weight(after.iter().copied()) / after.len() as f64)
    };
    let gained = weight(after.iter().copied().filter(comes));
    let gained = if gained > 0.0 { gained * unit } else { 0.0 };
    let backends = before.len() - before.iter().copied().filter(stays).count();
    let share = ((total - kept - gained) / total).clamp(0.0, 1.0);
    (backends > 0).then(|| Loss { upstream: Arc::clone(&old.name), backends, of: before.len(), share, whole: false })
}

/// An upstream that goes takes nothing away where nobody used it, or where every request that it served is served still, by
/// whomever: by a route of the same name, or by one for the same hosts and matches.
fn vanishes(upstream: &Upstream, old: &Plan, new: &Plan) -> Option<Loss> {
    let names: HashSet<_> = new.routes.iter().map(|route| &route.name).collect();
    let served: HashSet<String> = rules_of(new, |_| true).collect();
    let uses = |name: &Arc<str>| {
        let route = old.routes.iter().find(|route| route.name == *name);
        route.is_some_and(|route| route.action.splits().iter().any(|split| split.upstream.name == upstream.name))
    };
    let orphaned = |name: &Arc<str>| uses(name) && !names.contains(name);
    let gone = rules_of(old, orphaned).any(|rule| !served.contains(&rule));
    let of = serving(upstream).len();
    gone.then(|| Loss { upstream: Arc::clone(&upstream.name), backends: of, of, share: 1.0, whole: true })
}

/// Each host with each match of the routes of these names, as a text.
fn rules_of(plan: &Plan, of: impl Fn(&Arc<str>) -> bool) -> impl Iterator<Item = String> {
    let routes = plan.routes.iter().filter(move |route| of(&route.name));
    routes.flat_map(|route| {
        let hosts: Vec<String> = match &route.hosts[..] {
            [] => vec![String::new()],
            hosts => hosts.iter().map(|host| format!("{host:?}")).collect(),
        };
        hosts.into_iter().flat_map(|host| route.matches.iter().map(move |one| format!("{host} {one:?}")))
    })
}

fn serving(upstream: &Upstream) -> Vec<&Backend> {
    upstream.backends.iter().filter(|backend| !backend.backup && backend.weight > 0).collect()
}

fn weight<'a>(backends: impl Iterator<Item = &'a Backend>) -> f64 {
    backends.map(|backend| f64::from(backend.weight)).sum()
}
