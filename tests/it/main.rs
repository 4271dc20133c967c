//! The integration tests: the real binary, real sockets, one file a promise.

#[allow(unused_imports)] // see harness/mod.rs
mod harness;
#[path = "../reader/mod.rs"]
mod reader;

mod access_log;
mod answers;
mod balance;
mod bodies;
mod command_line;
mod connections;
mod deadlines;
mod discovery;
mod drain;
mod events;
mod examples;
mod explain;
mod failover;
mod fault_matrix;
mod files;
mod filters;
mod grpc;
mod h2;
mod h2_hostile;
mod headers;
mod health;
mod hostile_answers;
mod intermediary;
mod keepalive;
mod kit;
mod limits;
mod page;
mod patience;
mod places;
mod process;
mod proxy_protocol;
mod rate_limit;
mod reasons;
mod reload;
mod responses;
mod retries;
mod road;
mod roads;
mod round_robin;
mod server_keys;
mod simulate;
mod slow_readers;
mod tls_listener;
mod tls_upstream;
mod traces;
mod unix;
mod upgrade;
mod websocket;
mod why;
