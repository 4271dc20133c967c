//! A listener as its connections see it: a reload may change its plan under them, or close it.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;

use crate::base::clock::Moment;
use crate::base::request::Scheme;
use crate::config::plan::{self, ListenAddress};
use crate::edge::limits::{Connections, Gate};
use crate::edge::transport::Transport;
use crate::telemetry::metrics::series::{self, Refusal};
use crate::telemetry::sparing::Sparing;
use crate::tls::{Facts, Terminator};

/// What belongs to a listener and lives longer than a connection.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// What is counted of it; none for the admin listener.
    pub counts: Option<Arc<series::Listener>>,
    /// Its TLS; none where it is plain.
    pub terminator: Option<Arc<Terminator>>,
}

/// A listener while it is open, and until the last of its connections has ended.
#[derive(Debug)]
pub struct Door {
    plan: ArcSwap<plan::Listener>,
    live: ArcSwap<Live>,
    gate: Arc<Gate>,
    /// Lets some of the lines through that clients provoke before they have sent a request.
    sparing: Sparing,
    draining: watch::Sender<bool>,
}

impl Door {
    /// The door of a listener. `all` counts its connections together with those of others.
    #[must_use]
    pub fn new(plan: Arc<plan::Listener>, live: Live, all: Arc<Connections>) -> Arc<Self> {
        let gate = Gate::new(all, plan.max_connections);
        Arc::new(Self {
            plan: ArcSwap::new(plan),
            live: ArcSwap::from_pointee(live),
            gate,
            sparing: Sparing::default(),
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
        self.live.load().counts.clone()
    }

    /// Its TLS now.
    #[must_use]
    pub fn terminator(&self) -> Option<Arc<Terminator>> {
        self.live.load().terminator.clone()
    }

    /// The bound on its connections.
    #[must_use]
    pub const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Follows another plan: it holds for new connections, and for the next request of those that are open.
    pub fn follow(&self, plan: Arc<plan::Listener>, live: Live) {
        self.gate.allow(plan.max_connections);
        self.plan.store(plan);
        self.live.store(Arc::new(live));
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
    /// The other end, or whom the PROXY protocol names in its place; none on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Where the client connected to, as far as is known; none on a unix socket.
    pub local: Option<SocketAddr>,
    /// What the TLS handshake has settled; none on a plain connection, and before the handshake.
    pub tls: Option<Arc<Facts>>,
    /// Turns true when the listener is taken away, or the process drains: connections come to an end.
    pub draining: ShutdownWatch,
    door: Arc<Door>,
}

impl Entrance {
    /// The way in for a connection of this door.
    #[must_use]
    pub fn by(door: &Arc<Door>, transport: &Transport) -> Self {
        let (listener, draining) = (door.plan.load_full(), door.draining.subscribe());
        let local = match listener.address {
            // All its connections have the same end here.
            ListenAddress::Inet(address) if !address.ip().is_unspecified() && address.port() != 0 => Some(address),
            _ => transport.local(),
        };
        Self { listener, peer: transport.peer(), local, tls: None, draining, door: Arc::clone(door) }
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

    /// The TLS that a new connection must speak.
    #[must_use]
    pub fn terminator(&self) -> Option<Arc<Terminator>> {
        self.door.terminator()
    }

    /// Counts that the connection ends before a request could come.
    pub fn refused(&self, refusal: Refusal) {
        if let Some(counts) = self.door.counts() {
            counts.refused(refusal);
        }
    }

    /// Whether the process log may tell at `now` of one more client that was sent away: with how many it has not told of since
    /// the last one.
    #[must_use]
    pub fn may_tell(&self, now: Moment) -> Option<u64> {
        self.door.sparing.pass(now)
    }

    /// The scheme by which the client reached us.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Whether the TLS handshake has settled on HTTP/2.
    #[must_use]
    pub fn agreed_on_http2(&self) -> bool {
        self.tls.as_ref().is_some_and(|facts| facts.alpn == Some(plan::Alpn::H2))
    }

    /// Whether connections come to an end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}
