//! `roundel explain` says what the proxy does, and the proxy does what `roundel explain` says.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use futures::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue};
use roundel::config::plan::Plan;
use roundel::config::{self, Support};
use roundel::exchange::explain::{Explainer, Question};
use serde_json::{Value, json};

use crate::harness::{Connection, Origin, Proxy, Setup, roundel, until};

/// How many random requests are compared, and over how many connections they come.
const REQUESTS: usize = 1_000;
const CONNECTIONS: usize = 8;

/// A table with every kind of host, path and filter.
const YAML: &str = r#"
listeners:
  - { name: public, address: 127.0.0.1:8080, trusted_proxies: [192.0.2.0/24], limits: { body: 1MiB } }
upstreams:
  web:
    backends:
      - 127.0.0.1:8081
      - { address: 127.0.0.1:8082, weight: 0 }
      - { address: web.internal:8083, backup: true }
    timeouts: { connect: 3s, first_byte: 15s, total: 10s }
  canary: { backends: [127.0.0.1:8084], retry: { attempts: 0 } }
routes:
  - name: api
    hosts: [api.example.com]
    match: [{ path_prefix: /v1 }]
    filters:
      - request_headers: { set: { x-env: prod, x-from: "{client_ip}" }, remove: [x-debug] }
      - deny: [10.6.6.0/24]
      - allow: [10.0.0.0/8, 127.0.0.0/8]
      - rewrite: { path_prefix: /internal }
      - compress: { algorithms: [zstd, gzip], min_bytes: 1KiB }
    limits: { body: 10MiB }
    timeouts: { request: 30s }
    to: web
  - { name: beta, hosts: [api.example.com], match: [{ path_prefix: /v1, headers: { x-beta: "1" } }], to: canary }
  - { name: split, hosts: ["*.example.org"], to: [{ upstream: web, weight: 9 }, { upstream: canary, weight: 1 }] }
  - { name: old, match: [{ path: /old }], redirect: { path: /new, status: 308 } }
  - { name: closed, match: [{ path_prefix: /closed }], respond: { status: 503, body: back soon } }
"#;

fn plan(yaml: &str) -> Plan {
    config::load_text_with("t", yaml, &|_| None, Support::Everything).expect("the configuration is good").plan
}

/// A request in the test's words.
#[derive(Debug, Clone)]
struct Ask {
    method: &'static str,
    host: String,
    path: String,
    query: Option<String>,
    fields: Vec<(&'static str, String)>,
    peer: Ipv4Addr,
}

fn ask(method: &'static str, host: &str, path: &str, fields: &[(&'static str, &str)]) -> Ask {
    let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Ask { method, host: host.to_owned(), path: path.to_owned(), query: None, fields, peer: Ipv4Addr::LOCALHOST }
}

fn explain(explainer: &Explainer<'_>, ask: &Ask) -> Value {
    let mut fields = HeaderMap::new();
    fields.insert("host", HeaderValue::from_str(&ask.host).expect("the host is ASCII"));
    for (name, value) in &ask.fields {
        fields.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("the value is ASCII"));
    }
    let question = Question {
        listener: &explainer.plan().listeners[0],
        peer: Some(IpAddr::V4(ask.peer)),
        method: ask.method,
        path: &ask.path,
        query: ask.query.as_deref(),
        fields: &fields,
    };
    explainer.explain(&question).expect("every filter can be built").to_json()
}

fn step<'a>(told: &'a Value, filter: &str) -> &'a Value {
    let steps = told["filters"].as_array().expect("filters are a list");
    steps.iter().find(|step| step["filter"] == filter).unwrap_or_else(|| panic!("no {filter}: {told:#}"))
}

#[test]
fn the_whole_way_of_a_request_is_told() {
    let plan = plan(YAML);
    let told =
        explain(&Explainer::new(&plan), &ask("GET", "API.example.com:443", "/v1/x", &[("accept-encoding", "gzip")]));

    assert_eq!(
        (&told["listener"], &told["route"], &told["upstream"]),
        (&json!("public"), &json!("api"), &json!("web"))
    );
    assert_eq!((&told["outcome"], &told["status"]), (&json!("forwarded"), &Value::Null));
    let order: Vec<&Value> = told["filters"].as_array().unwrap().iter().map(|step| &step["filter"]).collect();
    assert_eq!(order, ["deny", "allow", "rewrite", "request_headers", "compress"]);
    assert_eq!(step(&told, "allow")["does"], json!(["127.0.0.1 is in 127.0.0.0/8"]));
    assert_eq!(step(&told, "rewrite")["does"], json!(["the path `/v1/x` becomes `/internal/x`"]));
    let edits = json!(["removes `x-debug`", "sets `x-env: prod`", "sets `x-from: 127.0.0.1`"]);
    assert_eq!(step(&told, "request_headers")["does"], edits);
    assert!(step(&told, "compress")["does"][0].as_str().unwrap().ends_with("encoded with gzip"), "{told:#}");
    assert_eq!(told["body_limit"], 10 * 1024 * 1024);
    assert_eq!((&told["timeouts"]["request"], &told["timeouts"]["total"]), (&json!("30s"), &json!("10s")));
}

