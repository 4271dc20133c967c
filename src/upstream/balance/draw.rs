//! Drawing lots: a random backend by weight, in O(1) where weights are equal and O(log n) where they differ.

use super::Luck;

/// The lots of a list of backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Draw {
    /// One lot each.
    Even {
        /// How many backends there are.
        count: usize,
    },
    /// As many lots as a backend has weight.
    Weighted {
        /// The lots of each backend and of all before it.
        lots: Box<[u64]>,
    },
}

impl Draw {
    /// The lots for these weights.
    #[must_use]
    pub(super) fn new(weights: &[u32]) -> Self {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Even { count: weights.len() };
        }
        let lots = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self::Weighted { lots: lots.collect() }
    }

    /// The index of the backend that is drawn; out of range where there is none.
    #[must_use]
    pub(super) fn one(&self, luck: &Luck) -> usize {
        match self {
            Self::Even { count } => luck.below(*count as u64) as usize,
            Self::Weighted { lots } => {
                let lot = luck.below(lots.last().copied().unwrap_or(0));
                lots.partition_point(|sum| *sum <= lot)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lots_fall_by_weight_and_never_on_weight_zero() {
        let (draw, luck) = (Draw::new(&[1, 0, 3]), Luck::seeded(7));
        let mut hits = [0; 3];
        (0..4000).for_each(|_| hits[draw.one(&luck)] += 1);
        assert_eq!(hits[1], 0);
        assert!((900..1100).contains(&hits[0]), "{hits:?}");
    }

    #[test]
    fn equal_weights_have_equal_lots() {
        let (draw, luck) = (Draw::new(&[7, 7, 7, 7]), Luck::seeded(7));
        assert_eq!(draw, Draw::Even { count: 4 });
        let mut hits = [0; 4];
        (0..4000).for_each(|_| hits[draw.one(&luck)] += 1);
        assert!(hits.iter().all(|hits| (900..1100).contains(hits)), "{hits:?}");
    }
}
