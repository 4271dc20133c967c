//! Random: of a few backends drawn by weight the one with the lower load (Mitzenmacher, "The power of two choices in
//! randomized load balancing", 2001). With one choice it is plain weighted random.
//!
//! Load is requests in flight per weight; where loads are equal the first draw stands, so that idle backends share by
//! weight. Not Pingora's `Random`, which draws once and cannot look at the load.

use std::sync::Arc;

use super::draw::Draw;
use super::{Choice, Policy, Usable, lighter};
use crate::upstream::backend::Backend;

/// Of a few random choices the least loaded.
pub struct Random {
    usable: Usable,
    draw: Draw,
    choices: usize,
}

// Draws beyond the wished ones, where some fall on backends that do not admit the request.
const SPARE_DRAWS: usize = 8;

impl Random {
    /// `choices` random choices (at least one), without backends yet.
    #[must_use]
    pub fn new(choices: usize) -> Self {
        Self { usable: Usable::none(), draw: Draw::new(&[]), choices: choices.max(1) }
    }
}

impl Policy for Random {
    fn renew(&self, usable: Usable) -> Arc<dyn Policy> {
        Arc::new(Self { draw: Draw::new(&usable.weights), usable, choices: self.choices })
    }

    fn pick(&self, choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        let index = (0..self.choices + SPARE_DRAWS)
            .map(|_| self.draw.one(choice.luck))
            .filter(|index| self.usable.backends.get(*index).is_some_and(|backend| choice.admits(backend)))
            .take(self.choices)
            .reduce(|best, next| if lighter(&self.usable, next, best) { next } else { best })?;
        self.usable.backends.get(index)
    }
}