#[test]
fn backends_are_told_with_what_a_file_can_know() {
    let plan = plan(YAML);
    let told = explain(&Explainer::new(&plan), &ask("GET", "api.example.com", "/v1/x", &[]));

    let backends = told["backends"].as_array().unwrap();
    assert!(backends.iter().all(|backend| backend["state"] == "unknown"), "{told:#}");
    let eligible: Vec<(&str, bool)> = backends
        .iter()
        .map(|backend| (backend["address"].as_str().unwrap(), backend["eligible"].as_bool().unwrap()))
        .collect();
    assert_eq!(eligible, [("127.0.0.1:8081", true), ("127.0.0.1:8082", false), ("web.internal:8083", false)]);
    assert_eq!(backends[0]["why"], "not probed: this is a file, not a running proxy");
    assert!(backends[1]["why"].as_str().unwrap().contains("weight 0"));
    assert!(backends[2]["why"].as_str().unwrap().contains("backup"));
}

#[test]
fn every_route_that_lost_is_told_with_the_first_reason() {
    let plan = plan(YAML);
    let explainer = Explainer::new(&plan);

    let told = explain(&explainer, &ask("GET", "api.example.com", "/v1/x", &[]));
    let why = |route: &str| {
        let rejected = told["rejected_routes"].as_array().unwrap();
        rejected.iter().find(|one| one["route"] == route).map(|one| one["why"].as_str().unwrap().to_owned()).unwrap()
    };
    assert_eq!(why("beta"), "header `x-beta` is missing (wanted `1`)");
    assert!(why("split").starts_with("host is `api.example.com`, not"), "{told:#}");
    assert!(why("old").starts_with("path is `/v1/x`, not"), "{told:#}");
    let beta = explain(&explainer, &ask("GET", "api.example.com", "/v1/x", &[("x-beta", "1")]));
    assert_eq!((&beta["route"], &beta["upstream"]), (&json!("beta"), &json!("canary")));
}

#[test]
fn refusals_and_own_answers_are_told_with_their_status() {
    let plan = plan(YAML);
    let explainer = Explainer::new(&plan);
    let denied = Ask { peer: Ipv4Addr::new(10, 6, 6, 6), ..ask("GET", "api.example.com", "/v1/x", &[]) };
    for (ask, outcome, status, route) in [
        (denied, "refused", 403, json!("api")),
        (ask("GET", "nobody.example", "/x", &[]), "refused", 404, Value::Null),
        (ask("GET", "nobody.example", "/../x", &[]), "refused", 400, Value::Null),
        (ask("POST", "api.example.com", "/v1", &[("content-length", "99999999")]), "refused", 413, json!("api")),
        (ask("GET", "nobody.example", "/old", &[]), "answered", 308, json!("old")),
        (ask("GET", "nobody.example", "/closed/x", &[]), "answered", 503, json!("closed")),
    ] {
        let told = explain(&explainer, &ask);
        assert_eq!((&told["outcome"], &told["status"]), (&json!(outcome), &json!(status)), "{ask:?}: {told:#}");
        assert_eq!(told["route"], route, "{ask:?}");
        assert!(told["backends"].as_array().unwrap().iter().all(|backend| backend["eligible"] == false), "{told:#}");
    }
    let redirected = explain(&explainer, &ask("GET", "nobody.example", "/old", &[]));
    assert_eq!(step(&redirected, "redirect")["does"][0], "`location: http://nobody.example/new`");
}

#[test]
fn a_refusal_leaves_the_filters_behind_it_unreached() {
    let plan = plan(YAML);
    let refused = Ask { peer: Ipv4Addr::new(203, 0, 113, 7), ..ask("GET", "api.example.com", "/v1/x", &[]) };
    let told = explain(&Explainer::new(&plan), &refused);

    assert_eq!(
        (&step(&told, "deny")["verdict"], &step(&told, "allow")["verdict"]),
        (&json!("passes"), &json!("refuses"))
    );
    assert_eq!(step(&told, "allow")["does"], json!(["203.0.113.7 is in none of 2 networks"]));
    assert_eq!(step(&told, "rewrite")["verdict"], "not_reached");
}

