//! The table against a naive reading of the written precedence, and the conformance cases of the Gateway API as data.

use super::*;
use crate::base::request::Scheme;
use crate::config::plan::{Action, Filters, Respond};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

fn route(name: &str, hosts: &[&str], matches: Vec<RouteMatch>) -> Arc<Route> {
    let hosts = hosts.iter().map(|host| match host.strip_prefix('*') {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None => HostPattern::Exact((*host).into()),
    });
    let action = Action::Respond(Respond { status: 200, body: bytes::Bytes::new(), headers: Vec::new() });
    Arc::new(Route {
        name: name.into(),
        hosts: hosts.collect(),
        matches,
        filters: Filters::default(),
        request_timeout: None,
        body_limit: None,
        websocket: true,
        errors: Default::default(),
        action,
    })
}

/// A match from words: `GET /exact`, `/prefix/*`, `~regex`, `name: value` as `name:value`, `?name=value`.
fn matched(text: &str) -> RouteMatch {
    let mut matched = RouteMatch::default();
    for word in text.split_whitespace() {
        if let Some(pattern) = word.strip_prefix('~') {
            matched.path = PathPattern::Regex(regex::Regex::new(pattern).unwrap());
        } else if let Some((name, value)) = word.strip_prefix('?').and_then(|pair| pair.split_once('=')) {
            matched.query.push((name.into(), value.into()));
        } else if let Some(prefix) = word.strip_suffix("/*") {
            matched.path = PathPattern::Prefix(prefix.into());
        } else if word.starts_with('/') {
            matched.path = PathPattern::Exact(word.into());
        } else if let Some((name, value)) = word.split_once(':') {
            matched.headers.push((HeaderName::from_bytes(name.as_bytes()).unwrap(), value.into()));
        } else {
            matched.methods.push(word.parse::<Method>().unwrap());
        }
    }
    matched
}

fn table(routes: &[(&str, &[&str], &[&str])]) -> RouteTable {
    let routes: Vec<_> = routes
        .iter()
        .map(|(name, hosts, matches)| route(name, hosts, matches.iter().map(|text| matched(text)).collect()))
        .collect();
    RouteTable::build(&routes)
}

/// A request from words: `GET host/path?query name:value`.
struct Request {
    method: String,
    host: String,
    path: String,
    query: Option<String>,
    fields: HeaderMap,
}

impl Request {
    fn new(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let method = words.next().unwrap().to_owned();
        let (host, target) = words.next().unwrap().split_once('/').unwrap();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let mut fields = HeaderMap::new();
        for (name, value) in words.map(|word| word.split_once(':').unwrap()) {
            fields.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Self { method, host: host.to_owned(), path: format!("/{path}"), query, fields }
    }

    fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            scheme: Scheme::Http,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            client: None,
            fields: &self.fields,
        }
    }
}

fn winner(table: &RouteTable, request: &str) -> Option<String> {
    let request = Request::new(request);
    let path = NormalPath::new(&request.path).unwrap();
    table.find(&request.view(), &path).map(|found| found.route.name.to_string())
}

/// Each case: the routes (name, hosts, matches), then requests with the name of the route that must win (`-`: none).
type Case<'a> = (&'a str, &'a [(&'a str, &'a [&'a str], &'a [&'a str])], &'a [(&'a str, &'a str)]);

