//! One upstream as it lives: its members, their health, and whose turn it is.
//!
//! Requests read one snapshot (`Turnout`) without a lock. Whatever changes the health of a backend (a probe, a failed
//! request, the operator, time) passes through `apply`, which holds the pool's lock, keeps the counts, renews the
//! snapshot and reports the transition. Time alone changes something only when somebody looks: a lease looks when it is
//! due, and the prober calls `tick`.
//!
//! Probing, discovery and connecting are others' work; the rules of health are the state machine's (`state`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::backend::{Admission, Backend, BackendId, BackendStatus, Member, ProbeReport};
use super::balance::{self, Choice, Luck, Usable};
use super::lease::{Ask, Lease, NoBackend};
use super::state::{Entry, Event, Failure, Health, Policy, State, Transition};
use super::{outlier, slow_start};
use crate::base::clock::{Clock, Moment};
use crate::config::plan::{self, WhenNoneHealthy};

/// A change of a backend's state, as it is reported.
#[derive(Debug, Clone)]
pub struct Change {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The backend.
    pub backend: Arc<Backend>,
    /// What changed.
    pub transition: Transition,
}

/// Hears of every change of state.
pub type Listener = Box<dyn Fn(&Change) + Send + Sync>;

/// The members of an upstream at one time.
#[derive(Debug, Default)]
pub struct Members {
    /// Those that belong to it, in the order of the configuration or discovery.
    pub backends: Arc<[Arc<Backend>]>,
    /// Those that have left and still have requests in flight.
    pub leaving: Arc<[Arc<Backend>]>,
}

/// Entries that stand for no backend now, as written, with the reason.
pub type Unresolved = Vec<(Arc<str>, String)>;

/// What a request chooses from: one snapshot.
struct Turnout {
    primaries: Arc<dyn balance::Policy>,
    backups: Arc<dyn balance::Policy>,
    usable_primaries: Arc<[Arc<Backend>]>,
    usable_backups: Arc<[Arc<Backend>]>,
    admission: Admission,
    // How many backends are usable: 0 while failing open.
    usable: usize,
    members: usize,
}

/// What only changes under the lock.
struct Control {
    policy: Policy,
    ejected: usize,
    usable: usize,
    renewed: Moment,
    started: bool,
}

/// One upstream's live state.
pub struct Pool {
    time: Time,
    luck: Luck,
    plan: ArcSwap<plan::Upstream>,
    members: ArcSwap<Members>,
    unresolved: ArcSwap<Unresolved>,
    turnout: ArcSwap<Turnout>,
    control: Mutex<Control>,
    listeners: RwLock<Vec<Listener>>,
    // The turnout no longer says who is usable, because renewing it was put off.
    stale: AtomicBool,
    // The moment (nanoseconds) when time alone will change something; u64::MAX: never.
    wakes_at: AtomicU64,
}

/// Where a pool has its time from.
enum Time {
    Clock(Clock),
    Virtual(Arc<AtomicU64>),
}

/// A time that moves only when it is told to: for simulations.
#[derive(Debug, Clone, Default)]
pub struct VirtualTime(Arc<AtomicU64>);

