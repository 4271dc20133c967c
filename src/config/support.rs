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
    /// The words that are built; `none` where that is what happens anyway.
    built: &'static [&'static str],
    /// What to do instead; empty where all that can be done is to remove it.
    remedy: &'static str,
    /// What is said of it.
    verdict: &'static str,
}

const fn rule(path: &'static str, built: &'static [&'static str], remedy: &'static str) -> Rule {
    Rule { path, built, remedy, verdict: "is not supported yet" }
}

/// It is off, and may be written so.
const OFF: &[&str] = &["none"];
const TOKIO: &str = "remove it: it needs a special build of Tokio";
const OFFLOAD: &str = "remove it: the TLS that Roundel is built with does not read it";

/// A key of Pingora's that Roundel will never have.
const fn never(path: &'static str, remedy: &'static str) -> Rule {
    Rule { path, built: &[], remedy, verdict: "has no effect" }
}

/// What is not built.
const RULES: &[Rule] = &[
    never("server.version", "remove it: Pingora 0.9.1 never reads it"),
    never("server.graceful_shutdown_timeout_seconds", "write `grace_period_seconds`"),
    never("server.daemon_notify_timeout_seconds", "write `daemon_ready_timeout_seconds`"),
    never("server.max_retries", "write `retry.attempts` in the upstream"),
    never("server.upgrade_sock_connect_accept_max_retries", "remove it: Pingora 0.9.1 never reads it"),
    never("server.runtime_enable_alt_timer", TOKIO),
    never("server.runtime_metrics_poll_time_histogram", TOKIO),
    never("server.runtime_metrics_poll_time_histogram_scale", TOKIO),
    never("server.runtime_metrics_poll_time_histogram_resolution_micros", TOKIO),
    never("server.runtime_metrics_poll_time_histogram_buckets", TOKIO),
    never("server.downstream_tls_offload_threadpools", OFFLOAD),
    never("server.downstream_tls_offload_thread_per_pool", OFFLOAD),
    never("server.fast_timeout_to_tokio_threshold_seconds", "remove it: it stays at Pingora's default"),
    rule("routes[].filters[].auth.jwt", &[], "write `basic`"),
    rule("routes[].filters[].auth.forward", &[], "write `basic`"),
    rule("routes[].filters[].mirror", OFF, ""),
    rule("routes[].filters[].cache", OFF, ""),
    rule("listeners[].tls.acme", OFF, "write `certificates`"),
    rule("upstreams.*.discovery.etcd", &[], "write `dns` or `file`"),
    rule("upstreams.*.discovery.kubernetes", &[], "write `dns` or `file`"),
];

impl Support {
    /// The words that are accepted at a path of the language; none where all is.
    #[must_use]
    pub fn words_allowed(self, path: &str) -> Option<&'static [&'static str]> {
        match self {
            Self::Everything => None,
            Self::Built => RULES.iter().find(|rule| rule.path == path).map(|rule| rule.built),
        }
    }

    /// Everything in a tree that is not built.
    #[must_use]
    pub fn refusals(self, tree: &Tree) -> Vec<Diagnostic> {
        match self {
            Self::Everything => Vec::new(),
            Self::Built => {
                RULES.iter().filter(|rule| !rule.is_below_another()).flat_map(|rule| rule.refusals(tree)).collect()
            }
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

    /// Whether a rule about a section says it all, so that nothing need be said of the keys in it.
    fn is_below_another(&self) -> bool {
        RULES.iter().any(|rule| {
            let rest = self.path.strip_prefix(rule.path);
            rule.built.is_empty() && rest.is_some_and(|rest| rest.starts_with(['.', '[']))
        })
    }

    fn accepts(&self, node: &Node) -> bool {
        (is_none(node) && self.built.contains(&"none"))
            || matches!(node.value, Value::Faulty)
            || node.text().is_some_and(|text| self.built.contains(&text))
    }

    fn refusal(&self, key: &str, node: &Node, marks: &Marks) -> Diagnostic {
        let what = match &node.value {
            Value::Scalar(scalar) if !self.built.is_empty() && scalar.text.len() < 64 => {
                format!("{key}: {}", scalar.text)
            }
            Value::Mapping(entries) if self.built.iter().any(|word| *word != "none") => match entries.first() {
                Some(Entry { key: policy, .. }) => format!("{key}: {policy}"),
                None => key.to_owned(),
            },
            _ => key.to_owned(),
        };
        let message = format!("`{what}` {}", self.verdict);
        let help = if self.remedy.is_empty() { "remove it" } else { self.remedy };
        Diagnostic::error(message).at(marks.place(node.at)).help(help)
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