/// The HTTPRoute matching cases of the Gateway API's conformance suite (conformance/tests/httproute-*), restated.
const CONFORMANCE: &[Case<'_>] = &[
    (
        "HTTPRouteMatching",
        &[("v1", &[], &["/*", "version:one"]), ("v2", &[], &["/v2/*", "/*  version:two"])],
        &[
            ("GET any/", "v1"),
            ("GET any/example", "v1"),
            ("GET any/ version:one", "v1"),
            ("GET any/v2", "v2"),
            ("GET any/v2/", "v2"),
            ("GET any/v2/example", "v2"),
            ("GET any/v2example", "v1"),
            ("GET any/ version:two", "v2"),
            ("GET any/foo/v2/example", "v1"),
        ],
    ),
    (
        "HTTPRouteMatchingAcrossRoutes",
        &[
            ("v1", &["example.com", "example.net"], &["/*", "/* version:one"]),
            ("v2", &["example.com"], &["/v2/*", "/* version:two"]),
        ],
        &[
            ("GET example.com/", "v1"),
            ("GET example.com/example", "v1"),
            ("GET example.net/example", "v1"),
            ("GET example.com/example version:one", "v1"),
            ("GET example.com/v2", "v2"),
            ("GET example.net/v2", "v1"),
            ("GET example.com/v2/example", "v2"),
            ("GET example.com/ version:two", "v2"),
        ],
    ),
    (
        "HTTPRouteExactPathMatching",
        &[("v1", &[], &["/one"]), ("v2", &[], &["/two"])],
        &[
            ("GET a/one", "v1"),
            ("GET a/two", "v2"),
            ("GET a/", "-"),
            ("GET a/one/example", "-"),
            ("GET a/one/", "-"),
            ("GET a/Two", "-"),
        ],
    ),
    (
        "HTTPRoutePathMatchOrder",
        &[
            ("exact-one", &[], &["/match/exact/one"]),
            ("exact", &[], &["/match/exact"]),
            ("match", &[], &["/match"]),
            ("prefix-one", &[], &["/match/prefix/one/*"]),
            ("prefix", &[], &["/match/prefix/*"]),
            ("match-prefix", &[], &["/match/*"]),
        ],
        &[
            ("GET a/match/exact/one", "exact-one"),
            ("GET a/match/exact", "exact"),
            ("GET a/match", "match"),
            ("GET a/match/prefix/one/any", "prefix-one"),
            ("GET a/match/prefix/any", "prefix"),
            ("GET a/match/any", "match-prefix"),
        ],
    ),
    (
        "HTTPRouteHeaderMatching",
        &[
            ("one", &[], &["version:one"]),
            ("two", &[], &["version:two"]),
            ("two-orange", &[], &["version:two color:orange"]),
            ("cool", &[], &["color:blue", "color:green"]),
            ("warm", &[], &["color:red", "color:yellow"]),
        ],
        &[
            ("GET a/ version:one", "one"),
            ("GET a/ version:two", "two"),
            ("GET a/ version:two color:orange", "two-orange"),
            ("GET a/ color:orange", "-"),
            ("GET a/ some-other-header:one", "-"),
            ("GET a/ color:blue", "cool"),
            ("GET a/ color:green", "cool"),
            ("GET a/ color:red", "warm"),
            ("GET a/ color:yellow", "warm"),
            ("GET a/ color:purple", "-"),
        ],
    ),
    (
        "HTTPRouteMethodMatching",
        &[
            ("post", &[], &["POST"]),
            ("get", &[], &["GET"]),
            ("path1", &[], &["/path1/* GET"]),
            ("version-one", &[], &["PUT version:one"]),
            ("version-two", &[], &["/path2/* POST version:two"]),
            ("path3-or-4", &[], &["/path3/* PATCH", "/path4/* DELETE version:three"]),
            ("path5", &[], &["/path5/*"]),
            ("patch-or-four", &[], &["PATCH", "version:four"]),
        ],
        &[
            ("POST a/", "post"),
            ("GET a/", "get"),
            ("HEAD a/", "-"),
            ("GET a/path1", "path1"),
            ("PUT a/ version:one", "version-one"),
            ("POST a/path2 version:two", "version-two"),
            ("PATCH a/path3", "path3-or-4"),
            ("DELETE a/path4 version:three", "path3-or-4"),
            ("PUT a/", "-"),
            ("DELETE a/path4", "-"),
            ("PATCH a/path5", "path5"),
            ("PATCH a/ version:four", "patch-or-four"),
        ],
    ),
    (
        "HTTPRouteQueryParamMatching",
        &[
            ("whale", &[], &["?animal=whale"]),
            ("dolphin", &[], &["?animal=dolphin"]),
            ("blue", &[], &["?animal=dolphin ?color=blue", "?ANIMAL=Whale"]),
            ("path1", &[], &["/path1/* ?animal=whale"]),
            ("version-one", &[], &["version:one ?animal=whale"]),
            ("version-two", &[], &["/path2/* version:two ?animal=whale"]),
            ("path5", &[], &["/path5/*"]),
            ("version-four", &[], &["version:four"]),
            ("hydra", &[], &["?animal=hydra"]),
        ],
        &[
            ("GET a/?animal=whale", "whale"),
            ("GET a/?animal=dolphin", "dolphin"),
            ("GET a/?animal=dolphin&color=blue", "blue"),
            ("GET a/?ANIMAL=Whale", "blue"),
            ("GET a/?animal=whale&otherparam=irrelevant", "whale"),
            ("GET a/?animal=dolphin&color=yellow", "dolphin"),
            ("GET a/?color=blue", "-"),
            ("GET a/?animal=dog", "-"),
            ("GET a/?animal=whaledolphin", "-"),
            ("GET a/", "-"),
            ("GET a/path1?animal=whale", "path1"),
            ("GET a/?animal=whale version:one", "version-one"),
            ("GET a/path2?animal=whale version:two", "version-two"),
            ("GET a/path5?animal=hydra", "path5"),
            ("GET a/?animal=hydra version:four", "version-four"),
        ],
    ),
    (
        "HTTPRouteHostnameIntersection",
        &[
            ("exact", &["very.specific.com"], &["/s1/*"]),
            ("wildcard", &["*.wildcard.io"], &["/s2/*"]),
            ("deeper", &["*.anotherwildcard.io", "*.foo.anotherwildcard.io"], &["/s3/*"]),
        ],
        &[
            ("GET very.specific.com/s1", "exact"),
            ("GET very.specific.com:1234/s1", "exact"),
            ("GET VERY.specific.COM/s1", "exact"),
            ("GET non.matching.com/s1", "-"),
            ("GET foo.very.specific.com/s1", "-"),
            ("GET foo.wildcard.io/s2", "wildcard"),
            ("GET foo.bar.wildcard.io:1234/s2", "wildcard"),
            ("GET wildcard.io/s2", "-"),
            ("GET x.foo.anotherwildcard.io/s3", "deeper"),
        ],
    ),
    (
        "the best among matching rules wins, over less specific hosts too",
        &[
            ("exact", &["a.example.org"], &["/exact/*"]),
            ("near", &["*.example.org"], &["/near/* GET"]),
            ("far", &["*.org"], &["/*"]),
            ("any", &[], &["/exact"]),
            ("regex", &["b.net"], &["~^/u/[0-9]+$"]),
        ],
        &[
            ("GET a.example.org/exact", "exact"),
            ("GET a.example.org/near", "near"),
            ("PUT a.example.org/near", "far"),
            ("GET z.org/exact", "far"),
            ("GET z.net/exact", "any"),
            ("GET b.net/u/7", "regex"),
            ("GET b.net/u/x", "-"),
        ],
    ),
    (
        "paths are matched in their normal form",
        &[("api", &[], &["/api/*"]), ("slash", &[], &["/a%2fb"]), ("root", &[], &["/*"])],
        &[
            ("GET a//api//x", "api"),
            ("GET a/x/../api", "api"),
            ("GET a/%61pi/x", "api"),
            ("GET a/api%2Fx", "root"),
            ("GET a/api/../x", "root"),
            ("GET a/a%2Fb", "slash"),
            ("GET a/a/b", "root"),
        ],
    ),
    ("at last the name decides", &[("b", &[], &["~a"]), ("a", &[], &["~b"])], &[("GET h/ab", "a"), ("GET h/a", "b")]),
];

