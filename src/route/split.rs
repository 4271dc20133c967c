//! Which upstream of a weighted split takes a request.
//!
//! The shares hold over short runs too: the order is that of smooth weighted round robin, computed once, so that a choice
//! is one step of a counter. Which backend of the upstream answers is the upstream's affair.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::plan;

/// The longest schedule, in steps: shares are exact down to one in this many.
const LONGEST: u64 = 10_000;

/// A weighted split over the upstreams of a route.
#[derive(Debug)]
pub struct Splitter {
    /// Which upstream takes each step.
    schedule: Vec<usize>,
    /// Up to which point of the schedule's length each upstream reaches, for choices by key.
    reach: Vec<u64>,
    next: AtomicUsize,
}

impl Splitter {
    /// The splitter for `splits`. Weights that add up to more than 10,000 without a common divisor are rounded to shares of
    /// that many steps; a weight that is not 0 keeps one step at least.
    #[must_use]
    pub fn build(splits: &[plan::Split]) -> Self {
        Self::of_weights(&splits.iter().map(|split| split.weight).collect::<Vec<_>>())
    }

    fn of_weights(weights: &[u32]) -> Self {
        let weights = shortened(weights);
        let reach = weights.iter().scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { reach: reach.collect(), schedule: smooth(&weights), next: AtomicUsize::new(0) }
    }

    /// The place of the upstream that takes the next request; none where all weights are 0.
    #[must_use]
    pub fn choose(&self) -> Option<usize> {
        if let [only] = self.schedule[..] {
            return Some(only);
        }
        let step = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.schedule.len())?;
        Some(self.schedule[step])
    }

    /// The place of the upstream that takes all requests with the key `key`, a hash whose bits are evenly spread; none where
    /// all weights are 0. When weights change, only keys near a border between two upstreams move.
    #[must_use]
    pub fn choose_for(&self, key: u64) -> Option<usize> {
        let total = u128::from(*self.reach.last()?);
        let point = (u128::from(key) * total) >> 64;
        self.reach.iter().position(|reach| point < u128::from(*reach))
    }
}

/// `weights` without their common divisor, and scaled down where they would make too long a schedule.
fn shortened(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, weight| greatest_common_divisor(divisor, u64::from(*weight))).max(1);
    let weights: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) / divisor).collect();
    let total: u64 = weights.iter().sum();
    if total <= LONGEST {
        return weights;
    }
    weights.iter().map(|weight| (weight * LONGEST / total).max((*weight).min(1))).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// One round of smooth weighted round robin (nginx, commit 52327e0627f4): at each step every upstream gains its weight, the
/// one that has most is chosen and pays the sum of all weights.
fn smooth(weights: &[u64]) -> Vec<usize> {
    let total: i64 = weights.iter().map(|weight| signed(*weight)).sum();
    let mut gained = vec![0; weights.len()];
    let mut schedule = Vec::new();
    for _ in 0..total {
        gained.iter_mut().zip(weights).for_each(|(gained, weight)| *gained += signed(*weight));
        // `max_by_key` keeps the last of equals; reversed, that is the first as written.
        let Some((chosen, most)) = gained.iter_mut().enumerate().rev().max_by_key(|(_, gained)| **gained) else {
            break;
        };
        *most -= total;
        schedule.push(chosen);
    }
    schedule
}

fn signed(weight: u64) -> i64 {
    i64::try_from(weight).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(weights: &[u32], steps: usize) -> Vec<usize> {
        let splitter = Splitter::of_weights(weights);
        (0..steps).filter_map(|_| splitter.choose()).collect()
    }

    #[test]
    fn the_order_is_smooth() {
        assert_eq!(run(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(run(&[1, 1], 4), [0, 1, 0, 1]);
    }

    #[test]
    fn ninety_to_ten_sends_each_tenth_away() {
        let chosen = run(&[90, 10], 100);
        assert!(chosen.chunks(10).all(|ten| ten.iter().filter(|upstream| **upstream == 1).count() == 1));
    }

    #[test]
    fn a_weight_of_nothing_is_never_chosen() {
        assert!(run(&[0, 3], 10).iter().all(|upstream| *upstream == 1));
        assert_eq!(Splitter::of_weights(&[0, 0]).choose(), None);
        assert_eq!(Splitter::of_weights(&[0, 0]).choose_for(7), None);
        assert_eq!(Splitter::of_weights(&[0, 1]).choose_for(0), Some(1));
    }

    #[test]
    fn huge_weights_keep_their_shares() {
        let chosen = run(&[u32::MAX, 1], 10_000);
        assert_eq!(chosen.iter().filter(|upstream| **upstream == 1).count(), 1);
    }

    proptest! {
        #[test]
        fn no_upstream_is_ever_far_from_its_share(weights in proptest::collection::vec(0u32..50, 1..6), steps in 1usize..400) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let chosen = run(&weights, steps);
            for (upstream, weight) in weights.iter().enumerate() {
                let due = steps as f64 * f64::from(*weight) / f64::from(total);
                let got = chosen.iter().filter(|other| **other == upstream).count() as f64;
                prop_assert!((got - due).abs() <= weights.len() as f64, "{weights:?} upstream {upstream}: {got} of {due}");
            }
        }

        #[test]
        fn a_key_always_goes_the_same_way_and_keys_follow_the_weights(a in 1u32..100, b in 1u32..100) {
            let splitter = Splitter::of_weights(&[a, b]);
            let first = (0..1000u64).filter(|step| splitter.choose_for(step * (u64::MAX / 1000)) == Some(0)).count() as f64;
            let due = 1000.0 * f64::from(a) / f64::from(a + b);
            prop_assert!((first - due).abs() <= 2.0);
        }
    }
}