#[test]
fn the_client_is_found_behind_trusted_proxies() {
    let plan = plan(YAML);
    let forwarded = [("x-forwarded-for", "10.6.6.6")];
    let by_proxy = Ask { peer: Ipv4Addr::new(192, 0, 2, 1), ..ask("GET", "api.example.com", "/v1/x", &forwarded) };

    let told = explain(&Explainer::new(&plan), &by_proxy);

    assert_eq!((&told["client"], &step(&told, "deny")["verdict"]), (&json!("10.6.6.6"), &json!("refuses")));
}

#[test]
fn a_split_is_told_with_each_share() {
    let plan = plan(YAML);
    let told = explain(&Explainer::new(&plan), &ask("POST", "a.example.org", "/", &[]));

    assert_eq!(told["upstreams"], json!([{ "name": "web", "share": 0.9 }, { "name": "canary", "share": 0.1 }]));
    assert_eq!(told["upstream"], "web");
    assert_eq!((&told["retry"]["attempts"], &told["retry"]["idempotent"]), (&json!(1), &json!(false)));
    assert_eq!(told["retry"]["words"][1], "once sent: never again (POST is not idempotent)");
}

#[tokio::test]
async fn the_exit_status_tells_served_from_refused_from_wrong() {
    let setup = Setup::new(&[]);
    let config = setup.write(YAML);
    let config = config.to_str().expect("the path is text");
    for (arguments, status, said) in [
        (&["GET", "http://api.example.com/v1/x"][..], 0, "127.0.0.1:8081           may be chosen"),
        (&["GET", "http://api.example.com/v1/x", "-H", "x-beta: 1"], 0, "upstream `canary`"),
        (&["GET", "http://nobody.example/old"], 0, "is answered 308 by `redirect`"),
        (&["GET", "http://nobody.example/old", "--all"], 0, "*.example.org /*"),
        (&["GET", "http://nobody.example/x"], 1, "no_route"),
        (&["GET", "http://api.example.com/v1/x", "--client", "10.6.6.6"], 1, "10.6.6.6 is in 10.6.6.0/24"),
        (&["GET", "nobody.example"], 2, "begin it with `http://`"),
        (&["GET", "http://nobody.example/", "--listener", "other"], 2, "(there are: public)"),
    ] {
        let output = roundel(&[&["explain", "-c", config], arguments].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert!(text.contains(said) && !text.contains('\u{1b}'), "{arguments:?}: {text}");
    }
    let broken = setup.write("upstreams: { web: {} }");
    let output = roundel(&["explain", "-c", broken.to_str().expect("it is text"), "GET", "http://a/"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// Some thirty routes that take each other's requests in every way that precedence knows, and answer or refuse in every way.
fn crowded_table() -> String {
    let mut routes = String::new();
    let hosts = [
        "",
        "hosts: [a.example],",
        "hosts: ['*.example'],",
        "hosts: [b.a.example, c.example],",
        "hosts: ['*.a.example'],",
    ];
    let matches = [
        "{ path: /x }",
        "{ path_prefix: /x }",
        "{ path_prefix: /x/y, method: [GET, PUT] }",
        "{ path_regex: '^/[xz]/[0-9]+$' }",
        "{ path_prefix: /x, headers: { x-a: '1' } }",
        "{ path_prefix: /x, method: POST, query: { q: '1' } }",
    ];
    for (h, hosts) in hosts.iter().enumerate() {
        for (m, matched) in matches.iter().enumerate() {
            let action = match (h + m) % 6 {
                0 => "redirect: { scheme: https, path: /moved, status: 308 }",
                1 => "respond: { status: 418, body: teapot }",
                2 => "filters: [{ deny: [127.0.0.0/8] }], to: web",
                3 => "filters: [{ rewrite: { path: /elsewhere } }, { request_headers: { remove: [x-a] } }], to: web",
                4 => "filters: [{ cors: { origins: ['https://o.example'], methods: [PUT] } }], to: web",
                _ => "limits: { body: 3B }, to: web",
            };
            routes.push_str(&format!("  - {{ name: r{h}{m}, {hosts} match: {matched}, {action} }}\n"));
        }
    }
    routes
}

/// A request that is likely to meet some of the table.
fn random_ask(random: &mut fastrand::Rng) -> Ask {
    let mut pick = |words: &[&'static str]| words[random.usize(..words.len())];
    let host = pick(&["a.example", "A.example:80", "b.a.example", "c.example", "d.a.example.", "other.test"]);
    let path = pick(&["/", "/x", "/x/", "/x/y", "/x/y/z", "/x/7", "/z/7", "//x/./y", "/%78", "/x/../..", "/xx"]);
    let method = pick(&["GET", "POST", "PUT", "OPTIONS"]);
    let query = pick(&["", "q=1", "q=2&q=1", "%71=%31"]);
    let mut fields = vec![];
    if pick(&["", "a"]) == "a" {
        fields.push(("x-a", pick(&["1", "2"]).to_owned()));
    }
    if pick(&["", "", "origin"]) == "origin" {
        fields.push(("origin", "https://o.example".to_owned()));
        fields.push(("access-control-request-method", "PUT".to_owned()));
    }
    if pick(&["", "", "", "upgrade"]) == "upgrade" {
        fields.push(("connection", "upgrade".to_owned()));
        fields.push(("upgrade", pick(&["h2c", "nonsense"]).to_owned()));
    }
    if method != "GET" {
        fields.push(("content-length", pick(&["0", "3", "4"]).to_owned()));
    }
    let query = Some(query.to_owned()).filter(|query| !query.is_empty());
    Ask { method, host: host.to_owned(), path: path.to_owned(), query, fields, peer: Ipv4Addr::LOCALHOST }
}

/// Sends what was asked about, with the number `id` by which its line in the log is found. The connection is used again
/// where the proxy keeps it.
async fn send(connection: &mut Option<Connection>, proxy: &Proxy, ask: &Ask, id: usize) {
    let target = ask.query.as_ref().map_or(ask.path.clone(), |query| format!("{}?{query}", ask.path));
    let mut fields = format!("Host: {}\r\nUser-Agent: {id}\r\n", ask.host);
    let mut body = 0;
    for (name, value) in &ask.fields {
        match *name {
            "content-length" => body = value.parse().expect("the length is a number"),
            _ => fields.push_str(&format!("{name}: {value}\r\n")),
        }
    }
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(proxy.address()).await,
    };
    let answer = open.ask(ask.method, &target, &fields, &vec![b'x'; body]).await;
    let answer = answer.unwrap_or_else(|fault| panic!("{ask:?}: {fault:?}"));
    *connection = Some(open).filter(|_| !answer.closes());
}

/// How many requests are compared: [`REQUESTS`], unless the environment says otherwise.
fn how_many() -> usize {
    std::env::var("EXPLAIN_REQUESTS").map_or(REQUESTS, |text| text.parse().expect("EXPLAIN_REQUESTS is a number"))
}

#[tokio::test]
async fn explain_and_the_running_proxy_agree_on_random_requests() {
    let requests = how_many();
    let web = Origin::start("web").await;
    let yaml = format!("upstreams: {{ web: {{ backends: [{{web}}] }} }}\nroutes:\n{}", crowded_table());
    let proxy = Proxy::start(&[&web], &yaml).await;
    let loaded = config::load(proxy.config(), &|_| None).expect("the proxy runs by it");
    let explainer = Explainer::new(&loaded.plan);
    let seed = 20_260_722;
    let mut random = fastrand::Rng::with_seed(seed);
    let asks: Vec<Ask> = (0..requests).map(|_| random_ask(&mut random)).collect();

    let share = requests.div_ceil(CONNECTIONS).max(1);
    let senders = asks.chunks(share).enumerate().map(async |(place, asks)| {
        let mut connection = None;
        for (at, ask) in asks.iter().enumerate() {
            send(&mut connection, &proxy, ask, place * share + at).await;
        }
    });
    join_all(senders).await;

    until("every request has its line", async || proxy.log().len() >= requests).await;
    let lines = proxy.log();
    let lines: HashMap<&str, &Value> =
        lines.iter().filter_map(|line| Some((line["user_agent"].as_str()?, line))).collect();
    let mut won = BTreeSet::new();
    for (id, ask) in asks.iter().enumerate() {
        let line = lines.get(id.to_string().as_str()).unwrap_or_else(|| panic!("no line for {ask:?}"));
        let told = explain(&explainer, ask);
        let route = line.get("route").unwrap_or(&Value::Null);
        assert_eq!(route, &told["route"], "{ask:?}\nexplain: {told:#}\nproxy: {line:#}");
        let reason = line.get("reason").unwrap_or(&Value::Null);
        assert_eq!(reason, &told["reason"], "{ask:?}\nexplain: {told:#}\nproxy: {line:#}");
        // Where a backend answers, its status is its own affair.
        let expected = if told["outcome"] == "forwarded" { json!(200) } else { told["status"].clone() };
        assert_eq!(line["status"], expected, "{ask:?}\nexplain: {told:#}\nproxy: {line:#}");
        won.insert((told["route"].to_string(), told["outcome"].to_string()));
    }
    assert!(won.len() > 20, "the requests meet too little of the table: {won:?}");
}
