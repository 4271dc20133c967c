//! Roundel: a production HTTP reverse proxy and load balancer on Pingora.
//!
//! The floors, in reading order; a file imports only from floors below its own (`tests/architecture.rs` holds this).

pub mod cli;
pub mod server;
pub mod admin;
pub mod edge;
pub mod proxy;
pub mod exchange;
pub mod route;
pub mod upstream;
pub mod filter;
pub mod telemetry;
pub mod config;
pub mod base;
