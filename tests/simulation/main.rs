//! The balancing core under virtual time: what a pool promises, told one by one, and thousands of random histories that
//! must keep every invariant. Nothing here opens a socket or waits.

#![allow(clippy::unwrap_used)] // Tests, helpers included, fail by panicking.

mod balance;
mod histories;
mod outage;
mod places;
mod promises;
mod world;
