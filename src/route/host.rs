//! Which host patterns serve a host. Hosts and patterns are compared in the form that `base::host` gives them.

use std::sync::Arc;

use crate::base::host::{LONGEST, normalise};
use crate::config::plan::HostPattern;

/// The suffixes that a wildcard could stand before, longest first: of `a.example.org` they are `.example.org` and `.org`.
pub(super) fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &host[at..])
}

/// Whether `pattern` serves `host` (in its compared form).
pub(super) fn serves(pattern: &HostPattern, host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    match pattern {
        HostPattern::Exact(wanted) => wanted.as_ref() == host,
        HostPattern::Wildcard(suffix) => suffixes(host).any(|found| found == suffix.as_ref()),
    }
}

/// `pattern` in the compared form, so that both sides of every comparison went through the same function.
pub(super) fn normalise_pattern(pattern: &HostPattern) -> HostPattern {
    let mut buffer = [0; LONGEST];
    match pattern {
        HostPattern::Exact(host) => HostPattern::Exact(normalise(host, &mut buffer).map_or(host.clone(), Arc::from)),
        HostPattern::Wildcard(suffix) => HostPattern::Wildcard(suffix.to_ascii_lowercase().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_serves_one_label_or_more_and_never_none() {
        let pattern = HostPattern::Wildcard(".example.org".into());
        for (host, expected) in [
            ("a.example.org", true),
            ("a.b.example.org", true),
            ("example.org", false),
            (".example.org", false),
            ("aexample.org", false),
        ] {
            assert_eq!(serves(&pattern, Some(host)), expected, "{host}");
        }
        assert!(!serves(&pattern, None));
    }
}
