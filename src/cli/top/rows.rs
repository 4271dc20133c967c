//! Which rows are shown, and in what order.

use std::cmp::Ordering;

use super::pace::Paces;
use super::report::{Backend, Unresolved, Upstream};

/// How backends are arranged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Arrangement {
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    /// Whether all backends stand in one list, and not under their upstreams.
    pub(super) flat: bool,
    /// What a row must contain: in the name of its upstream, its own, its address or its state.
    pub(super) filter: String,
}

/// What backends are sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// As the configuration, or discovery, names them.
    #[default]
    Written,
    /// The worst first.
    State,
    Requests,
    Failures,
    P50,
    P99,
    InFlight,
}

impl Sort {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Written => Self::State,
            Self::State => Self::Requests,
            Self::Requests => Self::Failures,
            Self::Failures => Self::P50,
            Self::P50 => Self::P99,
            Self::P99 => Self::InFlight,
            Self::InFlight => Self::Written,
        }
    }
}

/// A row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Row<'a> {
    /// An upstream, above its backends.
    Upstream(&'a Upstream),
    Backend(&'a Upstream, &'a Backend),
    /// A name of an upstream that stands for no address.
    Unresolved(&'a Unresolved),
}

/// The rows in their order. An upstream of whose backends none is wanted is not shown; one that has none is.
pub(super) fn arrange<'a>(upstreams: &'a [Upstream], paces: &Paces, arrangement: &Arrangement) -> Vec<Row<'a>> {
    let filter = arrangement.filter.to_lowercase();
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for upstream in upstreams {
        let mut backends: Vec<_> =
            upstream.backends.iter().filter(|backend| wanted(upstream, backend, &filter)).collect();
        let unresolved = upstream
            .unresolved
            .iter()
            .filter(|name| filter.is_empty() || contains(&upstream.name, &filter) || contains(&name.name, &filter));
        let unresolved: Vec<_> = unresolved.collect();
        if arrangement.flat {
            all.extend(backends.into_iter().map(|backend| (upstream, backend)));
            continue;
        }
        if backends.is_empty() && unresolved.is_empty() && !filter.is_empty() {
            continue;
        }
        backends.sort_by(|a, b| order((upstream, a), (upstream, b), paces, arrangement));
        // The sort is stable, and so "as written" turned round is the other way round.
        if arrangement.sort == Sort::Written && arrangement.reversed {
            backends.reverse();
        }
        rows.push(Row::Upstream(upstream));
        rows.extend(backends.into_iter().map(|backend| Row::Backend(upstream, backend)));
        rows.extend(unresolved.into_iter().map(Row::Unresolved));
    }
    all.sort_by(|a, b| order(*a, *b, paces, arrangement));
    if arrangement.sort == Sort::Written && arrangement.reversed {
        all.reverse();
    }
    rows.extend(all.into_iter().map(|(upstream, backend)| Row::Backend(upstream, backend)));
    rows
}

fn wanted(upstream: &Upstream, backend: &Backend, filter: &str) -> bool {
    [&upstream.name, &backend.name, &backend.address, &backend.state].iter().any(|text| contains(text, filter))
        || contains(&format!("{}/{}", upstream.name, backend.address), filter)
}

fn contains(text: &str, filter: &str) -> bool {
    text.to_lowercase().contains(filter)
}

type Placed<'a> = (&'a Upstream, &'a Backend);

/// The order of two backends: what there is most of comes first.
fn order(a: Placed<'_>, b: Placed<'_>, paces: &Paces, arrangement: &Arrangement) -> Ordering {
    let pace = |of: Placed<'_>| paces.of(&of.0.name, &of.1.address);
    let size = |of: Placed<'_>| match arrangement.sort {
        Sort::Written => 0.0,
        Sort::State => f64::from(gravity(&of.1.state)),
        Sort::Requests => pace(of).and_then(|pace| pace.requests()).unwrap_or_default(),
        Sort::Failures => pace(of).and_then(|pace| pace.failures()).unwrap_or_default(),
        Sort::P50 => of.1.latency_ms.p50.unwrap_or(-1.0),
        Sort::P99 => of.1.latency_ms.p99.unwrap_or(-1.0),
        Sort::InFlight => of.1.in_flight as f64,
    };
    let order = size(b).total_cmp(&size(a));
    if arrangement.reversed { order.reverse() } else { order }
}

/// How bad a state is.
fn gravity(state: &str) -> u8 {
    match state {
        "unhealthy" => 5,
        "ejected" => 4,
        "probing" => 3,
        "draining" | "drained" => 2,
        "slow_start" => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::fixture::report;

    fn addresses(arrangement: &Arrangement) -> Vec<String> {
        let report = report();
        let rows = arrange(&report.status.upstreams, &Paces::default(), arrangement);
        let name = |row: &Row<'_>| match row {
            Row::Upstream(upstream) => format!("[{}]", upstream.name),
            Row::Backend(_, backend) => backend.address.clone(),
            Row::Unresolved(name) => format!("?{}", name.name),
        };
        rows.iter().map(name).collect()
    }

    #[test]
    fn backends_stand_under_their_upstream_in_the_order_that_is_asked_for() {
        let mut arrangement = Arrangement { sort: Sort::State, ..Arrangement::default() };
        assert_eq!(
            addresses(&arrangement),
            [
                "[web]",
                "10.0.0.3:8080",
                "10.0.0.2:8080",
                "10.0.0.1:8080",
                "[api]",
                "10.1.0.1:9000",
                "unix:/run/api.sock",
                "?api.internal:9000",
            ]
        );
        arrangement = Arrangement { sort: Sort::P99, reversed: true, flat: true, ..arrangement };
        assert_eq!(
            addresses(&arrangement).first().map(String::as_str),
            Some("10.0.0.3:8080"),
            "without a value: least"
        );
        assert_eq!(addresses(&arrangement).len(), 5);
        arrangement = Arrangement { sort: Sort::Written, ..arrangement };
        assert_eq!(addresses(&arrangement).first().map(String::as_str), Some("unix:/run/api.sock"));
    }

    #[test]
    fn a_filter_looks_at_names_addresses_and_states() {
        let filtered = |text: &str| addresses(&Arrangement { filter: text.into(), ..Arrangement::default() });
        assert_eq!(filtered("UNHEALTHY"), ["[web]", "10.0.0.3:8080"]);
        assert_eq!(filtered("api/10"), ["[api]", "10.1.0.1:9000"]);
        assert_eq!(filtered("internal"), ["[api]", "?api.internal:9000"]);
        assert!(filtered("nothing like it").is_empty());
    }
}
