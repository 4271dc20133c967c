//! Why the edge refuses bytes: the reason that logs and metrics count, one sentence for people, and the rule that was broken.
//!
//! What is answered, and whether the connection closes, is the connection's business.

use crate::telemetry::reason::Reason;

/// Bytes that break a rule. After a refusal nothing more of the connection can be read: where the next request begins is
/// unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What logs and metrics count; its status is the answer's.
    pub reason: Reason,
    /// One sentence that says what is wrong, without a full stop.
    pub detail: &'static str,
    /// The section that holds the rule, such as `RFC 9112, 3.2`.
    pub rule: &'static str,
}

impl Refusal {
    /// A request that breaks the grammar: status 400.
    pub(crate) const fn malformed(detail: &'static str, rule: &'static str) -> Self {
        Self { reason: Reason::HttpRequestError, detail, rule }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.detail, self.rule)
    }
}

impl std::error::Error for Refusal {}
