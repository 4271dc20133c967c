//! One upstream as it lives: its members, their health, and whose turn it is.
//!
//! Requests read one snapshot (`turnout`) without a lock. Whatever changes the health of a backend (a probe, a failed
//! request, the operator, time) passes through `control`, under the pool's lock. Time alone changes something only when somebody looks: a lease looks when
//! it is due, and so does the prober through `tick`.
//!
//! Probing, discovery and connecting are others' work; the rules of health are the state machine's (`state`).

mod control;
mod floor;
mod heritage;
mod succession;

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, fence};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, timeout_at};

use self::control::Control;
pub use self::floor::Shortage;
pub use self::heritage::BackendSnapshot;
use self::heritage::Heritage;
use super::backend::{Admission, Backend, BackendId, ProbeReport};
use super::balance::{Choice, Doubts, Luck};
use super::breaker::{Breaker, LimitsStatus, most_at_once};
use super::budget::{Budget, BudgetStatus, Terms};
use super::change::Listener;
use super::connection::Connection;
use super::lease::{Ask, Chances, Lease, NoBackend, Trial};
use super::members::Members;
use super::queue::{Choosiness, Queue};
use super::roll::Roll;
use super::state::{Entry, Event, Failure, Policy, State};
use super::status::BackendStatus;
use super::time::{Time, VirtualTime};
use super::turnout::Turnout;
use crate::base::backoff;
use crate::base::clock::{Clock, Moment};
use crate::config::plan;

/// Entries that stand for no backend now, as written, with the reason.
pub type Unresolved = Vec<(Arc<str>, String)>;

/// One upstream's live state.
pub struct Pool {
    time: Time,
    luck: Luck,
    plan: ArcSwap<plan::Upstream>,
    members: ArcSwap<Members>,
    unresolved: ArcSwap<Unresolved>,
    turnout: ArcSwap<Turnout>,
    roll: ArcSwap<Roll>,
    in_flight: Breaker,
    budget: Budget,
    queue: Queue,
    control: Mutex<Control>,
    listeners: RwLock<Vec<Listener>>,
    // Renewing the turnout was put off: some who could work are not in it.
    stale: AtomicBool,
    // The moment (nanoseconds) when time alone will change something; u64::MAX: never.
    wakes_at: AtomicU64,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("upstream", &self.plan.load().name).finish_non_exhaustive()
    }
}

/// What the operator, discovery, the prober and the admin API do with a pool.
impl Pool {
    /// A pool without members, which [`Pool::set_members`] gives it.
    #[must_use]
    pub fn new(plan: Arc<plan::Upstream>, clock: Clock) -> Arc<Self> {
        Self::with(plan, Time::Clock(clock), Luck::Threads)
    }

    /// A pool in virtual time with random numbers that can be repeated: for simulations.
    #[must_use]
    pub fn simulated(plan: Arc<plan::Upstream>, time: &VirtualTime, seed: u64) -> Arc<Self> {
        Self::with(plan, Time::Virtual(time.clone(), Clock::start()), Luck::seeded(seed))
    }