#[test]
fn the_conformance_cases_of_the_gateway_api_hold() {
    for (case, routes, requests) in CONFORMANCE {
        let table = table(routes);
        for (request, expected) in *requests {
            assert_eq!(winner(&table, request).as_deref().unwrap_or("-"), *expected, "{case}: {request}");
        }
    }
}

#[test]
fn an_explanation_names_the_winner_and_the_first_fault_of_each_other_route() {
    let table = table(&[
        ("beta", &["a.org"], &["/v1/* GET x-beta:1"]),
        ("v1", &["a.org"], &["/v1/*"]),
        ("post", &["a.org"], &["/v1/* POST"]),
        ("debug", &[], &["?debug=1"]),
        ("all", &[], &["/*"]),
        ("other", &["b.org"], &["/*", "/v1"]),
    ]);
    let request = Request::new("GET A.org:80/v1/x x-beta:2");
    let path = NormalPath::new(&request.path).unwrap();
    let explanation = table.explain(&request.view(), &path);
    assert_eq!(explanation.winner().map(|rule| rule.route.as_ref()), Some("v1"));
    let rejected: Vec<_> =
        explanation.rejected().iter().map(|rule| format!("{}: {}", rule.route, rule.verdict.why().unwrap())).collect();
    assert_eq!(
        rejected,
        [
            "other: host is `a.org`, not `b.org`",
            "beta: header `x-beta` is `2`, not `1`",
            "post: method is GET, not POST",
            "debug: query parameter `debug` is not `1`",
            "all: it matches, but `v1` comes first (a.org /v1/*)",
        ]
    );
}

