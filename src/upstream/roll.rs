//! Who could be chosen and who could not, and why: what a request remembers of the moment it chose a backend.
//!
//! A roll is called when health changes, so that a request only takes a reference to it.

use std::sync::Arc;

use super::backend::{Admission, Backend};
use super::state::{Health, State};

/// How many absent backends are named; the rest is counted.
const NAMED: usize = 32;

/// Who could be chosen, and who could not, at one time.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Roll {
    /// How many backends there were.
    pub members: usize,
    /// How many of them could be chosen.
    pub present: usize,
    /// Whether nobody was usable, and all that were not drained could be chosen (`when_none_healthy: fail_open`).
    pub failing_open: bool,
    /// Those that could not, the first 32.
    pub absent: Vec<Absent>,
}

/// A backend that could not be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Its address.
    pub backend: Arc<str>,
    /// Its state.
    pub state: State,
    /// Why, in words.
    pub why: Arc<str>,
}

impl Roll {
    /// The roll of these members.
    pub(super) fn call(members: &[Arc<Backend>], admission: Admission) -> Self {
        let present = |backend: &&Arc<Backend>| backend.admits(admission);
        let absent = members.iter().filter(|backend| !present(backend)).take(NAMED).map(Absent::of).collect();
        Self {
            members: members.len(),
            present: members.iter().filter(present).count(),
            failing_open: admission == Admission::Open,
            absent,
        }
    }
}

impl Absent {
    fn of(backend: &Arc<Backend>) -> Self {
        let (state, why) = backend.read(|health: &Health| (health.state(), Arc::clone(health.why())));
        let why = if backend.weight() == 0 && state.usable() { "its weight is 0".into() } else { why };
        Self { backend: Arc::clone(backend.address()), state, why }
    }
}
