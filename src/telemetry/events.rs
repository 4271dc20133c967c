//! What happens beside requests (backends come and go, configurations change), for those who watch it as it happens.
//!
//! One journal of the last events for all readers: each remembers only how far it has read. So a reader that stands still
//! costs nothing and holds nobody up; what was overwritten meanwhile it has lost, and is told so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::base::clock::rfc3339;

/// How many events are kept.
const KEPT: usize = 1024;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number: one more than that of the event before it.
    pub number: u64,
    /// When it happened.
    pub time: SystemTime,
    /// What kind of thing it was: `backend`, `reload`.
    pub kind: &'static str,
    /// What happened, in one sentence.
    pub text: String,
    /// What is to be said of it, by name.
    pub facts: Vec<(&'static str, String)>,
}

impl Event {
    /// The event as the admin API tells it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("id".into(), json!(self.number));
        object.insert("time".into(), json!(rfc3339(self.time)));
        object.insert("kind".into(), json!(self.kind));
        object.insert("text".into(), json!(self.text));
        object.extend(self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
        object.into()
    }
}

/// The journal.
#[derive(Debug)]
pub struct Events {
    journal: Mutex<Journal>,
    /// The number of the last event, for those who wait.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Journal {
    events: VecDeque<Arc<Event>>,
    last: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { journal: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Events {
    /// Tells all who read, now and for a while after, what has just happened.
    pub fn tell(&self, kind: &'static str, text: String, facts: Vec<(&'static str, String)>) {
        let mut journal = self.journal.lock();
        journal.last += 1;
        let event = Event { number: journal.last, time: SystemTime::now(), kind, text, facts };
        if journal.events.len() == KEPT {
            journal.events.pop_front();
        }
        journal.events.push_back(Arc::new(event));
        self.last.send_replace(journal.last);
    }

    /// Reads what comes after the event of the number `after`.
    #[must_use]
    pub fn read_after(self: &Arc<Self>, after: u64) -> Reader {
        Reader { read: after, woken: self.last.subscribe(), events: Arc::clone(self) }
    }

    /// Reads from the last `count` events on.
    #[must_use]
    pub fn read_last(self: &Arc<Self>, count: u64) -> Reader {
        self.read_after(self.journal.lock().last.saturating_sub(count))
    }
}

/// One reader of the journal.
#[derive(Debug)]
pub struct Reader {
    /// The number of the last event that it has read.
    read: u64,
    woken: watch::Receiver<u64>,
    events: Arc<Events>,
}

/// What a reader gets at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// How many events it was too slow for.
    pub lost: u64,
    /// The events, in their order.
    pub events: Vec<Arc<Event>>,
}

impl Reader {
    /// What has happened since the last call; waits until something has.
    pub async fn next(&mut self) -> Batch {
        loop {
            self.woken.mark_unchanged();
            let batch = self.take();
            if batch != Batch::default() {
                return batch;
            }
            // The sender lives in `events`.
            let _ = self.woken.changed().await;
        }
    }

    fn take(&mut self) -> Batch {
        let journal = self.events.journal.lock();
        if self.read > journal.last {
            // It counts by the journal of another process.
            self.read = 0;
        }
        let first = journal.events.front().map_or(journal.last + 1, |event| event.number);
        let lost = first.saturating_sub(self.read + 1);
        let events = journal.events.iter().filter(|event| event.number > self.read).cloned().collect();
        self.read = journal.last;
        Batch { lost, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(events: &Events, count: usize) {
        (0..count)
            .for_each(|number| events.tell("test", "it happened".to_owned(), vec![("number", number.to_string())]));
    }

    #[tokio::test]
    async fn a_reader_gets_what_it_has_not_read_yet() {
        let events = Arc::new(Events::default());
        tell(&events, 3);
        let mut reader = events.read_after(1);
        let numbers = |batch: Batch| batch.events.iter().map(|event| event.number).collect::<Vec<_>>();
        assert_eq!(numbers(reader.next().await), [2, 3]);
        tell(&events, 1);
        assert_eq!(numbers(reader.next().await), [4]);
        assert_eq!(numbers(events.read_last(2).next().await), [3, 4]);
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_told_what_it_has_lost() {
        let events = Arc::new(Events::default());
        let mut reader = events.read_after(0);
        tell(&events, KEPT + 7);
        let batch = reader.next().await;
        assert_eq!((batch.lost, batch.events.len()), (7, KEPT));
        assert_eq!(batch.events[0].number, 8);
    }

    #[tokio::test]
    async fn a_reader_that_counts_by_another_process_begins_anew() {
        let events = Arc::new(Events::default());
        tell(&events, 1);
        assert_eq!(events.read_after(99).next().await.events.len(), 1);
    }

    #[tokio::test]
    async fn a_reader_waits_for_what_happens() {
        let events = Arc::new(Events::default());
        let mut reader = events.read_after(0);
        let waiting = tokio::spawn(async move { reader.next().await });
        tokio::task::yield_now().await;
        tell(&events, 1);
        assert_eq!(waiting.await.unwrap().events[0].to_json()["kind"], "test");
    }
}