#[test]
fn a_found_route_tells_its_place_in_the_plan() {
    let routes = [route("b", &[], vec![matched("/*")]), route("a", &[], vec![matched("/x")])];
    let table = RouteTable::build(&routes);
    let request = Request::new("GET h/x");
    let found = table.find(&request.view(), &NormalPath::new("/x").unwrap()).unwrap();
    assert_eq!((found.index, found.route.name.as_ref()), (1, "a"));
    assert!(Arc::ptr_eq(found.route, &routes[1]));
}

#[test]
fn the_rows_stand_in_order_of_precedence() {
    let table = table(&[
        ("any", &[], &["/*"]),
        ("org", &["*.org"], &["/*", "/x"]),
        ("x", &["*.x.org"], &["~^/", "/v1/*"]),
        ("exact", &["a.x.org"], &["/v1/*", "/v1/* GET", "/v1/* a:1", "/v1/* a:1 ?b=2"]),
    ]);
    let names: Vec<_> = table.rows().map(|row| row.route.name.to_string()).collect();
    assert_eq!(names, ["exact", "exact", "exact", "exact", "x", "x", "org", "org", "any"]);
    assert_eq!(table.rows().last().map(|row| (row.index, row.host)), Some((0, None)));
    let first: Vec<_> = table
        .rows()
        .take(4)
        .map(|row| (row.matched.methods.len(), row.matched.headers.len(), row.matched.query.len()))
        .collect();
    assert_eq!(first, [(1, 0, 0), (0, 1, 1), (0, 1, 0), (0, 0, 0)]);
}

/// The written precedence, read naively: of all that match, the best by a comparison part by part.
fn naive(routes: &[Arc<Route>], request: &Request) -> Option<(String, usize)> {
    let path = NormalPath::new(&request.path).ok()?;
    let path = path.as_str();
    let host = request.host.to_ascii_lowercase();
    let mut best: Option<(Vec<i64>, String, usize, usize)> = None;
    for (index, route) in routes.iter().enumerate() {
        let hosts: Vec<i64> = if route.hosts.is_empty() {
            vec![-1]
        } else {
            let score = |pattern: &HostPattern| match pattern {
                HostPattern::Exact(name) => (**name == *host).then_some(1000),
                HostPattern::Wildcard(end) => {
                    (host.ends_with(&**end) && host.len() > end.len()).then_some(end.len() as i64)
                }
            };
            route.hosts.iter().filter_map(score).collect()
        };
        for (place, wanted) in route.matches.iter().enumerate() {
            let path_score = match &wanted.path {
                PathPattern::Exact(exact) => (exact == path).then_some(1000),
                PathPattern::Prefix(prefix) => {
                    (path == prefix || path.starts_with(&format!("{prefix}/"))).then_some(prefix.len() as i64)
                }
                PathPattern::Regex(regex) => regex.is_match(path).then_some(-1),
            };
            let Some(path_score) = path_score else { continue };
            let method = wanted.methods.is_empty() || wanted.methods.iter().any(|method| *method == *request.method);
            let headers =
                wanted.headers.iter().all(|(name, value)| request.fields.get_all(name).iter().any(|v| v == value));
            let query = wanted.query.iter().all(|(name, value)| {
                request
                    .query
                    .as_deref()
                    .unwrap_or("")
                    .split('&')
                    .find_map(|pair| pair.split_once('=').filter(|(n, _)| n == name))
                    .is_some_and(|(_, v)| v == value)
            });
            if !(method && headers && query) {
                continue;
            }
            for host_score in &hosts {
                let score = vec![
                    *host_score,
                    path_score,
                    i64::from(!wanted.methods.is_empty()),
                    wanted.headers.len() as i64,
                    wanted.query.len() as i64,
                ];
                let better = match &best {
                    None => true,
                    Some((other, name, other_index, other_place)) => {
                        (std::cmp::Reverse(&score), route.name.as_ref(), index, place)
                            < (std::cmp::Reverse(other), name.as_str(), *other_index, *other_place)
                    }
                };
                if better {
                    best = Some((score, route.name.to_string(), index, place));
                }
            }
        }
    }
    best.map(|(_, name, index, _)| (name, index))
}

