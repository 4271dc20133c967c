//! A listener as its connections see it: a reload may change its plan under them, or close it.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;

use crate::config::plan;
use crate::edge::limits::{Connections, Gate};
use crate::telemetry::metrics::series;

/// A listener while it is open, and until the last of its connections has ended.
#[derive(Debug)]
pub struct Door {
    plan: ArcSwap<plan::Listener>,
    /// What is counted of it; none for the admin listener.
    counts: ArcSwapOption<series::Listener>,
    gate: Arc<Gate>,
    draining: watch::Sender<bool>,
}

impl Door {
    /// The door of a listener. `all` counts its connections together with those of others.
    #[must_use]
    pub fn new(plan: Arc<plan::Listener>, counts: Option<Arc<series::Listener>>, all: Arc<Connections>) -> Arc<Self> {
        let gate = Gate::new(all, plan.max_connections);
        Arc::new(Self {
            plan: ArcSwap::new(plan),
            counts: ArcSwapOption::new(counts),
            gate,
            draining: watch::Sender::new(false),
        })
    }

    /// The listener as it is planned now.
    #[must_use]
    pub fn plan(&self) -> Guard<Arc<plan::Listener>> {
        self.plan.load()
    }

    /// What is counted of it now.
    #[must_use]
    pub fn counts(&self) -> Option<Arc<series::Listener>> {
        self.counts.load_full()
    }

    /// The bound on its connections.
    #[must_use]
    pub const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Follows another plan: it holds for new connections, and for the next request of those that are open.
    pub fn follow(&self, plan: Arc<plan::Listener>, counts: Option<Arc<series::Listener>>) {
        self.gate.allow(plan.max_connections);
        self.plan.store(plan);
        self.counts.store(counts);
    }

    /// Lets its connections come to an end: each may carry one more request.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }
}

/// What one connection came in by.
#[derive(Clone)]
pub struct Entrance {
    /// The listener, as it was planned when the present request, or the connection, began.
    pub listener: Arc<plan::Listener>,
    /// The other end; none on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Turns true when the listener is taken away, or the process drains: connections come to an end.
    pub draining: ShutdownWatch,
    door: Arc<Door>,
}

impl Entrance {
    /// The way in for a connection of this door.
    #[must_use]
    pub fn by(door: &Arc<Door>, peer: Option<SocketAddr>) -> Self {
        let (listener, draining) = (door.plan.load_full(), door.draining.subscribe());
        Self { listener, peer, draining, door: Arc::clone(door) }
    }

    /// Takes up a change of the listener's plan, before the next request. Whether there was one.
    pub fn follow(&mut self) -> bool {
        let plan = self.door.plan.load();
        let changed = !Arc::ptr_eq(&plan, &self.listener);
        if changed {
            self.listener = Arc::clone(&plan);
        }
        changed
    }

    /// Whether connections come to an end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}
