//! The upstream room: which backend serves a request, and how every backend fares.
//!
//! [`Pool`] is one upstream's live state: its members, their health, and the policy that picks among them. A request takes
//! a [`Lease`] of one backend and tells how it went. The deciding parts (`state`, `outlier`, `slow_start`, `sticky`) are
//! pure; probing and discovery tell the pool what they find; connecting is the data path's.

pub mod backend;
pub mod balance;
pub mod discovery;
#[cfg(test)]
mod fixture;
pub mod health;
mod latency;
pub mod lease;
pub mod outlier;
pub mod peer;
pub mod pool;
pub mod slow_start;
pub mod state;
pub mod supervisor;

pub use backend::{Backend, BackendId, BackendStatus, Member, ProbeReport};
pub use lease::{Ask, Lease, NoBackend};
pub use pool::{Change, Pool};
pub use state::{Failure, State, Transition};
