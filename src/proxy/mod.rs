//! The general road: requests served by Pingora's `HttpProxy`.
//!
//! `flow` is the request from top to bottom and the place to start reading; `forward` says what becomes of header fields on
//! their way; `link` is its connection to a backend, where every byte is checked before Pingora sees it; `answer_head` refuses the
//! heads of answers that cannot be trusted; `answer` sends answers of our own; `failure` puts
//! Pingora's errors into our words; `gate` keeps tunnels from being closed as they open.

mod answer;
mod answer_head;
mod departure;
mod failure;
mod flow;
mod forward;
mod gate;
mod link;

pub use flow::{Context, Flow};
