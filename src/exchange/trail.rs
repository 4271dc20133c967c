//! The trail of a request: every try at a backend, and what became of it.
//!
//! Both roads leave it by the same steps (`Exchange::try_failed`, `record::write`). The first try lies where it is kept, so
//! that the common request allocates nothing for it.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Moment;
use crate::exchange::rescue::Failure;
use crate::upstream::roll::Roll;

/// How many tries after the first are kept; of more, the last ones are counted only.
const KEPT: usize = 15;

/// One try at a backend that has ended.
#[derive(Debug, Clone)]
pub struct Try {
    /// The backend's address.
    pub backend: Arc<str>,
    /// When it began.
    pub began: Moment,
    /// How long it took, until the answer was through or the failure was known.
    pub took: Duration,
    /// How long the connect took; none on a connection used before, or where none came about.
    pub connect: Option<Duration>,
    /// Whether the connection had been used before; none where there was none.
    pub reused: Option<bool>,
    /// From the request sent to the first byte of the answer; none where none came.
    pub first_byte: Option<Duration>,
    /// How it failed; none where it did not.
    pub failure: Option<Failure>,
    /// Why it was this backend.
    pub choice: Choice,
    /// Who else could have been chosen, and who could not.
    pub roll: Arc<Roll>,
    /// Its span, where the request is traced.
    pub span: u64,
}

/// What a choice of a backend went by, besides the upstream's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Choice {
    /// The request's sticky cookie names this backend.
    pub by_cookie: bool,
    /// The request had what the upstream hashes.
    pub hashed: bool,
    /// The backend is a backup.
    pub backup: bool,
    /// The backend comes from an ejection, and this request was to show whether it serves again.
    pub trial: bool,
}

/// All tries of one request, in their order.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    first: Option<Try>,
    more: Vec<Try>,
    passed_over: u32,
}

impl Trail {
    /// Adds the try that has just ended.
    pub fn add(&mut self, ended: Try) {
        if self.first.is_none() {
            self.first = Some(ended);
        } else if self.more.len() < KEPT {
            self.more.push(ended);
        } else {
            self.passed_over += 1;
            self.more[KEPT - 1] = ended;
        }
    }

    /// The tries that were kept: the first ones, and the very last.
    pub fn iter(&self) -> impl Iterator<Item = &Try> {
        self.first.iter().chain(&self.more)
    }

    /// The last try.
    #[must_use]
    pub fn last(&self) -> Option<&Try> {
        self.more.last().or(self.first.as_ref())
    }

    /// How many tries there were.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::from(self.first.is_some()) + self.more.len() as u32 + self.passed_over
    }

    /// Whether there was none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// How many tries before the last one are counted only.
    #[must_use]
    pub const fn passed_over(&self) -> u32 {
        self.passed_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_try(number: u64) -> Try {
        Try {
            backend: Arc::from(number.to_string()),
            began: Moment::from_nanos(number),
            took: Duration::ZERO,
            connect: None,
            reused: None,
            first_byte: None,
            failure: None,
            choice: Choice::default(),
            roll: Arc::default(),
            span: 0,
        }
    }

    #[test]
    fn the_first_tries_and_the_last_are_kept_and_all_are_counted() {
        let mut trail = Trail::default();
        assert!(trail.is_empty() && trail.last().is_none());
        (0..100).for_each(|number| trail.add(a_try(number)));
        assert_eq!((trail.len(), trail.iter().count()), (100, 1 + KEPT));
        assert_eq!(trail.passed_over(), 84);
        assert_eq!(&*trail.last().unwrap().backend, "99");
        assert_eq!(&*trail.iter().nth(14).unwrap().backend, "14");
    }
}
