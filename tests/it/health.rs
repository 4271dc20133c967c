//! Probes find out which backends can be used, and requests go only there.

use crate::harness::{Authority, Load, Origin, Proxy, Reply, Script, Setup, get, until};

async fn two() -> [Origin; 2] {
    [Origin::start("a").await, Origin::start("b").await]
}

/// A probe of `/healthz` that settles fast, with further keys.
fn probing(keys: &str) -> String {
    format!(
        "
upstreams:
  web:
    backends: [{{a}}, {{b}}]
    outlier: none
    health_check:
      type: http
      path: /healthz
      interval: 1s
      timeout: 900ms
      fast_interval: 50ms
      {keys}
"
    )
}

#[tokio::test]
async fn a_backend_that_fails_its_first_probe_is_not_used() {
    let [a, b] = two().await;
    b.on("/healthz", Reply::status(500));
    let proxy = Proxy::start(&[&a, &b], &probing("fall: 3")).await;

    let tally = Load::of(50, 1).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!(tally.from("a"), 50);
    assert_eq!(b.requests_for("/"), 0);
}

#[tokio::test]
async fn start_healthy_uses_a_backend_before_its_probes_have_decided() {
    let [a, b] = two().await;
    b.on("/healthz", Reply::status(500));
    let proxy = Proxy::start(&[&a, &b], &probing("start: healthy\n      fall: 1000")).await;

    let tally = Load::of(50, 1).run(proxy.address()).await;

    assert_eq!((tally.from("a"), tally.from("b")), (25, 25));
}

#[tokio::test]
async fn a_backend_goes_out_after_fall_failures_and_comes_back_after_rise_successes() {
    let [a, b] = two().await;
    let proxy = Proxy::start(&[&a, &b], &probing("rise: 2\n      fall: 2")).await;
    proxy.until_state("web", b.address(), "healthy").await;

    b.on("/healthz", Reply::status(503));
    proxy.until_state("web", b.address(), "unhealthy").await;
    assert_eq!(proxy.metric("roundel_backend_up", &[("backend", &b.address().to_string())]).await, 0.0);
    let without = Load::of(20, 1).run(proxy.address()).await;
    b.on("/healthz", Reply::status(204));
    proxy.until_state("web", b.address(), "healthy").await;
    assert_eq!(proxy.metric("roundel_backend_up", &[("backend", &b.address().to_string())]).await, 1.0);
    let with = Load::of(20, 1).run(proxy.address()).await;

    assert_eq!((without.from("a"), without.from("b")), (20, 0));
    assert_eq!((with.from("a"), with.from("b")), (10, 10));
}

#[tokio::test]
async fn a_tcp_probe_notices_that_nobody_listens() {
    let [a, mut b] = two().await;
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: { type: tcp, interval: 1s, timeout: 900ms, fast_interval: 50ms }
";
    let proxy = Proxy::start(&[&a, &b], yaml).await;

    b.kill().await;
    proxy.until_state("web", b.address(), "unhealthy").await;
    b.revive().await;
    proxy.until_state("web", b.address(), "healthy").await;

    assert_eq!(b.requests(), 0, "a tcp probe sends no request");
}

#[tokio::test]
async fn a_probe_is_the_request_that_is_written() {
    let [a, b] = two().await;
    let keys = "method: HEAD\n      host: web.internal\n      headers: { x-probe: roundel }";
    let _proxy = Proxy::start(&[&a, &b], &probing(keys)).await;

    let probe = &a.received()[0];

    assert_eq!((probe.method.as_str(), probe.target.as_str()), ("HEAD", "/healthz"));
    assert_eq!(probe.head.all("host"), ["web.internal"]);
    assert_eq!(probe.head.all("x-probe"), ["roundel"]);
}

#[tokio::test]
async fn only_the_expected_status_is_good() {
    let [a, b] = two().await;
    a.on("/healthz", Reply::status(204));
    b.on("/healthz", Reply::status(200));
    let proxy = Proxy::start(&[&a, &b], &probing("expect: { status: [204] }")).await;

    proxy.until_state("web", a.address(), "healthy").await;
    assert_eq!(Load::of(20, 1).run(proxy.address()).await.from("a"), 20);
}

#[tokio::test]
async fn only_a_body_with_the_expected_text_is_good() {
    let [a, b] = two().await;
    a.on("/healthz", Reply::ok("all is ok here").chunked());
    b.on("/healthz", Reply::ok("all is lost"));
    let proxy = Proxy::start(&[&a, &b], &probing("expect: { body: ok }")).await;

    proxy.until_state("web", a.address(), "healthy").await;
    assert_eq!(Load::of(20, 1).run(proxy.address()).await.from("a"), 20);
}

#[tokio::test]
async fn another_port_of_the_same_address_can_be_probed() {
    let a = Origin::start("a").await;
    let side = Origin::start("side").await;
    let yaml = "
upstreams:
  web:
    backends: [{a}]
    health_check: { type: http, path: /healthz, port: {side_port} }
";
    let proxy = Proxy::start(&[&a, &side], yaml).await;

    assert_eq!(get(proxy.address(), "/").await.origin(), "a");
    assert_eq!(a.requests_for("/healthz"), 0);
    assert!(side.requests_for("/healthz") > 0);
}

