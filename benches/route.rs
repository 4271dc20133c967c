//! What it costs to find a route among 10, 1,000 and 10,000, which must be about the same.

mod measure;

use std::sync::Arc;

use http::HeaderMap;
use measure::measure;
use roundel::base::path::NormalPath;
use roundel::base::request::{RequestView, Scheme};
use roundel::config::plan::{Action, Filters, HostPattern, PathPattern, Respond, Route, RouteMatch};
use roundel::route::RouteTable;

const TIMES: usize = 200_000;
/// Different requests, so that no branch predictor learns the answer by heart.
const REQUESTS: usize = 1024;

fn main() {
    for count in [10, 1_000, 10_000] {
        bench("hosts", count, |n| (route(n, exact_host(n), prefix("/v1")), host(n), "/v1/users/42".into()));
        bench("wildcards", count, |n| (route(n, wildcard(n), prefix("")), format!("a.{}", host(n)), "/v1".into()));
        bench("prefixes of one host", count, |n| {
            (route(n, exact_host(0), prefix(&service(n))), host(0), format!("{}/users/42", service(n)))
        });
        bench("exact paths of one host", count, |n| {
            (route(n, exact_host(0), PathPattern::Exact(service(n))), host(0), service(n))
        });
        bench("routes, none of which match", count, |n| {
            (route(n, exact_host(n), prefix("/v1")), "other.example.net".into(), "/v1/users/42".into())
        });
    }
    measure("a path in normal form", TIMES, |_| NormalPath::new("/api/v1/users/42").map(NormalPath::into_string));
    measure("a path to be normalised", TIMES, |_| NormalPath::new("/api/../v2/%75sers").map(NormalPath::into_string));
}

/// Builds a table of `count` routes and finds them by the hosts and paths that `case` gives with each.
fn bench(name: &str, count: usize, case: impl Fn(usize) -> (Arc<Route>, String, String)) {
    let table = RouteTable::build(&(0..count).map(|n| case(n).0).collect::<Vec<_>>());
    let step = (count / REQUESTS).max(1);
    let requests: Vec<_> = (0..REQUESTS).map(|n| case(n * step % count)).collect();
    let fields = HeaderMap::new();
    measure(&format!("{count} {name}"), TIMES, |number| {
        let (_, host, path) = &requests[number % REQUESTS];
        let (method, scheme) = ("GET", Scheme::Https);
        let view = RequestView { method, scheme, host, path, query: None, client: None, fields: &fields };
        let path = NormalPath::new(path).expect("the paths of this benchmark are plain");
        table.find(&view, &path).map(|found| found.index)
    });
}

fn host(number: usize) -> String {
    format!("tenant-{number}.example.com")
}

fn exact_host(number: usize) -> HostPattern {
    HostPattern::Exact(host(number).into())
}

fn wildcard(number: usize) -> HostPattern {
    HostPattern::Wildcard(format!(".{}", host(number)).into())
}

fn service(number: usize) -> String {
    format!("/api/service-{number}/v1")
}

fn prefix(path: &str) -> PathPattern {
    PathPattern::Prefix(path.to_owned())
}

fn route(number: usize, host: HostPattern, path: PathPattern) -> Arc<Route> {
    Arc::new(Route {
        name: format!("route-{number}").into(),
        hosts: vec![host],
        matches: vec![RouteMatch { path, ..RouteMatch::default() }],
        filters: Filters::default(),
        request_timeout: None,
        body_limit: None,
        websocket: true,
        errors: std::collections::BTreeMap::new(),
        action: Action::Respond(Respond { status: 200, body: bytes::Bytes::new(), headers: Vec::new() }),
    })
}
