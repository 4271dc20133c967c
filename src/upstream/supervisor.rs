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
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::BackgroundService;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::backend::{BackendId, Member};
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

    /// Looks after these upstreams from now on, and after no others. Where all backends of an upstream are written as
    /// addresses they are its members when this returns.
    pub fn look_after(&self, charges: Vec<Charge>) {
        for charge in &charges {
            let found = Source::new(charge.pool.plan(), Arc::clone(&self.resolver)).found();
            if found.complete || charge.pool.backends().backends.is_empty() {
                self.news.publish(charge, found);
            }
        }
        self.charges.send_replace(charges.into());
    }

    /// Looks after these upstreams beside those that it looks after already.
    pub fn look_after_too(&self, more: &[Charge]) {
        let present = Arc::clone(&self.charges.borrow());
        self.look_after(present.iter().chain(more).cloned().collect());
    }

    /// Resolves when every backend of those it looks after has had its first verdict (see [`Supervisor::verdicts`]).
    pub async fn first_round(&self) {
        let charges = Arc::clone(&self.charges.borrow());
        self.verdicts(&charges).await;
    }

    /// Resolves when every backend of these upstreams has had its first verdict, or when the longest probe timeout has
    /// passed: a backend that hangs holds up nothing but its own use.
    pub async fn verdicts(&self, charges: &[Charge]) {
        let bound = charges.iter().map(|charge| bound(&charge.pool)).max().unwrap_or_default();
        let every_verdict = async {
            while charges.iter().any(|charge| self.pending(charge)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Out of time: what is not known by now is not waited for.
        let _ = tokio::time::timeout(bound, every_verdict).await;
    }

    /// Finds and probes until `shutdown`.
    async fn work(&self, shutdown: ShutdownWatch) {
        let rounds =
            Rounds::new(Arc::clone(&self.prober), Arc::clone(&self.listener), self.clock.clone(), fastrand::Rng::new());
        tokio::join!(
            self.find(self.charges.subscribe(), shutdown.clone()),
            rounds.run(self.charges.subscribe(), &self.news.members_changed, shutdown),
        );
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
    /// Ready when the first round is over: listeners that depend on this service open then.
    async fn start_with_ready_notifier(&self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        let announce = async {
            self.first_round().await;
            ready.notify_ready();
        };
        tokio::join!(self.work(shutdown), announce);
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
        // Names that a new plan brings are being asked for: until then nobody leaves on their account.
        if !found.complete && takes_away(&charge.pool, &found.members) {
            return;
        }
        charge.pool.set_unresolved(found.unresolved);
        charge.pool.set_members(found.members);
        self.members_changed.notify_one();
    }
}

/// Whether a backend would leave by this list.
fn takes_away(pool: &Pool, members: &[Member]) -> bool {
    let stay: HashSet<_> = members.iter().map(|member| BackendId::of(&member.addr, member.tls)).collect();
    pool.backends().backends.iter().any(|backend| !stay.contains(&backend.id()))
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::config::plan;
    use crate::upstream::discovery::dns::tests::NameServer;
    use crate::upstream::fixture;
    use crate::upstream::health::PROBES_AT_ONCE;
    use crate::upstream::state::State;

    /// A supervisor at work, and how to stop it.
    struct Bench {
        supervisor: Arc<Supervisor>,
        probes: Arc<Mutex<Vec<String>>>,
        stop: watch::Sender<bool>,
        task: JoinHandle<()>,
        clock: Clock,
        names: NameServer,
    }

    impl Bench {
        async fn start() -> Self {
            let names = NameServer::start().await;
            let resolver = names.resolver(Duration::from_secs(1));
            let probes: Arc<Mutex<Vec<String>>> = Arc::default();
            let heard = Arc::clone(&probes);
            let listener: ProbeListener =
                Box::new(move |_, backend, _| heard.lock().push(backend.address().to_string()));
            let clock = Clock::start();
            let resolver = Resolver::clone(&resolver);
            let supervisor = Supervisor::new(Prober::new(&fixture::server()), resolver, listener, clock.clone());
            let supervisor = Arc::new(supervisor);
            let (stop, shutdown) = watch::channel(false);
            let worker = Arc::clone(&supervisor);
            let task = tokio::spawn(async move { worker.work(shutdown).await });
            Self { supervisor, probes, stop, task, clock, names }
        }

        fn charge(&self, plan: plan::Upstream) -> Charge {
            let peers = Arc::new(PeerTemplate::build(&plan).unwrap());
            Charge { pool: Pool::new(Arc::new(plan), self.clock.clone()), peers }
        }

        fn probes_of(&self, address: &str) -> usize {
            self.probes.lock().iter().filter(|probed| *probed == address).count()
        }
    }

    async fn eventually(what: &str, condition: impl Fn() -> bool) {
        let waited = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), waited).await.is_ok(), "never came true: {what}");
    }

    fn entry(address: &str) -> plan::Backend {
        let target = plan::Target::Inet(address.parse().unwrap());
        plan::Backend {
            name: address.into(),
            target,
            tls: false,
            weight: 1,
            backup: false,
            max_requests: None,
            max_connections: None,
        }
    }

    fn plan(addresses: &[String], check: plan::HealthCheck) -> plan::Upstream {
        let backends = addresses.iter().map(|address| entry(address)).collect();
        plan::Upstream { backends, health_check: Some(Arc::new(check)), ..fixture::upstream("test") }
    }

    /// Addresses where somebody listens, for as long as the listeners live.
    async fn listeners(count: usize) -> (Vec<TcpListener>, Vec<String>) {
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        (listeners, addresses)
    }

    /// An origin that accepts and never answers, and counts who waits.
    async fn hanging() -> (u16, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (waiting, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&waiting), Arc::clone(&most));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counts.1.fetch_max(counts.0.fetch_add(1, SeqCst) + 1, SeqCst);
                let waiting = Arc::clone(&counts.0);
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    waiting.fetch_sub(1, SeqCst);
                });
            }
        });
        (port, waiting, most)
    }

    fn tcp() -> plan::HealthCheck {
        fixture::health_check(plan::Probe::Tcp)
    }

    #[tokio::test]
    async fn the_first_round_is_sent_at_once_and_ends_with_the_last_verdict() {
        let bench = Bench::start().await;
        let (_listeners, mut addresses) = listeners(20).await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        addresses.push(closed);
        let mut check = tcp();
        check.interval = Duration::from_secs(3600);
        let charge = bench.charge(plan(&addresses, check));
        bench.supervisor.look_after(vec![charge.clone()]);
        assert_eq!(charge.pool.backends().backends.len(), 21, "written addresses are members at once");

        bench.supervisor.first_round().await;
        let states: Vec<_> = charge.pool.backends().backends.iter().map(|backend| backend.state()).collect();
        assert_eq!(states.iter().filter(|state| **state == State::Healthy).count(), 20, "{states:?}");
        assert_eq!(states[20], State::Unhealthy);
    }

    #[tokio::test]
    async fn a_backend_that_hangs_holds_up_the_first_round_for_no_longer_than_its_timeout() {
        let bench = Bench::start().await;
        let (port, _, _) = hanging().await;
        let mut check = fixture::health_check(plan::Probe::Http(fixture::http_probe()));
        check.timeout = Duration::from_millis(300);
        let charge = bench.charge(plan(&[format!("127.0.0.1:{port}")], check));
        bench.supervisor.look_after(vec![charge]);
        let started = tokio::time::Instant::now();
        bench.supervisor.first_round().await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn no_more_than_256_probes_are_under_way() {
        let bench = Bench::start().await;
        let (port, _, most) = hanging().await;
        let mut check = fixture::health_check(plan::Probe::Http(fixture::http_probe()));
        check.timeout = Duration::from_millis(4000);
        check.port = Some(port);
        let addresses: Vec<_> = (1..=400).map(|port| format!("127.0.0.1:{port}")).collect();
        let charge = bench.charge(plan(&addresses, check));
        bench.supervisor.look_after(vec![charge]);
        // No probe takes the place of another before the first has ended, which the listener hears of.
        let mut before_the_first_ended = 0;
        loop {
            let so_far = most.load(SeqCst);
            if !bench.probes.lock().is_empty() {
                break;
            }
            before_the_first_ended = so_far;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(before_the_first_ended, PROBES_AT_ONCE);
        eventually("the rest is probed after them", || bench.probes.lock().len() >= 400).await;
    }

    #[tokio::test]
    async fn a_backend_between_two_states_is_asked_again_soon() {
        let bench = Bench::start().await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let mut check = tcp();
        check.interval = Duration::from_secs(3600);
        check.fast_interval = Duration::from_millis(50);
        check.start = plan::Start::Healthy;
        let charge = bench.charge(plan(&[closed], check));
        bench.supervisor.look_after(vec![charge.clone()]);
        eventually("three failures in a row", || charge.pool.backends().backends[0].state() == State::Unhealthy).await;
        assert_eq!(bench.probes.lock().len(), 3);
    }

    #[tokio::test]
    async fn members_that_come_are_probed_at_once_and_those_that_go_are_forgotten() {
        let bench = Bench::start().await;
        let (_listeners, addresses) = listeners(2).await;
        let mut check = tcp();
        check.interval = Duration::from_millis(50);
        let charge = bench.charge(plan(&addresses[..1], check.clone()));
        bench.supervisor.look_after(vec![charge.clone()]);
        eventually("the first is probed", || bench.probes_of(&addresses[0]) > 2).await;

        // As a reload does: the pool stays, its plan changes.
        charge.pool.set_plan(Arc::new(plan(&addresses[1..], check)));
        bench.supervisor.look_after(vec![charge.clone()]);
        eventually("the second is probed", || bench.probes_of(&addresses[1]) > 2).await;
        let before = bench.probes_of(&addresses[0]);
        let other = bench.probes_of(&addresses[1]);
        eventually("the second is probed on", || bench.probes_of(&addresses[1]) > other + 3).await;
        assert!(bench.probes_of(&addresses[0]) <= before + 1, "one probe may have been under way");

        bench.supervisor.look_after(Vec::new());
        eventually("both are let go", || Arc::strong_count(&charge.pool) == 1).await;
    }

    #[tokio::test]
    async fn a_backend_that_leaves_and_returns_is_probed_once_a_turn() {
        let bench = Bench::start().await;
        let (_listeners, addresses) = listeners(1).await;
        let mut check = tcp();
        check.interval = Duration::from_secs(3600);
        let charge = bench.charge(plan(&addresses, check));
        bench.supervisor.look_after(vec![charge.clone()]);
        eventually("it is probed", || bench.probes.lock().len() == 1).await;
        let member: Member = fixture::member(&addresses[0]);
        for round in 2..5 {
            charge.pool.set_members(Vec::new());
            charge.pool.set_members(vec![member.clone()]);
            bench.supervisor.news.members_changed.notify_one();
            eventually("it is probed again", || bench.probes.lock().len() == round).await;
        }
    }

    #[tokio::test]
    async fn a_name_is_found_probed_and_followed() {
        let bench = Bench::start().await;
        let (_listeners, addresses) = listeners(1).await;
        let port = addresses[0].rsplit_once(':').unwrap().1.parse().unwrap();
        let mut plan = plan(&[], tcp());
        let target = plan::Target::Name("web.internal".into(), port);
        let name = format!("web.internal:{port}");
        plan.backends = vec![plan::Backend {
            name: name.as_str().into(),
            target,
            tls: false,
            weight: 1,
            backup: false,
            max_requests: None,
            max_connections: None,
        }];
        let charge = bench.charge(plan);
        bench.supervisor.look_after(vec![charge.clone()]);
        eventually("the fault is told", || !charge.pool.unresolved().is_empty()).await;
        assert_eq!(*charge.pool.unresolved(), [(name.as_str().into(), "name does not exist".to_owned())]);

        bench.names.set("web.internal", &[std::net::Ipv4Addr::LOCALHOST]);
        eventually("it is used", || charge.pool.usable_count() == 1).await;
        assert!(charge.pool.unresolved().is_empty());
    }

    #[tokio::test]
    async fn shutdown_waits_for_no_probe() {
        let bench = Bench::start().await;
        let (port, waiting, _) = hanging().await;
        let mut check = fixture::health_check(plan::Probe::Http(fixture::http_probe()));
        check.timeout = Duration::from_secs(3600);
        let charge = bench.charge(plan(&[format!("127.0.0.1:{port}")], check));
        bench.supervisor.look_after(vec![charge]);
        eventually("a probe hangs", || waiting.load(SeqCst) == 1).await;
        bench.stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(5), bench.task).await.expect("ends at once").unwrap();
        eventually("the probe is dropped", || waiting.load(SeqCst) == 0).await;
    }
}
