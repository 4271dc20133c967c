//! The process: how it starts, how it is signalled, and how it ends without losing anything.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Connection, Load, Origin, Proxy, Setup, get, until};

const PLAIN: &str = "upstreams: { web: { backends: [{a}] } }";

#[tokio::test]
async fn the_pid_file_is_written_in_the_foreground_too() {
    let a = Origin::start("a").await;
    let yaml = "server: { threads: 1, pid_file: \"{dir}/roundel.pid\" }\nupstreams: { web: { backends: [{a}] } }";
    let proxy = Proxy::start(&[&a], yaml).await;

    let text = fs::read_to_string(proxy.dir().join("roundel.pid")).expect("the pid file exists once it is ready");

    assert_eq!(text.trim(), proxy.pid().to_string());
}

#[tokio::test]
async fn a_taken_port_is_told_in_one_line_and_ends_the_start() {
    let a = Origin::start("a").await;
    let b = Origin::start("b").await;
    // An origin sits on the very port that the proxy is told to take.
    let yaml = "upstreams: { web: { backends: [{b}] } }";
    let mut proxy = Setup::new(&[&a, &b]).listen_on(a.address()).launch(yaml);

    let status = proxy.wait_exit().await;

    let stderr = proxy.settled_stderr().await;
    let told = stderr.lines().filter(|line| line.contains(&a.address().to_string())).collect::<Vec<_>>();
    assert!(!status.success());
    assert_eq!(told.len(), 1, "{stderr}");
    assert!(told[0].contains("cannot listen"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_no_request() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], PLAIN).await;

    let load = Load::of(1_000_000, 16).until_refused().start(proxy.address());
    load.after(500).await;
    proxy.signal(Signal::SIGTERM);
    let tally = load.finish().await;

    tally.expect_all_ok();
    assert_eq!(tally.total(), a.requests());
    assert!(proxy.wait_exit().await.success());
}

#[tokio::test]
async fn sigterm_waits_for_what_is_in_flight_and_then_ends_at_once() {
    let a = Origin::start("a").await;
    // Far longer than a test may take: the end must come with the last answer, not with the grace period.
    let yaml = "server: { threads: 1, grace_period_seconds: 600 }\nupstreams: { web: { backends: [{a}] } }";
    let mut proxy = Proxy::start(&[&a], yaml).await;
    a.hold();
    let mut connection = Connection::open(proxy.address()).await;
    connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("the request is in flight", async || a.in_flight() == 1).await;

    proxy.signal(Signal::SIGTERM);
    until("the listener is closed", async || Connection::try_open(proxy.address()).await.is_err()).await;
    assert_eq!(proxy.exited(), None);
    a.release();

    assert_eq!(connection.answer().await.status, 200);
    assert!(proxy.wait_exit().await.success());
}

#[tokio::test]
async fn an_idle_connection_may_send_one_more_request_in_a_drain() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], &format!("drain: {{ idle: 10s }}\n{PLAIN}")).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.get("/").await;

    proxy.signal(Signal::SIGTERM);
    until("the listener is closed", async || Connection::try_open(proxy.address()).await.is_err()).await;

    let last = connection.get("/").await;
    assert_eq!(last.status, 200);
    assert!(last.closes());
    connection.expect_close().await;
    assert!(proxy.wait_exit().await.success());
}

#[tokio::test]
async fn readiness_ends_before_the_listeners_close() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], &format!("drain: {{ delay: 1s }}\n{PLAIN}")).await;

    proxy.signal(Signal::SIGTERM);
    until("it is not ready", async || proxy.admin_text("/readyz").await.0 == 503).await;

    assert_eq!(get(proxy.address(), "/").await.status, 200);
    assert!(proxy.wait_exit().await.success());
}

#[tokio::test]
async fn sigint_ends_it() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], PLAIN).await;

    proxy.signal(Signal::SIGINT);

    proxy.wait_exit().await;
    assert!(!proxy.settled_stderr().await.contains("panicked"));
}

#[tokio::test]
async fn sighup_of_an_unchanged_file_disturbs_nobody() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], PLAIN).await;
    let mut connection = Connection::open(proxy.address()).await;
    connection.get("/").await;

    proxy.signal(Signal::SIGHUP);

    for _ in 0..50 {
        assert_eq!(connection.get("/").await.status, 200);
    }
    assert_eq!(proxy.exited(), None);
}

#[tokio::test]
async fn sigusr1_opens_the_access_log_again() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    get(proxy.address(), "/before").await;
    proxy.log_for("/before").await;
    fs::rename(proxy.dir().join("access.log"), proxy.dir().join("access.log.1")).expect("the directory is ours");

    proxy.signal(Signal::SIGUSR1);
    until("the log is there again", async || proxy.dir().join("access.log").exists()).await;
    get(proxy.address(), "/after").await;

    proxy.log_for("/after").await;
    assert_eq!(proxy.log().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_leave_nothing_behind() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    Load::of(200, 8).run(proxy.address()).await.expect_all_ok();
    until("the first load is gone", async || a.in_flight() == 0).await;
    let before = proxy.open_files();

    for _ in 0..5 {
        Load::of(200, 8).run(proxy.address()).await.expect_all_ok();
    }

    until("its files are closed", async || proxy.open_files() <= before).await;
}