impl VirtualTime {
    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::after_start(Duration::from_nanos(self.0.load(Relaxed)))
    }

    /// Lets `span` pass.
    pub fn advance(&self, span: Duration) {
        self.0.store((self.now() + span).nanos(), Relaxed);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.plan.load().name).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool without members, which `set_members` gives it.
    #[must_use]
    pub fn new(plan: Arc<plan::Upstream>, clock: Clock) -> Arc<Self> {
        Self::with(plan, Time::Clock(clock), Luck::Threads)
    }

    /// A pool in virtual time with random numbers that can be repeated: for simulations.
    #[must_use]
    pub fn simulated(plan: Arc<plan::Upstream>, time: &VirtualTime, seed: u64) -> Arc<Self> {
        Self::with(plan, Time::Virtual(Arc::clone(&time.0)), Luck::seeded(seed))
    }

    fn with(plan: Arc<plan::Upstream>, time: Time, luck: Luck) -> Arc<Self> {
        let policy = Policy::of(&plan);
        let turnout = Turnout {
            primaries: balance::build(&plan.balance),
            backups: balance::build(&plan.balance),
            usable_primaries: Arc::new([]),
            usable_backups: Arc::new([]),
            admission: Admission::Usable,
            usable: 0,
            members: 0,
        };
        Arc::new(Self {
            time,
            luck,
            plan: ArcSwap::new(plan),
            members: ArcSwap::default(),
            unresolved: ArcSwap::default(),
            turnout: ArcSwap::from_pointee(turnout),
            control: Mutex::new(Control { policy, ejected: 0, usable: 0, renewed: Moment::START, started: false }),
            listeners: RwLock::new(Vec::new()),
            stale: AtomicBool::new(false),
            wakes_at: AtomicU64::new(u64::MAX),
        })
    }

    /// The plan that it runs by.
    #[must_use]
    pub fn plan(&self) -> Arc<plan::Upstream> {
        self.plan.load_full()
    }

    /// Lets it run by another plan from now on. Members, their health and their counters stay.
    pub fn set_plan(&self, plan: Arc<plan::Upstream>) {
        let now = self.now();
        let mut control = self.control.lock();
        let same_balance = self.plan.load().balance == plan.balance;
        control.policy = Policy::of(&plan);
        if !same_balance {
            let old = self.turnout.load();
            self.turnout.store(Arc::new(Turnout {
                primaries: balance::build(&plan.balance),
                backups: balance::build(&plan.balance),
                usable_primaries: Arc::clone(&old.usable_primaries),
                usable_backups: Arc::clone(&old.usable_backups),
                ..**old
            }));
        }
        let unprobed = control.policy.probes.is_none();
        self.plan.store(plan);
        let mut changes = Vec::new();
        for backend in self.members.load().backends.iter().filter(|_| unprobed) {
            self.change(&mut control, backend, Event::ProbesEnded, now, &mut changes);
        }
        self.hold_ceiling(&mut control, now, &mut changes);
        self.renew(&mut control, now);
        self.report(control, changes);
    }

    /// Hears of every change of state from now on, after the change and without any lock of the pool held.
    pub fn on_change(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    /// Sets who belongs to the upstream. A backend that was a member already (by address and TLS) keeps its health and
    /// its counters, whatever its weight and name are now. New ones begin as the plan says; those that left get no new
    /// request, and are forgotten when their last one has ended. Of two members of one identity the first counts.
    pub fn set_members(&self, members: Vec<Member>) {
        let now = self.now();
        let mut control = self.control.lock();
        let mut changes = Vec::new();
        let old = self.members.load_full();
        let entry = if control.started { Entry::Later } else { Entry::AtStart };
        control.started = true;
        let mut known: std::collections::HashMap<BackendId, Arc<Backend>> =
            old.backends.iter().chain(old.leaving.iter()).map(|backend| (backend.id(), Arc::clone(backend))).collect();
        let mut seen = std::collections::HashSet::new();
        let mut backends = Vec::with_capacity(members.len());
        for member in &members {
            let id = BackendId::of(&member.addr, member.tls);
            if !seen.insert(id) {
                continue;
            }
            let backend = match known.remove(&id) {
                Some(backend) => {
                    backend.relabel(member);
                    self.change(&mut control, &backend, Event::Rejoined, now, &mut changes);
                    backend
                }
                None => Arc::new(Backend::new(member, &control.policy, entry, now)),
            };
            backends.push(backend);
        }
        let mut leaving = Vec::new();
        for backend in known.into_values() {
            let in_flight = backend.in_flight();
            self.change(&mut control, &backend, Event::Left { in_flight }, now, &mut changes);
            if in_flight > 0 {
                leaving.push(backend);
            }
        }
        self.members.store(Arc::new(Members { backends: backends.into(), leaving: leaving.into() }));
        self.count(&mut control);
        self.hold_ceiling(&mut control, now, &mut changes);
        self.renew(&mut control, now);
        self.report(control, changes);
    }

    /// Sets which entries could not be turned into backends (now), as written, with the reason.
    pub fn set_unresolved(&self, unresolved: Unresolved) {
        self.unresolved.store(Arc::new(unresolved));
    }

    /// Which entries could not be turned into backends: names that do not resolve, a file that cannot be read. Backends
    /// that such an entry stood for before may be members still.
    #[must_use]
    pub fn unresolved(&self) -> Arc<Unresolved> {
        self.unresolved.load_full()
    }

    /// Its members.
    #[must_use]
    pub fn backends(&self) -> Guard<Arc<Members>> {
        self.members.load()
    }

    /// Takes a lease of the backend that comes next for a request.
    ///
    /// # Errors
    /// [`NoBackend`] where no backend may serve it (now).
    pub fn lease(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Lease, NoBackend> {
        let now = self.now();
        if now.nanos() >= self.wakes_at.load(Relaxed) {
            self.tick();
        }
        match self.choose(ask, now) {
            Some(backend) => Ok(Lease::new(Arc::clone(self), backend, now)),
            None => Err(self.none(ask)),
        }
    }

    /// Takes in the result of a probe: how long it took, or why it failed.
    pub fn report_probe(&self, backend: &Arc<Backend>, result: Result<Duration, String>) {
        let now = self.now();
        let result = result.map_err(Arc::<str>::from);
        backend.note_probe(ProbeReport { at: now, result: result.clone() });
        match result {
            Ok(_) => self.apply(backend, Event::ProbeGood, now),
            Err(cause) => self.apply(backend, Event::ProbeFailed(&cause), now),
        }
    }

    /// How long after a probe the next one of `backend` is due; none where backends are not probed.
    #[must_use]
    pub fn next_probe_after(&self, backend: &Backend) -> Option<Duration> {
        let control = self.control.lock();
        backend.health().next_probe_after(&control.policy)
    }

    /// Drains every backend of this name or address. Returns those that bear it; none: there is no such backend.
    pub fn drain(&self, name_or_address: &str) -> Vec<Arc<Backend>> {
        let now = self.now();
        let found = self.find(name_or_address);
        for backend in &found {
            self.apply(backend, Event::Drain { in_flight: backend.in_flight() }, now);
        }
        found
    }

    /// Takes every backend of this name or address back into use. Returns those that bear it; none: there is none.
    pub fn resume(&self, name_or_address: &str) -> Vec<Arc<Backend>> {
        let now = self.now();
        let found = self.find(name_or_address);
        for backend in &found {
            self.apply(backend, Event::Resume, now);
        }
        found
    }

    /// Lets time do its work: ejections end, slow starts proceed. To be called about once a second where no requests come.
    pub fn tick(&self) {
        let now = self.now();
        let mut control = self.control.lock();
        if now.nanos() < self.wakes_at.load(Relaxed) {
            return;
        }
        let mut changes = Vec::new();
        for backend in self.members.load().backends.iter() {
            self.change(&mut control, backend, Event::Tick, now, &mut changes);
        }
        self.renew(&mut control, now);
        self.report(control, changes);
    }

    /// Whether some backend is still without a verdict of its first probe.
    #[must_use]
    pub fn verdict_pending(&self) -> bool {
        self.members.load().backends.iter().any(|backend| backend.state() == State::Probing)
    }

    /// How many backends get requests: usable ones with a weight, backups included.
    #[must_use]
    pub fn usable_count(&self) -> usize {
        self.control.lock().usable
    }

    /// Whether requests are sent to backends that are not usable, because none is.
    #[must_use]
    pub fn failing_open(&self) -> bool {
        self.turnout.load().admission == Admission::Open
    }

    /// What `/api/v1/status` says of its backends: the members, then those that are leaving.
    #[must_use]
    pub fn status(&self) -> Vec<BackendStatus> {
        let (clock, now) = (self.clock(), self.now());
        let members = self.members.load();
        members.backends.iter().chain(members.leaving.iter()).map(|backend| backend.status(&clock, now)).collect()
    }
}

// What a lease tells the pool.
impl Pool {
    pub(super) fn request_succeeded(&self, backend: &Arc<Backend>, latency: Duration) {
        let now = self.now();
        backend.observe(latency, now);
        if backend.blemished() {
            self.apply(backend, Event::RequestSucceeded, now);
        }
    }

    pub(super) fn request_failed(&self, backend: &Arc<Backend>, failure: Failure, why: &str) {
        backend.count_failure();
        self.apply(backend, Event::RequestFailed { failure, why, may_eject: true }, self.now());
    }

    pub(super) fn release(&self, backend: &Arc<Backend>) {
        if backend.alight() {
            self.apply(backend, Event::Idle, self.now());
        }
    }
}

impl Pool {
    fn now(&self) -> Moment {
        match &self.time {
            Time::Clock(clock) => clock.now(),
            Time::Virtual(nanos) => Moment::after_start(Duration::from_nanos(nanos.load(Relaxed))),
        }
    }

    fn clock(&self) -> Clock {
        match &self.time {
            Time::Clock(clock) => *clock,
            Time::Virtual(_) => Clock::start(),
        }
    }

    fn find(&self, name_or_address: &str) -> Vec<Arc<Backend>> {
        let bears =
            |backend: &&Arc<Backend>| **backend.address() == *name_or_address || *backend.name() == *name_or_address;
        self.members.load().backends.iter().filter(bears).cloned().collect()
    }

    /// Chooses a backend and counts the request as in flight at it.
    fn choose(&self, ask: &Ask<'_>, now: Moment) -> Option<Arc<Backend>> {
        self.choose_once(ask, now).or_else(|| {
            // The snapshot may be older than the last change: those who have come up since then are not in it.
            if !self.stale.load(Relaxed) {
                return None;
            }
            self.renew(&mut self.control.lock(), now);
            self.choose_once(ask, now)
        })
    }

    fn choose_once(&self, ask: &Ask<'_>, now: Moment) -> Option<Arc<Backend>> {
        let turnout = self.turnout.load();
        let choice = Choice { now, hash: ask.hash, tried: ask.tried, admission: turnout.admission, luck: &self.luck };
        let tiers = [(&turnout.primaries, &turnout.usable_primaries), (&turnout.backups, &turnout.usable_backups)];
        tiers.iter().find_map(|(policy, usable)| {
            policy
                .pick(&choice)
                .filter(|backend| board(backend, &choice))
                .or_else(|| usable.iter().find(|backend| choice.admits(backend) && board(backend, &choice)))
                .cloned()
        })
    }

    fn none(&self, ask: &Ask<'_>) -> NoBackend {
        let turnout = self.turnout.load();
        if turnout.members == 0 {
            NoBackend::Empty
        } else if turnout.usable == 0 && turnout.admission == Admission::Usable || ask.tried.is_empty() {
            NoBackend::NoneHealthy { backends: turnout.members }
        } else {
            NoBackend::AllTried
        }
    }

    /// Takes in an event of one backend.
    fn apply(&self, backend: &Arc<Backend>, event: Event<'_>, now: Moment) {
        let mut control = self.control.lock();
        let mut changes = Vec::new();
        let usable = (control.usable, backend.usable());
        self.change(&mut control, backend, event, now, &mut changes);
        if event == Event::Idle {
            self.forget_leavers();
        }
        if usable != (control.usable, backend.usable()) || changes.iter().any(|change| change.to_slow_start()) {
            self.renew_soon(&mut control, now);
        }
        self.report(control, changes);
    }

    /// Moves one backend's state machine, and keeps the counts and the time of the next tick right.
    fn change(
        &self,
        control: &mut Control,
        backend: &Arc<Backend>,
        event: Event<'_>,
        now: Moment,
        changes: &mut Vec<Change>,
    ) {
        let weighs = |health: &Health| health.usable() && backend.weight() > 0;
        let policy = control.policy.clone();
        let members = self.members.load().backends.len();
        let (ejected, usable) = (&mut control.ejected, &mut control.usable);
        let transition = backend.change(&policy, now, |health| {
            let before = (health.ejected(), weighs(health));
            let others = *usable - usize::from(before.1);
            let transition = health.apply(&policy, allowed(event, &policy, *ejected, members, others), now);
            *ejected = *ejected + usize::from(health.ejected()) - usize::from(before.0);
            *usable = *usable + usize::from(weighs(health)) - usize::from(before.1);
            if let Some(wake) = health.wakes_at(&policy, now) {
                self.wakes_at.fetch_min(wake.nanos(), Relaxed);
            }
            transition
        });
        changes.extend(transition.map(|transition| Change {
            upstream: Arc::clone(&self.plan.load().name),
            backend: Arc::clone(backend),
            transition,
        }));
    }

    /// Counts anew, after members or weights have changed.
    fn count(&self, control: &mut Control) {
        let members = self.members.load();
        control.usable = members.backends.iter().filter(|backend| backend.usable() && backend.weight() > 0).count();
        control.ejected = members.backends.iter().filter(|backend| backend.health().ejected()).count();
    }

    /// Frees ejected backends, those first whose ejection ends first, until no more are ejected than may be.
    fn hold_ceiling(&self, control: &mut Control, now: Moment, changes: &mut Vec<Change>) {
        let members = self.members.load();
        let ceiling = control.policy.outlier.map_or(0, |policy| outlier::ceiling(&policy, members.backends.len()));
        if control.ejected <= ceiling {
            return;
        }
        let mut ejected: Vec<_> = members
            .backends
            .iter()
            .filter(|backend| backend.health().ejected())
            .map(|backend| (backend.health().ejected_until(), backend))
            .collect();
        ejected.sort_by_key(|(until, _)| *until);
        for (_, backend) in ejected.iter().take(control.ejected - ceiling) {
            self.change(control, backend, Event::Pardoned, now, changes);
        }
    }

    fn forget_leavers(&self) {
        let members = self.members.load();
        let leaving: Arc<[_]> = members.leaving.iter().filter(|backend| backend.in_flight() > 0).cloned().collect();
        if leaving.len() != members.leaving.len() {
            self.members.store(Arc::new(Members { backends: Arc::clone(&members.backends), leaving }));
        }
    }

    /// Renews the snapshot now, or, where it was renewed a moment ago, a little later: ten thousand flaps in a second do
    /// not cost ten thousand renewals. Until then requests pass over those that went out; those that came up wait.
    fn renew_soon(&self, control: &mut Control, now: Moment) {
        let rest = Duration::from_micros(10) * u32::try_from(self.turnout.load().members).unwrap_or(u32::MAX);
        if control.renewed == Moment::START || now.since(control.renewed) >= rest {
            self.renew(control, now);
        } else {
            self.stale.store(true, Relaxed);
            self.wakes_at.fetch_min((control.renewed + rest).nanos(), Relaxed);
        }
    }

    /// Renews the snapshot that requests choose from, and the moment of the next tick.
    fn renew(&self, control: &mut Control, now: Moment) {
        self.stale.store(false, Relaxed);
        control.renewed = now;
        let members = self.members.load();
        let old = self.turnout.load();
        let fail_open = self.plan.load().when_none_healthy == WhenNoneHealthy::FailOpen;
        let open = fail_open && control.usable == 0 && members.backends.iter().any(|b| b.admits(Admission::Open));
        let admission = if open { Admission::Open } else { Admission::Usable };
        let primaries = tier(&members.backends, admission, |backend| open || !backend.backup());
        let backups = tier(&members.backends, admission, |backend| !open && backend.backup());
        let wake = members.backends.iter().filter_map(|backend| backend.health().wakes_at(&control.policy, now)).min();
        self.wakes_at.store(wake.map_or(u64::MAX, Moment::nanos), Relaxed);
        self.tell_admission(&old, control, admission, members.backends.len());
        self.turnout.store(Arc::new(Turnout {
            usable_primaries: Arc::clone(&primaries.backends),
            usable_backups: Arc::clone(&backups.backends),
            primaries: old.primaries.renew(primaries),
            backups: old.backups.renew(backups),
            admission,
            usable: control.usable,
            members: members.backends.len(),
        }));
    }

    fn tell_admission(&self, old: &Turnout, control: &Control, admission: Admission, members: usize) {
        let name = &self.plan.load().name;
        match (old.admission, admission) {
            (Admission::Usable, Admission::Open) => {
                log::error!("no backend is usable, failing open: upstream={name} backends={members}")
            }
            (Admission::Open, Admission::Usable) => {
                log::info!("no longer failing open: upstream={name} usable={}", control.usable);
            }
            _ => {}
        }
    }

    fn report(&self, control: MutexGuard<'_, Control>, changes: Vec<Change>) {
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

impl Change {
    fn to_slow_start(&self) -> bool {
        State::SlowStart == self.transition.to || State::SlowStart == self.transition.from
    }

    fn log(&self) {
        let Transition { from, to, why, .. } = &self.transition;
        let (upstream, backend) = (&self.upstream, self.backend.address());
        match (from.usable(), to) {
            (_, State::Unhealthy) => {
                log::warn!("backend is down: upstream={upstream} backend={backend} why={why:?}");
            }
            (_, State::Ejected) => {
                log::warn!("backend is ejected: upstream={upstream} backend={backend} why={why:?}");
            }
            (false, State::Healthy | State::SlowStart) => {
                log::info!("backend is up: upstream={upstream} backend={backend} why={why:?}");
            }
            _ => log::info!("backend is {}: upstream={upstream} backend={backend} why={why:?}", to.as_str()),
        }
    }
}

/// Counts a request as in flight at `backend`, unless the backend has stopped admitting since it was picked: a drain
/// that saw nothing in flight can rely on it.
fn board(backend: &Arc<Backend>, choice: &Choice<'_>) -> bool {
    backend.board();
    let admitted = backend.admits(choice.admission);
    if !admitted {
        backend.alight();
    }
    admitted
}

/// The event, with the pool's word on whether an ejection is allowed.
fn allowed<'a>(event: Event<'a>, policy: &Policy, ejected: usize, members: usize, others: usize) -> Event<'a> {
    match (event, &policy.outlier) {
        (Event::RequestFailed { failure, why, .. }, Some(outlier)) => {
            let may_eject = outlier::may_eject(outlier, ejected, members, others);
            Event::RequestFailed { failure, why, may_eject }
        }
        (event, _) => event,
    }
}

/// The usable backends of one tier, with their weights now.
fn tier(backends: &[Arc<Backend>], admission: Admission, belongs: impl Fn(&Backend) -> bool) -> Usable {
    let roll: Arc<[_]> = backends.iter().filter(|backend| backend.weight() > 0 && belongs(backend)).cloned().collect();
    let backends: Arc<[_]> = roll.iter().filter(|backend| backend.admits(admission)).cloned().collect();
    let ramping = backends.iter().any(|backend| backend.share() < 1.0);
    let weight = |backend: &Arc<Backend>| match ramping {
        true => backend.weight().saturating_mul(slow_start::step(backend.share())),
        false => backend.weight(),
    };
    let weights = backends.iter().map(weight).collect();
    Usable { roll, backends, weights }
}
