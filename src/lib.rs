//! Roundel: a production HTTP reverse proxy and load balancer on Pingora.
//!
//! The floors, in reading order; a file imports only from floors below its own (`tests/architecture.rs` holds this).

pub mod base;
pub mod config;
pub mod filter;
pub mod route;
pub mod telemetry;
