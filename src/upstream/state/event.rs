//! What moves the state machine, and what it answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::State;
use crate::base::clock::Moment;

/// What happened to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A probe was good.
    ProbeGood,
    /// A probe failed, for this cause.
    ProbeFailed(&'a str),
    /// Probes were turned off: a verdict of theirs binds no longer.
    ProbesEnded,
    /// A request was answered; a 4xx or a 500 is an answer.
    RequestSucceeded {
        /// When it was sent there.
        begun: Moment,
    },
    /// A request failed, for the cause `why`.
    RequestFailed {
        /// When it was sent there.
        begun: Moment,
        /// In what way.
        failure: Failure,
        /// The cause.
        why: &'a str,
        /// Whether the pool allows an ejection now.
        may_eject: bool,
    },
    /// The pool frees an ejected backend before its time, because fewer backends may be ejected than before.
    Pardoned,
    /// The operator drains it.
    Drain,
    /// The operator takes it back into use.
    Resume,
    /// Nothing is in flight at it.
    Idle,
    /// It is no longer a member of the upstream.
    Left,
    /// It is a member again, before its last request had ended.
    Rejoined,
    /// Time has passed.
    Tick,
}

/// In what way a request failed at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No connection came about.
    Connect,
    /// It answered 502, 503 or 504, broke its answer off, or sent none in time.
    Gateway,
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why, in words for the operator.
    pub why: Arc<str>,
    /// When.
    pub at: Moment,
}

/// How a backend joins its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Together with all others, when the upstream starts.
    AtStart,
    /// To an upstream that already runs.
    Later,
}
