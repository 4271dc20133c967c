//! How a change comes about: under the lock, counted, and told.
//!
//! An event moves one backend's state machine; where that changes who is usable, the turnout is renewed, at once or, in a
//! storm of changes, a little later.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::Pool;
use super::heritage::Heritage;
use super::succession::Succession;
use crate::base::clock::Moment;
use crate::config::plan::WhenNoneHealthy;
use crate::upstream::backend::{Admission, Backend};
use crate::upstream::change::Change;
use crate::upstream::members::Members;
use crate::upstream::outlier;
use crate::upstream::roll::Roll;
use crate::upstream::state::{Entry, Event, Health, Policy};
use crate::upstream::turnout::Turnout;

/// What only changes under the lock.
pub(super) struct Control {
    pub(super) policy: Policy,
    pub(super) ejected: usize,
    pub(super) usable: usize,
    pub(super) renewed: Option<Moment>,
    /// When the roll was called last, where the turnout was not renewed.
    pub(super) called: Option<Moment>,
    pub(super) entry: Entry,
    pub(super) succession: Option<Succession>,
    pub(super) heritage: Heritage,
    pub(super) changes: Vec<Change>,
}

impl Pool {
    /// Takes in an event of one backend.
    pub(super) fn apply(&self, backend: &Arc<Backend>, event: Event<'_>, now: Moment) {
        let mut control = self.control.lock();
        let before = (control.usable, backend.usable(), backend.share());
        self.change(&mut control, backend, event, now);
        let moved = before != (control.usable, backend.usable(), backend.share());
        if moved || control.changes.iter().any(Change::moves_weights) {
            self.renew_soon(&mut control, now);
        } else if !control.changes.is_empty() {
            self.call_roll(&mut control, now);
        }
        self.proceed(&mut control, now);
        self.tell(control);
    }

    pub(super) fn command(
        &self,
        name_or_address: &str,
        order: impl Fn(&mut Control, &Arc<Backend>, Moment),
    ) -> Vec<Arc<Backend>> {
        let Ok(found) = self.command_if(name_or_address, |_, _| Ok::<_, Infallible>(()), order);
        found
    }

    /// Carries out an order on every backend of this name or address, if `judge` agrees: under the lock, so that two orders
    /// cannot both be the last one that is allowed.
    pub(super) fn command_if<E>(
        &self,
        name_or_address: &str,
        judge: impl FnOnce(&Members, &[Arc<Backend>]) -> Result<(), E>,
        order: impl Fn(&mut Control, &Arc<Backend>, Moment),
    ) -> Result<Vec<Arc<Backend>>, E> {
        let now = self.time.now();
        let mut control = self.control.lock();
        let members = self.members.load();
        let found = members.find(name_or_address);
        if found.is_empty() {
            return Ok(found);
        }
        judge(&members, &found)?;
        found.iter().for_each(|backend| order(&mut control, backend, now));
        self.renew(&mut control, now);
        self.proceed(&mut control, now);
        self.tell(control);
        Ok(found)
    }

    /// Takes a backend out of use for good or for now; it is drained at once where nothing is in flight. That is looked
    /// at afterwards, so that no request can slip in between.
    pub(super) fn withdraw(&self, control: &mut Control, backend: &Arc<Backend>, event: Event<'_>, now: Moment) {
        self.change(control, backend, event, now);
        self.change(control, backend, Event::Idle, now);
    }

    /// Moves one backend's state machine, and keeps the counts and the time of the next tick right.
    pub(super) fn change(&self, control: &mut Control, backend: &Arc<Backend>, event: Event<'_>, now: Moment) {
        if event == Event::Idle && backend.in_flight() > 0 {
            return;
        }
        let policy = control.policy;
        let weighs = |health: &Health| health.usable() && backend.weight() > 0;
        let before = (backend.read(Health::ejected), backend.read(weighs));
        let event = self.with_permission(event, control, before.0, before.1);
        let (transition, after, wake) = backend.change(&policy, now, |health| {
            let transition = health.apply(&policy, event, now);
            (transition, (health.ejected(), weighs(health)), health.wakes_at(&policy, now))
        });
        control.ejected = (control.ejected + usize::from(after.0)).saturating_sub(usize::from(before.0));
        control.usable = (control.usable + usize::from(after.1)).saturating_sub(usize::from(before.1));
        self.wakes_at.fetch_min(wake.map_or(u64::MAX, Moment::nanos), Relaxed);
        control.changes.extend(transition.map(|transition| Change {
            upstream: Arc::clone(&self.plan.load().name),
            backend: Arc::clone(backend),
            transition,
        }));
        if event == Event::Idle
            && let Some(members) = self.members.load().without_the_gone()
        {
            self.members.store(Arc::new(members));
        }
    }

