//! Roundel: a production HTTP reverse proxy and load balancer on Pingora.
//!
//! The floors, in reading order; a file imports only from floors below its own (`tests/architecture.rs` holds this).

pub mod admin;
pub mod base;
pub mod cli;
pub mod config;
pub mod edge;
pub mod exchange;
pub mod filter;
pub mod lane;
pub mod proxy;
pub mod route;
pub mod server;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod wire;
