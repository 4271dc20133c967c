//! Who belongs to an upstream, and what becomes of that when discovery or the plan names others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::backend::{Backend, BackendId, Member};
use super::sticky::Token;

/// The members of an upstream at one time.
#[derive(Debug, Default)]
pub struct Members {
    /// Those that belong to it, in the order of the configuration or discovery.
    pub backends: Arc<[Arc<Backend>]>,
    /// Those that have left and still have requests in flight.
    pub leaving: Arc<[Arc<Backend>]>,
    tokens: HashMap<Token, usize>,
}

/// What a new list of members means for the old one.
pub(super) struct Reshuffle {
    /// The backends that belong from now on.
    pub(super) backends: Vec<Arc<Backend>>,
    /// Those of them that were known before.
    pub(super) known: Vec<Arc<Backend>>,
    /// Those that were known and belong no longer.
    pub(super) left: Vec<Arc<Backend>>,
}

impl Members {
    /// The members of the upstream `upstream`.
    pub(super) fn new(upstream: &str, backends: Vec<Arc<Backend>>, leaving: Vec<Arc<Backend>>) -> Self {
        let tokens = backends.iter().enumerate().map(|(index, backend)| (Token::of(upstream, backend.id()), index));
        Self { tokens: tokens.collect(), backends: backends.into(), leaving: leaving.into() }
    }

    /// The members without those leavers that have nothing in flight any more; none where that changes nothing.
    pub(super) fn without_the_gone(&self) -> Option<Self> {
        let leaving: Arc<[_]> = self.leaving.iter().filter(|backend| backend.in_flight() > 0).cloned().collect();
        (leaving.len() < self.leaving.len()).then(|| Self {
            backends: Arc::clone(&self.backends),
            leaving,
            tokens: self.tokens.clone(),
        })
    }

    /// What `members` mean for these: by identity, so that a known backend is kept with all it carries, and of two
    /// members of one identity the first counts. `born` makes a backend that was not known.
    pub(super) fn reshuffle(&self, members: &[Member], born: impl Fn(&Member) -> Backend) -> Reshuffle {
        let both = self.backends.iter().chain(self.leaving.iter());
        let mut strangers: HashMap<BackendId, &Arc<Backend>> = both.map(|backend| (backend.id(), backend)).collect();
        let mut seen = HashSet::new();
        let mut new = Reshuffle { backends: Vec::with_capacity(members.len()), known: Vec::new(), left: Vec::new() };
        for member in members {
            let id = BackendId::of(&member.addr, member.tls);
            if !seen.insert(id) {
                continue;
            }
            let backend = strangers.remove(&id).map_or_else(
                || Arc::new(born(member)),
                |backend| {
                    backend.relabel(member);
                    new.known.push(Arc::clone(backend));
                    Arc::clone(backend)
                },
            );
            new.backends.push(backend);
        }
        new.left = strangers.into_values().cloned().collect();
        new
    }

    /// Every backend that bears this name or address.
    #[must_use]
    pub fn find(&self, name_or_address: &str) -> Vec<Arc<Backend>> {
        let bears =
            |backend: &&Arc<Backend>| **backend.address() == *name_or_address || *backend.name() == *name_or_address;
        self.backends.iter().filter(bears).cloned().collect()
    }

    /// The backend that a sticky cookie's value names.
    #[must_use]
    pub fn stuck_to(&self, cookie: &str) -> Option<&Arc<Backend>> {
        self.backends.get(*self.tokens.get(&Token::parse(cookie)?)?)
    }
}
