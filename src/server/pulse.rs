//! What is done once a second, whatever happens: the counts of the last minutes are kept.

use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::time::MissedTickBehavior;

use crate::exchange::snapshot::Current;

/// Looks at the counters once a second.
pub struct Pulse {
    /// What is being served.
    pub current: Current,
}

#[async_trait]
impl BackgroundService for Pulse {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = shutdown.changed() => return,
                _ = beat.tick() => self.current.load().counters.registry().look(),
            }
        }
    }
}