#[tokio::test]
async fn a_probe_speaks_tls_as_written_whatever_its_backend_does() {
    for kind in ["http, path: /healthz", "http, path: /healthz, expect: { body: side }"] {
        let authority = Authority::new();
        let side = Origin::start_tls("side", &authority, &["127.0.0.1"]).await;
        let a = Origin::start("a").await;
        let yaml = |tls: &str, upstream: &str| {
            format!(
                "upstreams: {{ web: {{ backends: [{{a}}], health_check: {{ type: {kind}, port: {{side_port}}, tls: {tls} }} {upstream} }} }}"
            )
        };
        let setup = Setup::new(&[&a, &side]).file("ca.pem", authority.pem());
        let roots = setup.dir().join("ca.pem").display().to_string();
        let proxy = setup.environment("SSL_CERT_FILE", &roots).start(&yaml("true", "")).await;
        proxy.until_state("web", a.address(), "healthy").await;
        assert_eq!(get(proxy.address(), "/").await.origin(), "a", "plain, though its probes are not");

        let (side, a) = (Origin::start("side").await, Origin::start_tls("a", &authority, &["127.0.0.1"]).await);
        let setup = Setup::new(&[&a, &side]).file("ca.pem", authority.pem());
        let proxy = setup.start(&yaml("false", ", tls: { ca: ca.pem }")).await;
        proxy.until_state("web", a.address(), "healthy").await;
        assert_eq!(get(proxy.address(), "/").await.origin(), "a", "over TLS, though its probes are not");
    }
}

#[tokio::test]
async fn probes_come_as_often_as_written() {
    let (often, seldom, doubtful) =
        (Origin::start("often").await, Origin::start("seldom").await, Origin::start("doubtful").await);
    let yaml = "
upstreams:
  often: { backends: [{often}], health_check: { type: http, path: /healthz, interval: 1s, timeout: 900ms } }
  seldom: { backends: [{seldom}], health_check: { type: http, path: /healthz, interval: 1h, fast_interval: 1h } }
  doubtful:
    { backends: [{doubtful}], health_check: { type: http, path: /healthz, interval: 1h, fast_interval: 50ms, start: healthy, fall: 5 } }
routes: [{ name: r, to: often }]
";
    doubtful.plays(Reply::status(500));
    let proxy = Proxy::start(&[&often, &seldom, &doubtful], yaml).await;

    // Between two states the fast interval counts, in which five failures do not take hours.
    proxy.until_state("doubtful", doubtful.address(), "unhealthy").await;
    assert!(doubtful.requests_for("/healthz") >= 5);
    until("one was probed several times", async || often.requests_for("/healthz") >= 4).await;
    assert_eq!(seldom.requests_for("/healthz"), 1);
}

#[tokio::test]
async fn the_shortest_times_of_a_probe_end_no_task() {
    let a = Origin::start("a").await;
    for kind in ["tcp", "http"] {
        let yaml =
            format!("upstreams: {{ web: {{ backends: [{{a}}], health_check: {{ type: {kind}, interval: 1ms }} }} }}");
        let proxy = Proxy::start(&[&a], &yaml).await;
        let probes = async || proxy.metric("roundel_probes_total", &[]).await;
        until("it is probed", async || probes().await > 20.0).await;
        let status = proxy.admin("/api/v1/status").await.to_string();
        assert!(!status.contains("bug") && !proxy.stderr().contains("panicked"), "{status}\n{}", proxy.stderr());
    }
}

#[tokio::test]
async fn an_ejection_lasts_as_long_as_written() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let (c, d) = (Origin::start("c").await, Origin::start("d").await);
    let yaml = "
upstreams:
  short:
    backends: [{a}, {b}]
    health_check: none
    retry: none
    outlier: { consecutive_errors: 1, base_ejection: 300ms, max_ejection: 300ms }
  long:
    backends: [{c}, {d}]
    health_check: none
    retry: none
    outlier: { consecutive_errors: 1, base_ejection: 1h, max_ejection: 1h }
routes: [{ name: s, match: [{ path_prefix: /short }], to: short }, { name: l, match: [{ path_prefix: /long }], to: long }]
";
    [&a, &c].into_iter().for_each(|origin| origin.plays(Reply::status(502)));
    let proxy = Proxy::start(&[&a, &b, &c, &d], yaml).await;
    for (path, upstream, origin) in [("/long", "long", &c), ("/short", "short", &a)] {
        until("one is ejected", async || {
            get(proxy.address(), path).await;
            proxy.metric("roundel_ejections_total", &[("upstream", upstream)]).await >= 1.0
        })
        .await;
        origin.plays(Reply::ok("mended"));
    }
    // The one that was ejected later, for a short time, serves again while the other is still out.
    until("the first serves again", async || get(proxy.address(), "/short").await.text() == "mended").await;
    assert_eq!(proxy.state("long", c.address()).await, "ejected");
}

