//! The health of an upstream's backends on its way from one process to the next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::control::Control;
use crate::base::clock::Moment;
use crate::upstream::backend::Backend;
use crate::upstream::state::{Health, Snapshot};

/// How long a backend that is not found yet may come into what another process has learnt of it: discovery answers soon, and
/// later that is old news.
const VALID: Duration = Duration::from_secs(60);

/// The health of one backend on its way to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendSnapshot {
    /// Its address in words.
    pub address: String,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Its health.
    pub health: Snapshot,
}

/// What another process has learnt, for backends that are no members yet; by address and TLS.
#[derive(Debug, Default)]
pub(super) struct Heritage {
    health: HashMap<(String, bool), Snapshot>,
    received: Moment,
}

impl Pool {
    /// The health of all members, for the process that takes over.
    #[must_use]
    pub fn snapshot(&self) -> Vec<BackendSnapshot> {
        let now = self.time.now();
        let snapshot = |backend: &Arc<Backend>| BackendSnapshot {
            address: backend.address().to_string(),
            tls: backend.tls(),
            health: backend.read(|health| health.snapshot(now)),
        };
        self.members.load().backends.iter().map(snapshot).collect()
    }

    /// Lets members go on where another process left off: those that are members now, and those that become so within a
    /// minute.
    pub fn restore(&self, snapshots: Vec<BackendSnapshot>) {
        let now = self.time.now();
        let mut control = self.control.lock();
        let health = snapshots.into_iter().map(|snapshot| ((snapshot.address, snapshot.tls), snapshot.health));
        control.heritage = Heritage { health: health.collect(), received: now };
        self.come_into(&mut control, now);
        self.settle(&mut control, &self.turnout.load(), now);
        self.tell(control);
    }

    /// Gives members what another process has learnt of them.
    pub(super) fn come_into(&self, control: &mut Control, now: Moment) {
        if control.heritage.health.is_empty() {
            return;
        }
        let received = control.heritage.received;
        if now.since(received) > VALID {
            control.heritage = Heritage::default();
            return;
        }
        for backend in self.members.load().backends.iter() {
            let known = control.heritage.health.remove(&(backend.address().to_string(), backend.tls()));
            if let Some(snapshot) = known {
                // As of the moment when it was handed over: what has ended since, ends now.
                backend.change(&control.policy, now, |health| *health = Health::restore(&snapshot, received));
            }
        }
    }
}