    /// The event, with the pool's word on whether an ejection is allowed.
    fn with_permission<'a>(&self, event: Event<'a>, control: &Control, ejected: bool, usable: bool) -> Event<'a> {
        match (event, &control.policy.outlier) {
            (Event::RequestFailed { begun, failure, why, .. }, Some(policy)) => {
                let others = control.usable.saturating_sub(usize::from(usable));
                let members = self.members.load().backends.len();
                // One on probation has its place among the ejected still.
                let ejected = control.ejected.saturating_sub(usize::from(ejected));
                let may_eject = outlier::may_eject(policy, ejected, members, others);
                Event::RequestFailed { begun, failure, why, may_eject }
            }
            (event, _) => event,
        }
    }

    /// Puts all right after members, weights or rules have changed: verdicts that bind no longer, counts, ceiling, turnout.
    pub(super) fn settle(&self, control: &mut Control, heritage: &Turnout, now: Moment) {
        let members = self.members.load();
        if control.policy.probes.is_none() {
            members.backends.iter().for_each(|backend| self.change(control, backend, Event::ProbesEnded, now));
        }
        let count = |is: &dyn Fn(&Backend) -> bool| members.backends.iter().filter(|backend| is(backend)).count();
        control.usable = count(&|backend| backend.admits(Admission::Usable));
        control.ejected = count(&|backend| backend.read(Health::ejected));
        self.hold_ceiling(control, now);
        self.renew_from(heritage, control, now);
    }

    /// Frees ejected backends, those first whose ejection ends first, until no more are ejected than may be.
    fn hold_ceiling(&self, control: &mut Control, now: Moment) {
        let members = self.members.load();
        let ceiling = control.policy.outlier.map_or(0, |policy| outlier::ceiling(&policy, members.backends.len()));
        let mut ejected: Vec<_> = members.backends.iter().filter(|backend| backend.read(Health::ejected)).collect();
        ejected.sort_by_key(|backend| backend.read(Health::ejected_until));
        for backend in ejected.iter().take(ejected.len().saturating_sub(ceiling)) {
            self.change(control, backend, Event::Pardoned, now);
        }
    }

    /// Renews the turnout now, or, where it is large and was renewed a moment ago, a little later: ten thousand flaps in a
    /// second do not cost ten thousand renewals. Until then requests pass over those that went out; those that came up wait.
    /// Nobody waits where it decides between failing and not failing open.
    fn renew_soon(&self, control: &mut Control, now: Moment) {
        let members = self.members.load();
        let count = u32::try_from(members.backends.len()).unwrap_or(u32::MAX);
        let urgent = count <= SMALL || self.admission(control, &members) != self.turnout.load().admission;
        let rested = control.renewed.map(|renewed| renewed + REST_PER_MEMBER * count);
        match rested {
            Some(rested) if now < rested && !urgent => {
                self.stale.store(true, Relaxed);
                self.wakes_at.fetch_min(rested.nanos(), Relaxed);
            }
            _ => self.renew(control, now),
        }
    }

    /// Renews the turnout that requests choose from, and the moment of the next tick.
    pub(super) fn renew(&self, control: &mut Control, now: Moment) {
        self.renew_from(&self.turnout.load(), control, now);
    }

    fn renew_from(&self, heritage: &Turnout, control: &mut Control, now: Moment) {
        let members = self.members.load();
        let new = heritage.renew(&members.backends, self.admission(control, &members), now);
        self.tell_outage(&self.turnout.load(), &new);
        self.turnout.store(Arc::new(new));
        self.roll.store(Arc::new(Roll::call(&members.backends, self.admission(control, &members))));
        self.stale.store(false, Relaxed);
        // Somebody may have come up, or nobody is left to wait for.
        self.queue.call();
        control.renewed = Some(now);
        let wake = |backend: &Arc<Backend>| backend.read(|health| health.wakes_at(&control.policy, now));
        let next = members.backends.iter().filter_map(wake).min();
        self.wakes_at.store(next.map_or(u64::MAX, Moment::nanos), Relaxed);
    }

    /// Calls the roll anew where the turnout stays as it is; in a storm of changes of a large upstream not each time.
    fn call_roll(&self, control: &mut Control, now: Moment) {
        let members = self.members.load();
        let count = u32::try_from(members.backends.len()).unwrap_or(u32::MAX);
        let rested = count <= SMALL || control.called.is_none_or(|called| now >= called + REST_PER_MEMBER * count);
        if rested {
            control.called = Some(now);
            self.roll.store(Arc::new(Roll::call(&members.backends, self.admission(control, &members))));
        }
    }

    fn admission(&self, control: &Control, members: &Members) -> Admission {
        let may = self.plan.load().when_none_healthy == WhenNoneHealthy::FailOpen && control.usable == 0;
        let can = || members.backends.iter().any(|backend| backend.admits(Admission::Open));
        if may && can() { Admission::Open } else { Admission::Usable }
    }

    fn tell_outage(&self, old: &Turnout, new: &Turnout) {
        let (upstream, backends) = (&self.plan.load().name, new.members);
        let serves = |turnout: &Turnout| turnout.admission == Admission::Usable && !turnout.is_empty();
        if serves(new) && !serves(old) && old.members > 0 {
            log::info!("upstream has usable backends: upstream={upstream} backends={backends}");
        } else if new.admission == Admission::Open && old.admission == Admission::Usable {
            log::error!(
                "no backend is usable, failing open to all but drained ones: upstream={upstream} backends={backends}"
            );
        } else if serves(old) && new.is_empty() {
            log::error!("no backend is usable: upstream={upstream} backends={backends}");
        }
    }

    /// Lets go of the lock and tells what has changed.
    pub(super) fn tell(&self, mut control: MutexGuard<'_, Control>) {
        let changes = std::mem::take(&mut control.changes);
        drop(control);
        if changes.is_empty() {
            return;
        }
        let listeners = self.listeners.read();
        for change in &changes {
            change.log();
            listeners.iter().for_each(|listener| listener(change));
        }
    }
}

/// Up to this many members every change renews the turnout at once.
const SMALL: u32 = 64;

/// Beyond that a renewal waits this long after the last one for each member.
const REST_PER_MEMBER: Duration = Duration::from_micros(10);
