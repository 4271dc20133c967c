//! The process: how it starts, how it is signalled, and how it ends without losing anything.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Address, Connection, Load, Origin, Proxy, Setup, get, until};

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
async fn connections_that_never_speak_do_not_hold_up_the_end() {
    let a = Origin::start("a").await;
    for protocols in ["[h1]", "[h1, h2]"] {
        // Far longer than a test may take: the end must come with `drain.idle`.
        let yaml = format!(
            "server: {{ threads: 1, grace_period_seconds: 600 }}\ndrain: {{ idle: 50ms }}\nlisteners: [{{ address: \"{{listen}}\", \
             name: l, protocols: {protocols}, timeouts: {{ header: 10m }} }}]\n{PLAIN}"
        );
        let mut proxy = Proxy::start(&[&a], &yaml).await;
        let _silent = Connection::open(proxy.address()).await;
        until("it is accepted", async || proxy.metric("roundel_connections", &[("listener", "l")]).await >= 1.0).await;

        proxy.signal(Signal::SIGTERM);

        assert!(proxy.wait_exit().await.success());
    }
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

    // Of its connections to the backend as many may wait as the load had at once.
    until("its files are closed", async || proxy.open_files() <= before + 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_take_no_work_from_each_other_all_serve() {
    let a = Origin::start("a").await;
    let yaml = r#"
server: { threads: 3, work_stealing: false }
listeners: [{ address: "{listen}" }, { address: "unix:{dir}/http.sock" }]
upstreams: { web: { backends: [{a}] } }
"#;
    let mut proxy = Proxy::start(&[&a], yaml).await;
    let before = proxy.rests();
    for address in [proxy.address().clone(), Address::Unix(proxy.dir().join("http.sock"))] {
        Load::of(400, 4).run(&address).await.expect_all_ok();
    }
    let rests: Vec<_> = proxy.rests().iter().zip(before).map(|(now, before)| now - before).collect();
    assert!(rests.len() == 3 && rests.iter().all(|rests| *rests > 20), "one had no work: {rests:?}");
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait_exit().await.success(), "{}", proxy.stderr());
}

const UPGRADABLE: &str = r#"
server: { threads: 1, pid_file: "{dir}/roundel.pid", listener_tasks_per_fd: 2 }
upstreams: { web: { backends: [{a}] } }
"#;

/// The pid in the file of [`UPGRADABLE`].
fn pid_file(proxy: &Proxy) -> String {
    fs::read_to_string(proxy.dir().join("roundel.pid")).unwrap_or_default().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_load_loses_no_request_and_the_new_process_owns_all() {
    let a = Origin::start("a").await;
    let mut old = Proxy::start(&[&a], UPGRADABLE).await;
    let load = Load::of(1_000_000, 8).until_refused().start(old.address());
    load.after(200).await;

    let mut new = old.hand_over(UPGRADABLE).await;
    assert!(old.wait_exit().await.success(), "{}", old.stderr());

    assert_eq!(pid_file(&old), new.pid().to_string());
    assert_eq!(old.admin("/api/v1/status").await["pid"], new.pid());
    load.after(load.done() + 200).await;
    assert!(new.end().await.success(), "{}", new.stderr());
    let tally = load.finish().await;
    tally.expect_all_ok();
    assert_eq!(tally.total(), a.requests());
    assert!(!old.dir().join("roundel.pid").exists());
    let left = fs::read_dir(old.dir().join("run")).expect("the directory is ours").count();
    assert_eq!(left, 0, "the last process leaves nothing in the runtime directory");
}

#[tokio::test]
async fn an_upgrade_whose_new_process_fails_leaves_the_old_one_serving() {
    let a = Origin::start("a").await;
    let mut old = Proxy::start(&[&a], UPGRADABLE).await;

    // The new process has the sockets when it finds out that it cannot have this one.
    let mut new = old
        .hand_over(&format!("listeners: [{{ address: \"{{listen}}\" }}, {{ address: \"{{a}}\" }}]\n{UPGRADABLE}"))
        .await;
    assert!(!new.wait_exit().await.success());
    until("the old one knows", async || old.stderr().contains("this process serves on")).await;

    assert!(new.stderr().contains("cannot listen"), "{}", new.stderr());
    assert_eq!(pid_file(&old), old.pid().to_string());
    assert_eq!(old.admin("/api/v1/status").await["pid"], old.pid());
    assert_eq!(get(old.address(), "/").await.status, 200);
    old.signal(Signal::SIGTERM);
    assert!(old.wait_exit().await.success());
}

#[tokio::test]
async fn an_upgrade_that_is_stopped_before_it_serves_leaves_the_old_one_serving() {
    let a = Origin::start("a").await;
    let mut old = Proxy::start(&[&a], UPGRADABLE).await;
    a.hold();
    let slow = UPGRADABLE.replace("[{a}]", "[{a}], health_check: { type: http, interval: 1h, timeout: 30m }");

    let mut new = old.hand_over(&slow).await;
    until("the new one probes", async || a.in_flight() == 1).await;
    assert!(new.end().await.success(), "{}", new.stderr());
    until("the old one knows", async || old.stderr().contains("this process serves on")).await;
    a.release();

    assert_eq!(pid_file(&old), old.pid().to_string());
    assert_eq!(get(old.address(), "/").await.status, 200);
    assert_eq!(old.admin_text("/readyz").await.0, 200);
}

#[tokio::test]
async fn sigquit_without_a_new_process_changes_nothing() {
    let a = Origin::start("a").await;
    let mut proxy = Proxy::start(&[&a], UPGRADABLE).await;

    proxy.signal(Signal::SIGQUIT);
    until("it is told", async || proxy.stderr().contains("upgrade refused")).await;

    assert_eq!(get(proxy.address(), "/").await.status, 200);
    assert_eq!(proxy.exited(), None);
}

#[tokio::test]
async fn sigterm_during_the_start_ends_it_at_once() {
    let a = Origin::start("a").await;
    a.hold();
    let yaml = "upstreams: { web: { backends: [{a}], health_check: { type: http, interval: 1h, timeout: 30m } } }";
    let mut proxy = Setup::new(&[&a]).launch(yaml);
    until("it probes", async || a.in_flight() == 1).await;
    until("it listens for signals", async || proxy.is_listening_for_admin().await).await;

    proxy.signal(Signal::SIGTERM);

    assert!(proxy.wait_exit().await.success());
    assert!(!proxy.settled_stderr().await.contains("serving:"));
}

#[tokio::test]
async fn every_level_of_the_log_writes_its_own_lines_and_those_above() {
    let a = Origin::start("a").await;
    for (level, sees_info, sees_debug) in
        [("warn", false, false), ("info", true, false), ("debug", true, true), ("trace", true, true)]
    {
        let mut proxy = Proxy::start(&[&a], &format!("log: {{ level: {level} }}\n{PLAIN}")).await;
        get(proxy.address(), "/").await;
        proxy.signal(Signal::SIGTERM);
        proxy.wait_exit().await;

        let stderr = proxy.settled_stderr().await;
        assert_eq!(
            (stderr.contains(" INFO "), stderr.contains(" DEBUG ")),
            (sees_info, sees_debug),
            "{level}: {stderr}"
        );
    }
}
