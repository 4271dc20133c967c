//! When each backend is probed next: pure decisions on moments and chances that the caller brings.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::base::clock::Moment;

/// How far a wait may deviate from what is configured, either way.
const JITTER: f64 = 0.1;

/// Whether a backend has its own place in the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not yet: its first probe was sent at once, together with those of all others that are new.
    New,
    /// It is probed at moments of its own.
    Placed,
    /// No longer: its probe was held up for so long that it went out together with many others.
    Late,
}

/// The wait after a probe: `wait` give or take 10 %. A backend without a place is given one: a new one anywhere within the
/// wait, a late one within half a wait of its next moment, so that what is behind does not hurry to fall further behind.
/// `chance` is uniform in 0.0..1.0.
pub(super) fn wait_after(wait: Duration, phase: Phase, chance: f64) -> Duration {
    match phase {
        Phase::New => wait.mul_f64(chance),
        Phase::Placed => wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance),
        Phase::Late => wait.mul_f64(0.5 + chance),
    }
}

/// The wait after a probe whose result says that the next one is due after `wait`, and the phase from then on. Between two
/// states (`wait` is not `interval`) a backend is asked again soon; its place in the interval is found afterwards.
pub(super) fn after_probe(wait: Duration, interval: Duration, phase: Phase, chance: f64) -> (Duration, Phase) {
    if wait == interval {
        (wait_after(wait, phase, chance), Phase::Placed)
    } else {
        (wait_after(wait, Phase::Placed, chance), phase)
    }
}

/// The phase of a backend whose probe was due at `due` and is sent at `now`: after a pause (a suspended machine, more probes
/// than may be under way at once) all that was due is sent as fast as it may, and would stay bunched up for ever.
pub(super) fn phase_when_sent(phase: Phase, due: Moment, now: Moment, interval: Duration) -> Phase {
    match phase {
        Phase::Placed if now.since(due) > interval / 2 => Phase::Late,
        phase => phase,
    }
}

/// What is due and when, earliest first; among equals, first come first.
#[derive(Debug)]
pub struct Schedule<T> {
    heap: BinaryHeap<Entry<T>>,
    count: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: Moment,
    order: u64,
    item: T,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Schedule<T> {
    /// Nothing is due.
    #[must_use]
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), count: 0 }
    }

    /// Adds `item`, due at `due`.
    pub fn push(&mut self, due: Moment, item: T) {
        self.count += 1;
        self.heap.push(Entry { due, order: self.count, item });
    }

    /// When the next item is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Moment> {
        self.heap.peek().map(|entry| entry.due)
    }

    /// Takes the next item that is due at `now`, with the moment at which it was.
    pub fn pop_due(&mut self, now: Moment) -> Option<(Moment, T)> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|entry| (entry.due, entry.item))
    }
}

// The heap gives its greatest entry first: the greatest is the earliest.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Moment {
        Moment::after_start(Duration::from_secs_f64(seconds))
    }

    /// Runs `backends` for `rounds` probes each, all due at the start, none ever late; gives the moments of the last round.
    fn last_round(backends: usize, rounds: usize, seed: u64) -> Vec<Moment> {
        let mut random = fastrand::Rng::with_seed(seed);
        let interval = Duration::from_secs(10);
        (0..backends)
            .map(|_| {
                let mut moment = Moment::START;
                for round in 0..rounds {
                    let phase = if round == 0 { Phase::New } else { Phase::Placed };
                    moment = moment + wait_after(interval, phase, random.f64());
                }
                moment
            })
            .collect()
    }

    #[test]
    fn the_second_round_is_spread_evenly_over_the_interval() {
        let moments = last_round(10_000, 1, 7);
        let mut per_second = [0usize; 10];
        for moment in &moments {
            per_second[usize::try_from(moment.nanos() / 1_000_000_000).unwrap().min(9)] += 1;
        }
        for (second, count) in per_second.iter().enumerate() {
            assert!((850..=1150).contains(count), "second {second}: {count} of 10000");
        }
    }

    #[test]
    fn later_rounds_stay_spread() {
        let moments = last_round(10_000, 20, 11);
        let mut per_second = std::collections::BTreeMap::<u64, usize>::new();
        for moment in &moments {
            *per_second.entry(moment.nanos() / 1_000_000_000).or_default() += 1;
        }
        assert!(per_second.values().all(|count| *count < 1300), "{per_second:?}");
    }

    proptest::proptest! {
        #[test]
        fn a_placed_backend_waits_its_interval_give_or_take_a_tenth(millis in 1u64..600_000, chance in 0.0f64..1.0) {
            let wait = Duration::from_millis(millis);
            let jittered = wait_after(wait, Phase::Placed, chance);
            proptest::prop_assert!(jittered >= wait.mul_f64(0.899) && jittered <= wait.mul_f64(1.101));
        }

        #[test]
        fn what_is_due_first_is_taken_first(dues in proptest::collection::vec(0u32..1000, 1..100)) {
            let mut schedule = Schedule::new();
            for (order, due) in dues.iter().enumerate() {
                schedule.push(at(f64::from(*due)), order);
            }
            let mut taken = Vec::new();
            while let Some(next) = schedule.pop_due(at(2000.0)) {
                taken.push(next);
            }
            proptest::prop_assert_eq!(taken.len(), dues.len());
            proptest::prop_assert!(taken.is_sorted());
        }
    }

    #[test]
    fn nothing_is_taken_before_it_is_due() {
        let mut schedule = Schedule::new();
        schedule.push(at(5.0), "five");
        assert_eq!(schedule.pop_due(at(4.9)), None);
        assert_eq!(schedule.pop_due(at(5.0)), Some((at(5.0), "five")));
        assert_eq!(schedule.pop_due(at(9.0)), None);
    }

    #[test]
    fn after_a_pause_backends_are_spread_anew() {
        let interval = Duration::from_secs(10);
        assert_eq!(phase_when_sent(Phase::Placed, at(10.0), at(10.1), interval), Phase::Placed);
        assert_eq!(phase_when_sent(Phase::Placed, at(10.0), at(3600.0), interval), Phase::Late);
        let mut random = fastrand::Rng::with_seed(3);
        let waits: Vec<_> = (0..1000).map(|_| wait_after(interval, Phase::Late, random.f64()).as_secs_f64()).collect();
        let mean = waits.iter().sum::<f64>() / 1000.0;
        assert!((9.8..10.2).contains(&mean), "no faster than before: {mean}");
        assert!(waits.iter().all(|wait| (5.0..15.0).contains(wait)));
    }
}
