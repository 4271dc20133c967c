//! Every metric with its name, its labels and what it means, in the order of docs/metrics.md.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::Histogram;
use super::series::{Attempt, Counters, Refusal, Requests, Upstream};
use super::text::{Family, Kind};
use super::{Registry, process};

/// Whoever knows the present: asked at each scrape, and never by a request.
pub trait Observe {
    /// Tells what there is now.
    fn observe(&self, scrape: &mut Scrape);
}

/// What is told at a scrape. Something told twice counts as told last.
#[derive(Debug, Default)]
pub struct Scrape {
    backends: BTreeMap<[Arc<str>; 2], Present>,
    failing_open: BTreeMap<Arc<str>, bool>,
    pending: BTreeMap<Arc<str>, u64>,
    retry_budget: BTreeMap<Arc<str>, f64>,
    buckets_forgotten: BTreeMap<Arc<str>, u64>,
    certificates: BTreeMap<String, u64>,
    access_log_dropped: Option<u64>,
    spans: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Present {
    up: bool,
    in_flight: u64,
}

impl Scrape {
    /// Whether a backend is usable, and how many requests are in flight at it.
    pub fn backend(&mut self, upstream: &Arc<str>, backend: &Arc<str>, up: bool, in_flight: u64) {
        self.backends.insert([Arc::clone(upstream), Arc::clone(backend)], Present { up, in_flight });
    }

    /// Whether an upstream sends to backends that are not usable, because none is.
    pub fn failing_open(&mut self, upstream: &Arc<str>, failing_open: bool) {
        self.failing_open.insert(Arc::clone(upstream), failing_open);
    }

    /// How many requests wait for a place at an upstream, and how many retries its budget allows now.
    pub fn breakers(&mut self, upstream: &Arc<str>, pending: u64, retry_budget: f64) {
        self.pending.insert(Arc::clone(upstream), pending);
        self.retry_budget.insert(Arc::clone(upstream), retry_budget);
    }

    /// How many buckets the rate limits of a route have forgotten for want of room.
    pub fn buckets_forgotten(&mut self, route: &Arc<str>, buckets: u64) {
        self.buckets_forgotten.insert(Arc::clone(route), buckets);
    }

    /// When the certificate of a file ceases to be valid, in seconds since 1970.
    pub fn certificate(&mut self, name: String, not_after: u64) {
        self.certificates.insert(name, not_after);
    }

    /// How many lines of the access log were dropped.
    pub fn access_log_dropped(&mut self, lines: u64) {
        self.access_log_dropped = Some(lines);
    }

