//! Round robin, the default: Pingora's own `LoadBalancer<RoundRobin>` where weights are equal, smooth weighted round robin
//! (`smooth`) where they differ, as they do in a slow start.
//!
//! Pingora's balancer lives as long as the policy. Its discovery is ours and returns the usable backends with weight 1,
//! so that every pick is in turn and exactly even; each change of them is an `update`. A Pingora selection is built
//! anew at each update and starts at its first backend again, so the new rotation is turned to the backend whose turn it
//! would have been. What remains: requests that pick between the two moments may be out of turn, a handful in all.
//!
//! Pingora's `Backend` could carry ours in `ext`, but a pick clones the backend, and a filled `ext` costs it three
//! allocations; ours is found by its address instead. Where that cannot work (two backends at one address, or more than
//! the 65,535 that Pingora's selection can number), the smooth order serves equal weights just as well.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::FutureExt;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::selection::RoundRobin as PingoraRoundRobin;
use pingora_load_balancing::{Backend as PingoraBackend, Backends, Extensions, LoadBalancer};

use super::smooth::Schedule;
use super::{Choice, Policy, Usable};
use crate::upstream::backend::Backend;

/// Round robin over the usable backends.
pub struct RoundRobin {
    usable: Usable,
    rotation: Arc<Rotation>,
    order: Order,
}

enum Order {
    /// The places of the backends, sorted by address: of a few, that finds one faster than a hash.
    Even {
        by_address: Box<[(SocketAddr, usize)]>,
    },
    Smooth {
        schedule: Schedule,
        turn: AtomicUsize,
    },
}

impl RoundRobin {
    /// Round robin, without backends yet.
    #[must_use]
    pub fn new() -> Self {
        let order = Order::Even { by_address: Box::default() };
        Self { usable: Usable::none(), rotation: Arc::new(Rotation::new()), order }
    }

    /// The place in the rotation, as a share of a cycle.
    fn progress(&self) -> f64 {
        match &self.order {
            Order::Smooth { schedule, turn } if !schedule.is_empty() => {
                (turn.load(Relaxed) % schedule.len()) as f64 / schedule.len() as f64
            }
            _ => 0.0,
        }
    }

    fn smooth(&self, usable: &Usable) -> Order {
        let schedule = Schedule::new(&usable.weights);
        let turn = AtomicUsize::new((self.progress() * schedule.len() as f64).round() as usize);
        Order::Smooth { schedule, turn }
    }

    fn pick_even(&self, by_address: &[(SocketAddr, usize)], choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        let found = Cell::new(None);
        self.rotation.balancer.select_with(b"", self.usable.backends.len(), |candidate, _ready| {
            let place = by_address.binary_search_by(|(address, _)| address.cmp(&candidate.addr)).ok();
            let ours = place.and_then(|place| self.usable.backends.get(by_address[place].1));
            found.set(ours.filter(|backend| choice.admits(backend)));
            found.get().is_some()
        })?;
        found.get()
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for RoundRobin {
    fn renew(&self, usable: Usable) -> Arc<dyn Policy> {
        let order = match addresses(&usable) {
            Some(by_address) => {
                self.rotation.set(&usable.backends);
                Order::Even { by_address }
            }
            None => self.smooth(&usable),
        };
        Arc::new(Self { usable, rotation: Arc::clone(&self.rotation), order })
    }

    fn pick(&self, choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        match &self.order {
            Order::Even { by_address } => self.pick_even(by_address, choice),
            Order::Smooth { schedule, turn } => {
                let backends = &self.usable.backends;
                (0..schedule.len().min(2 * backends.len()))
                    .filter_map(|_| backends.get(schedule.at(turn.fetch_add(1, Relaxed))?))
                    .find(|backend| choice.admits(backend))
            }
        }
    }
}

/// The index of each usable backend by its address, where Pingora's balancer can serve them: equal weights, one backend
/// an address, and no more than its selection can number.
fn addresses(usable: &Usable) -> Option<Box<[(SocketAddr, usize)]>> {
    let equal = usable.weights.windows(2).all(|pair| pair[0] == pair[1]);
    if !equal || usable.backends.len() > usize::from(u16::MAX) {
        return None;
    }
    let mut by_address: Box<[_]> =
        usable.backends.iter().enumerate().map(|(index, backend)| (backend.addr().clone(), index)).collect();
    by_address.sort_unstable();
    by_address.windows(2).all(|pair| pair[0].0 != pair[1].0).then_some(by_address)
}

/// Pingora's balancer, and what its discovery finds.
struct Rotation {
    balancer: LoadBalancer<PingoraRoundRobin>,
    found: Arc<ArcSwap<BTreeSet<PingoraBackend>>>,
}

struct Discovery(Arc<ArcSwap<BTreeSet<PingoraBackend>>>);

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora_error::Result<(BTreeSet<PingoraBackend>, HashMap<u64, bool>)> {
        Ok((BTreeSet::clone(&self.0.load()), HashMap::new()))
    }
}

impl Rotation {
    fn new() -> Self {
        let found = Arc::new(ArcSwap::from_pointee(BTreeSet::new()));
        let backends = Backends::new(Box::new(Discovery(Arc::clone(&found))));
        Self { balancer: LoadBalancer::from_backends(backends), found }
    }

    /// Lets these backends take turns from now on, beginning with the one whose turn it is.
    fn set(&self, usable: &[Arc<Backend>]) {
        let next = self.balancer.select_with(b"", 1, |_, _| true);
        let found: BTreeSet<_> = usable
            .iter()
            .map(|backend| PingoraBackend { addr: backend.addr().clone(), weight: 1, ext: Extensions::new() })
            .collect();
        let last_turn = next.and_then(|next| found.range(..next).next_back().or_else(|| found.last()).cloned());
        let rounds = found.len();
        self.found.store(Arc::new(found));
        // The discovery above never waits and never fails, so the update is done when this returns.
        let _ = self.balancer.update().now_or_never();
        if let Some(last_turn) = last_turn {
            self.balancer.select_with(b"", rounds, |candidate, _| *candidate == last_turn);
        }
    }
}
