//! The queue of one upstream: requests that wait for a place, first come, first served.
//!
//! [`Line`] is the order, pure: who is next, and who may not pass whom. `Queue` is the same with the means to call those who
//! wait. Somebody is called when a place may be free, tries to take it, and is gone with it, or stays where he was. Whoever
//! leaves in the middle, because his time is over or his client has left, hands on a call that he has not used: none is lost.
//!
//! What a place is, and whether there is one, is the pool's to say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Which places are good enough for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choosiness {
    /// Any.
    Any,
    /// Not those at backends that it was tried at: others need not wait behind it.
    Particular,
}

/// Who waits, in the order in which they came.
#[derive(Debug)]
pub struct Line<W> {
    waiting: BTreeMap<u64, (Choosiness, W)>,
    next: u64,
    /// Those of them who take any place.
    modest: BTreeSet<u64>,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), next: 0, modest: BTreeSet::new() }
    }
}

impl<W> Line<W> {
    /// Joins the line at its end, if fewer than `most` wait: the number that the one who waits has from now on.
    pub fn join(&mut self, choosiness: Choosiness, most: Option<usize>, waiter: W) -> Option<u64> {
        if most.is_some_and(|most| self.waiting.len() >= most) {
            return None;
        }
        let number = self.next;
        self.next += 1;
        if choosiness == Choosiness::Any {
            self.modest.insert(number);
        }
        self.waiting.insert(number, (choosiness, waiter));
        Some(number)
    }

    /// Leaves the line.
    pub fn leave(&mut self, number: u64) {
        self.waiting.remove(&number);
        self.modest.remove(&number);
    }

    /// The first.
    #[must_use]
    pub fn first(&self) -> Option<&W> {
        self.waiting.values().next().map(|(_, waiter)| waiter)
    }

    /// The first after `number`.
    #[must_use]
    pub fn after(&self, number: u64) -> Option<&W> {
        self.waiting.range(number + 1..).next().map(|(_, (_, waiter))| waiter)
    }

    /// Whether nobody who came before `number` would take any place.
    #[must_use]
    pub fn may_go(&self, number: u64) -> bool {
        self.modest.first().is_none_or(|first| *first >= number)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait who take any place: a newcomer may not pass them.
    #[must_use]
    pub fn modest(&self) -> usize {
        self.modest.len()
    }
}

/// One who waits.
#[derive(Debug, Default)]
struct Waiter {
    bell: Notify,
    called: AtomicBool,
}

impl Waiter {
    fn call(&self) {
        self.called.store(true, SeqCst);
        self.bell.notify_one();
    }
}

/// The queue of one upstream.
#[derive(Debug, Default)]
pub(super) struct Queue {
    line: Mutex<Line<Arc<Waiter>>>,
    // The line's counts, for those who need not lock it. They are ordered with the counts of places (`SeqCst`): who gives a
    // place back sees whoever found none, or is seen by him.
    waiting: AtomicUsize,
    modest: AtomicUsize,
}

impl Queue {
    /// Whether a newcomer has to wait whatever places there are.
    pub(super) fn has_precedence(&self) -> bool {
        self.modest.load(SeqCst) > 0
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Joins the queue, unless `most` wait already.
    pub(super) fn join(&self, choosiness: Choosiness, most: Option<usize>) -> Option<Ticket<'_>> {
        let waiter = Arc::<Waiter>::default();
        let mut line = self.line.lock();
        let number = line.join(choosiness, most, Arc::clone(&waiter))?;
        let may_go = line.may_go(number);
        self.publish(&line);
        drop(line);
        if may_go {
            waiter.call();
        }
        Some(Ticket { queue: self, waiter, number, choosiness, outcome: Outcome::Waits })
    }

    /// A place may be free: the first is called.
    pub(super) fn call(&self) {
        if self.waiting.load(SeqCst) > 0
            && let Some(first) = self.line.lock().first()
        {
            first.call();
        }
    }

    fn publish(&self, line: &Line<Arc<Waiter>>) {
        self.waiting.store(line.len(), SeqCst);
        self.modest.store(line.modest(), SeqCst);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Waits,
    Served,
}

/// A place in the queue, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Ticket<'q> {
    queue: &'q Queue,
    waiter: Arc<Waiter>,
    number: u64,
    choosiness: Choosiness,
    outcome: Outcome,
}

impl Ticket<'_> {
    /// Waits to be called. Nothing is lost if this is dropped.
    pub(super) async fn called(&self) {
        while !self.waiter.called.swap(false, SeqCst) {
            self.waiter.bell.notified().await;
        }
    }

