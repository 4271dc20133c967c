//! What the conformance cases of the Kubernetes Gateway API promise of HTTPRoute, restated as data.
//!
//! Each `tests/conformance/httproute/NAME.yaml` has the official name of its case, routes in our language (with the upstreams
//! `v1`, `v2` and `v3`), and requests with what must become of them. They are asked of the route table and the filters that
//! serve requests, in the order of `exchange::admission`. `docs/gateway-api.md` tells which cases are covered.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue};
use roundel::base::clock::Moment;
use roundel::base::path::NormalPath;
use roundel::base::request::{RequestView, Scheme};
use roundel::config::plan::Route;
use roundel::config::{self, plan};
use roundel::filter::headers::Variables;
use roundel::filter::{Chain, Decision, edit};
use roundel::route::RouteTable;
use roundel::route::split::Splitter;
use roundel::telemetry::reason::Reason;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The official name.
    case: String,
    /// As in a configuration.
    routes: serde_json::Value,
    requests: Vec<Request>,
}

/// A request and what must become of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default = "get")]
    method: String,
    #[serde(default = "http")]
    scheme: String,
    #[serde(default = "gateway")]
    host: String,
    /// With its query.
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The status and the `Location` that the proxy answers with by itself.
    status: Option<u16>,
    location: Option<String>,
    /// The upstream that gets the request; for many requests, how many of them each gets.
    upstream: Option<String>,
    #[serde(default)]
    shares: BTreeMap<String, usize>,
    /// What the backend must see.
    backend: Option<Seen>,
    /// The fields that the backend answers with, and what the client must see of them.
    #[serde(default)]
    answers: BTreeMap<String, String>,
    client: Option<Seen>,
}

/// What one side sees. Several values of a field are joined by commas.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Seen {
    path: Option<String>,
    host: Option<String>,
    headers: BTreeMap<String, String>,
    absent: Vec<String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn http() -> String {
    "http".to_owned()
}

fn gateway() -> String {
    "gateway.test".to_owned()
}

fn cases() -> Vec<(PathBuf, Case)> {
    let mut files: Vec<PathBuf> =
        fs::read_dir("tests/conformance/httproute").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let case = serde_yaml::from_str(&fs::read_to_string(&path).unwrap());
        let case = case.unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
        (path, case)
    };
    files.into_iter().map(read).collect()
}

/// What serves requests, built of a plan.
struct Gateway {
    plan: plan::Plan,
    table: RouteTable,
    chains: Vec<Chain>,
    splitters: Vec<Splitter>,
}

impl Gateway {
    fn new(case: &Case) -> Self {
        let backends = |port: u16| serde_json::json!({ "backends": [format!("127.0.0.1:{port}")] });
        let upstreams = serde_json::json!({ "v1": backends(8081), "v2": backends(8082), "v3": backends(8083) });
        // JSON is YAML.
        let text = serde_json::json!({ "upstreams": upstreams, "routes": case.routes }).to_string();
        let loaded = config::load_text(&case.case, &text, &|_| None);
        let plan = loaded.unwrap_or_else(|faults| panic!("{}: {faults}", case.case)).plan;
        let chains =
            plan.routes.iter().map(|route| Chain::build(&route.filters, &route.action, Default::default()).unwrap());
        let splitters = plan.routes.iter().map(|route| Splitter::build(route.action.splits()));
        Self { table: RouteTable::build(&plan.routes), chains: chains.collect(), splitters: splitters.collect(), plan }
    }

    fn serve(&self, request: &Request) -> Served {
        let fields = fields(&request.headers);
        let (path, query) =
            request.path.split_once('?').map_or((&*request.path, None), |(path, query)| (path, Some(query)));
        let view = RequestView {
            method: &request.method,
            scheme: if request.scheme == "https" { Scheme::Https } else { Scheme::Http },
            host: &request.host,
            path,
            query,
            client: None,
            fields: &fields,
        };
        let normal = NormalPath::new(path).unwrap();
        let Some(found) = self.table.find(&view, &normal) else {
            return Served::by_proxy(Reason::NoRoute.status(), None);
        };
        let chain = &self.chains[found.index];
        let decisions =
            [chain.admit(&view), chain.authenticate(&view, Moment::START), chain.answer(&view, &normal, found.matched)];
        for decision in decisions {
            match decision {
                Decision::Continue => {}
                Decision::Answer(answer) => {
                    let location = answer.fields.iter().find(|(name, _)| name == "location");
                    let location = location.map(|(_, value)| value.to_str().unwrap().to_owned());
                    return Served::by_proxy(answer.status, location);
                }
                decision => panic!("{decision:?}"),
            }
        }
        self.forward(request, &view, &normal, found.index, chain, found.matched)
    }

