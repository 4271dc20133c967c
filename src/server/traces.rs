//! Sends spans to the receiver that the configuration names, once a second or when many wait.

use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;

use crate::exchange::snapshot::Current;
use crate::telemetry::trace::otlp;

/// How long spans wait for more.
const GATHER: Duration = Duration::from_secs(1);
/// Between two tries at a receiver that did not take the last ones.
const REST: Duration = Duration::from_secs(5);

/// Sends spans.
pub struct Traces {
    /// What is being served.
    pub current: Current,
}

#[async_trait]
impl BackgroundService for Traces {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut works = true;
        loop {
            let spans = self.current.load().spans.clone();
            tokio::select! {
                _ = shutdown.changed() => return,
                () = spans.many(), if works => {}
                () = tokio::time::sleep(if works { GATHER } else { REST }) => {}
            }
            works = self.send(works).await;
        }
    }
}

impl Traces {
    /// Sends what waits; whether the receiver takes it. It is told in the log when that changes.
    async fn send(&self, worked: bool) -> bool {
        let snapshot = self.current.load();
        let Some(tracing) = &snapshot.plan.tracing else {
            snapshot.spans.count_dropped(snapshot.spans.take().len());
            return true;
        };
        match (otlp::send_all(&snapshot.spans, tracing).await, worked) {
            (Ok(()), true) | (Err(_), false) => worked,
            (Ok(()), false) => {
                log::info!("traces are taken again: otlp={tracing}");
                true
            }
            (Err(error), true) => {
                log::warn!("traces are not taken, spans are dropped until they are: otlp={tracing} error=\"{error}\"");
                false
            }
        }
    }
}
