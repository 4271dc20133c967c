//! Traces: a trace goes on through the proxy, and its spans reach the receiver; without a receiver nobody notices.

use serde_json::Value;

use crate::harness::{Load, Origin, Proxy, Reply, Script, Setup, free_address, get, request, until};

const PARENT: &str = "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\nTracestate: a=b\r\n";

fn yaml(sample: &str) -> String {
    format!(
        "
tracing: {{ otlp: \"http://{{collector}}\", sample: {sample} }}
upstreams:
  web: {{ backends: [{{a}}, {{b}}], health_check: none, outlier: none }}
"
    )
}

/// The spans that a collector has got so far.
fn spans(collector: &Origin) -> Vec<Value> {
    let bodies = collector.received().into_iter().filter(|post| post.target == "/v1/traces" && post.method == "POST");
    let bodies = bodies.map(|post| serde_json::from_slice::<Value>(&post.body.bytes).expect("the body is JSON"));
    bodies
        .flat_map(|body| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default())
        .collect()
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let all = span["attributes"].as_array().into_iter().flatten();
    all.filter(|one| one["key"] == key).map(|one| &one["value"]).next().unwrap_or(&Value::Null)
}

async fn started(sample: &str) -> (Origin, Origin, Origin, Proxy) {
    let (a, b, collector) = (Origin::start("a").await, Origin::start("b").await, Origin::start("collector").await);
    let proxy = Proxy::start(&[&a, &b, &collector], &yaml(sample)).await;
    (a, b, collector, proxy)
}

#[tokio::test]
async fn a_trace_goes_on_from_the_client_to_the_backend_and_its_spans_to_the_receiver() {
    let (a, mut b, collector, proxy) = started("100%").await;
    b.kill().await;
    for path in ["/1", "/2"] {
        assert_eq!(request(proxy.address(), "GET", path, PARENT, b"").await.status, 200);
    }

    let servers = |spans: &[Value]| spans.iter().filter(|span| span["kind"] == 2).count();
    until("the spans of both requests have come", async || servers(&spans(&collector)) == 2).await;
    let spans = spans(&collector);
    assert!(spans.iter().all(|span| span["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"), "{spans:#?}");
    let servers: Vec<_> = spans.iter().filter(|span| span["kind"] == 2).collect();
    assert_eq!(servers.len(), 2);
    assert!(servers.iter().all(|span| span["parentSpanId"] == "00f067aa0ba902b7" && span["name"] == "GET default"));
    assert_eq!(attribute(servers[0], "http.response.status_code")["intValue"], "200");
    for span in spans.iter().filter(|span| span["kind"] == 3) {
        assert!(servers.iter().any(|server| server["spanId"] == span["parentSpanId"]), "{span:#}");
    }
    let failed = spans.iter().find(|span| span["status"]["code"] == 2).expect("one try failed");
    assert_eq!(attribute(failed, "error.type")["stringValue"], "connection_refused");

    let received = a.received_for("/1");
    let told = received.head.field("traceparent").unwrap_or_default().to_owned();
    assert_eq!(received.head.field("tracestate"), Some("a=b"));
    assert!(
        spans.iter().any(|span| span["kind"] == 3 && told.contains(span["spanId"].as_str().unwrap_or("-"))),
        "{told}"
    );
    assert!(told.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && told.ends_with("-01"), "{told}");
    assert_eq!(proxy.log_for("/1").await["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test]
async fn failures_are_traced_even_where_nothing_is_sampled() {
    let (a, b, collector, proxy) = started("0%").await;
    for origin in [&a, &b] {
        origin.on("/broken", Script::close());
        origin.on("/ill", Reply::status(503));
    }
    for path in ["/good", "/broken", "/ill", "/good"] {
        request(proxy.address(), "POST", path, "", b"x").await;
    }

    until("both failures have come", async || spans(&collector).len() >= 4).await;
    let all = spans(&collector);
    let paths: Vec<_> = all
        .iter()
        .filter(|span| span["kind"] == 2)
        .map(|span| attribute(span, "url.path")["stringValue"].clone())
        .collect();
    assert_eq!(paths, ["/broken", "/ill"]);
    let told = a
        .received()
        .iter()
        .chain(&b.received())
        .filter_map(|one| one.head.field("traceparent").map(str::to_owned))
        .collect::<Vec<_>>();
    assert!(
        told.len() == 4 && told.iter().all(|one| one.ends_with("-00")),
        "backends are told what is sampled: {told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_or_stands_still_costs_spans_and_nothing_else() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let nowhere = free_address();
    let proxy = Setup::new(&[&a, &b]).word("collector", &nowhere.to_string()).start(&yaml("100%")).await;

    Load::of(2_000, 8).run(proxy.address()).await.expect_all_ok();

    until("what was dropped is counted", async || proxy.metric("roundel_spans_dropped_total", &[]).await > 0.0).await;
    until("it is told", async || proxy.stderr().contains("traces are not taken")).await;
    assert_eq!(proxy.metric("roundel_spans_sent_total", &[]).await, 0.0);
}

#[tokio::test]
async fn without_tracing_a_traceparent_passes_as_it_came() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    request(proxy.address(), "GET", "/x", PARENT, b"").await;
    get(proxy.address(), "/y").await;

    assert_eq!(
        a.received_for("/x").head.field("traceparent"),
        Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
    );
    assert_eq!(a.received_for("/y").head.field("traceparent"), None);
    assert_eq!(proxy.log_for("/x").await["trace_id"], Value::Null);
}