#[tokio::test]
async fn no_more_backends_are_ejected_than_may() {
    // The last that can be used stays in use.
    for (most, ejected) in [("10%", 1), ("50%", 2), ("100%", 3)] {
        let origins =
            [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await, Origin::start("d").await];
        origins.iter().for_each(|origin| origin.plays(Reply::status(502)));
        let yaml = format!(
            "
upstreams:
  web:
    backends: [{{a}}, {{b}}, {{c}}, {{d}}]
    health_check: none
    retry: none
    outlier: {{ consecutive_errors: 1, base_ejection: 1h, max_ejection: 1h, max_ejected: {most} }}
"
        );
        let [a, b, c, d] = &origins;
        let proxy = Proxy::start(&[a, b, c, d], &yaml).await;
        Load::of(20, 1).run(proxy.address()).await;
        let mut out = 0;
        for origin in &origins {
            out += usize::from(proxy.state("web", origin.address()).await == "ejected");
        }
        assert_eq!(out, ejected, "{most}");
    }
}

#[tokio::test]
async fn a_backend_that_hangs_fails_its_probe() {
    let [a, b] = two().await;
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
    health_check: { type: http, path: /healthz, interval: 2s, timeout: 500ms, fast_interval: 50ms, fall: 2 }
";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    proxy.until_state("web", b.address(), "healthy").await;

    b.on("/healthz", Script::hang());

    proxy.until_state("web", b.address(), "unhealthy").await;
}

#[tokio::test]
async fn without_a_usable_backend_the_answer_is_503_and_nothing_is_tried() {
    let [a, b] = two().await;
    a.on("/healthz", Reply::status(500));
    b.on("/healthz", Reply::status(500));
    let proxy = Proxy::start(&[&a, &b], &probing("fall: 1")).await;

    let answer = get(proxy.address(), "/x").await;

    assert_eq!(answer.status, 503);
    let line = proxy.log_for("/x").await;
    assert_eq!((&line["status"], &line["reason"]), (&503.into(), &"destination_unavailable".into()));
    assert_eq!(a.requests_for("/x") + b.requests_for("/x"), 0);
}

#[tokio::test]
async fn fail_open_sends_to_all_when_none_is_healthy() {
    let [a, b] = two().await;
    a.on("/healthz", Reply::status(500));
    b.on("/healthz", Reply::status(500));
    let yaml = probing("fall: 1").replace("outlier: none", "when_none_healthy: fail_open");
    let proxy = Proxy::start(&[&a, &b], &yaml).await;

    let tally = Load::of(20, 1).run(proxy.address()).await;

    tally.expect_all_ok();
    assert_eq!((tally.from("a"), tally.from("b")), (10, 10));
    assert_eq!(proxy.metric("roundel_upstream_failing_open", &[("upstream", "web")]).await, 1.0);
}

#[tokio::test]
async fn it_is_not_ready_before_the_first_probe_round_has_ended() {
    let [a, b] = two().await;
    b.hold();
    let yaml = probing("fall: 1").replace("interval: 1s", "interval: 1m").replace("timeout: 900ms", "timeout: 30s");
    let mut proxy = Setup::new(&[&a, &b]).launch(&yaml);
    until("b is being probed", async || b.in_flight() == 1).await;
    until("the admin listener answers", async || proxy.is_listening_for_admin().await).await;

    assert_eq!(proxy.admin_text("/readyz").await.0, 503);
    assert_eq!(proxy.admin_text("/healthz").await.0, 200);
    b.release();

    proxy.ready().await.expect("the first round is over");
}

#[tokio::test]
async fn a_backup_is_used_only_when_no_other_backend_is_usable() {
    let [a, b] = two().await;
    let yaml = probing("fall: 2").replace("[{a}, {b}]", "[{a}, { address: {b}, backup: true }]");
    let proxy = Proxy::start(&[&a, &b], &yaml).await;
    proxy.until_state("web", b.address(), "healthy").await;

    let before = Load::of(20, 1).run(proxy.address()).await;
    a.on("/healthz", Reply::status(500));
    proxy.until_state("web", a.address(), "unhealthy").await;
    let after = Load::of(20, 1).run(proxy.address()).await;

    assert_eq!((before.from("a"), after.from("b")), (20, 20));
}

#[tokio::test]
async fn consecutive_gateway_errors_eject_a_backend() {
    let [a, b] = two().await;
    let yaml = "
upstreams:
  web:
    backends: [{a}, {b}]
    outlier: { consecutive_errors: 3, base_ejection: 60s }
";
    let proxy = Proxy::start(&[&a, &b], yaml).await;
    b.plays(Reply::status(502));

    Load::of(20, 1).run(proxy.address()).await;

    assert_eq!(proxy.state("web", b.address()).await, "ejected");
    assert_eq!(b.requests(), 3);
}
