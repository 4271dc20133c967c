//! What requests are served by: built whole from a plan, swapped in one step, pinned by each request.
//!
//! What is in a snapshot is immutable but for the objects that live longer than it (pools, counters, the access log),
//! which are carried over from the last one. Building starts nothing: a snapshot that is dropped has done nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::base::clock::Clock;
use crate::base::request::Fields;
use crate::config::plan::{self, Plan};
use crate::exchange::counters::Counters;
use crate::exchange::key;
use crate::exchange::news;
use crate::exchange::recent::Recent;
use crate::filter::rate_limit::RateLimits;
use crate::filter::rate_limit::tables::Tables;
use crate::filter::{self, Chain};
use crate::route::RouteTable;
use crate::route::split::Splitter;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Registry;
use crate::telemetry::trace::Spans;
use crate::tls::{self, Terminator};
use crate::upstream::peer::{self, PeerTemplate, Roots};
use crate::upstream::pool::Pool;

/// Why a plan cannot be served by: a file that it names cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum BuildError {
    #[error("server.ca_file: {0}")]
    Roots(peer::BuildError),
    #[error("upstreams.{upstream}: {error}")]
    Upstream { upstream: Arc<str>, error: peer::BuildError },
    #[error("listener {listener}: {error}")]
    Tls { listener: Arc<str>, error: tls::BuildError },
    #[error("route {route}: {error}")]
    Filter { route: Arc<str>, error: filter::BuildError },
}

/// What requests are served by.
#[derive(Debug)]
pub struct Snapshot {
    /// The plan it was built from.
    pub plan: Arc<Plan>,
    /// How many snapshots this process has served by, this one included.
    pub generation: u64,
    /// The process's clock.
    pub clock: Clock,
    /// This process's name in `Via`: it tells the process from all others, so that a loop is known from a chain of proxies.
    pub pseudonym: Arc<str>,
    /// Which route wins a request.
    pub routes: RouteTable,
    /// The routes as they live, in the order of the plan.
    pub live: Vec<Arc<RouteLive>>,
    /// The upstreams as they live, in the order of the plan.
    pub targets: Vec<Arc<Target>>,
    /// The TLS of the listeners that speak it, by their names.
    pub terminators: HashMap<Arc<str>, Arc<Terminator>>,
    /// What is counted.
    pub counters: Counters,
    /// The access log.
    pub access_log: Option<Arc<AccessLog>>,
    /// The requests that ended lately.
    pub recent: Arc<Recent>,
    /// What has happened lately, beside requests.
    pub events: Arc<Events>,
    /// Spans that wait to be sent.
    pub spans: Arc<Spans>,
}

/// A route as it lives.
#[derive(Debug)]
pub struct RouteLive {
    /// The route.
    pub plan: Arc<plan::Route>,
    /// Its place in the plan.
    pub index: usize,
    /// Its filters.
    pub filters: Chain,
    /// Whether the direct lane may serve it: messages pass as they come, to backends of HTTP/1.1.
    pub direct: bool,
    /// The upstreams it sends to, in the order of its splits.
    targets: Vec<Arc<Target>>,
    splitter: Splitter,
}

/// An upstream as it lives.
#[derive(Debug)]
pub struct Target {
    /// The upstream.
    pub plan: Arc<plan::Upstream>,
    /// Its place in the plan.
    pub index: usize,
    /// Its backends.
    pub pool: Arc<Pool>,
    /// How they are connected to.
    pub peers: Arc<PeerTemplate>,
}

/// What lives longer than a snapshot.
#[derive(Debug, Clone)]
pub struct Lasting {
    /// The process's clock.
    pub clock: Clock,
    /// This process's name in `Via`.
    pub pseudonym: Arc<str>,
    /// What is counted.
    pub registry: Arc<Registry>,
    /// The access log; none where it is turned off.
    pub access_log: Option<Arc<AccessLog>>,
    /// The requests that ended lately.
    pub recent: Arc<Recent>,
    /// What has happened lately, beside requests.
    pub events: Arc<Events>,
    /// Spans that wait to be sent.
    pub spans: Arc<Spans>,
    /// The pools by the name of their upstream.
    pub pools: HashMap<Arc<str>, Arc<Pool>>,
    /// The buckets of rate limits.
    pub rate_limits: Arc<Tables>,
    /// The TLS of listeners by their names: where its plan stays, its sessions can be resumed.
    pub terminators: HashMap<Arc<str>, Arc<Terminator>>,
}

impl Lasting {
    /// What a process begins with that has learnt nothing yet and serves on so many threads.
    #[must_use]
    pub fn new(threads: usize, access_log: Option<Arc<AccessLog>>) -> Self {
        Self {
            clock: Clock::start(),
            pseudonym: format!("roundel-{:08x}", fastrand::u32(..)).into(),
            registry: Arc::new(Registry::new(threads)),
            access_log,
            recent: Arc::new(Recent::new(threads)),
            events: Arc::default(),
            spans: Arc::default(),
            pools: HashMap::new(),
            rate_limits: Arc::default(),
            terminators: HashMap::new(),
        }
    }
}

impl RouteLive {
    fn build(
        (index, plan): (usize, &Arc<plan::Route>),
        targets: &[Arc<Target>],
        lasting: &Lasting,
    ) -> Result<Self, BuildError> {
        let rate_limits = RateLimits::build(&plan.name, &plan.filters.rate_limits, &lasting.rate_limits);
        let filters = Chain::build(&plan.filters, &plan.action, rate_limits)
            .map_err(|error| BuildError::Filter { route: plan.name.clone(), error })?;
        let splits = plan.action.splits();
        let of = |split: &plan::Split| targets.iter().find(|target| target.plan.name == split.upstream.name).cloned();
        let (targets, splitter): (Vec<_>, _) = (splits.iter().filter_map(of).collect(), Splitter::build(splits));
        // A connection that introduces its client is that client's alone: Pingora's pool keeps them apart.
        let plain = |target: &Arc<Target>| {
            target.plan.protocol == plan::UpstreamProtocol::Http1 && target.plan.send_proxy_protocol.is_none()
        };
        let direct = filters.passes_bodies() && targets.iter().all(plain);
        Ok(Self { plan: plan.clone(), index, filters, direct, targets, splitter })
    }

