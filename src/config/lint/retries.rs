//! Retries that multiply load, or that are never made; queues in which nobody ever waits.

use super::{Certainty, Doubt, Written, upstream};
use crate::base::units::format_share;
use crate::config::plan::{Plan, Upstream};

/// From this share on, an outage makes half as much again of the load, or more, when backends can bear it least.
const MUCH: f64 = 0.5;

pub(super) fn doubts(plan: &Plan) -> Vec<Doubt> {
    let of_upstream = |one: &Upstream| [amplified(one), never_made(one), never_chosen(one), never_waited(one)];
    plan.upstreams.iter().flat_map(|one| of_upstream(one)).flatten().collect()
}

fn amplified(one: &Upstream) -> Option<Doubt> {
    let retry = &one.retry;
    (retry.attempts > 0 && retry.budget >= MUCH).then(|| Doubt {
        certainty: Certainty::Likely,
        place: Written::Exactly(upstream(&one.name, &["retry", "budget"])),
        message: format!("when every try fails, backends get {} more than clients send", format_share(retry.budget)),
        help: "write a smaller share, such as `20%`: it bounds what an outage adds to itself".to_owned(),
    })
}

fn never_made(one: &Upstream) -> Option<Doubt> {
    let retry = &one.retry;
    let paid_for = retry.budget > 0.0 || retry.min_per_second > 0;
    (retry.attempts > 0 && !paid_for).then(|| Doubt {
        certainty: Certainty::Sure,
        place: Written::Exactly(upstream(&one.name, &["retry", "budget"])),
        message: "no retry is ever made: `budget` and `min_per_second` allow none".to_owned(),
        help: "write `attempts: 0`, or a share such as `20%`".to_owned(),
    })
}

fn never_chosen(one: &Upstream) -> Option<Doubt> {
    let retry = &one.retry;
    (retry.attempts == 0 && !retry.statuses.0.is_empty()).then(|| Doubt {
        certainty: Certainty::Sure,
        place: Written::Exactly(upstream(&one.name, &["retry", "statuses"])),
        message: "`statuses` has no effect: `attempts` is 0".to_owned(),
        help: "remove it, or write `attempts: 1`".to_owned(),
    })
}

fn never_waited(one: &Upstream) -> Option<Doubt> {
    let bounded = one.limits.requests.is_some() || one.limits.connections.is_some();
    let by_backend = one.discovery.is_some()
        || one.backends.iter().any(|backend| backend.max_requests.is_some() || backend.max_connections.is_some());
    (one.limits.pending.is_some() && !bounded && !by_backend).then(|| Doubt {
        certainty: Certainty::Sure,
        place: Written::Exactly(upstream(&one.name, &["limits", "pending"])),
        message: "`pending` has no effect: nothing bounds what is under way, so that nobody waits".to_owned(),
        help: "write `requests` too, or remove it".to_owned(),
    })
}
