//! How one list of members gives way to another: at once; or, where the new list has nobody yet who can serve, a little
//! later.
//!
//! A name that moves to other addresses, and a plan that names other backends, would else refuse every request until the
//! first probe of a new backend is good. So the old ones stand in for the new ones until these have had their first verdict.
//! That is bounded by the probe's timeout, and is done by Envoy too, for longer: it keeps a removed host for as long as its
//! health checks are good.

use std::collections::HashSet;
use std::sync::Arc;

use super::Pool;
use super::control::Control;
use crate::base::clock::Moment;
use crate::config::plan::Start;
use crate::upstream::backend::{Admission, Backend, BackendId, Member};
use crate::upstream::members::Members;
use crate::upstream::state::{Entry, Event, ProbePolicy, State};

/// A list of members whose turn has not come yet: they belong to the upstream, and so do those who stand in for them.
pub(super) struct Succession {
    members: Vec<Member>,
    ids: HashSet<BackendId>,
    stand_ins: usize,
}

impl Pool {
    /// Sets who belongs to the upstream. A backend that was a member already (by address and TLS) keeps its health and
    /// its counters, whatever its weight and name are now. New ones begin as the plan says; those that left get no new
    /// request, and are forgotten when their last one has ended. Of two members of one identity the first counts.
    ///
    /// Where all that are usable would leave and others wait for their first probe, those that leave stay until as many of
    /// the others are usable, or all of them have had their first verdict.
    pub fn set_members(&self, members: Vec<Member>) {
        let now = self.time.now();
        let mut control = self.control.lock();
        let ids = members.iter().map(|member| BackendId::of(&member.addr, member.tls)).collect();
        let stand_ins = self.stand_ins(&control, &members, &ids);
        control.succession = None;
        if stand_ins.is_empty() {
            self.seat(&mut control, &members, now);
        } else {
            let all: Vec<Member> = members.iter().chain(&stand_ins).cloned().collect();
            self.seat(&mut control, &all, now);
            control.succession = Some(Succession { members, ids, stand_ins: stand_ins.len() });
        }
        self.tell(control);
    }

    /// Who stands in for the members of a new list until they can serve: all that are usable, if none of these is on the list
    /// and somebody there is yet to be probed.
    fn stand_ins(&self, control: &Control, list: &[Member], ids: &HashSet<BackendId>) -> Vec<Member> {
        let probed_first = matches!(control.policy.probes, Some(ProbePolicy { start: Start::Probe, .. }));
        let members = self.members.load();
        let serving: Vec<_> = members.backends.iter().filter(|backend| backend.admits(Admission::Usable)).collect();
        if !probed_first || serving.is_empty() || serving.iter().any(|backend| ids.contains(&backend.id())) {
            return Vec::new();
        }
        let judged: HashSet<_> =
            members.backends.iter().filter(|backend| !hopeful(backend)).map(|backend| backend.id()).collect();
        let awaited = |member: &Member| member.weight > 0 && !judged.contains(&BackendId::of(&member.addr, member.tls));
        match list.iter().any(awaited) {
            true => serving.into_iter().map(|backend| backend.member()).collect(),
            false => Vec::new(),
        }
    }

    /// Lets those go who stand in for others, once they are needed no longer.
    pub(super) fn proceed(&self, control: &mut Control, now: Moment) {
        let Some(succession) = control.succession.take() else { return };
        let members = self.members.load();
        let count = |is: &dyn Fn(&Backend) -> bool| {
            members.backends.iter().filter(|backend| succession.ids.contains(&backend.id()) && is(backend)).count()
        };
        let usable = count(&|backend| backend.admits(Admission::Usable));
        if usable >= succession.stand_ins || count(&hopeful) == 0 {
            self.seat(control, &succession.members, now);
        } else {
            control.succession = Some(succession);
        }
    }

    fn seat(&self, control: &mut Control, list: &[Member], now: Moment) {
        let born = |member: &Member| Backend::new(member, &control.policy, control.entry, now);
        let new = self.members.load().reshuffle(list, born);
        for backend in &new.known {
            self.change(control, backend, Event::Rejoined, now);
        }
        for backend in &new.left {
            self.withdraw(control, backend, Event::Left, now);
        }
        if !new.backends.is_empty() {
            control.entry = Entry::Later;
        }
        let leaving = new.left.into_iter().filter(|backend| backend.in_flight() > 0).collect();
        self.members.store(Arc::new(Members::new(&self.plan.load().name, new.backends, leaving)));
        self.come_into(control, now);
        self.settle(control, &self.turnout.load(), now);
    }
}

/// Whether the first verdict on a backend is still to come.
fn hopeful(backend: &Backend) -> bool {
    backend.state() == State::Probing
}