    /// The upstream for the next request, and the value of its sticky cookie there. A client that is bound to a backend of
    /// one upstream stays with that upstream, whatever the weights of the split.
    #[must_use]
    pub fn target(&self, fields: &dyn Fields) -> Option<(&Arc<Target>, Option<String>)> {
        let bound = self.targets.iter().find_map(|target| {
            let cookie = target.cookie(fields)?;
            target.pool.backends().stuck_to(&cookie).is_some().then_some((target, Some(cookie)))
        });
        bound.or_else(|| Some((self.targets.get(self.splitter.choose()?)?, None)))
    }

    /// The place of `target` among its upstreams.
    #[must_use]
    pub fn place_of(&self, target: &Target) -> usize {
        self.targets.iter().position(|other| other.index == target.index).unwrap_or_default()
    }
}

impl Snapshot {
    /// Builds what a plan says, with the pools that are there already and new ones for new upstreams.
    ///
    /// # Errors
    /// A file that the plan names cannot be used; the error names it.
    pub fn build(plan: Arc<Plan>, generation: u64, lasting: &mut Lasting) -> Result<Self, BuildError> {
        let upstreams = plan.upstreams.iter().enumerate();
        // Read once for all, and anew with each plan.
        let roots = plan.server.ca_file.as_deref().map(peer::read_roots).transpose().map_err(BuildError::Roots)?;
        let targets = upstreams
            .map(|upstream| Target::build(upstream, &plan.server, roots.as_ref(), lasting).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        lasting.rate_limits.prune();
        let routes = plan.routes.iter().enumerate();
        let live = routes
            .map(|route| RouteLive::build(route, &targets, lasting).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let terminators = terminators(&plan, lasting)?;
        Ok(Self {
            generation,
            clock: lasting.clock.clone(),
            pseudonym: lasting.pseudonym.clone(),
            routes: RouteTable::build(&plan.routes),
            live,
            targets,
            terminators,
            counters: Counters::new(lasting.registry.clone(), &plan),
            access_log: lasting.access_log.clone(),
            recent: lasting.recent.clone(),
            events: lasting.events.clone(),
            spans: lasting.spans.clone(),
            plan,
        })
    }

    /// The pools in the order of the plan.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.targets.iter().map(|target| &target.pool)
    }
}

/// The TLS of each listener that speaks it: the one that is there already where its plan is the same.
fn terminators(plan: &Plan, lasting: &mut Lasting) -> Result<HashMap<Arc<str>, Arc<Terminator>>, BuildError> {
    let mut terminators = HashMap::new();
    for listener in &plan.listeners {
        let Some(tls) = &listener.tls else { continue };
        let known = lasting.terminators.get(&listener.name).filter(|known| known.plan() == tls).cloned();
        let terminator = match known {
            Some(known) => known,
            None => Terminator::build(tls)
                .map(Arc::new)
                .map_err(|error| BuildError::Tls { listener: listener.name.clone(), error })?,
        };
        terminators.insert(listener.name.clone(), terminator);
    }
    lasting.terminators.clone_from(&terminators);
    Ok(terminators)
}

impl Target {
    /// The value of a request's sticky cookie, where this upstream has one.
    fn cookie(&self, fields: &dyn Fields) -> Option<String> {
        key::cookie(fields, &self.plan.sticky.as_ref()?.cookie)
    }

    fn build(
        (index, plan): (usize, &Arc<plan::Upstream>),
        server: &plan::Server,
        roots: Option<&Roots>,
        lasting: &mut Lasting,
    ) -> Result<Self, BuildError> {
        let peers = PeerTemplate::build(plan)
            .map_err(|error| BuildError::Upstream { upstream: plan.name.clone(), error })?
            .from_addresses_of(server);
        let peers = Arc::new(match roots {
            Some(roots) => peers.trusting(roots),
            None => peers,
        });
        let pool = match lasting.pools.get(&plan.name) {
            Some(pool) => pool.clone(),
            None => {
                let pool = Pool::new(plan.clone(), lasting.clock.clone());
                news::report(&pool, lasting);
                lasting.pools.insert(plan.name.clone(), pool.clone());
                pool
            }
        };
        Ok(Self { plan: plan.clone(), index, pool, peers })
    }
}

/// The snapshot that new requests are served by.
#[derive(Debug, Clone)]
pub struct Current {
    snapshot: Arc<ArcSwap<Snapshot>>,
    generation: Arc<watch::Sender<u64>>,
    clock: Clock,
}

impl Current {
    /// Begins with `snapshot`.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        let (clock, generation) = (snapshot.clock.clone(), snapshot.generation);
        snapshot.counters.registry().process().generation(generation);
        Self {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            generation: Arc::new(watch::Sender::new(generation)),
            clock,
        }
    }

    /// The snapshot as it is now.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Lets `snapshot` serve from now on. Requests that have begun keep theirs.
    pub fn replace(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        snapshot.counters.registry().process().generation(generation);
        self.snapshot.store(Arc::new(snapshot));
        self.generation.send_replace(generation);
    }

    /// Hears of every new snapshot, by its generation, once it serves: the one place for whoever keeps something of a plan
    /// beside the snapshot (certificates, watched files).
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The process's clock.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }
}