    /// There was nothing for this one. Where it is choosy, there may be something for the next.
    pub(super) fn pass_on(&self) {
        if self.choosiness == Choosiness::Particular
            && let Some(next) = self.queue.line.lock().after(self.number)
        {
            next.call();
        }
    }

    /// This one waits no longer, for whatever came of it: there may be more where that came from.
    pub(super) fn served(mut self) {
        self.outcome = Outcome::Served;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut line = self.queue.line.lock();
        line.leave(self.number);
        self.queue.publish(&line);
        let unused = self.waiter.called.load(SeqCst);
        if (unused || self.outcome == Outcome::Served)
            && let Some(first) = line.first()
        {
            first.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_come_is_first_served_and_the_bound_holds() {
        let mut line = Line::default();
        let numbers: Vec<_> = ["a", "b"].map(|who| line.join(Choosiness::Any, Some(2), who).unwrap()).into();
        assert_eq!(line.join(Choosiness::Any, Some(2), "c"), None);
        assert_eq!((line.first(), line.after(numbers[0])), (Some(&"a"), Some(&"b")));
        line.leave(numbers[0]);
        line.leave(numbers[0]);
        assert_eq!((line.first(), line.len()), (Some(&"b"), 1));
        assert_eq!(Line::default().join(Choosiness::Any, Some(0), "a"), None, "a bound of nothing lets nobody wait");
    }

    #[test]
    fn nobody_waits_behind_one_who_waits_for_something_else() {
        let mut line = Line::default();
        let choosy = line.join(Choosiness::Particular, None, "choosy").unwrap();
        let modest = line.join(Choosiness::Any, None, "modest").unwrap();
        let last = line.join(Choosiness::Any, None, "last").unwrap();
        assert_eq!([choosy, modest, last].map(|number| line.may_go(number)), [true, true, false]);
        assert_eq!(line.modest(), 2);
    }

    proptest! {
        #[test]
        fn those_who_stay_are_served_in_the_order_they_came(
            steps in prop::collection::vec((0_u8..4, any::<prop::sample::Index>(), any::<bool>()), 1..200),
        ) {
            let mut line = Line::default();
            let mut model: Vec<u64> = Vec::new();
            for (step, index, choosy) in steps {
                let choosiness = if choosy { Choosiness::Particular } else { Choosiness::Any };
                match step {
                    0 | 1 => match line.join(choosiness, Some(8), choosiness) {
                        Some(number) => model.push(number),
                        None => prop_assert_eq!(model.len(), 8),
                    },
                    2 if !model.is_empty() => line.leave(model.remove(index.index(model.len()))),
                    _ if !model.is_empty() => line.leave(model.remove(0)),
                    _ => {}
                }
                prop_assert_eq!(line.len(), model.len());
                prop_assert_eq!(line.waiting.keys().copied().collect::<Vec<_>>(), model.clone());
                let modest = line.waiting.values().filter(|(choosiness, _)| *choosiness == Choosiness::Any).count();
                prop_assert_eq!(line.modest(), modest);
            }
        }
    }

    #[tokio::test]
    async fn a_call_that_is_not_used_goes_to_the_next() {
        let queue = Queue::default();
        let [first, second, third] = [(); 3].map(|()| queue.join(Choosiness::Any, None).unwrap());
        first.called().await;
        queue.call();
        drop(first);
        second.called().await;
        second.served();
        third.called().await;
        drop(third);
        assert_eq!((queue.len(), queue.has_precedence()), (0, false));
    }

    #[tokio::test]
    async fn who_cannot_use_a_place_passes_it_on_and_stays_first() {
        let queue = Queue::default();
        let choosy = queue.join(Choosiness::Particular, None).unwrap();
        choosy.called().await;
        let modest = queue.join(Choosiness::Any, None).unwrap();
        modest.called().await;
        queue.call();
        choosy.called().await;
        choosy.pass_on();
        modest.called().await;
        modest.served();
        choosy.called().await;
    }
}