    fn forward(
        &self,
        request: &Request,
        view: &RequestView<'_>,
        normal: &NormalPath<'_>,
        index: usize,
        chain: &Chain,
        matched: &plan::RouteMatch,
    ) -> Served {
        let route: &Route = &self.plan.routes[index];
        let split = &route.action.splits()[self.splitters[index].choose().unwrap()];
        let facts = Variables { route: &route.name, host: view.host, path: view.path, ..Variables::default() };
        let rewrite = chain.rewrite();
        let path = rewrite.and_then(|rewrite| rewrite.path(normal, matched)).map_or(view.path.to_owned(), Into::into);
        let host =
            rewrite.and_then(|rewrite| rewrite.host()).map_or(view.host, |host| host.to_str().unwrap()).to_owned();
        let (mut asked, mut answered) = (fields(&request.headers), fields(&request.answers));
        edit::apply(chain.request_edits(&facts), &mut asked);
        edit::apply(chain.response_edits(view, &facts), &mut answered);
        let upstream = Some(split.upstream.name.to_string());
        Served { upstream, path: Some(path), host: Some(host), asked, answered, ..Served::default() }
    }
}

/// What became of a request.
#[derive(Default)]
struct Served {
    status: Option<u16>,
    location: Option<String>,
    upstream: Option<String>,
    path: Option<String>,
    host: Option<String>,
    asked: HeaderMap,
    answered: HeaderMap,
}

impl Served {
    fn by_proxy(status: u16, location: Option<String>) -> Self {
        Self { status: Some(status), location, ..Self::default() }
    }
}

fn fields(pairs: &BTreeMap<String, String>) -> HeaderMap {
    let field = |(name, value): (&String, &String)| (name.parse().unwrap(), value.parse().unwrap());
    pairs.iter().map(field).collect::<HeaderMap<HeaderValue>>()
}

fn expect_fields(what: &str, expected: &Seen, found: &HeaderMap) {
    for (name, value) in &expected.headers {
        let values: Vec<&str> = found.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values.join(","), *value, "{what}: {name}");
    }
    for name in &expected.absent {
        assert!(!found.contains_key(name.parse::<HeaderName>().unwrap()), "{what}: {name} is there");
    }
}

fn expect(what: &str, request: &Request, served: &Served) {
    assert_eq!(
        (&served.status, &served.location, &served.upstream),
        (&request.status, &request.location, &request.upstream),
        "{what}"
    );
    if let Some(backend) = &request.backend {
        assert_eq!(served.path, backend.path, "{what}");
        assert!(backend.host.is_none() || served.host == backend.host, "{what}: {:?}", served.host);
        expect_fields(what, backend, &served.asked);
    }
    if let Some(client) = &request.client {
        expect_fields(what, client, &served.answered);
    }
}

fn expect_shares(what: &str, request: &Request, gateway: &Gateway) {
    let requests: usize = request.shares.values().sum();
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        *shares.entry(gateway.serve(request).upstream.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(shares, request.shares, "{what}");
}

#[test]
fn every_covered_case_of_httproute_is_kept() {
    for (_, case) in cases() {
        let gateway = Gateway::new(&case);
        for request in &case.requests {
            let what = format!("{}: {request:?}", case.case);
            if request.shares.is_empty() {
                expect(&what, request, &gateway.serve(request));
            } else {
                expect_shares(&what, request, &gateway);
            }
        }
    }
}

#[test]
fn the_manual_names_every_case_that_is_here_and_no_other_as_covered() {
    let manual = fs::read_to_string("docs/gateway-api.md").unwrap();
    let covered = manual.split("## Not covered").next().unwrap();
    let named: Vec<&str> = covered.split('`').filter(|word| word.starts_with("HTTPRoute") && word.len() > 9).collect();
    let cases = cases();
    for (path, case) in &cases {
        assert!(named.contains(&&*case.case), "docs/gateway-api.md does not name {} ({})", case.case, path.display());
    }
    for name in named {
        assert!(cases.iter().any(|(_, case)| case.case == name), "no file in tests/conformance/httproute is {name}");
    }
}
