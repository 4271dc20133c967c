//! Metrics, as Prometheus reads them.
//!
//! [`Registry`] hands out the handles of [`series`], by which the house counts, and writes them all as text when it is
//! scraped. What has a present value (which backends are up, what is in flight) is not counted but asked for at the scrape,
//! through [`Observe`]. docs/metrics.md lists every metric.

mod cell;
mod exposition;
mod histogram;
mod history;
mod process;
pub mod series;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use self::cell::Shards;
pub use self::exposition::{Observe, Scrape};
use self::history::History;
use self::series::{Backend, Listener, Process, RateLimits, Requests, Upstream};

/// The media type of the text that [`Registry::expose`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Series by the values of their labels.
type Family<const LABELS: usize, T> = Mutex<BTreeMap<[Arc<str>; LABELS], Arc<T>>>;

/// All series of the process. It lives as long as the process does, over all reloads.
///
/// Asking twice for the same labels gives the same handle: a series goes on where the snapshot before left it.
#[derive(Debug)]
pub struct Registry {
    shards: Shards,
    requests: Family<3, Requests>,
    upstreams: Family<1, Upstream>,
    backends: Family<2, Backend>,
    listeners: Family<1, Listener>,
    rate_limits: Family<1, RateLimits>,
    process: Arc<Process>,
    history: History,
}

impl Registry {
    /// A registry without series, for a process in which so many threads serve.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shards = Shards::for_threads(threads);
        Self {
            shards,
            requests: Family::default(),
            upstreams: Family::default(),
            backends: Family::default(),
            listeners: Family::default(),
            rate_limits: Family::default(),
            process: Arc::new(Process::new(shards)),
            history: History::default(),
        }
    }

    /// The requests of a listener that a route sent to an upstream. What a request does not have is empty: the upstream of a
    /// redirect, the route of a request that none wanted.
    #[must_use]
    pub fn requests(&self, listener: &Arc<str>, route: &Arc<str>, upstream: &Arc<str>) -> Arc<Requests> {
        series(&self.requests, [listener, route, upstream], || Requests::new(self.shards))
    }

    /// One upstream.
    #[must_use]
    pub fn upstream(&self, upstream: &Arc<str>) -> Arc<Upstream> {
        series(&self.upstreams, [upstream], || Upstream::new(self.shards))
    }

    /// One backend of an upstream, by its address.
    #[must_use]
    pub fn backend(&self, upstream: &Arc<str>, backend: &Arc<str>) -> Arc<Backend> {
        series(&self.backends, [upstream, backend], || Backend::new(self.shards))
    }

    /// One listener.
    #[must_use]
    pub fn listener(&self, listener: &Arc<str>) -> Arc<Listener> {
        series(&self.listeners, [listener], Listener::default)
    }

    /// The rate limits of one route.
    #[must_use]
    pub fn rate_limits(&self, route: &Arc<str>) -> Arc<RateLimits> {
        series(&self.rate_limits, [route], || RateLimits::new(self.shards))
    }

    /// The process as a whole.
    #[must_use]
    pub fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process)
    }

    /// Takes the present counts into the history. To be called once a second.
    pub fn look(&self) {
        self.history.look(self);
    }

    /// The requests of the last minutes, a second at a time, the oldest first: by class of status, with the durations that half
    /// and 99 of a hundred were not longer than (milliseconds), and by upstream.
    #[must_use]
    pub fn history(&self) -> serde_json::Value {
        self.history.tell()
    }

    /// Drops every series whose handles are all gone: those of names that have left the configuration, and of backends
    /// that discovery finds no more. To be called after the last snapshot that knew them was dropped.
    pub fn prune(&self) {
        prune(&self.requests);
        prune(&self.upstreams);
        prune(&self.backends);
        prune(&self.listeners);
        prune(&self.rate_limits);
    }

    /// All metrics in the text format of Prometheus, version 0.0.4, with what `observed` tells of the present.
    #[must_use]
    pub fn expose(&self, observed: &dyn Observe) -> String {
        exposition::write(self, observed)
    }
}

fn series<const LABELS: usize, T>(
    family: &Family<LABELS, T>,
    labels: [&Arc<str>; LABELS],
    new: impl FnOnce() -> T,
) -> Arc<T> {
    Arc::clone(family.lock().entry(labels.map(Arc::clone)).or_insert_with(|| Arc::new(new())))
}

fn prune<const LABELS: usize, T>(family: &Family<LABELS, T>) {
    // The registry's own handle is the last one. None can appear meanwhile: whoever would ask for one needs this lock.
    family.lock().retain(|_, series| Arc::strong_count(series) > 1);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::series::Bodies;
    use super::*;

    struct Nothing;

    impl Observe for Nothing {
        fn observe(&self, _: &mut Scrape) {}
    }

    fn name(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn a_series_goes_on_over_a_rebuild() {
        let registry = Registry::new(2);
        let labels = [name("public"), name("site"), name("web")];
        registry.requests(&labels[0], &labels[1], &labels[2]).record(200, Duration::ZERO, Bodies::default());
        registry.requests(&labels[0], &labels[1], &labels[2]).record(200, Duration::ZERO, Bodies::default());
        let line = "roundel_requests_total{listener=\"public\",route=\"site\",upstream=\"web\",code=\"200\"} 2\n";
        assert!(registry.expose(&Nothing).contains(line));
    }

    #[test]
    fn a_series_that_nobody_holds_is_pruned_and_others_stay() {
        let registry = Registry::new(2);
        let web = name("web");
        let (held, left) = (registry.backend(&web, &name("10.0.0.1:80")), registry.backend(&web, &name("10.0.0.2:80")));
        held.ejected();
        left.ejected();
        drop(left);
        registry.prune();
        let text = registry.expose(&Nothing);
        assert!(text.contains("roundel_ejections_total{upstream=\"web\",backend=\"10.0.0.1:80\"} 1\n"));
        assert!(!text.contains("10.0.0.2"));
    }
}
