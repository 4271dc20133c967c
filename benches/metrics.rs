//! What a request costs in metrics, and what a scrape costs with 1, 100 and 1,000 backends.

mod measure;

use std::sync::Arc;
use std::time::Duration;

use measure::measure;
use roundel::telemetry::metrics::series::{Attempt, Bodies, Connection};
use roundel::telemetry::metrics::{Observe, Registry, Scrape};

const TIMES: usize = 1_000_000;
const BODIES: Bodies = Bodies { received: 10, sent: 1_000 };

fn main() {
    let registry = Registry::new(2);
    let [listener, route, web, backend] = ["public", "site", "web", "10.0.0.1:8080"].map(Arc::<str>::from);
    let requests = registry.requests(&listener, &route, &web);
    let upstream = registry.upstream(&web);
    let tries = registry.backend(&web, &backend);
    measure("a request: its status, duration and bodies", TIMES, |number| requests.record(200, micros(number), BODIES));
    measure("a try: outcome, connection, first byte", TIMES, |number| {
        tries.attempt(Attempt::Answered(200));
        upstream.connected(Connection::Reused);
        upstream.first_byte(micros(number));
    });
    measure("finding the series of a request", TIMES / 10, |_| registry.requests(&listener, &route, &web));
    for count in [1, 100, 1_000] {
        scrape(count);
    }
}

/// Durations that fall into different buckets.
fn micros(number: usize) -> Duration {
    Duration::from_micros((number % 1024) as u64 * 50)
}

fn scrape(count: usize) {
    let registry = Registry::new(2);
    let web: Arc<str> = "web".into();
    let names: Vec<Arc<str>> = (0..count).map(|n| format!("10.0.{}.{}:8080", n / 250, n % 250).into()).collect();
    // A series lives as long as somebody holds it.
    let series: Vec<_> = names.iter().map(|name| registry.backend(&web, name)).collect();
    series.iter().for_each(|backend| backend.attempt(Attempt::Answered(200)));
    let observed = Backends { web, names };
    println!("{count} backends: {} bytes", registry.expose(&observed).len());
    measure(&format!("a scrape, {count} backends"), 1 + 1_000 / count, |_| registry.expose(&observed));
}

struct Backends {
    web: Arc<str>,
    names: Vec<Arc<str>>,
}

impl Observe for Backends {
    fn observe(&self, scrape: &mut Scrape) {
        self.names.iter().for_each(|name| scrape.backend(&self.web, name, true, 1));
    }
}
