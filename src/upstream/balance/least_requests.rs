//! Least requests: the backend with the fewest requests in flight per weight, ties in (smooth weighted) turn.
//!
//! Up to 64 backends all are looked at, beginning with the one whose turn it is. A pick must not grow with the upstream,
//! so beyond that only eight are: the one whose turn it is and seven random ones. The best of eight is among the least
//! loaded eighth with near certainty, and the turn makes sure that nobody is forgotten. An exact index would cost every
//! request a shared lock at its beginning and at its end.
//!
//! Not one of Pingora's selections: those are built from addresses and weights alone and know no load (its `TODO`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::draw::Draw;
use super::smooth::Schedule;
use super::{Choice, Policy, Usable, lighter};
use crate::upstream::backend::Backend;

/// Up to this many backends are all looked at.
pub const ALL: usize = 64;

/// How many are looked at beyond that.
pub const SOME: usize = 8;

/// The fewest requests in flight per weight.
pub struct LeastRequests {
    usable: Usable,
    schedule: Schedule,
    draw: Draw,
    turn: AtomicUsize,
}

impl LeastRequests {
    /// Without backends yet.
    #[must_use]
    pub fn new() -> Self {
        Self { usable: Usable::none(), schedule: Schedule::new(&[]), draw: Draw::new(&[]), turn: AtomicUsize::new(0) }
    }

    fn lightest(&self, candidates: impl Iterator<Item = usize>, choice: &Choice<'_>) -> Option<usize> {
        candidates
            .filter(|index| self.usable.backends.get(*index).is_some_and(|backend| choice.admits(backend)))
            .reduce(|best, next| if lighter(&self.usable, next, best) { next } else { best })
    }
}

impl Default for LeastRequests {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for LeastRequests {
    fn renew(&self, usable: Usable) -> Arc<dyn Policy> {
        let turn = AtomicUsize::new(self.turn.load(Relaxed));
        Arc::new(Self { schedule: Schedule::new(&usable.weights), draw: Draw::new(&usable.weights), usable, turn })
    }

    fn pick(&self, choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        let count = self.usable.backends.len();
        let first = self.schedule.at(self.turn.fetch_add(1, Relaxed))?;
        let index = if count <= ALL {
            self.lightest((first..count).chain(0..first), choice)
        } else {
            let others = (1..SOME).map(|_| self.draw.one(choice.luck));
            self.lightest(std::iter::once(first).chain(others), choice)
        }?;
        self.usable.backends.get(index)
    }
}
