//! From text to a plan: read → check → plan. Imports no room and does no network input or output.

pub mod plan;
