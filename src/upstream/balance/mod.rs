//! Which backend comes next: what all policies share, and the registry of them.
//!
//! A policy sees the usable backends of one tier (the primaries, or the backups) and picks one. It is renewed whenever
//! they change: the new policy inherits from the old what should outlive the change, as the place in a rotation. Health
//! is judged elsewhere (`state`); a policy only asks whether a backend still admits a request, because the list may be a
//! moment old.

mod draw;
pub mod hash;
pub mod least_requests;
pub mod peak_ewma;
pub mod random;
pub mod round_robin;
pub mod smooth;

use std::sync::Arc;

use parking_lot::Mutex;

use super::backend::{Admission, Backend, BackendId};
use super::lease::Chances;
use crate::base::clock::Moment;
use crate::config::plan::Balance;

/// The backends that a policy picks from, in the order of the upstream.
#[derive(Debug, Clone)]
pub struct Usable {
    /// All backends of the tier with a weight, usable or not.
    pub roll: Arc<[Arc<Backend>]>,
    /// The usable ones of them.
    pub backends: Arc<[Arc<Backend>]>,
    /// Their weights now: slow start takes its part off.
    pub weights: Arc<[u32]>,
    /// The moment when this was so.
    pub at: Moment,
}

impl Usable {
    /// No backends at all.
    #[must_use]
    pub fn none() -> Self {
        Self { roll: Arc::new([]), backends: Arc::new([]), weights: Arc::new([]), at: Moment::START }
    }
}

/// What becomes of backends that are usable, but in doubt (`doubt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubts {
    /// They are passed over.
    Heeded,
    /// They are as good as others: there are no others.
    Ignored,
}

/// One choice: what a policy may look at besides the backends.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// The moment of the choice.
    pub now: Moment,
    /// The hash of the request's key, where the upstream hashes and the request has one.
    pub hash: Option<u64>,
    /// Backends that this request has tried already.
    pub tried: &'a [BackendId],
    /// Requests in flight at the whole upstream.
    pub in_flight: u64,
    /// Which backends it may fall on.
    pub admission: Admission,
    /// What becomes of those in doubt.
    pub doubts: Doubts,
    /// How often the request may be sent.
    pub chances: Chances,
    /// Where random numbers come from.
    pub luck: &'a Luck,
}

impl Choice<'_> {
    /// Whether it may fall on `backend`.
    #[must_use]
    pub fn admits(&self, backend: &Backend) -> bool {
        self.would_admit(backend) && backend.has_room() && !self.doubts(backend)
    }

    /// Whether it may fall on `backend` once that has room.
    #[must_use]
    pub fn would_admit(&self, backend: &Backend) -> bool {
        backend.admits(self.admission) && !self.tried.contains(&backend.id())
    }

    fn doubts(&self, backend: &Backend) -> bool {
        self.doubts == Doubts::Heeded && backend.is_doubtful(self.now)
    }
}

/// A policy over the usable backends of one tier.
pub trait Policy: Send + Sync {
    /// The same policy over other backends or weights. Calls never overlap.
    fn renew(&self, usable: Usable) -> Arc<dyn Policy>;

    /// The backend that comes next. None where the policy found none that the choice admits; there may still be one.
    fn pick(&self, choice: &Choice<'_>) -> Option<&Arc<Backend>>;
}

/// The registry: the policy that a plan names, without backends yet.
#[must_use]
pub fn build(balance: &Balance) -> Arc<dyn Policy> {
    match balance {
        Balance::RoundRobin => Arc::new(round_robin::RoundRobin::new()),
        Balance::LeastRequests => Arc::new(least_requests::LeastRequests::new()),
        Balance::PeakEwma => Arc::new(peak_ewma::PeakEwma::new()),
        Balance::Random { choices } => Arc::new(random::Random::new(*choices)),
        // What is hashed is the request's business: a choice brings the hash.
        Balance::Hash { load_factor, .. } => Arc::new(hash::Hash::new(*load_factor)),
    }
}

/// Whether the first of two usable backends, by index, has fewer requests in flight per weight than the second.
fn lighter(usable: &Usable, first: usize, second: usize) -> bool {
    let in_flight = |index: usize| u64::from(usable.backends[index].in_flight());
    let weight = |index: usize| u64::from(usable.weights[index]);
    in_flight(first) * weight(second) < in_flight(second) * weight(first)
}

/// Where random numbers come from: each thread's own generator in production, one seeded generator in a simulation.
#[derive(Debug)]
pub enum Luck {
    /// `fastrand`'s generator of the thread.
    Threads,
    /// One generator for all, so that a run can be repeated.
    Seeded(Mutex<fastrand::Rng>),
}

impl Luck {
    /// A source that gives the same numbers in the same order for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// A number from 0.0 to 1.0.
    #[must_use]
    pub fn share(&self) -> f64 {
        match self {
            Self::Threads => fastrand::f64(),
            Self::Seeded(rng) => rng.lock().f64(),
        }
    }

    /// A number from 0 to `bound` - 1; 0 where the bound is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        match (bound, self) {
            (0 | 1, _) => 0,
            (bound, Self::Threads) => fastrand::u64(..bound),
            (bound, Self::Seeded(rng)) => rng.lock().u64(..bound),
        }
    }
}
