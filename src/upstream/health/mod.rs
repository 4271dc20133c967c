//! Probing: which backend is probed when, and the telling of results to its pool.
//!
//! One task serves all pools: a heap of moments, and the probes that are under way, never more than [`PROBES_AT_ONCE`]. What a
//! probe does is `prober`'s; when the next one is due is decided in `schedule` and by the pool; what a result means is the
//! state machine's. `stage` is the same in virtual time, for simulations.

mod cause;
mod grpc;
mod http;
mod prober;
mod schedule;
mod stage;
mod tcp;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

pub use self::prober::Prober;
pub use self::schedule::Schedule;
use self::schedule::{Phase, after_probe, phase_when_sent, wait_after};
pub use self::stage::{ProbeAnswer, Stage};
use super::backend::{Backend, BackendId};
use super::supervisor::Charge;
use crate::base::clock::{Clock, Moment};
use crate::config::plan;

/// Probes under way at once, over all upstreams.
pub const PROBES_AT_ONCE: usize = 256;
/// How often every pool is looked at, whether or not anybody said that it has changed.
const LOOK: Duration = Duration::from_secs(1);

/// Hears of every probe: the upstream's name, the backend, and how long the probe took or why it failed.
pub type ProbeListener = Box<dyn Fn(&str, &Backend, &Result<Duration, String>) + Send + Sync>;

/// The probing of all pools.
pub(super) struct Rounds {
    prober: Arc<Prober>,
    listener: Arc<ProbeListener>,
    clock: Clock,
    random: fastrand::Rng,
    charges: Arc<[Charge]>,
    pools: HashMap<usize, Probed>,
    schedule: Schedule<Turn>,
    under_way: JoinSet<Done>,
    tickets: u64,
}

/// A pool that is probed.
struct Probed {
    charge: Charge,
    check: Arc<plan::HealthCheck>,
    members: Arc<[Arc<Backend>]>,
    /// Each member and the one turn of it that counts. A backend that leaves and comes back gets another ticket, so that a
    /// turn left over from before is not a second one.
    tickets: HashMap<BackendId, (Arc<Backend>, u64)>,
}

/// A backend's next probe.
struct Turn {
    pool: usize,
    backend: Arc<Backend>,
    ticket: u64,
    phase: Phase,
}

/// A probe that has ended.
struct Done {
    turn: Turn,
    result: Result<Duration, String>,
}

impl Rounds {
    /// Nothing is probed yet. Chances come from `random`.
    pub(super) fn new(prober: Arc<Prober>, listener: Arc<ProbeListener>, clock: Clock, random: fastrand::Rng) -> Self {
        Self {
            prober,
            listener,
            clock,
            random,
            charges: Arc::new([]),
            pools: HashMap::new(),
            schedule: Schedule::new(),
            under_way: JoinSet::new(),
            tickets: 0,
        }
    }

    /// Probes whatever is in `charges`, until `shutdown`; `members_changed` says that a pool has other members.
    pub(super) async fn run(
        mut self,
        mut charges: watch::Receiver<Arc<[Charge]>>,
        members_changed: &Notify,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow(Arc::clone(&charges.borrow_and_update()));
        loop {
            let room = self.under_way.len() < PROBES_AT_ONCE;
            let next = self.schedule.next_due().filter(|_| room).map(|due| due.since(self.clock.now()));
            tokio::select! {
                biased;
                _ = shutdown.changed() => return,
                Some(done) = self.under_way.join_next() => self.take_in(done),
                Ok(()) = charges.changed() => self.follow(Arc::clone(&charges.borrow_and_update())),
                () = members_changed.notified() => self.look_at_members(),
                _ = look.tick() => self.look(),
                () = after(next) => self.send_due(),
            }
        }
    }

    /// Takes up pools that are new, forgets those that are gone, and follows plans that have changed.
    fn follow(&mut self, charges: Arc<[Charge]>) {
        let present: HashSet<usize> = charges.iter().map(Charge::key).collect();
        self.pools.retain(|key, _| present.contains(key));
        for charge in charges.iter() {
            match charge.pool.plan().health_check.clone() {
                Some(check) => self.follow_one(charge.clone(), check),
                None => drop(self.pools.remove(&charge.key())),
            }
        }
        self.charges = charges;
        self.look_at_members();
    }

    fn follow_one(&mut self, charge: Charge, check: Arc<plan::HealthCheck>) {
        let key = charge.key();
        if let Some(probed) = self.pools.get_mut(&key) {
            let same_pace =
                (probed.check.interval, probed.check.fast_interval) == (check.interval, check.fast_interval);
            probed.charge = charge;
            probed.check = check;
            if !same_pace {
                self.change_pace(key);
            }
        } else {
            let probed = Probed { charge, check, members: Arc::new([]), tickets: HashMap::new() };
            self.pools.insert(key, probed);
        }
    }

