//! The last minutes, a second at a time: what the live page draws before it has watched for as long itself.
//!
//! Bounded by [`SECONDS`] and by the number of upstreams that are configured. Nothing of it is on the path of a request: once a
//! second the counters are read, and what they have grown by is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Registry;
use super::histogram::{BOUNDS, Reading};

/// How many seconds are kept.
const SECONDS: usize = 300;

/// The last [`SECONDS`] of requests.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// What the counters said at the last look; none before the first.
    last: Option<Totals>,
    seconds: VecDeque<Second>,
}

/// What the counters say at one moment.
#[derive(Debug, Clone, Default)]
struct Totals {
    classes: Classes,
    /// Requests by the bucket of their duration, not cumulative; the last is beyond all bounds.
    durations: [u64; BOUNDS.len() + 1],
    upstreams: BTreeMap<Arc<str>, Classes>,
}

/// Requests by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Classes {
    /// 1xx, 2xx and 3xx.
    good: u64,
    /// 4xx, clients that left included.
    client: u64,
    /// 5xx.
    server: u64,
}

/// What happened in one second.
#[derive(Debug, Clone, Default)]
struct Second {
    classes: Classes,
    p50: Option<f64>,
    p99: Option<f64>,
    upstreams: BTreeMap<Arc<str>, Classes>,
}

impl Classes {
    fn add(&mut self, status: usize, count: u64) {
        match status {
            ..400 => self.good += count,
            400..500 => self.client += count,
            _ => self.server += count,
        }
    }

    /// What it has grown by. A series that was pruned takes its counts along: nothing is ever negative for that.
    fn since(self, earlier: Self) -> Self {
        Self {
            good: self.good.saturating_sub(earlier.good),
            client: self.client.saturating_sub(earlier.client),
            server: self.server.saturating_sub(earlier.server),
        }
    }
}

impl Totals {
    fn of(registry: &Registry) -> Self {
        let mut totals = Self::default();
        let all: Vec<_> =
            registry.requests.lock().iter().map(|(labels, series)| (labels[2].clone(), series.clone())).collect();
        for (upstream, series) in all {
            let of_upstream = totals.upstreams.entry(upstream).or_default();
            for (status, count) in series.statuses.iter() {
                of_upstream.add(status, count);
                totals.classes.add(status, count);
            }
            for (sum, count) in totals.durations.iter_mut().zip(apart(&series.duration.read())) {
                *sum += count;
            }
        }
        // Requests that went to no upstream are in the sum alone.
        totals.upstreams.retain(|name, _| !name.is_empty());
        totals
    }

    fn since(&self, earlier: &Self) -> Second {
        let durations: Vec<u64> =
            self.durations.iter().zip(earlier.durations).map(|(now, then)| now.saturating_sub(then)).collect();
        let before = |name: &Arc<str>| earlier.upstreams.get(name).copied().unwrap_or_default();
        Second {
            classes: self.classes.since(earlier.classes),
            p50: quantile(&durations, 0.5),
            p99: quantile(&durations, 0.99),
            upstreams: self
                .upstreams
                .iter()
                .map(|(name, classes)| (name.clone(), classes.since(before(name))))
                .collect(),
        }
    }
}

/// The counts of a reading by bucket, not cumulative.
fn apart(reading: &Reading) -> impl Iterator<Item = u64> {
    let mut below = 0;
    reading.buckets.into_iter().chain([reading.count]).map(move |upto| upto - std::mem::replace(&mut below, upto))
}

/// The duration in milliseconds that a share of all is not longer than, taken to lie evenly within its bucket as Prometheus'
/// `histogram_quantile` does; none where nothing was counted.
fn quantile(counts: &[u64], share: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    let wanted = total as f64 * share;
    let mut below = 0.0;
    let mut floor = 0.0;
    for (count, (bound, _)) in counts.iter().zip(BOUNDS) {
        let ceiling = bound.as_secs_f64() * 1e3;
        let count = *count as f64;
        if count > 0.0 && below + count >= wanted {
            return Some(floor + (ceiling - floor) * (wanted - below) / count);
        }
        below += count;
        floor = ceiling;
    }
    (total > 0).then_some(floor)
}

impl History {
    /// Looks at the counters. To be called once a second.
    pub(super) fn look(&self, registry: &Registry) {
        let totals = Totals::of(registry);
        let mut kept = self.0.lock();
        if let Some(last) = kept.last.replace(totals.clone()) {
            if kept.seconds.len() == SECONDS {
                kept.seconds.pop_front();
            }
            kept.seconds.push_back(totals.since(&last));
        }
    }

    /// The seconds that are kept, the oldest first, in columns.
    pub(super) fn tell(&self) -> Value {
        let kept = self.0.lock();
        let column = |value: &dyn Fn(&Second) -> Value| kept.seconds.iter().map(value).collect::<Value>();
        let names = kept.last.iter().flat_map(|last| last.upstreams.keys());
        let upstreams: serde_json::Map<_, _> = names
            .map(|name| {
                let of = |second: &Second| second.upstreams.get(name).copied().unwrap_or_default();
                let columns = json!({
                    "requests": column(&|second| (of(second).good + of(second).client + of(second).server).into()),
                    "errors": column(&|second| of(second).server.into()),
                });
                (name.to_string(), columns)
            })
            .collect();
        json!({
            "step_seconds": 1,
            "good": column(&|second| second.classes.good.into()),
            "client_errors": column(&|second| second.classes.client.into()),
            "server_errors": column(&|second| second.classes.server.into()),
            "p50_ms": column(&|second| second.p50.map(rounded).into()),
            "p99_ms": column(&|second| second.p99.map(rounded).into()),
            "upstreams": upstreams,
        })
    }
}

/// Microseconds are enough.
fn rounded(millis: f64) -> f64 {
    (millis * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::series::Bodies;
    use super::*;

    fn name(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn each_second_holds_what_the_counters_grew_by() {
        let registry = Registry::new(2);
        let web = registry.requests(&name("public"), &name("site"), &name("web"));
        let none = registry.requests(&name("public"), &name(""), &name(""));
        web.record(200, Duration::from_millis(1), Bodies::default());
        registry.look();
        web.record(204, Duration::from_millis(3), Bodies::default());
        web.record(502, Duration::from_millis(3), Bodies::default());
        none.record(404, Duration::ZERO, Bodies::default());
        registry.look();
        registry.look();

        let told = registry.history();

        assert_eq!(told["good"], json!([1, 0]));
        assert_eq!((&told["client_errors"], &told["server_errors"]), (&json!([1, 0]), &json!([1, 0])));
        assert_eq!(told["upstreams"], json!({"web": {"requests": [2, 0], "errors": [1, 0]}}));
        assert_eq!(told["p50_ms"][1], Value::Null);
    }

    #[test]
    fn no_more_than_the_last_minutes_are_kept() {
        let registry = Registry::new(1);
        for _ in 0..SECONDS + 10 {
            registry.look();
        }
        assert_eq!(registry.history()["good"].as_array().map(Vec::len), Some(SECONDS));
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let mut counts = [0; BOUNDS.len() + 1];
        assert_eq!(quantile(&counts, 0.5), None);
        counts[1] = 10;
        assert_eq!(quantile(&counts, 0.5), Some(0.75));
        counts[BOUNDS.len()] = 100;
        assert_eq!(quantile(&counts, 0.99), Some(60_000.0), "what is beyond all bounds is at least the last");
    }
}
