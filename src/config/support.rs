//! What of the language is not built yet: one table, the only gate.
//!
//! A key that has no effect is refused here, with what to do instead where there is something. To support a feature is to
//! delete its line: reading, checking and describing are the same before and after.

use crate::config::diagnostic::Diagnostic;
use crate::config::file::collection::is_none;
use crate::config::read::{Entry, Marks, Node, Tree, Value};

/// How much of the language is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// What is built.
    Built,
    /// All of it, for tests of the language itself.
    Everything,
}

/// A key that is not built, or of which only some words are.
struct Rule {
    /// Its path: `*` is any name, `[]` any item.
    path: &'static str,
    /// The words that are built.
    built: &'static [&'static str],
    /// What to do instead; empty where there is nothing.
    remedy: &'static str,
}

const fn rule(path: &'static str, built: &'static [&'static str], remedy: &'static str) -> Rule {
    Rule { path, built, remedy }
}

const TOKIO: &str = "remove it: it needs a special build of Tokio";
const OFFLOAD: &str = "remove it: the TLS that Roundel is built with does not read it";

/// What is not built.
const RULES: &[Rule] = &[
    rule("server.version", &[], "remove it: Pingora 0.9.1 never reads it"),
    rule("server.max_retries", &[], "write `retry.attempts` in the upstream"),
    rule("server.upgrade_sock_connect_accept_max_retries", &[], "remove it: Pingora 0.9.1 never reads it"),
    rule("server.runtime_enable_alt_timer", &[], TOKIO),
    rule("server.runtime_metrics_poll_time_histogram", &[], TOKIO),
    rule("server.runtime_metrics_poll_time_histogram_scale", &[], TOKIO),
    rule("server.runtime_metrics_poll_time_histogram_resolution_micros", &[], TOKIO),
    rule("server.runtime_metrics_poll_time_histogram_buckets", &[], TOKIO),
    rule("server.downstream_tls_offload_threadpools", &[], OFFLOAD),
    rule("server.downstream_tls_offload_thread_per_pool", &[], OFFLOAD),
    rule("server.fast_timeout_to_tokio_threshold_seconds", &[], "remove it: it stays at Pingora's default"),
    rule("reload", &["signal"], "write `signal`, and send SIGHUP after a change"),
    rule("tracing", &[], ""),
    rule("routes", &[], "remove it: everything goes to the only upstream"),
    rule("listeners[].protocols[]", &["h1"], "write `protocols: [h1]`"),
    rule("listeners[].tls", &[], ""),
    rule("listeners[].proxy_protocol", &[], ""),
    rule("listeners[].lane", &["off"], "write `lane: off`, or remove it"),
    rule("listeners[].timeouts.tls_handshake", &[], ""),
    rule("listeners[].timeouts.tunnel_idle", &[], ""),
    rule("listeners[].limits.h2_streams", &[], ""),
    rule("listeners[].limits.connections_per_client", &[], ""),
    rule("upstreams.*.backends[].backup", &["false"], ""),
    rule("upstreams.*.backends[].max_requests", &[], ""),
    rule("upstreams.*.backends[].max_connections", &[], ""),
    rule("upstreams.*.discovery", &[], "write `backends`"),
    rule("upstreams.*.balance", &["round_robin"], "write `round_robin`"),
    rule("upstreams.*.health_check.type", &["tcp", "http"], "write `tcp` or `http`"),
    rule("upstreams.*.health_check.service", &[], ""),
    rule("upstreams.*.outlier", &[], ""),
    rule("upstreams.*.slow_start", &["0s"], ""),
    rule("upstreams.*.protocol", &["h1"], "write `h1`"),
    rule("upstreams.*.send_proxy_protocol", &[], ""),
    rule("upstreams.*.retry", &[], ""),
    rule("upstreams.*.limits", &[], ""),
    rule("upstreams.*.sticky", &[], ""),
];

impl Support {
    /// The words that are accepted at a path of the language; none where all is.
    #[must_use]
    pub fn words_allowed(self, path: &str) -> Option<Vec<&'static str>> {
        match self {
            Self::Everything => None,
            Self::Built => RULES.iter().find(|rule| rule.path == path).map(|rule| rule.built.to_vec()),
        }
    }

    /// Everything in a tree that is not built.
    #[must_use]
    pub fn refusals(self, tree: &Tree) -> Vec<Diagnostic> {
        match self {
            Self::Everything => Vec::new(),
            Self::Built => RULES.iter().flat_map(|rule| rule.refusals(tree)).collect(),
        }
    }
}

impl Rule {
    fn refusals(&self, tree: &Tree) -> Vec<Diagnostic> {
        let path = self.path.replace("[]", ".[]");
        let steps: Vec<&str> = path.split('.').collect();
        let mut found = Vec::new();
        select(&tree.root, &steps, "", &mut |key, node| {
            if !self.accepts(node) {
                found.push(self.refusal(key, node, &tree.marks));
            }
        });
        found
    }

    fn accepts(&self, node: &Node) -> bool {
        is_none(node) || node.text().is_some_and(|text| self.built.contains(&text))
    }

    fn refusal(&self, key: &str, node: &Node, marks: &Marks) -> Diagnostic {
        let what = match &node.value {
            Value::Scalar(scalar) if !self.built.is_empty() => format!("{key}: {}", scalar.text),
            Value::Mapping(entries) if !self.built.is_empty() => match entries.first() {
                Some(Entry { key: policy, .. }) => format!("{key}: {policy}"),
                None => key.to_owned(),
            },
            _ => key.to_owned(),
        };
        let diagnostic = Diagnostic::error(format!("`{what}` is not supported yet")).at(marks.place(node.at));
        if self.remedy.is_empty() { diagnostic } else { diagnostic.help(self.remedy) }
    }
}

/// Visits every node at the path, with the last key on the way.
fn select(node: &Node, steps: &[&str], key: &str, visit: &mut dyn FnMut(&str, &Node)) {
    let Some((step, rest)) = steps.split_first() else {
        return visit(key, node);
    };
    match (&node.value, *step) {
        (Value::Sequence(items), "[]") => items.iter().for_each(|item| select(item, rest, key, visit)),
        (Value::Mapping(entries), "*") => {
            entries.iter().for_each(|entry| select(&entry.value, rest, &entry.key, visit))
        }
        (Value::Mapping(_), step) => {
            if let Some(value) = node.get(step) {
                select(value, rest, step, visit);
            }
        }
        _ => {}
    }
}
