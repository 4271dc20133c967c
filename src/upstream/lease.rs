//! A lease: one request's hold on one backend. However the request ends, the hold ends with it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, BackendId};
use super::pool::Pool;
use super::roll::Roll;
use super::state::Failure;
use super::sticky::Token;
use crate::base::clock::Moment;

/// How often a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chances {
    /// Again, where a try fails.
    #[default]
    Several,
    /// Once, while others may be sent again: what goes wrong with it, its client sees.
    One,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// The hash of its key, where the upstream balances by hash; without one any backend will do.
    pub hash: Option<u64>,
    /// Backends that it has tried already.
    pub tried: &'a [BackendId],
    /// The value of its sticky cookie, as it came.
    pub sticky: Option<&'a str>,
    /// How often it may be sent.
    pub chances: Chances,
}

/// Why there is no backend for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoBackend {
    /// There are backends, and none is usable.
    #[error("none of the {backends} backends is usable")]
    NoneHealthy {
        /// How many there are.
        backends: usize,
    },
    /// The limits of the upstream, or of every backend that is left for this request, are reached.
    #[error("the limits are reached")]
    AtLimit,
    /// The limits are reached, and as many requests wait for a place as may wait.
    #[error("the limits are reached, and the queue is full")]
    QueueFull,
    /// There was no place in the time that a request may wait for one.
    #[error("no place became free in time")]
    WaitedTooLong,
    /// Every usable backend has been tried for this request.
    #[error("every usable backend has been tried")]
    AllTried,
    /// The upstream has no backend at all: none was discovered.
    #[error("there is no backend")]
    Empty,
    /// The file that names the backends names none, or cannot be read.
    #[error("the file of backends names none that can be used")]
    Unlisted,
}

/// Whether a request is the trial of a backend on probation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// It is: nobody else gets there before it has ended, if he can go elsewhere.
    UnderWay,
    /// It was.
    Over,
    /// It is not.
    None,
}

/// One request's hold on one backend, counted as in flight until it is dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    trial: Trial,
    begun: Moment,
    roll: Arc<Roll>,
}

impl Lease {
    /// Takes over one count of `backend`'s requests in flight, and its trial if it is that.
    pub(super) fn new(pool: Arc<Pool>, backend: Arc<Backend>, trial: Trial, begun: Moment, roll: Arc<Roll>) -> Self {
        backend.count_request();
        Self { pool, backend, trial, begun, roll }
    }

    /// The backend that is held.
    #[must_use]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// When the lease began.
    #[must_use]
    pub fn begun(&self) -> Moment {
        self.begun
    }

    /// Whether it is what shows whether a backend that was ejected serves again.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.trial != Trial::None
    }

    /// Who else could have been chosen, and who could not.
    #[must_use]
    pub fn roll(&self) -> &Arc<Roll> {
        &self.roll
    }

    /// What a sticky cookie must say to come back to this backend. A cookie that said something else is to be replaced.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::of(&self.pool.plan().name, self.backend.id())
    }

    /// The backend answered, `latency_to_first_byte` after the request was sent to it. A 4xx or a 500 is an answer; a
    /// 502, 503 or 504 is a failure.
    pub fn succeeded(&mut self, latency_to_first_byte: Duration) {
        self.pool.request_succeeded(&self.backend, self.begun, latency_to_first_byte);
        self.end_trial();
    }

    /// The backend failed this request, for the cause `why`, in words an operator understands.
    pub fn failed(&mut self, kind: Failure, why: &str) {
        self.pool.request_failed(&self.backend, self.begun, kind, why);
        self.end_trial();
    }

    fn end_trial(&mut self) {
        if self.trial == Trial::UnderWay {
            self.trial = Trial::Over;
            self.backend.end_trial();
        }
    }
}

impl Deref for Lease {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end_trial();
        self.pool.release(&self.backend);
    }
}
