//! `roundel why`: a request can be asked about after its end, by its id or among the last ones.

use serde_json::Value;

use crate::harness::{Connection, Load, Origin, Proxy, Reply, Script, Setup, get, request, roundel, until};

/// Nothing but the request itself finds out that a backend is dead.
const UNNOTICED: &str = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: none
    outlier: none
routes:
  - { name: api, match: [{ path_prefix: /api }], to: web }
  - { name: beta, match: [{ path_prefix: /, headers: { x-beta: \"1\" } }], to: web }
  - { name: guarded, match: [{ path_prefix: /guarded }], filters: [{ deny: [127.0.0.0/8] }, { request_headers: { set: { a: b } } }], to: web }
  - { name: site, to: web }
";

/// What is remembered of the request that asked for `path`.
async fn why(proxy: &Proxy, path: &str) -> Value {
    let id = proxy.log_for(path).await["request_id"].as_str().unwrap_or_default().to_owned();
    proxy.remembered(&id).await
}

#[tokio::test]
async fn every_try_is_told_with_its_backend_and_its_end() {
    let (mut a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], UNNOTICED).await;
    a.kill().await;
    get(proxy.address(), "/first").await;
    get(proxy.address(), "/second").await;

    let told = [why(&proxy, "/first").await, why(&proxy, "/second").await];
    let told = told.iter().find(|told| told["attempts"].as_array().is_some_and(|tries| tries.len() == 2));
    let told = told.expect("one of the two began at the dead backend");

    assert_eq!(told["status"], 200);
    assert_eq!(told["attempts"][0]["backend"], a.address().to_string());
    assert_eq!(told["attempts"][0]["outcome"]["failed"], "connection_refused");
    assert_eq!(told["attempts"][0]["eligible"], 2);
    assert_eq!(told["attempts"][1]["backend"], b.address().to_string());
    assert_eq!(told["attempts"][1]["outcome"]["answered"], 200);
    assert!(told["attempts"][1]["first_byte_ms"].is_number(), "{told:#}");
    assert!(told["verdict"].as_str().is_some_and(|words| words.contains("at try 2")), "{told:#}");
}

#[tokio::test]
async fn the_route_is_told_and_why_no_other_won() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], UNNOTICED).await;
    get(proxy.address(), "/shop?x=1").await;

    let told = why(&proxy, "/shop?x=1").await;
    let rejected = |name: &str| {
        let all = told["route"]["rejected"].as_array().into_iter().flatten();
        all.filter(|rule| rule["route"] == name).map(|rule| rule["why"].to_string()).collect::<String>()
    };

    assert_eq!((&told["route"]["name"], &told["route"]["rule"]), (&"site".into(), &"* /*".into()));
    assert!(rejected("api").contains("path is `/shop`"), "{told:#}");
    assert!(rejected("beta").contains("header fields"), "{told:#}");
}

#[tokio::test]
async fn the_filter_that_refused_is_told() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], UNNOTICED).await;
    get(proxy.address(), "/guarded").await;

    let told = why(&proxy, "/guarded").await;

    assert_eq!((&told["status"], &told["reason"]), (&403.into(), &"http_request_denied".into()));
    assert_eq!(
        told["filters"],
        serde_json::json!([
            { "filter": "deny", "verdict": "refused" },
            { "filter": "request_headers", "verdict": "not_reached" },
        ])
    );
    assert_eq!(told["attempts"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn who_was_left_out_is_told_with_the_reason() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = Proxy::start(&[&a, &b], UNNOTICED).await;
    assert_eq!(proxy.admin_post(&format!("/api/v1/upstreams/web/backends/{}/drain", a.address())).await.0, 200);
    get(proxy.address(), "/one").await;

    let told = why(&proxy, "/one").await;
    let excluded = &told["attempts"][0]["excluded"][0];

    assert_eq!((&excluded["backend"], &excluded["state"]), (&a.address().to_string().into(), &"drained".into()));
    assert_eq!((&told["attempts"][0]["members"], &told["attempts"][0]["eligible"]), (&2.into(), &1.into()));
    assert_eq!(told["attempts"][0]["chosen"], "the only one of 2 that could be chosen");
}

#[tokio::test]
async fn a_request_that_no_backend_could_take_tells_who_was_out() {
    let mut a = Origin::start("a").await;
    a.kill().await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    assert_eq!(get(proxy.address(), "/x").await.status, 503);

    let told = why(&proxy, "/x").await;

    assert_eq!((&told["reason"], &told["upstream"]), (&"destination_unavailable".into(), &"web".into()));
    assert_eq!(told["excluded"][0]["state"], "unhealthy");
    assert!(told["verdict"].as_str().is_some_and(|words| words.contains("none of the 1 backends")), "{told:#}");
}

#[tokio::test]
async fn a_malformed_head_can_be_asked_about_too() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("GET /broken HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n").await;
    connection.answer().await;

    let told = why(&proxy, "/broken").await;

    assert_eq!((&told["method"], &told["reason"]), (&"GET".into(), &"http_request_error".into()));
    assert!(told["verdict"].as_str().is_some_and(|words| words.contains("name")), "it says what is wrong: {told:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_outlive_a_flood_of_good_requests() {
    let a = Origin::start("a").await;
    a.on("/broken", Script::close());
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}], outlier: none } }").await;
    request(proxy.address(), "POST", "/broken", "", b"x").await;
    Load::of(3_000, 8).run(proxy.address()).await.expect_all_ok();

    let told = why(&proxy, "/broken").await;
    assert_eq!(told["status"], 502);
    let list = proxy.admin("/api/v1/requests?last=5xx").await;
    assert_eq!(list["requests"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["requests"][0]["request_id"], told["request_id"]);
    let list = proxy.admin("/api/v1/requests?last=all&limit=7").await;
    assert_eq!(list["requests"].as_array().map(Vec::len), Some(7));
}