fn any_match() -> impl Strategy<Value = String> {
    let path = prop_oneof!["(/[ab]){1,3}", "(/[ab]){0,3}/\\*", Just("~^/a".to_owned()), Just("~b$".to_owned())];
    let method = prop_oneof![Just(""), Just("GET"), Just("PUT"), Just("GET PUT")];
    let headers = prop_oneof![Just(""), Just("x:1"), Just("x:2"), Just("x:1 y:1")];
    let query = prop_oneof![Just(""), Just("?q=1"), Just("?q=1 ?r=1")];
    (path, method, headers, query)
        .prop_map(|(path, method, headers, query)| format!("{path} {method} {headers} {query}"))
}

fn any_route() -> impl Strategy<Value = (Vec<&'static str>, Vec<String>)> {
    let host = prop_oneof![Just("a.x.org"), Just("b.org"), Just("*.org"), Just("*.x.org"), Just("*.a.x.org")];
    (proptest::collection::vec(host, 0..3), proptest::collection::vec(any_match(), 1..3))
}

fn any_request() -> impl Strategy<Value = String> {
    let host =
        prop_oneof![Just("a.x.org"), Just("A.X.org"), Just("b.org"), Just("c.org"), Just("z.a.x.org"), Just("net")];
    let fields = prop_oneof![Just(""), Just(" x:1"), Just(" x:2"), Just(" x:1 y:1"), Just(" x:2 x:1")];
    let query = prop_oneof![Just(""), Just("?q=1"), Just("?r=1&q=1"), Just("?q=2&q=1")];
    (prop_oneof![Just("GET"), Just("PUT"), Just("POST")], host, "(/[ab]){0,4}/?", query, fields).prop_map(
        |(method, host, path, query, fields)| {
            let path = if path.is_empty() { "/" } else { &path };
            format!("{method} {host}{path}{query}{fields}")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_a_naive_reading_of_the_written_precedence(
        routes in proptest::collection::vec(any_route(), 0..8),
        requests in proptest::collection::vec(any_request(), 1..8),
    ) {
        let routes: Vec<_> = routes.iter().enumerate().map(|(at, (hosts, matches))| {
            // Names run against the order of the list, so that neither stands in for the other.
            let name = format!("route-{}", 9 - at);
            route(&name, hosts, matches.iter().map(|text| matched(text)).collect())
        }).collect();
        let table = RouteTable::build(&routes);
        for text in &requests {
            let request = Request::new(text);
            let path = NormalPath::new(&request.path).unwrap();
            let found = table.find(&request.view(), &path).map(|found| (found.route.name.to_string(), found.index));
            prop_assert_eq!(&found, &naive(&routes, &request), "{}", text);
            let explained = table.explain(&request.view(), &path);
            let first = explained.considered.iter().find(|rule| !matches!(rule.verdict, Verdict::Lost { .. }));
            prop_assert_eq!(first.map(|rule| rule.index), found.map(|(_, index)| index));
        }
    }
}
