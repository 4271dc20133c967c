//! What is counted of requests: the handles of one snapshot, found when they are first needed and held from then on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::config::plan::Plan;
use crate::exchange::Exchange;
use crate::telemetry::metrics::Registry;
use crate::telemetry::metrics::series::{self, Attempt, Bodies, Connection, Process};
use crate::telemetry::reason::Reason;

/// The handles of one snapshot.
#[derive(Debug)]
pub struct Counters {
    registry: Arc<Registry>,
    process: Arc<Process>,
    nameless: Arc<str>,
    listeners: Vec<OfListener>,
    upstreams: Vec<Arc<series::Upstream>>,
    /// By route; none for those without rate limits.
    rate_limits: Vec<Option<Arc<series::RateLimits>>>,
}

/// Requests of one listener.
#[derive(Debug)]
struct OfListener {
    name: Arc<str>,
    live: Arc<series::Listener>,
    unrouted: OnceLock<Arc<series::Requests>>,
    /// By route, then by the place of its upstream; the first place is that of requests without one.
    routes: Vec<Vec<OnceLock<Arc<series::Requests>>>>,
}

impl Counters {
    /// The handles for a plan.
    #[must_use]
    pub fn new(registry: Arc<Registry>, plan: &Plan) -> Self {
        let upstreams = plan.upstreams.iter().map(|upstream| registry.upstream(&upstream.name)).collect();
        let rate_limits = plan.routes.iter().map(|route| {
            let is_limited = !route.filters.rate_limits.is_empty();
            is_limited.then(|| registry.rate_limits(&route.name))
        });
        let rate_limits = rate_limits.collect();
        let of_listener = |name: &Arc<str>| OfListener {
            name: name.clone(),
            live: registry.listener(name),
            unrouted: OnceLock::new(),
            routes: plan.routes.iter().map(|route| vec![OnceLock::new(); route.action.splits().len() + 1]).collect(),
        };
        let listeners = plan.listeners.iter().map(|listener| of_listener(&listener.name)).collect();
        Self { process: registry.process(), nameless: "".into(), listeners, upstreams, rate_limits, registry }
    }

    /// All series of the process.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What is counted of a listener's connections.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Arc<series::Listener>> {
        self.listeners.iter().find(|listener| &*listener.name == name).map(|listener| &listener.live)
    }

    /// A request ended in an answer by the proxy.
    pub fn answered(&self, reason: Reason) {
        self.process.answered(reason);
    }

    /// Rate limits have refused a request of a route, or would have were they not on trial.
    pub fn limited(&self, route: usize, refused: bool, on_trial: bool) {
        let Some(Some(series)) = self.rate_limits.get(route) else { return };
        if refused {
            series.refused();
        }
        if on_trial {
            series.on_trial();
        }
    }

    /// A request is over.
    pub fn request(&self, exchange: &Exchange, status: u16, duration: Duration, bodies: Bodies) {
        let name = &exchange.arrival.listener.name;
        let Some(listener) = self.listeners.iter().find(|of| of.name == *name) else {
            return self.farewell(name, exchange, status, duration, bodies);
        };
        let requests = match &exchange.route {
            None => self.unrouted(listener),
            Some(route) => {
                let (place, upstream) = match &exchange.target {
                    None => (0, &self.nameless),
                    Some(target) => (route.place_of(target) + 1, &target.plan.name),
                };
                listener.routes[route.index][place]
                    .get_or_init(|| self.registry.requests(&listener.name, &route.plan.name, upstream))
            }
        };
        requests.record(status, duration, bodies);
    }

    /// A request is over that came by a listener which a reload has taken away or renamed: the last of its connection.
    fn farewell(&self, listener: &Arc<str>, exchange: &Exchange, status: u16, duration: Duration, bodies: Bodies) {
        let route = exchange.route.as_ref().map_or(&self.nameless, |route| &route.plan.name);
        let upstream = exchange.target.as_ref().map_or(&self.nameless, |target| &target.plan.name);
        self.registry.requests(listener, route, upstream).record(status, duration, bodies);
    }

    /// A request that never became one is over.
    pub fn refused(&self, listener: &str, status: u16, duration: Duration, bodies: Bodies) {
        if let Some(listener) = self.listeners.iter().find(|of| &*of.name == listener) {
            self.unrouted(listener).record(status, duration, bodies);
        }
    }

    fn unrouted<'a>(&self, listener: &'a OfListener) -> &'a series::Requests {
        listener.unrouted.get_or_init(|| self.registry.requests(&listener.name, &self.nameless, &self.nameless))
    }

    /// A connection to a backend stands.
    pub fn connected(&self, exchange: &Exchange) {
        let Some(target) = &exchange.target else { return };
        let connection = match exchange.connect {
            Some(took) => Connection::New(took),
            None => Connection::Reused,
        };
        self.upstreams[target.index].connected(connection);
    }

    /// A backend has begun to answer.
    pub fn first_byte(&self, exchange: &Exchange, after: Duration) {
        if let Some(target) = &exchange.target {
            self.upstreams[target.index].first_byte(after);
        }
    }

    /// A try is over.
    pub fn attempt(&self, exchange: &Exchange, outcome: Attempt) {
        if let (Some(target), Some(lease)) = (&exchange.target, &exchange.lease) {
            let backend = lease.backend();
            let series = backend.series().get_or_init(|| self.registry.backend(&target.plan.name, backend.address()));
            series.attempt(outcome);
        }
    }

    /// A request is sent again, because of how its last try ended.
    pub fn retried(&self, exchange: &Exchange, cause: Attempt) {
        if let Some(target) = &exchange.target {
            self.upstreams[target.index].retried(cause);
        }
    }

    /// A request would be sent again, had its upstream anything left of its retry budget.
    pub fn budget_exhausted(&self, exchange: &Exchange) {
        if let Some(target) = &exchange.target {
            self.upstreams[target.index].budget_exhausted();
        }
    }
}
