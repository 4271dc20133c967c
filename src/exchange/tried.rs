//! The backends that a request was tried at: few, and so they lie where they are kept.

use std::ops::Deref;

use crate::upstream::backend::BackendId;

/// How many are kept without an allocation.
const FEW: usize = 3;

/// The backends that a request was tried at, in their order.
#[derive(Debug, Clone)]
pub struct Tried {
    few: [BackendId; FEW],
    count: usize,
    /// All of them, once there are more than few.
    many: Vec<BackendId>,
}

impl Default for Tried {
    fn default() -> Self {
        Self { few: [BackendId(0); FEW], count: 0, many: Vec::new() }
    }
}

impl Tried {
    /// Adds the backend of the try that begins.
    pub fn push(&mut self, backend: BackendId) {
        match self.few.get_mut(self.count) {
            Some(place) if self.many.is_empty() => {
                *place = backend;
                self.count += 1;
            }
            _ => {
                if self.many.is_empty() {
                    self.many.extend_from_slice(&self.few);
                }
                self.many.push(backend);
            }
        }
    }

    /// Forgets them: each may be tried again.
    pub fn clear(&mut self) {
        self.count = 0;
        self.many.clear();
    }
}

impl Deref for Tried {
    type Target = [BackendId];

    fn deref(&self) -> &[BackendId] {
        if self.many.is_empty() { &self.few[..self.count] } else { &self.many }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_kept_however_many() {
        let mut tried = Tried::default();
        for number in 1..=9 {
            tried.push(BackendId(number));
            assert_eq!(tried.to_vec(), (1..=number).map(BackendId).collect::<Vec<_>>());
        }
        tried.clear();
        tried.push(BackendId(7));
        assert_eq!(*tried, [BackendId(7)]);
    }
}
