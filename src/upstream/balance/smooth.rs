//! Smooth weighted round robin: in any stretch of requests each backend has its share, within one request, and a heavy
//! backend is never asked in bursts.
//!
//! The order of one whole cycle is computed when the weights change, and walked by an atomic counter: a pick costs one
//! addition, whatever the number of backends. It is nginx's order (5:1:1 gives a a b a c a a) as long as that order stays
//! within one request of the ideal everywhere. It does not for some mixtures of heavy and light backends (1.31 requests
//! off for 163:159:45 and seven of 1); the order is then that of the earliest deadline first in Pfair windows (Baruah et
//! al., "Proportionate progress", 1996), which always does.
//!
//! Not one of Pingora's selections: `Weighted<RoundRobin>` repeats each backend weight times in a row.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The longest cycle computed. Weights whose cycle would be longer are rounded to shares of this many requests, none to
/// less than one.
pub const LONGEST: usize = 1 << 16;

/// The order of one cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    order: Box<[u32]>,
}

impl Schedule {
    /// The order for these weights; a weight of 0 has no turn.
    #[must_use]
    pub fn new(weights: &[u32]) -> Self {
        let turns = turns(weights);
        let order = largest_lag_first(&turns).unwrap_or_else(|| earliest_deadline_first(&turns));
        Self { order: order.into() }
    }

    /// The length of a cycle; 0 where no backend has a weight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether no backend has a weight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The index of the backend whose turn it is; turns count on over the end of a cycle.
    #[must_use]
    pub fn at(&self, turn: usize) -> Option<usize> {
        let index = self.order.get(turn.checked_rem(self.order.len())?)?;
        Some(*index as usize)
    }
}

/// The turns of each backend in the shortest cycle that has the shares of `weights`.
fn turns(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, u64::from(*weight))).max(1);
    let turns: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) / divisor).collect();
    let cycle: u64 = turns.iter().sum();
    let longest = LONGEST.max(weights.len()) as u64;
    if cycle <= longest {
        return turns;
    }
    let scaled = |turns: u64| ((u128::from(turns) * u128::from(longest) / u128::from(cycle)) as u64).max(1);
    turns.into_iter().map(|turns| if turns == 0 { 0 } else { scaled(turns) }).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Backends of equal weight, which take turns among themselves in the order of the upstream.
struct Rank {
    weight: i64,
    members: Vec<u32>,
    next: usize,
    rounds: i64,
}

/// nginx's order: each time the backend that lags most behind its share (`ngx_http_upstream_get_peer`), the first of
/// the upstream where several do. Among equal weights the one with the fewest turns lags most, so that a step looks at
/// one backend for each distinct weight. None where a lag reaches one whole request.
fn largest_lag_first(turns: &[u64]) -> Option<Vec<u32>> {
    let cycle = turns.iter().sum::<u64>() as i64;
    let mut by_weight: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    for (index, turns) in turns.iter().enumerate().filter(|(_, turns)| **turns > 0) {
        by_weight.entry(*turns as i64).or_default().push(index as u32);
    }
    let mut ranks: Vec<Rank> =
        by_weight.into_iter().map(|(weight, members)| Rank { weight, members, next: 0, rounds: 0 }).collect();
    let mut order = Vec::with_capacity(cycle as usize);
    for step in 1..=cycle {
        let lag = |rank: &Rank| step * rank.weight - rank.rounds * cycle;
        if ranks.iter().any(|rank| lag(rank) - rank.weight >= cycle) {
            return None;
        }
        let first = ranks.iter_mut().max_by_key(|rank| (lag(rank), Reverse(rank.members[rank.next])))?;
        order.push(first.members[first.next]);
        first.next += 1;
        if first.next == first.members.len() {
            first.next = 0;
            first.rounds += 1;
        }
    }
    Some(order)
}

