//! Peak EWMA: of two backends drawn by weight the one with the lower cost, which is latency x load (Finagle's and
//! Linkerd's `PeakEwma`). Latency is the moving average of `upstream::latency`; load is one plus the requests in flight
//! for the mean weight.
//!
//! A backend that was never measured counts with the median latency of the others, so that a new one is neither flooded
//! nor starved. The average sinks while nobody asks, so that one that was slow is tried again.
//!
//! Not one of Pingora's selections: those are built from addresses and weights alone and know neither latency nor load.

use std::sync::Arc;

use super::draw::Draw;
use super::{Choice, Policy, Usable};
use crate::upstream::backend::Backend;

/// Of two random choices the one with the lower latency x load.
pub struct PeakEwma {
    usable: Usable,
    draw: Draw,
    mean_weight: f32,
    median_micros: Option<f32>,
}

// Draws for the two candidates, where some fall on the same backend or on one that does not admit the request.
const DRAWS: usize = 8;

impl PeakEwma {
    /// Without backends yet.
    #[must_use]
    pub fn new() -> Self {
        Self { usable: Usable::none(), draw: Draw::new(&[]), mean_weight: 1.0, median_micros: None }
    }

    fn candidates<'a>(&'a self, choice: &'a Choice<'_>) -> impl Iterator<Item = usize> + 'a {
        (0..DRAWS)
            .map(|_| self.draw.one(choice.luck))
            .filter(|index| self.usable.backends.get(*index).is_some_and(|backend| choice.admits(backend)))
    }

    fn load(&self, index: usize) -> f32 {
        let in_flight = self.usable.backends[index].in_flight() as f32;
        1.0 + in_flight * self.mean_weight / self.usable.weights[index].max(1) as f32
    }

    /// Whether the first costs less than the second.
    fn cheaper(&self, first: usize, second: usize, choice: &Choice<'_>) -> bool {
        let micros = |index: usize| self.usable.backends[index].ewma().micros(choice.now).or(self.median_micros);
        // Where only one latency is known, and no median, it stands for both: load decides.
        let (one, other) = (micros(first), micros(second));
        let (one, other) = (one.or(other).unwrap_or(1.0), other.or(one).unwrap_or(1.0));
        one * self.load(first) < other * self.load(second)
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for PeakEwma {
    fn renew(&self, usable: Usable) -> Arc<dyn Policy> {
        let sum: f32 = usable.weights.iter().map(|weight| *weight as f32).sum();
        let mean_weight = if usable.weights.is_empty() { 1.0 } else { sum / usable.weights.len() as f32 };
        Arc::new(Self { draw: Draw::new(&usable.weights), mean_weight, median_micros: median(&usable), usable })
    }

    fn pick(&self, choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        let mut candidates = self.candidates(choice);
        let first = candidates.next()?;
        let second = candidates.find(|index| *index != first).unwrap_or(first);
        let index = if self.cheaper(second, first, choice) { second } else { first };
        self.usable.backends.get(index)
    }
}

/// The median of the latencies that are known.
fn median(usable: &Usable) -> Option<f32> {
    let mut known: Vec<f32> = usable.backends.iter().filter_map(|backend| backend.ewma().micros(usable.at)).collect();
    let middle = known.len() / 2;
    (!known.is_empty()).then(|| *known.select_nth_unstable_by(middle, f32::total_cmp).1)
}
