//! What a request chooses from: one snapshot of the backends that turn out for work, renewed whenever they change.
//!
//! Primaries and backups are two tiers, each with its own policy; the second is asked only where the first has nobody for
//! the request. Where nobody is usable and the upstream fails open, all that are not drained form the first tier.

use std::sync::Arc;

use super::backend::{Admission, Backend};
use super::balance::{self, Choice, Doubts, Policy, Usable};
use super::slow_start;
use crate::base::clock::Moment;
use crate::config::plan::Balance;

/// The backends that turn out for work.
pub(super) struct Turnout {
    primaries: Tier,
    backups: Tier,
    /// Which backends a choice may fall on.
    pub(super) admission: Admission,
    /// How many members there are, usable or not.
    pub(super) members: usize,
}

/// One tier: its usable backends, and the policy over them.
struct Tier {
    policy: Arc<dyn Policy>,
    usable: Arc<[Arc<Backend>]>,
}

impl Turnout {
    /// Nobody, balanced by `balance`.
    pub(super) fn nobody(balance: &Balance) -> Self {
        let tier = || Tier { policy: balance::build(balance), usable: Arc::new([]) };
        Self { primaries: tier(), backups: tier(), admission: Admission::Usable, members: 0 }
    }

    /// The turnout of these members at `now`, with what the policies of this one hand on.
    pub(super) fn renew(&self, members: &[Arc<Backend>], admission: Admission, now: Moment) -> Self {
        let open = admission == Admission::Open;
        let tier = |old: &Tier, belongs: &dyn Fn(&Backend) -> bool| {
            let usable = usable(members, admission, now, belongs);
            Tier { usable: Arc::clone(&usable.backends), policy: old.policy.renew(usable) }
        };
        Self {
            primaries: tier(&self.primaries, &|backend| open || !backend.backup()),
            backups: tier(&self.backups, &|backend| !open && backend.backup()),
            admission,
            members: members.len(),
        }
    }

    /// Whether nobody is here.
    pub(super) fn is_empty(&self) -> bool {
        self.primaries.usable.is_empty() && self.backups.usable.is_empty()
    }

    /// The backend that comes next, if `board` succeeds in counting the request there.
    pub(super) fn choose(
        &self,
        choice: &Choice<'_>,
        board: impl Fn(&Backend, &Choice<'_>) -> bool,
    ) -> Option<Arc<Backend>> {
        let backup = || match self.primaries.is_worth_waiting_for(choice) {
            true => None,
            false => self.backups.choose(choice, &board),
        };
        self.primaries.choose(choice, &board).or_else(backup).cloned()
    }
}

impl Tier {
    /// Whether somebody is here whom nothing but his limit keeps from the request: a backup does not stand in for that.
    fn is_worth_waiting_for(&self, choice: &Choice<'_>) -> bool {
        self.usable.iter().any(|backend| choice.would_admit(backend) && !backend.has_room())
    }

    /// One that nothing speaks against, else one that is in doubt.
    fn choose(&self, choice: &Choice<'_>, board: impl Fn(&Backend, &Choice<'_>) -> bool) -> Option<&Arc<Backend>> {
        let nevertheless = || {
            let passed_over = |backend: &Arc<Backend>| backend.is_doubtful(choice.now) || backend.on_probation();
            let in_doubt = self.usable.iter().any(passed_over);
            in_doubt.then(|| self.pick(&Choice { doubts: Doubts::Ignored, ..*choice }, &board)).flatten()
        };
        self.pick(choice, &board).or_else(nevertheless)
    }

    fn pick(&self, choice: &Choice<'_>, board: impl Fn(&Backend, &Choice<'_>) -> bool) -> Option<&Arc<Backend>> {
        let anybody = || self.usable.iter().find(|backend| choice.admits(backend) && board(backend, choice));
        self.policy.pick(choice).filter(|backend| board(backend, choice)).or_else(anybody)
    }
}

/// The usable backends of those that belong to a tier, with their weights now.
fn usable(members: &[Arc<Backend>], admission: Admission, now: Moment, belongs: impl Fn(&Backend) -> bool) -> Usable {
    let roll: Arc<[_]> = members.iter().filter(|backend| backend.weight() > 0 && belongs(backend)).cloned().collect();
    let backends: Arc<[_]> = roll.iter().filter(|backend| backend.admits(admission)).cloned().collect();
    // While one is in slow start, all weights are counted in its steps.
    let unit = if backends.iter().any(|backend| backend.share() < 1.0) { slow_start::STEPS } else { 1 };
    let weight = |backend: &Arc<Backend>| match unit {
        1 => backend.weight(),
        _ => backend.weight().saturating_mul(slow_start::step(backend.share())),
    };
    let weights = backends.iter().map(weight).collect();
    Usable { roll, backends, weights, at: now }
}
