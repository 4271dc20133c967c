//! A change of a backend's state, as it is told: to the log, one line each, and to those who listen.

use std::sync::Arc;

use super::backend::Backend;
use super::state::{State, Transition};

/// A change of a backend's state.
#[derive(Debug, Clone)]
pub struct Change {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The backend.
    pub backend: Arc<Backend>,
    /// What changed.
    pub transition: Transition,
}

/// Hears of every change of state.
pub type Listener = Box<dyn Fn(&Change) + Send + Sync>;

impl Change {
    /// Whether weights change with it: a slow start has begun or ended.
    pub(super) fn moves_weights(&self) -> bool {
        self.transition.to == State::SlowStart || self.transition.from == State::SlowStart
    }

    /// Writes its line to the process's log: a warning where a backend went out by itself, else information.
    pub(super) fn log(&self) {
        let Transition { from, to, why, .. } = &self.transition;
        let (upstream, backend) = (&self.upstream, self.backend.address());
        match to {
            State::Unhealthy => log::warn!("backend is down: upstream={upstream} backend={backend} why={why:?}"),
            State::Ejected => log::warn!("backend is ejected: upstream={upstream} backend={backend} why={why:?}"),
            State::Healthy | State::SlowStart if !from.usable() => {
                log::info!("backend is up: upstream={upstream} backend={backend} why={why:?}");
            }
            State::Healthy | State::SlowStart => {
                log::info!("backend has its whole weight: upstream={upstream} backend={backend} why={why:?}");
            }
            State::Draining => log::info!("backend is draining: upstream={upstream} backend={backend} why={why:?}"),
            State::Drained => log::info!("backend is drained: upstream={upstream} backend={backend} why={why:?}"),
            State::Probing => {
                log::info!("backend waits for its first probe: upstream={upstream} backend={backend} why={why:?}")
            }
        }
    }
}