    /// Spreads a pool's members over their new interval, however far off their next turn was.
    fn change_pace(&mut self, key: usize) {
        let Some(probed) = self.pools.get(&key) else { return };
        let (members, interval) = (Arc::clone(&probed.members), probed.check.interval);
        for backend in members.iter() {
            let wait = wait_after(interval, Phase::New, self.random.f64());
            self.give_turn(key, Arc::clone(backend), wait, Phase::Placed);
        }
    }

    /// Lets time do its work in all pools, those that are not probed included.
    fn look(&mut self) {
        for charge in self.charges.iter() {
            charge.pool.tick();
            charge.pool.sweep();
        }
        self.look_at_members();
    }

    /// Probes new members at once and forgets those that have left.
    fn look_at_members(&mut self) {
        let keys: Vec<usize> = self.pools.keys().copied().collect();
        for key in keys {
            let Some(probed) = self.pools.get_mut(&key) else { continue };
            let members = Arc::clone(&probed.charge.pool.backends().backends);
            if Arc::ptr_eq(&members, &probed.members) {
                continue;
            }
            let present: HashSet<BackendId> = members.iter().map(|backend| backend.id()).collect();
            probed.tickets.retain(|id, _| present.contains(id));
            probed.members = Arc::clone(&members);
            let new: Vec<_> = members.iter().filter(|backend| !probed.knows(backend)).cloned().collect();
            for backend in new {
                self.give_turn(key, backend, Duration::ZERO, Phase::New);
            }
        }
    }

    /// Gives a backend a new turn, in place of the one it may have.
    fn give_turn(&mut self, pool: usize, backend: Arc<Backend>, wait: Duration, phase: Phase) {
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(probed) = self.pools.get_mut(&pool) {
            probed.tickets.insert(backend.id(), (Arc::clone(&backend), ticket));
            self.schedule.push(self.clock.now() + wait, Turn { pool, backend, ticket, phase });
        }
    }

    fn send_due(&mut self) {
        let now = self.clock.now();
        while self.under_way.len() < PROBES_AT_ONCE {
            let Some((due, turn)) = self.schedule.pop_due(now) else { return };
            self.send(turn, due, now);
        }
    }

    fn send(&mut self, mut turn: Turn, due: Moment, now: Moment) {
        // The turn of a backend that has left, or that has got another one since.
        let Some(probed) = self.pools.get(&turn.pool).filter(|probed| probed.holds(&turn)) else { return };
        turn.phase = phase_when_sent(turn.phase, due, now, probed.check.interval);
        let (prober, clock) = (Arc::clone(&self.prober), self.clock.clone());
        let (check, peers) = (Arc::clone(&probed.check), Arc::clone(&probed.charge.peers));
        self.under_way.spawn(async move {
            let probe = AssertUnwindSafe(prober.probe(&check, &peers, &turn.backend)).catch_unwind();
            let verdict = probe.await.unwrap_or_else(|_| Err("the probe itself failed (this is a bug)".to_owned()));
            Done { result: verdict.map(|()| clock.now().since(now)), turn }
        });
    }

    /// Tells the pool, and gives the backend its next turn. A late probe reports to a retired backend: harmless, nobody reads
    /// it.
    fn take_in(&mut self, done: Result<Done, tokio::task::JoinError>) {
        // A probe catches its own panics and nobody aborts it.
        let Ok(Done { turn, result }) = done else { return };
        let Some(probed) = self.pools.get(&turn.pool).filter(|probed| probed.holds(&turn)) else { return };
        let (pool, interval) = (&probed.charge.pool, probed.check.interval);
        (self.listener)(&pool.plan().name, &turn.backend, &result);
        pool.report_probe(&turn.backend, result);
        let wait = pool.next_probe_after(&turn.backend).unwrap_or(interval);
        let (wait, phase) = after_probe(wait, interval, turn.phase, self.random.f64());
        // A first verdict lets those go who stood in for the backend.
        let members_changed = !Arc::ptr_eq(&pool.backends().backends, &probed.members);
        self.schedule.push(self.clock.now() + wait, Turn { phase, ..turn });
        if members_changed {
            self.look_at_members();
        }
    }
}

/// Waits for `wait`; for ever where there is nothing to wait for.
async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

impl Probed {
    /// A backend that was forgotten and came back is another one, with a health of its own.
    fn knows(&self, backend: &Arc<Backend>) -> bool {
        self.tickets.get(&backend.id()).is_some_and(|(known, _)| Arc::ptr_eq(known, backend))
    }

    fn holds(&self, turn: &Turn) -> bool {
        self.tickets.get(&turn.backend.id()).is_some_and(|(_, ticket)| *ticket == turn.ticket)
    }
}
