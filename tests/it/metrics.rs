//! `/metrics`: every family of the manual is there, and what is told of time and of the process is true.

use crate::harness::{Connection, Origin, Proxy, Road, Setup, get, on_both_roads, until};

on_both_roads!(connects_first_bytes_and_what_is_in_flight_are_told);

async fn connects_first_bytes_and_what_is_in_flight_are_told(road: Road) {
    let a = Origin::start("a").await;
    let yaml = "upstreams: { web: { backends: [{a}], health_check: none } }";
    let proxy = Setup::new(&[&a]).on(road).start(yaml).await;
    for _ in 0..3 {
        assert_eq!(get(proxy.address(), "/").await.status, 200);
    }
    let one = &[("upstream", "web")];
    until("three requests are counted", async || proxy.metric("roundel_requests_total", one).await == 3.0).await;

    // One connect, and two requests more on the connection that it made.
    let expected = [
        ("roundel_upstream_connect_duration_seconds_count", &[][..], 1.0),
        ("roundel_upstream_connections_total", &[("reused", "false")], 1.0),
        ("roundel_upstream_connections_total", &[("reused", "true")], 2.0),
        ("roundel_upstream_first_byte_duration_seconds_count", &[], 3.0),
        ("roundel_request_duration_seconds_count", &[], 3.0),
        ("roundel_backend_in_flight", &[], 0.0),
    ];
    for (name, labels, value) in expected {
        assert_eq!(proxy.metric(name, &[one, labels].concat()).await, value, "{name} {labels:?}");
    }
    for name in ["upstream_connect", "upstream_first_byte", "request"] {
        let seconds = proxy.metric(&format!("roundel_{name}_duration_seconds_sum"), one).await;
        assert!(seconds > 0.0 && seconds < 3.0 * crate::harness::PATIENCE.as_secs_f64(), "{name}: {seconds}");
    }

    a.hold();
    let mut held = Connection::open(proxy.address()).await;
    held.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("it is in flight", async || proxy.metric("roundel_backend_in_flight", one).await == 1.0).await;
    until("nobody else is connected", async || proxy.metric("roundel_connections", &[]).await == 1.0).await;
    a.release();
    assert_eq!(held.answer().await.status, 200);
    until("it is over", async || proxy.metric("roundel_backend_in_flight", one).await == 0.0).await;
}

#[tokio::test]
async fn the_process_tells_of_itself() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], "upstreams: { web: { backends: [{a}] } }").await;
    let value = async |name: &str| proxy.metric(name, &[]).await;

    assert_eq!(proxy.metric("roundel_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).await, 1.0);
    until("threads are those of the system", async || {
        value("process_threads").await
            == std::fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap().count() as f64
    })
    .await;
    let held: Vec<_> = connected(&proxy, 20).await;
    until("open files are those of the system", async || {
        let told = value("process_open_fds").await;
        // Whoever asks is connected too.
        told > held.len() as f64 && (proxy.open_files() as f64 - told).abs() <= 3.0
    })
    .await;
    assert!(value("process_max_fds").await >= value("process_open_fds").await);
    let (resident, told) = (proxy.resident() as f64, value("process_resident_memory_bytes").await);
    assert!((resident / told - 1.0).abs() < 0.5, "{resident} bytes, {told} told");
    assert!(value("process_virtual_memory_bytes").await > told);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("the clock is right").as_secs_f64();
    let started = value("process_start_time_seconds").await;
    assert!(started <= now + 1.0 && started > now - 600.0, "{started}, and now it is {now}");
    let before = value("process_cpu_seconds_total").await;
    until("it takes time of the processor", async || {
        get(proxy.address(), "/").await;
        value("process_cpu_seconds_total").await > before
    })
    .await;
}

/// So many connections that stay open.
async fn connected(proxy: &Proxy, count: usize) -> Vec<Connection> {
    let mut open = Vec::new();
    for _ in 0..count {
        let mut connection = Connection::open(proxy.address()).await;
        connection.get("/").await;
        open.push(connection);
    }
    open
}

#[tokio::test]
async fn every_family_of_the_manual_is_served() {
    let a = Origin::start("a").await;
    let yaml = "
upstreams: { web: { backends: [{a}] } }
routes: [{ name: r, filters: [{ rate_limit: { rate: 1/h, burst: 1 } }], to: web }]
tracing: { otlp: \"http://{a}\" }
";
    let proxy = Proxy::start(&[&a], yaml).await;
    assert_eq!((get(proxy.address(), "/").await.status, get(proxy.address(), "/").await.status), (200, 429));
    let manual = include_str!("../../docs/metrics.md");
    // Those of certificates and retries have no series before there are any; their tests are with their subjects.
    let rows = manual.lines().filter(|line| line.starts_with("| `") && line.contains(" | "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter_map(|name| name.split('{').next());
    let names: Vec<_> = names.filter(|name| !name.contains("certificate") && !name.contains("retries")).collect();
    assert!(names.len() >= 35, "{names:?}");
    until("both requests are told", async || proxy.metric("roundel_answers_total", &[]).await == 1.0).await;
    let (_, text) = proxy.admin_text("/metrics").await;
    for name in names {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

#[tokio::test]
async fn metrics_that_are_turned_off_are_not_served_from_the_next_reload_on() {
    let a = Origin::start("a").await;
    let yaml = |metrics: &str| format!("{metrics}\nupstreams: {{ web: {{ backends: [{{a}}] }} }}");
    for off in ["metrics: none", "metrics: { prometheus: false }"] {
        let proxy = Proxy::start(&[&a], &yaml(off)).await;
        assert_eq!(proxy.admin_text("/metrics").await.0, 404, "{off}");
        assert_eq!(proxy.admin_text("/healthz").await.0, 200, "{off}");
        for (metrics, status) in [("", 200), (off, 404)] {
            proxy.rewrite_config(&yaml(metrics));
            assert_eq!(proxy.admin_post("/api/v1/reload").await.0, 200);
            assert_eq!(proxy.admin_text("/metrics").await.0, status, "{metrics}");
        }
    }
}