/// The order in which each backend's k-th turn lies in its window, from floor(k x cycle / turns) to
/// ceil((k + 1) x cycle / turns): earliest deadline first finds it, because one exists and all turns are of one length.
fn earliest_deadline_first(turns: &[u64]) -> Vec<u32> {
    let cycle: u64 = turns.iter().sum();
    let opens = |index: u32, k: u64| k * cycle / turns[index as usize];
    let closes = |index: u32, k: u64| ((k + 1) * cycle).div_ceil(turns[index as usize]);
    let with_turns = (0..turns.len() as u32).filter(|index| turns[*index as usize] > 0);
    let mut waiting: BinaryHeap<_> = with_turns.map(|index| Reverse((0, index, 0))).collect();
    let mut open: BinaryHeap<Reverse<(u64, u32, u64)>> = BinaryHeap::new();
    let mut order = Vec::with_capacity(cycle as usize);
    for step in 0..cycle {
        while let Some(Reverse((opening, index, k))) = waiting.peek().copied().filter(|turn| turn.0.0 <= step) {
            debug_assert!(opening <= step);
            waiting.pop();
            open.push(Reverse((closes(index, k), index, k)));
        }
        let Some(Reverse((_, index, k))) = open.pop() else { continue };
        order.push(index);
        waiting.push(Reverse((opens(index, k + 1), index, k + 1)));
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letters(weights: &[u32]) -> String {
        let schedule = Schedule::new(weights);
        (0..schedule.len()).map(|turn| char::from(b'a' + schedule.at(turn).unwrap() as u8)).collect()
    }

    /// How far the counts of any backend are ever from its share, in requests.
    fn furthest(order: &[u32], turns: &[u64]) -> f64 {
        let cycle: u64 = turns.iter().sum();
        let mut counts = vec![0u64; turns.len()];
        let mut furthest = 0.0f64;
        for (step, index) in order.iter().enumerate() {
            counts[*index as usize] += 1;
            for (count, turns) in counts.iter().zip(turns) {
                let ideal = (step + 1) as f64 * *turns as f64 / cycle as f64;
                furthest = furthest.max((*count as f64 - ideal).abs());
            }
        }
        furthest
    }

    #[test]
    fn the_order_is_that_of_nginx() {
        assert_eq!(letters(&[5, 1, 1]), "aabacaa");
        assert_eq!(letters(&[1, 1, 1]), "abc");
        assert_eq!(letters(&[20, 10, 10]), "abca");
        assert_eq!(letters(&[4, 2, 1]), "abacaba");
    }

    #[test]
    fn nobody_has_no_turn() {
        assert_eq!(Schedule::new(&[]).at(3), None);
        assert_eq!(Schedule::new(&[0, 0]).at(0), None);
        assert_eq!(letters(&[0, 2, 0, 2]), "bd");
    }

    #[test]
    fn where_nginx_strays_by_more_than_a_request_the_earliest_deadline_does_not() {
        let turns = [1, 1, 1, 1, 1, 1, 163, 159, 1, 45];
        assert_eq!(largest_lag_first(&turns), None);
        assert!(furthest(&earliest_deadline_first(&turns), &turns) < 1.0);
    }

    #[test]
    fn enormous_weights_have_a_bounded_cycle() {
        let schedule = Schedule::new(&[u32::MAX, 1, u32::MAX - 7]);
        assert!(schedule.len() <= LONGEST + 3);
        assert!((0..schedule.len()).any(|turn| schedule.at(turn) == Some(1)));
    }

    proptest! {
        #[test]
        fn each_backend_is_always_within_one_request_of_its_share(
            weights in proptest::collection::vec(prop_oneof![Just(0u32), Just(1), 1u32..300], 1..24),
        ) {
            let turns = turns(&weights);
            let schedule = Schedule::new(&weights);
            prop_assert!(furthest(&schedule.order, &turns) <= 1.0);
            let by_deadline = earliest_deadline_first(&turns);
            prop_assert_eq!(by_deadline.len() as u64, turns.iter().sum::<u64>());
            prop_assert!(furthest(&by_deadline, &turns) <= 1.0);
        }
    }
}
