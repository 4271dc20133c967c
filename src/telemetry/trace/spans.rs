//! Spans that wait to be sent: a bounded queue that never makes a request wait.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The most spans that wait.
const WAITING: usize = 4096;
/// The most spans that are sent at once; so many are worth sending at once.
pub(super) const BATCH: usize = 512;

/// One span: the request itself, or one try at a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The id of its trace.
    pub trace: u128,
    /// Its own id.
    pub id: u64,
    /// The span that it is part of.
    pub parent: Option<u64>,
    /// Whose side it tells.
    pub kind: Kind,
    /// Its name: few are different.
    pub name: String,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What is said of it, by the names of OpenTelemetry's semantic conventions where they have one.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it failed.
    pub failed: bool,
}

/// Whose side of a request a span tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The side that is asked.
    Server,
    /// The side that asks.
    Client,
}

/// What is said of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// The spans that wait to be sent.
#[derive(Debug, Default)]
pub struct Spans {
    waiting: Mutex<Vec<Span>>,
    many: Notify,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Spans {
    /// Lets spans wait; without room they are dropped and counted.
    pub fn add(&self, spans: Vec<Span>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() + spans.len() > WAITING {
            self.dropped.fetch_add(spans.len() as u64, Relaxed);
            return;
        }
        let before = waiting.len();
        waiting.extend(spans);
        if before < BATCH && waiting.len() >= BATCH {
            self.many.notify_one();
        }
    }

    /// Takes the oldest spans that wait, at most a batch.
    #[must_use]
    pub fn take(&self) -> Vec<Span> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(BATCH);
        waiting.drain(..count).collect()
    }

    /// Resolves when enough wait to be worth sending.
    pub async fn many(&self) {
        self.many.notified().await;
    }

    /// Counts spans that were sent.
    pub fn count_sent(&self, spans: usize) {
        self.sent.fetch_add(spans as u64, Relaxed);
    }

    /// Counts spans that were given up.
    pub fn count_dropped(&self, spans: usize) {
        self.dropped.fetch_add(spans as u64, Relaxed);
    }

    /// How many were sent, and how many were dropped.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.dropped.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let spans = Spans::default();
        let some = |count| {
            let now = SystemTime::UNIX_EPOCH;
            let span = Span {
                trace: 1,
                id: 1,
                parent: None,
                kind: Kind::Server,
                name: String::new(),
                began: now,
                ended: now,
                attributes: Vec::new(),
                failed: false,
            };
            vec![span; count]
        };
        spans.add(some(WAITING - 1));
        spans.add(some(2));
        assert_eq!(spans.counts(), (0, 2));
        assert_eq!((spans.take().len(), spans.take().len()), (BATCH, BATCH));
    }
}