#[tokio::test]
async fn what_is_not_remembered_or_not_asked_well_is_said() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;

    assert_eq!(proxy.admin_text("/api/v1/requests/unheard-of").await.0, 404);
    assert_eq!(proxy.admin_text("/api/v1/requests?last=9xx").await.0, 400);
    assert_eq!(proxy.admin_text("/api/v1/requests?limit=0").await.0, 400);
    assert_eq!(proxy.admin_text("/api/v1/requests?sort=up").await.0, 400);
}

#[tokio::test]
async fn an_id_that_a_trusted_proxy_sent_is_found_whatever_is_in_it() {
    let a = Origin::start("a").await;
    let yaml = r#"
listeners: [{ address: "{listen}", trusted_proxies: [127.0.0.0/8] }]
upstreams: { web: { backends: [{a}] } }
"#;
    let proxy = Proxy::start(&[&a], yaml).await;
    request(proxy.address(), "GET", "/x", "X-Request-Id: a/b=c:1\r\n", b"").await;
    proxy.log_for("/x").await;

    let admin = proxy.admin_address().to_string();
    let output = roundel(&["why", "a/b=c:1", "--admin", &admin]).await;

    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("answered 200"), "{text}{output:?}");
}

#[tokio::test]
async fn the_command_line_tells_status_requests_and_reasons() {
    let a = Origin::start("a").await;
    a.plays(Reply::status(503));
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}], outlier: none } }").await;
    get(proxy.address(), "/x").await;
    let id = proxy.log_for("/x").await["request_id"].as_str().unwrap_or_default().to_owned();
    let admin = proxy.admin_address().to_string();
    let says = async |arguments: &[&str]| {
        let output = roundel(&[arguments, &["--admin", &admin]].concat()).await;
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };

    let (code, status) = says(&["status"]).await;
    assert_eq!(code, Some(0));
    assert!(status.contains("upstream web") && status.contains(&a.address().to_string()), "{status}");
    let (_, json) = says(&["status", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["upstreams"][0]["name"], "web");
    let (code, list) = says(&["why", "--last", "503"]).await;
    assert!(code == Some(0) && list.contains(&id), "{list}");
    let (code, page) = says(&["why", &id]).await;
    assert!(code == Some(0) && page.contains("answered 503"), "{page}");
    assert_eq!(says(&["why", "unheard-of"]).await.0, Some(1));
    assert_eq!(says(&["why", "--last", "soon"]).await.0, Some(2));
}

#[tokio::test]
async fn a_request_that_a_drain_cuts_off_has_its_line_and_can_be_asked_about() {
    let a = Origin::start("a").await;
    a.on("/slow", Script::hang());
    let yaml = "
server: { threads: 2, grace_period_seconds: 1 }
upstreams: { web: { backends: [{a}], timeouts: { first_byte: 60s } } }
";
    let mut proxy = Setup::new(&[&a]).start(yaml).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    until("it is under way", async || a.in_flight() == 1).await;

    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    proxy.wait_exit().await;

    let line = proxy.log_for("/slow").await;
    assert_eq!((&line["reason"], &line["status"]), (&"proxy_shutdown".into(), &503.into()));
    assert_eq!(
        (&line["method"], &line["host"], &line["upstream"]),
        (&"GET".into(), &"shop.example".into(), &"web".into())
    );
}