    /// How many spans were sent, and how many were dropped.
    pub fn spans(&mut self, (sent, dropped): (u64, u64)) {
        self.spans = Some((sent, dropped));
    }
}

/// All metrics as text.
pub(super) fn write(registry: &Registry, observed: &dyn Observe) -> String {
    let mut scrape = Scrape::default();
    observed.observe(&mut scrape);
    let mut out = String::with_capacity(16 * 1024);
    requests(&mut out, registry);
    answers(&mut out, registry);
    rate_limits(&mut out, registry, &scrape);
    upstreams(&mut out, registry);
    backends(&mut out, registry, &scrape);
    listeners(&mut out, registry);
    configuration(&mut out, registry);
    certificates(&mut out, &scrape);
    if let Some(lines) = scrape.access_log_dropped {
        let help = "Lines of the access log that were dropped because it could not be written fast enough.";
        Family::new(&mut out, Kind::Counter, "roundel_access_log_dropped_total", help).sample(&[], lines);
    }
    if let Some((sent, dropped)) = scrape.spans {
        Family::new(&mut out, Kind::Counter, "roundel_spans_sent_total", "Spans that the receiver of traces took.")
            .sample(&[], sent);
        let help = "Spans that were dropped because the receiver of traces did not take them, or not fast enough.";
        Family::new(&mut out, Kind::Counter, "roundel_spans_dropped_total", help).sample(&[], dropped);
    }
    Family::new(&mut out, Kind::Gauge, "roundel_build_info", "Always 1; the version that runs is a label.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    process::write(&mut out);
    out
}

/// The handles of a family as they are now, so that no lock is held while they are written.
fn snapshot<const LABELS: usize, T>(family: &super::Family<LABELS, T>) -> Vec<([Arc<str>; LABELS], Arc<T>)> {
    family.lock().iter().map(|(labels, series)| (labels.clone(), Arc::clone(series))).collect()
}

fn certificates(out: &mut String, scrape: &Scrape) {
    if scrape.certificates.is_empty() {
        return;
    }
    let help = "When a certificate of a listener ceases to be valid, by its file.";
    let mut family = Family::new(out, Kind::Gauge, "roundel_certificate_expiry_timestamp_seconds", help);
    for (name, not_after) in &scrape.certificates {
        family.sample(&[("name", name)], *not_after);
    }
}

fn requests(out: &mut String, registry: &Registry) {
    let all: Vec<([Arc<str>; 3], Arc<Requests>)> = snapshot(&registry.requests);
    let help = "Requests by the exact status of their answer (499: the client left).";
    let mut family = Family::new(out, Kind::Counter, "roundel_requests_total", help);
    for ([listener, route, upstream], series) in &all {
        for (status, count) in series.statuses.iter() {
            let code = status.to_string();
            family.sample(&[("listener", listener), ("route", route), ("upstream", upstream), ("code", &code)], count);
        }
    }
    let help = "From a request's first byte to its answer's last.";
    let mut family = Family::new(out, Kind::Histogram, "roundel_request_duration_seconds", help);
    for ([listener, route, upstream], series) in &all {
        let labels = [("listener", &**listener), ("route", &**route), ("upstream", &**upstream)];
        family.histogram(&labels, &series.duration.read());
    }
    let help = "Bytes of requests' bodies that were read from clients, counted when a request ends.";
    let mut family = Family::new(out, Kind::Counter, "roundel_request_body_bytes_total", help);
    for ([listener, route, upstream], series) in &all {
        let labels = [("listener", &**listener), ("route", &**route), ("upstream", &**upstream)];
        family.sample(&labels, series.received.value());
    }
    let help = "Bytes of answers' bodies that were written to clients, counted when a request ends.";
    let mut family = Family::new(out, Kind::Counter, "roundel_response_body_bytes_total", help);
    for ([listener, route, upstream], series) in &all {
        let labels = [("listener", &**listener), ("route", &**route), ("upstream", &**upstream)];
        family.sample(&labels, series.sent.value());
    }
}

fn answers(out: &mut String, registry: &Registry) {
    let help = "Requests that the proxy answered by itself, or that ended without their answer, by reason.";
    let mut family = Family::new(out, Kind::Counter, "roundel_answers_total", help);
    for (word, count) in by_word(registry.process.answers()) {
        family.sample(&[("reason", word)], count);
    }
}

fn rate_limits(out: &mut String, registry: &Registry, scrape: &Scrape) {
    let all = snapshot(&registry.rate_limits);
    let help = "Requests that rate limits refused.";
    let mut family = Family::new(out, Kind::Counter, "roundel_rate_limited_total", help);
    for ([route], series) in &all {
        family.sample(&[("route", route)], series.refused.value());
    }
    let help = "Requests that rate limits on trial would have refused.";
    let mut family = Family::new(out, Kind::Counter, "roundel_rate_limited_dry_run_total", help);
    for ([route], series) in &all {
        family.sample(&[("route", route)], series.on_trial.value());
    }
    let help = "Keys that rate limits have forgotten before their time, because there were more than max_keys.";
    let mut family = Family::new(out, Kind::Counter, "roundel_rate_limit_keys_forgotten_total", help);
    for (route, forgotten) in &scrape.buckets_forgotten {
        family.sample(&[("route", route)], forgotten);
    }
}

fn upstreams(out: &mut String, registry: &Registry) {
    let all = snapshot(&registry.upstreams);
    durations(
        out,
        &all,
        "roundel_upstream_connect_duration_seconds",
        "Connects to backends, TLS included.",
        |series| &series.connect,
    );
    let help = "From a request sent to a backend to the first byte of its answer.";
    durations(out, &all, "roundel_upstream_first_byte_duration_seconds", help, |series| &series.first_byte);
    let help = "Connections that requests were sent on, by whether they had been used before.";
    let mut family = Family::new(out, Kind::Counter, "roundel_upstream_connections_total", help);
    for ([upstream], series) in &all {
        family.sample(&[("upstream", upstream), ("reused", "false")], series.new_connections.value());
        family.sample(&[("upstream", upstream), ("reused", "true")], series.reused_connections.value());
    }
    let help = "Requests tried again, by how the try before ended.";
    let mut family = Family::new(out, Kind::Counter, "roundel_retries_total", help);
    for ([upstream], series) in &all {
        for (word, count) in attempts(&series.retries) {
            family.sample(&[("upstream", upstream), ("cause", word)], count);
        }
    }
    let help = "Requests not tried again because the retry budget was exhausted.";
    let mut family = Family::new(out, Kind::Counter, "roundel_retry_budget_exhausted_total", help);
    for ([upstream], series) in &all {
        family.sample(&[("upstream", upstream)], series.budget_exhausted.value());
    }
}

fn durations(
    out: &mut String,
    all: &[([Arc<str>; 1], Arc<Upstream>)],
    name: &'static str,
    help: &'static str,
    histogram: fn(&Upstream) -> &Histogram,
) {
    let mut family = Family::new(out, Kind::Histogram, name, help);
    for ([upstream], series) in all {
        family.histogram(&[("upstream", upstream)], &histogram(series).read());
    }
}

fn backends(out: &mut String, registry: &Registry, scrape: &Scrape) {
    let all = snapshot(&registry.backends);
    let help = "Tries at backends, by how they ended.";
    let mut family = Family::new(out, Kind::Counter, "roundel_upstream_attempts_total", help);
    for ([upstream, backend], series) in &all {
        for (word, count) in attempts(&series.attempts) {
            family.sample(&[("upstream", upstream), ("backend", backend), ("outcome", word)], count);
        }
    }
    present(out, scrape);
    let mut family = Family::new(out, Kind::Counter, "roundel_probes_total", "Probes of backends, by how they ended.");
    for ([upstream, backend], series) in &all {
        let outcomes = [("success", &series.probe_successes), ("failure", &series.probe_failures)];
        for (outcome, count) in outcomes {
            family.sample(&[("upstream", upstream), ("backend", backend), ("outcome", outcome)], load(count));
        }
    }
    let help = "How often backends were ejected for failures of real requests.";
    let mut family = Family::new(out, Kind::Counter, "roundel_ejections_total", help);
    for ([upstream, backend], series) in &all {
        family.sample(&[("upstream", upstream), ("backend", backend)], load(&series.ejections));
    }
}

fn present(out: &mut String, scrape: &Scrape) {
    let mut family = Family::new(out, Kind::Gauge, "roundel_backend_up", "Whether a backend is usable (1) or not (0).");
    for ([upstream, backend], present) in &scrape.backends {
        family.sample(&[("upstream", upstream), ("backend", backend)], u8::from(present.up));
    }
    let mut family = Family::new(out, Kind::Gauge, "roundel_backend_in_flight", "Requests in flight at a backend.");
    for ([upstream, backend], present) in &scrape.backends {
        family.sample(&[("upstream", upstream), ("backend", backend)], present.in_flight);
    }
    let help = "Whether an upstream sends to backends that are not usable, because none is (1), or not (0).";
    let mut family = Family::new(out, Kind::Gauge, "roundel_upstream_failing_open", help);
    for (upstream, failing_open) in &scrape.failing_open {
        family.sample(&[("upstream", upstream)], u8::from(*failing_open));
    }
    let help = "Requests that wait for a place, because the limits of their upstream are reached.";
    let mut family = Family::new(out, Kind::Gauge, "roundel_upstream_pending", help);
    for (upstream, pending) in &scrape.pending {
        family.sample(&[("upstream", upstream)], *pending);
    }
    let help = "Retries that the retry budget allows now, at once.";
    let mut family = Family::new(out, Kind::Gauge, "roundel_retry_budget", help);
    for (upstream, left) in &scrape.retry_budget {
        family.sample(&[("upstream", upstream)], *left);
    }
}

fn listeners(out: &mut String, registry: &Registry) {
    let all = snapshot(&registry.listeners);
    let mut family = Family::new(out, Kind::Gauge, "roundel_connections", "Connections of clients that are open.");
    for ([listener], series) in &all {
        family.sample(&[("listener", listener)], series.open());
    }
    let help = "Connections of clients that were refused.";
    let mut family = Family::new(out, Kind::Counter, "roundel_connections_refused_total", help);
    for ([listener], series) in &all {
        for refusal in Refusal::ALL {
            let count = load(&series.refused[refusal as usize]);
            family.sample(&[("listener", listener), ("reason", refusal.as_str())], count);
        }
    }
}

fn configuration(out: &mut String, registry: &Registry) {
    let process = &registry.process;
    let help = "The number of the configuration that serves: 1 at the start, one more with each reload.";
    Family::new(out, Kind::Gauge, "roundel_config_generation", help).sample(&[], load(&process.generation));
    let mut family = Family::new(out, Kind::Counter, "roundel_config_reloads_total", "Reloads, by how they ended.");
    family.sample(&[("outcome", "success")], load(&process.reload_successes));
    family.sample(&[("outcome", "failure")], load(&process.reload_failures));
}

fn attempts(counters: &Counters) -> BTreeMap<&'static str, u64> {
    by_word(counters.iter().map(|(index, count)| (Attempt::word(index), count)))
}

/// Adds up what shares a word: a label's value must not come twice.
fn by_word(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for (word, count) in counts {
        *sums.entry(word).or_insert(0) += count;
    }
    sums
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::super::Registry;
    use super::super::series::{Bodies, Connection, Probe, Reload};
    use super::*;
    use crate::telemetry::reason::Reason;

    struct Now;

    impl Observe for Now {
        fn observe(&self, scrape: &mut Scrape) {
            let web = Arc::from("web");
            scrape.backend(&web, &Arc::from("10.0.0.1:80"), true, 3);
            scrape.backend(&web, &Arc::from("10.0.0.2:80"), false, 0);
            scrape.failing_open(&web, false);
            scrape.breakers(&web, 2, 29.2);
            scrape.buckets_forgotten(&Arc::from("site"), 5);
            scrape.certificate("tls/site.pem".into(), 1_893_456_000);
            scrape.access_log_dropped(7);
            scrape.spans((8, 9));
        }
    }

    /// A registry in which everything has happened once.
    fn everything() -> Registry {
        let registry = Registry::new(2);
        let [public, site, web, none] = ["public \"a\\b\"", "site", "web", ""].map(Arc::<str>::from);
        registry.requests(&public, &site, &web).record(200, Duration::from_millis(2), Bodies { received: 3, sent: 4 });
        registry.requests(&public, &none, &none).record(404, Duration::from_micros(20), Bodies::default());
        let upstream = registry.upstream(&web);
        upstream.connected(Connection::New(Duration::from_millis(1)));
        upstream.connected(Connection::Reused);
        upstream.first_byte(Duration::from_millis(1));
        upstream.retried(Attempt::Failed(Reason::ConnectionRefused));
        upstream.budget_exhausted();
        let backend = registry.backend(&web, &Arc::from("10.0.0.1:80"));
        backend.attempt(Attempt::Answered(200));
        backend.attempt(Attempt::Failed(Reason::HttpRequestError));
        backend.attempt(Attempt::Failed(Reason::MethodNotAllowed));
        backend.probed(Probe::Success);
        backend.ejected();
        registry.listener(&public).refused(Refusal::MaxConnections);
        registry.rate_limits(&site).refused();
        registry.rate_limits(&site).on_trial();
        registry.process().answered(Reason::NoRoute);
        registry.process().generation(1);
        registry.process().reloaded(Reload::Failure);
        registry
    }

    /// The names of docs/metrics.md that begin with `roundel_`.
    fn documented() -> BTreeSet<String> {
        let manual = include_str!("../../../docs/metrics.md");
        manual
            .lines()
            .filter_map(|line| line.strip_prefix("| `roundel_")?.split(['`', '{']).next())
            .map(|name| format!("roundel_{name}"))
            .collect()
    }

    #[test]
    fn every_metric_is_in_the_manual_and_the_manual_holds_no_other() {
        let text = everything().expose(&Now);
        let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let told: BTreeSet<String> = told.filter(|name| name.starts_with("roundel_")).map(str::to_owned).collect();
        assert_eq!(told, documented());
    }

    #[test]
    fn no_sample_comes_twice_and_each_is_a_number() {
        let text = everything().expose(&Now);
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series), "{series} comes twice");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn what_happened_is_told() {
        let text = everything().expose(&Now);
        for line in [
            r#"roundel_requests_total{listener="public \"a\\b\"",route="site",upstream="web",code="200"} 1"#,
            r#"roundel_requests_total{listener="public \"a\\b\"",route="",upstream="",code="404"} 1"#,
            r#"roundel_request_body_bytes_total{listener="public \"a\\b\"",route="site",upstream="web"} 3"#,
            r#"roundel_response_body_bytes_total{listener="public \"a\\b\"",route="site",upstream="web"} 4"#,
            r#"roundel_answers_total{reason="no_route"} 1"#,
            r#"roundel_answers_total{reason="client_gone"} 0"#,
            r#"roundel_upstream_attempts_total{upstream="web",backend="10.0.0.1:80",outcome="answered"} 1"#,
            r#"roundel_upstream_attempts_total{upstream="web",backend="10.0.0.1:80",outcome="http_request_error"} 2"#,
            r#"roundel_upstream_connections_total{upstream="web",reused="true"} 1"#,
            r#"roundel_retries_total{upstream="web",cause="connection_refused"} 1"#,
            r#"roundel_backend_up{upstream="web",backend="10.0.0.2:80"} 0"#,
            r#"roundel_backend_in_flight{upstream="web",backend="10.0.0.1:80"} 3"#,
            r#"roundel_config_reloads_total{outcome="failure"} 1"#,
            r#"roundel_upstream_pending{upstream="web"} 2"#,
            r#"roundel_retry_budget{upstream="web"} 29.2"#,
            r#"roundel_rate_limited_total{route="site"} 1"#,
            r#"roundel_rate_limited_dry_run_total{route="site"} 1"#,
            r#"roundel_rate_limit_keys_forgotten_total{route="site"} 5"#,
            "roundel_access_log_dropped_total 7",
            "roundel_spans_sent_total 8",
            "roundel_spans_dropped_total 9",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn each_heading_comes_once() {
        let text = everything().expose(&Now);
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        assert_eq!(headings.len(), headings.iter().collect::<BTreeSet<_>>().len());
    }
}