    fn with(plan: Arc<plan::Upstream>, time: Time, luck: Luck) -> Arc<Self> {
        let control = Control {
            policy: Policy::of(&plan),
            ejected: 0,
            usable: 0,
            renewed: None,
            called: None,
            entry: Entry::AtStart,
            succession: None,
            heritage: Heritage::default(),
            changes: Vec::new(),
        };
        Arc::new(Self {
            luck,
            members: ArcSwap::default(),
            unresolved: ArcSwap::default(),
            turnout: ArcSwap::from_pointee(Turnout::nobody(&plan.balance)),
            in_flight: Breaker::new(most_at_once(plan.limits.requests, plan.limits.connections)),
            budget: Budget::new(Terms::of(&plan.retry), time.now()),
            queue: Queue::default(),
            roll: ArcSwap::default(),
            plan: ArcSwap::new(plan),
            time,
            control: Mutex::new(control),
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
        let now = self.time.now();
        let mut control = self.control.lock();
        let old = self.plan.swap(Arc::clone(&plan));
        control.policy = Policy::of(&plan);
        self.in_flight.set_most(most_at_once(plan.limits.requests, plan.limits.connections));
        let heritage = match old.balance == plan.balance {
            true => self.turnout.load_full(),
            false => Arc::new(Turnout::nobody(&plan.balance)),
        };
        self.settle(&mut control, &heritage, now);
        self.proceed(&mut control, now);
        self.tell(control);
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

    /// Hears of every change of state from now on, after the change and without the pool's lock held. Two changes of one
    /// backend that two threads make at the same instant may be told in either order: [`Backend::state`] has the last
    /// word. A listener must not add listeners.
    pub fn on_change(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    /// Takes in the result of a probe: how long it took, or why it failed. A result for a backend that has left harms
    /// nobody: nothing counts it any more.
    pub fn report_probe(&self, backend: &Arc<Backend>, result: Result<Duration, String>) {
        let now = self.time.now();
        let result = result.map_err(Arc::<str>::from);
        backend.note_probe(ProbeReport { at: now, result: result.clone() });
        match result {
            Ok(_) => self.apply(backend, Event::ProbeGood, now),
            Err(cause) => self.apply(backend, Event::ProbeFailed(&cause), now),
        }
    }

    /// How long from now the next probe of `backend`, which one has just ended of, is due; none where backends are not
    /// probed.
    #[must_use]
    pub fn next_probe_after(&self, backend: &Backend) -> Option<Duration> {
        let (policy, now) = (self.control.lock().policy, self.time.now());
        backend.read(|health| health.next_probe_after(&policy, now))
    }

    /// Drains every backend of this name or address. Returns them; none: there is no such backend.
    pub fn drain(&self, name_or_address: &str) -> Vec<Arc<Backend>> {
        self.command(name_or_address, |control, backend, now| self.withdraw(control, backend, Event::Drain, now))
    }

    /// Takes every backend of this name or address back into use. Returns them; none: there is no such backend.
    pub fn resume(&self, name_or_address: &str) -> Vec<Arc<Backend>> {
        self.command(name_or_address, |control, backend, now| self.change(control, backend, Event::Resume, now))
    }

    /// Lets time do its work: ejections end, slow starts proceed. To be called about once a second, for the times when no
    /// requests come; it costs next to nothing while nothing is due.
    pub fn tick(&self) {
        let now = self.time.now();
        if now.nanos() < self.wakes_at.load(Relaxed) {
            return;
        }
        let mut control = self.control.lock();
        // Another thread may have done it while this one waited for the lock.
        if now.nanos() < self.wakes_at.load(Relaxed) {
            return;
        }
        for backend in self.members.load().backends.iter() {
            self.change(&mut control, backend, Event::Tick, now);
        }
        self.renew(&mut control, now);
        self.tell(control);
    }

    /// Closes connections that have waited long enough for another request, or that the other side has closed. To be called
    /// about once a second.
    pub fn sweep(&self) {
        let (now, plan, members) = (self.time.now(), self.plan.load(), self.members.load());
        for backend in members.backends.iter().chain(members.leaving.iter()) {
            backend.warm().sweep(now, &plan.keepalive, Connection::is_quiet);
        }
    }

    /// Whether some backend is still without the verdict of its first probe.
    #[must_use]
    pub fn verdict_pending(&self) -> bool {
        self.members.load().backends.iter().any(|backend| backend.state() == State::Probing)
    }

    /// How many backends get requests: usable ones with a weight, backups included.
    #[must_use]
    pub fn usable_count(&self) -> usize {
        self.control.lock().usable
    }

    /// Requests in flight at all its backends.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.count()
    }

    /// What `/api/v1/status` says of its limits and its queue.
    #[must_use]
    pub fn limits(&self) -> LimitsStatus {
        LimitsStatus::of(&self.in_flight, self.queue.len(), &self.plan.load().limits)
    }

    /// What `/api/v1/status` says of its retry budget.
    #[must_use]
    pub fn retry_budget(&self) -> BudgetStatus {
        self.budget.status(Terms::of(&self.plan.load().retry), self.time.now())
    }

    /// Whether requests are sent to backends that are not usable, because none is.
    #[must_use]
    pub fn failing_open(&self) -> bool {
        self.turnout.load().admission == Admission::Open
    }

    /// What `/api/v1/status` says of its backends: the members, then those that are leaving.
    #[must_use]
    pub fn status(&self) -> Vec<BackendStatus> {
        let now = self.time.now();
        let members = self.members.load();
        let all = members.backends.iter().chain(members.leaving.iter());
        all.map(|backend| backend.status(self.time.clock(), now)).collect()
    }
}

/// Whether an upstream as a whole takes one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Some,
    None,
}

/// What requests do with a pool.
impl Pool {
    /// Takes a lease of the backend that comes next for a request.
    ///
    /// # Errors
    /// [`NoBackend`] where no backend may serve it now; [`NoBackend::AtLimit`] where it may wait for a place.
    pub fn lease(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Lease, NoBackend> {
        if self.queue.has_precedence() {
            // Those who wait come first. They will be told if nobody can serve them any more.
            return Err(NoBackend::AtLimit);
        }
        self.take(ask)
    }

    /// Takes a lease of the backend that comes next for a request; where the limits are reached, it waits for its turn. May be
    /// dropped at any time: the place in the queue goes with it.
    ///
    /// # Errors
    /// [`NoBackend`] where no backend may serve it now, the queue is full, or no place became free in `pending_timeout`.
    pub async fn lease_in_turn(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Lease, NoBackend> {
        match self.lease(ask) {
            Err(NoBackend::AtLimit) => self.wait(ask).await,
            outcome => outcome,
        }
    }

    async fn wait(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Lease, NoBackend> {
        let limits = self.plan.load().limits;
        let deadline = Instant::now() + limits.pending_timeout;
        let choosiness = if ask.tried.is_empty() { Choosiness::Any } else { Choosiness::Particular };
        let Some(ticket) = self.queue.join(choosiness, limits.pending) else {
            // Somebody may have found no place because this request was counted while it looked for one.
            self.queue.call();
            return Err(NoBackend::QueueFull);
        };
        loop {
            timeout_at(deadline, ticket.called()).await.map_err(|_| NoBackend::WaitedTooLong)?;
            match self.take(ask) {
                Err(NoBackend::AtLimit) => ticket.pass_on(),
                outcome => {
                    ticket.served();
                    return outcome;
                }
            }
        }
    }

    /// Counts a request that has come: it pays its share of the retry budget.
    pub fn count_request(&self) {
        self.budget.count_request();
    }

    /// Takes the token for the `nth` retry of a request (the first is 1): how long to wait before it. None where the budget is
    /// exhausted.
    #[must_use]
    pub fn grant_retry(&self, nth: u32) -> Option<Duration> {
        let plan = self.plan.load();
        let granted = self.budget.take(Terms::of(&plan.retry), self.time.now());
        granted.then(|| backoff::full_jitter(plan.retry.backoff, plan.retry.max_backoff, nth, self.luck.share()))
    }

    /// Whether one more request could have a place now, at whatever backend.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.queue.has_precedence() && self.in_flight.has_room()
    }

    /// Whether a request that gives its place up could have one again at once, at whatever backend.
    #[must_use]
    pub fn has_room_for_another_try(&self) -> bool {
        !self.queue.has_precedence() && self.in_flight.has_room_but_for(1)
    }

    fn take(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Lease, NoBackend> {
        let now = self.time.now();
        if now.nanos() >= self.wakes_at.load(Relaxed) {
            self.tick();
        }
        if !self.in_flight.enter() {
            return Err(self.nobody(ask, Room::None));
        }
        let turnout = self.turnout.load();
        match self.choose(&turnout, ask, now).or_else(|| self.choose_again(&turnout, ask, now)) {
            Some((backend, trial)) => Ok(Lease::new(Arc::clone(self), backend, trial, now, self.roll())),
            None => {
                self.in_flight.leave();
                let why = self.nobody(ask, Room::Some);
                if why != NoBackend::AtLimit {
                    self.queue.call();
                }
                Err(why)
            }
        }
    }

    fn choose(&self, turnout: &Turnout, ask: &Ask<'_>, now: Moment) -> Option<(Arc<Backend>, Trial)> {
        let choice = Choice {
            now,
            hash: ask.hash,
            tried: ask.tried,
            // This one is counted already.
            in_flight: self.in_flight().saturating_sub(1),
            admission: turnout.admission,
            doubts: Doubts::Heeded,
            chances: ask.chances,
            luck: &self.luck,
        };
        let trial = Cell::new(Trial::None);
        let board = |backend: &Backend, choice: &Choice<'_>| {
            self.board(backend, choice).map(|boarded| trial.set(boarded)).is_some()
        };
        // A session is not given up for a connect that is slow, nor to leave a trial to others.
        let loyal = Choice { chances: Chances::Several, ..choice };
        let may_stick = |backend: &Backend| choice.would_admit(backend) && backend.has_room() && board(backend, &loyal);
        let chosen = ask
            .sticky
            .and_then(|cookie| self.members.load().stuck_to(cookie).cloned())
            .filter(|backend| may_stick(backend))
            .or_else(|| turnout.choose(&choice, board))?;
        Some((chosen, trial.get()))
    }

    /// Chooses from a fresh turnout, where the `old` one was out of date. A change is seen in the backends before it is seen in the
    /// turnout: a request that looks in between may find that everybody has left, while others have come. It looks as often as
    /// that happens.
    fn choose_again(&self, old: &Arc<Turnout>, ask: &Ask<'_>, now: Moment) -> Option<(Arc<Backend>, Trial)> {
        let mut seen = Arc::clone(old);
        loop {
            if self.stale.load(Relaxed) {
                self.renew(&mut self.control.lock(), now);
            } else if self.control.is_locked() {
                drop(self.control.lock());
            }
            // Who finds it unlocked sees what was done under the lock.
            fence(Acquire);
            let turnout = self.turnout.load_full();
            if Arc::ptr_eq(&turnout, &seen) {
                return None;
            }
            if let Some(chosen) = self.choose(&turnout, ask, now) {
                return Some(chosen);
            }
            seen = turnout;
        }
    }

    /// Who can be chosen now, and who cannot.
    #[must_use]
    pub fn roll(&self) -> Arc<Roll> {
        self.roll.load_full()
    }

    /// Whether there is a backend that a request which has tried these may still be sent to.
    #[must_use]
    pub fn untried(&self, tried: &[BackendId]) -> bool {
        let admission = self.turnout.load().admission;
        let open = |backend: &Arc<Backend>| backend.weight() > 0 && backend.admits(admission);
        self.members.load().backends.iter().any(|backend| open(backend) && !tried.contains(&backend.id()))
    }

    /// Why there is nobody, where the upstream as a whole has this `room`.
    fn nobody(&self, ask: &Ask<'_>, room: Room) -> NoBackend {
        let turnout = self.turnout.load();
        match turnout.members {
            0 if self.is_unlisted() => NoBackend::Unlisted,
            0 => NoBackend::Empty,
            backends if turnout.is_empty() => NoBackend::NoneHealthy { backends },
            _ if self.may_wait(ask.tried, turnout.admission, room) => NoBackend::AtLimit,
            backends if ask.tried.is_empty() => NoBackend::NoneHealthy { backends },
            _ => NoBackend::AllTried,
        }
    }

    /// Whether nobody is there because of a file, and not because names in it do not resolve.
    fn is_unlisted(&self) -> bool {
        let plan::Upstream { discovery: Some(plan::Discovery::File { path }), .. } = &*self.plan() else {
            return false;
        };
        let file = path.display().to_string();
        self.unresolved().iter().all(|(name, _)| **name == *file)
    }

    /// Whether a backend is kept from a request which has tried these by nothing but a limit.
    fn may_wait(&self, tried: &[BackendId], admission: Admission, room: Room) -> bool {
        let open = |backend: &Backend| backend.weight() > 0 && backend.admits(admission);
        let left = |backend: &Arc<Backend>| open(backend) && !tried.contains(&backend.id());
        let limited = |backend: &Arc<Backend>| room == Room::None || backend.most().is_some();
        self.members.load().backends.iter().any(|backend| left(backend) && limited(backend))
    }

    /// Counts a request as in flight at `backend`, unless that is full, has stopped admitting requests since it was picked (a
    /// drain that sees nothing in flight can rely on it), is on trial by another one, or waits for a trial that had better be one
    /// that can be sent again.
    fn board(&self, backend: &Backend, choice: &Choice<'_>) -> Option<Trial> {
        if !backend.board() {
            return None;
        }
        let heeds = choice.doubts == Doubts::Heeded;
        let leaves = heeds && choice.chances == Chances::One && backend.leaves_trial();
        let trial = if !leaves && backend.begin_trial() { Trial::UnderWay } else { Trial::None };
        if backend.admits(choice.admission) && (trial == Trial::UnderWay || !heeds || !backend.on_probation()) {
            return Some(trial);
        }
        if trial == Trial::UnderWay {
            backend.end_trial();
        }
        self.alight(backend);
        None
    }

    fn alight(&self, backend: &Backend) {
        if !backend.alight() {
            return;
        }
        let members = self.members.load();
        let known = members.backends.iter().chain(members.leaving.iter()).find(|known| known.id() == backend.id());
        if let Some(backend) = known {
            self.apply(backend, Event::Idle, self.time.now());
        }
    }

    /// Ends a lease.
    pub(super) fn release(&self, backend: &Arc<Backend>) {
        self.in_flight.leave();
        self.alight(backend);
        self.queue.call();
    }

    /// A request that began at `begun` was answered after `latency`.
    pub(super) fn request_succeeded(&self, backend: &Arc<Backend>, begun: Moment, latency: Duration) {
        let now = begun + latency;
        backend.observe(latency, now);
        if backend.blemished() {
            self.apply(backend, Event::RequestSucceeded { begun }, now);
        }
    }

    /// A request that began at `begun` failed.
    pub(super) fn request_failed(&self, backend: &Arc<Backend>, begun: Moment, failure: Failure, why: &str) {
        backend.count_failure();
        // Whether an ejection is allowed is filled in under the lock.
        self.apply(backend, Event::RequestFailed { begun, failure, why, may_eject: false }, self.time.now());
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::upstream::fixture;

    #[test]
    fn a_request_that_looks_while_everybody_is_replaced_finds_those_who_have_come() {
        let pool = Pool::new(Arc::new(fixture::upstream("web")), Clock::start());
        let seat = |port: u16| pool.set_members(vec![fixture::member(&format!("127.0.0.1:{port}"))]);
        seat(1);
        let done = AtomicBool::new(false);
        thread::scope(|threads| {
            let looks = || {
                let mut faults = 0;
                while !done.load(Relaxed) {
                    faults += u32::from(pool.lease(&Ask::default()).is_err());
                }
                faults
            };
            let lookers = [threads.spawn(looks), threads.spawn(looks)];
            for turn in 0..5_000 {
                seat(1 + turn % 2);
            }
            done.store(true, Relaxed);
            assert_eq!(lookers.map(|looker| looker.join().expect("it does not panic")), [0, 0]);
        });
    }
}
