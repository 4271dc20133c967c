//! The upstream room: which backend serves a request, and how every backend fares.
//!
//! [`Pool`] is one upstream's live state: its members, their health, and the policy that picks among them. A request takes
//! a [`Lease`] of one backend and tells how it went. The deciding parts (`state`, `outlier`, `slow_start`, `sticky`,
//! the bucket of `budget`, the line of `queue`) are pure; probing and discovery tell the pool what they find; connecting is the data path's, with the tools of
//! `connection` (Tokio's sockets, kept `warm` between requests) or `peer` (Pingora's).

pub mod backend;
pub mod balance;
pub mod berths;
pub mod breaker;
pub mod budget;
pub mod change;
pub mod connection;
mod dial;
pub mod discovery;
pub mod doubt;
#[cfg(test)]
pub(crate) mod fixture;
pub mod health;
pub mod idle;
mod latency;
pub mod lease;
pub mod members;
pub mod outlier;
pub mod peer;
pub mod pool;
pub mod queue;
pub mod roll;
pub mod slow_start;
pub mod state;
pub mod status;
pub mod sticky;
pub mod supervisor;
pub mod time;
mod turnout;
pub mod warm;

pub use backend::{Backend, BackendId, Member, ProbeReport};
pub use change::Change;
pub use lease::{Ask, Chances, Lease, NoBackend};
pub use members::Members;
pub use pool::{BackendSnapshot, Pool};
pub use state::{Failure, State, Transition};
pub use status::BackendStatus;
