//! The one background service that looks after all upstreams: it finds their backends and probes them.
//!
//! It follows the plan: upstreams that a reload brings are taken up, those that it drops are let go. Finding is
//! `discovery`'s, probing is `health`'s; this file holds the list that both follow, and knows when the first round is over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::discovery::dns::Resolver;
use super::discovery::{Found, Source};
use super::health::{ProbeListener, Prober, Rounds};
use super::peer::PeerTemplate;
use super::pool::Pool;
use crate::base::clock::Clock;

/// How long the first round waits for an upstream that is found elsewhere and not probed.
const DISCOVERY_GRACE: Duration = Duration::from_secs(3);

/// An upstream to look after.
#[derive(Debug, Clone)]
pub struct Charge {
    /// Its live state; its plan is the pool's.
    pub pool: Arc<Pool>,
    /// How its backends are connected to.
    pub peers: Arc<PeerTemplate>,
}

impl Charge {
    /// Tells pools apart, for as long as one is held.
    pub(super) fn key(&self) -> usize {
        Arc::as_ptr(&self.pool).addr()
    }
}

/// Looks after all upstreams.
pub struct Supervisor {
    charges: watch::Sender<Arc<[Charge]>>,
    prober: Arc<Prober>,
    resolver: Arc<Resolver>,
    listener: Arc<ProbeListener>,
    clock: Clock,
    news: Arc<News>,
}

/// What the finding of backends tells the probing of them.
#[derive(Default)]
struct News {
    members_changed: Notify,
    /// The pools whose source has answered every question at least once.
    complete: Mutex<HashSet<usize>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("charges", &self.charges.borrow().len()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Looks after nothing yet. `listener` hears of every probe.
    #[must_use]
    pub fn new(prober: Prober, resolver: Resolver, listener: ProbeListener, clock: Clock) -> Self {
        Self {
            charges: watch::Sender::new(Arc::new([])),
            prober: Arc::new(prober),
            resolver: Arc::new(resolver),
            listener: Arc::new(listener),
            clock,
            news: Arc::default(),
        }
    }

    /// Looks after these upstreams from now on, and after no others. Backends written as addresses are members when this
    /// returns.
    pub fn look_after(&self, charges: Vec<Charge>) {
        for charge in charges.iter().filter(|charge| charge.pool.backends().backends.is_empty()) {
            let source = Source::new(charge.pool.plan(), Arc::clone(&self.resolver));
            self.news.publish(charge, source.found());
        }
        self.charges.send_replace(charges.into());
    }

    /// Resolves when every backend has had its first verdict, or when the longest probe timeout has passed: a backend that
    /// hangs holds up nothing but its own use.
    pub async fn first_round(&self) {
        let charges = Arc::clone(&self.charges.borrow());
        let bound = charges.iter().map(|charge| bound(&charge.pool)).max().unwrap_or_default();
        let every_verdict = async {
            while charges.iter().any(|charge| self.pending(charge)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Out of time: what is not known by now is not waited for.
        let _ = tokio::time::timeout(bound, every_verdict).await;
    }

    fn pending(&self, charge: &Charge) -> bool {
        let found = self.news.complete.lock().contains(&charge.key());
        !found || (charge.pool.plan().health_check.is_some() && charge.pool.verdict_pending())
    }

    /// Finds the backends of all pools, a task for each, until `shutdown`.
    async fn find(&self, mut charges: watch::Receiver<Arc<[Charge]>>, mut shutdown: ShutdownWatch) {
        let mut tasks = JoinSet::new();
        let mut pokes = HashMap::new();
        loop {
            let present = Arc::clone(&charges.borrow_and_update());
            self.find_all(&present, &mut pokes, &mut tasks);
            tokio::select! {
                _ = shutdown.changed() => return,
                changed = charges.changed() => if changed.is_err() { return },
            }
        }
    }

    fn find_all(&self, charges: &[Charge], pokes: &mut HashMap<usize, watch::Sender<()>>, tasks: &mut JoinSet<()>) {
        let present: HashSet<usize> = charges.iter().map(Charge::key).collect();
        // A task ends when nobody can poke it any more.
        pokes.retain(|key, _| present.contains(key));
        while tasks.try_join_next().is_some() {}
        self.news.complete.lock().retain(|key| present.contains(key));
        for charge in charges {
            if let Some(poke) = pokes.get(&charge.key()) {
                poke.send_replace(());
                continue;
            }
            let (poke, poked) = watch::channel(());
            pokes.insert(charge.key(), poke);
            let source = Source::new(charge.pool.plan(), Arc::clone(&self.resolver));
            tasks.spawn(find_one(charge.clone(), source, Arc::clone(&self.news), poked));
        }
    }
}

#[async_trait]
impl BackgroundService for Supervisor {
    async fn start(&self, shutdown: ShutdownWatch) {
        let rounds =
            Rounds::new(Arc::clone(&self.prober), Arc::clone(&self.listener), self.clock, fastrand::Rng::new());
        tokio::join!(
            self.find(self.charges.subscribe(), shutdown.clone()),
            rounds.run(self.charges.subscribe(), &self.news.members_changed, shutdown),
        );
    }
}

impl News {
    fn publish(&self, charge: &Charge, found: Found) {
        if found.complete {
            self.complete.lock().insert(charge.key());
        }
        // Nothing is known yet: those that come first are the first members, not late ones.
        if !found.complete && found.members.is_empty() && found.unresolved.is_empty() {
            return;
        }
        charge.pool.set_unresolved(found.unresolved);
        charge.pool.set_members(found.members);
        self.members_changed.notify_one();
    }
}

async fn find_one(charge: Charge, mut source: Source, news: Arc<News>, mut poked: watch::Receiver<()>) {
    loop {
        news.publish(&charge, source.found());
        tokio::select! {
            () = source.changed() => {}
            poke = poked.changed() => match poke {
                Ok(()) => source.follow(charge.pool.plan()),
                Err(_) => return,
            }
        }
    }
}

fn bound(pool: &Pool) -> Duration {
    pool.plan().health_check.as_ref().map_or(DISCOVERY_GRACE, |check| check.timeout)
}
