//! `roundel upgrade`: a new process takes the place of the old one, or the old one serves on and says why not.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Address, Connection, Load, Origin, Proxy, Setup, free_address, get, roundel, until};

const PLAIN: &str = r#"
server: { threads: 2, pid_file: "{dir}/roundel.pid" }
upstreams: { web: { backends: [{a}], health_check: { type: http, path: /healthz, interval: 1h, timeout: 30m } } }
"#;

/// What `roundel upgrade` has ended with, and said.
struct Told {
    status: Option<i32>,
    text: String,
}

/// `roundel upgrade` for this proxy.
async fn upgrade(proxy: &Proxy, more: &[&str]) -> Told {
    let admin = proxy.admin_address().to_string();
    let output = roundel(&[&["upgrade", "--admin", &admin], more].concat()).await;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Told { status: output.status.code(), text }
}

/// An upgrade that must succeed: who serves now.
async fn upgraded(proxy: &Proxy) -> Value {
    let told = upgrade(proxy, &["--json"]).await;
    assert_eq!(told.status, Some(0), "{}\n{}", told.text, proxy.stderr());
    serde_json::from_str(&told.text).expect("JSON was asked for")
}

/// Who serves.
async fn serving(proxy: &Proxy) -> u64 {
    proxy.admin("/api/v1/status").await["pid"].as_u64().expect("the status has a pid")
}

fn pid_file(proxy: &Proxy) -> u64 {
    fs::read_to_string(proxy.dir().join("roundel.pid")).unwrap_or_default().trim().parse().unwrap_or(0)
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn is_alive(pid: u32) -> bool {
    // A process that is dead and not yet collected has a state of Z.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn send(pid: u32, signal: Signal) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a process id fits")), signal);
}

/// Waits for the new process of an upgrade that is under way.
async fn new_process(proxy: &Proxy) -> u32 {
    let mut found = None;
    until("a new process is started", async || {
        found = children(proxy.pid()).first().copied();
        found.is_some()
    })
    .await;
    found.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_in_a_row_under_load_lose_nothing() {
    let a = Origin::start("a").await;
    let mut first = Proxy::start(&[&a], PLAIN).await;
    let load = Load::of(1_000_000, 8).until_refused().start(first.address());
    load.after(100).await;
    let mut last = (u64::from(first.pid()), 1);

    for _ in 0..5 {
        let told = upgraded(&first).await;
        let now = (told["pid"].as_u64().unwrap_or_default(), told["generation"].as_u64().unwrap_or_default());
        assert_eq!(told["old_pid"], last.0);
        assert!(now.0 != last.0 && now.1 == last.1 + 1, "{last:?} {now:?}");
        assert_eq!((serving(&first).await, pid_file(&first)), (now.0, now.0));
        assert_eq!(first.admin_text("/readyz").await.0, 200);
        load.after(50).await;
        last = now;
    }

    // The first process has stayed in front: it passes on what it is told, and ends with the last.
    assert_eq!(first.exited(), None);
    first.signal(Signal::SIGTERM);
    let tally = load.finish().await;
    tally.expect_all_ok();
    assert_eq!(tally.total(), a.requests_for("/"));
    assert!(first.wait_exit().await.success(), "{}", first.stderr());
    assert!(!is_alive(u32::try_from(last.0).unwrap()));
    assert!(!first.dir().join("roundel.pid").exists());
    assert_eq!(fs::read_dir(first.dir().join("run")).expect("the directory is ours").count(), 0);
}

#[tokio::test]
async fn a_websocket_and_a_download_outlive_an_upgrade() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    a.hold();
    let mut slow = Connection::open(proxy.address()).await;
    slow.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("the request is in flight", async || a.in_flight() == 1).await;

    upgraded(&proxy).await;
    a.release();

    assert_eq!(slow.answer().await.status, 200);
    assert_eq!(get(proxy.address(), "/").await.status, 200);
}

#[tokio::test]
async fn more_sockets_than_pingora_hands_over_are_handed_over() {
    let a = Origin::start("a").await;
    let mut addresses: Vec<Address> = Vec::new();
    while addresses.len() < 100 {
        addresses.extend(Some(free_address()).filter(|address| !addresses.contains(address)));
    }
    let tcp = addresses.iter().map(|address| format!("{{ address: \"{address}\" }}"));
    let unix = (0..100).map(|number| format!("{{ address: \"unix:{{dir}}/{number:0>60}.sock\" }}"));
    let listeners = tcp.chain(unix).collect::<Vec<_>>().join(", ");
    let proxy = Setup::new(&[&a]).start(&format!("listeners: [{listeners}]\n{PLAIN}")).await;

    upgraded(&proxy).await;

    let unix = |number: usize| Address::Unix(proxy.dir().join(format!("{number:0>60}.sock")));
    for address in addresses.into_iter().chain((0..100).map(unix)) {
        assert_eq!(get(&address, "/").await.status, 200, "{address}");
    }
}

#[tokio::test]
async fn the_new_configuration_serves_and_a_faulty_one_does_not() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let mut proxy = Proxy::start(&[&a, &b], PLAIN).await;
    let old = u64::from(proxy.pid());

    for (yaml, reason) in [
        (PLAIN.replace("backends", "backend"), "unknown key `backend`"),
        (format!("listeners: [{{ address: \"{{listen}}\" }}, {{ address: \"{{b}}\" }}]\n{PLAIN}"), "cannot listen on"),
        (PLAIN.replace("{dir}/roundel.pid", "{dir}/none/roundel.pid"), "pid file"),
    ] {
        proxy.rewrite_config(&yaml);
        let told = upgrade(&proxy, &[]).await;
        assert!(told.status == Some(1) && told.text.contains(reason), "{}", told.text);
        assert!(told.text.contains("the old process serves on"), "{}", told.text);
        assert_eq!((serving(&proxy).await, pid_file(&proxy)), (old, old));
        assert_eq!(get(proxy.address(), "/").await.origin(), "a");
    }

    proxy.rewrite_config(&PLAIN.replace("[{a}]", "[{b}]"));
    upgraded(&proxy).await;
    assert_eq!(get(proxy.address(), "/").await.origin(), "b");
    assert_eq!(proxy.exited(), None);
}

/// A file in the test's directory that can be run.
fn program(proxy: &Proxy, text: &str) -> String {
    let path: PathBuf = proxy.dir().join("new-roundel");
    fs::write(&path, text).expect("the directory is ours");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("the file is ours");
    path.display().to_string()
}

#[tokio::test]
async fn a_new_binary_that_cannot_serve_leaves_the_old_one_serving() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    let old = u64::from(proxy.pid());

    for (text, more, reason) in [
        ("#!/bin/sh\nexit 3\n", "60s", "ended with status 3"),
        ("#!/bin/sh\nkill -SEGV $$\n", "60s", "by signal 11"),
        ("#!/bin/sh\nexec sleep 600\n", "300ms", "did not serve within"),
        ("#!/no/such/interpreter\n", "60s", "cannot start"),
        ("\x7fELF nonsense", "60s", "the new process ended"),
    ] {
        let binary = program(&proxy, text);
        let told = upgrade(&proxy, &["--binary", &binary, "--timeout", more]).await;
        assert!(told.status == Some(1) && told.text.contains(reason), "{text:?}: {}", told.text);
        assert_eq!(serving(&proxy).await, old);
        assert_eq!(children(proxy.pid()), [] as [u32; 0], "{text:?}: nothing of it is left");
    }
    let told = upgrade(&proxy, &["--binary", "/no/such/binary"]).await;
    assert!(told.status == Some(1) && told.text.contains("/no/such/binary"), "{}", told.text);

    assert_eq!(get(proxy.address(), "/").await.status, 200);
    upgraded(&proxy).await;
}

/// A configuration whose new backend is probed for as long as the origin `b` holds: the new process has everything, and
/// does not serve yet.
fn waits_for(b: &str) -> String {
    PLAIN.replace("[{a}]", &format!("[{{a}}, {{{b}}}]"))
}

/// A proxy over `a`, whose next process [`waits_for`] `b`, which holds.
async fn stuck(a: &Origin, b: &Origin) -> Proxy {
    let proxy = Proxy::start(&[a, b], PLAIN).await;
    proxy.rewrite_config(&waits_for("b"));
    b.hold();
    proxy
}

#[tokio::test]
async fn a_new_process_that_is_killed_before_it_serves_changes_nothing() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = stuck(&a, &b).await;

    let (told, ()) = tokio::join!(upgrade(&proxy, &[]), async {
        until("the new one probes", async || b.in_flight() == 1).await;
        assert_eq!(get(proxy.address(), "/").await.origin(), "a");
        let refused = upgrade(&proxy, &[]).await;
        assert!(refused.status == Some(1) && refused.text.contains("under way"), "{}", refused.text);
        send(new_process(&proxy).await, Signal::SIGKILL);
    });

    assert!(told.status == Some(1) && told.text.contains("by signal 9"), "{}", told.text);
    let old = u64::from(proxy.pid());
    assert_eq!((serving(&proxy).await, pid_file(&proxy)), (old, old));
    b.release();
    upgraded(&proxy).await;
}

#[tokio::test]
async fn a_new_process_that_hangs_is_ended_in_time() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = stuck(&a, &b).await;

    let told = upgrade(&proxy, &["--timeout", "1s"]).await;

    assert!(told.status == Some(1) && told.text.contains("had not opened its listeners yet"), "{}", told.text);
    assert_eq!(children(proxy.pid()), [] as [u32; 0]);
    assert_eq!(get(proxy.address(), "/").await.origin(), "a");
}

#[tokio::test]
async fn nothing_is_reloaded_while_a_new_process_takes_over() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let proxy = stuck(&a, &b).await;

    let (told, refusal) = tokio::join!(upgrade(&proxy, &[]), async {
        until("the new one probes", async || b.in_flight() == 1).await;
        let admin = proxy.admin_address().to_string();
        let refusal = roundel(&["reload", "--admin", &admin]).await;
        b.release();
        refusal
    });

    let words = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(!refusal.status.success() && words.contains("an upgrade is under way"), "{words}");
    assert_eq!(told.status, Some(0), "{}", told.text);
    assert_eq!(get(proxy.address(), "/").await.status, 200);
}

#[tokio::test]
async fn the_new_process_goes_on_where_the_old_one_is_killed() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let mut proxy = stuck(&a, &b).await;

    let (told, new) = tokio::join!(upgrade(&proxy, &[]), async {
        until("the new one probes", async || b.in_flight() == 1).await;
        let new = new_process(&proxy).await;
        proxy.signal(Signal::SIGKILL);
        new
    });
    assert_eq!(told.status, Some(1), "{}", told.text);
    assert!(!proxy.wait_exit().await.success());
    // The sockets are the new process's: clients wait, and are not refused.
    let mut waiting = Connection::open(proxy.address()).await;
    b.release();

    assert_eq!(waiting.get("/").await.status, 200);
    until("it is known", async || pid_file(&proxy) == u64::from(new)).await;
    assert_eq!(serving(&proxy).await, u64::from(new));
    send(new, Signal::SIGTERM);
    until("it has ended", async || !is_alive(new)).await;
    assert!(!proxy.dir().join("roundel.pid").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_process_is_killed_at_any_moment_somebody_serves() {
    let a = Origin::start("a").await;
    for round in 0..12_u64 {
        let mut proxy = Proxy::start(&[&a], PLAIN).await;
        let moment = Duration::from_millis(round / 2 * 8);
        let kills_old = round % 2 == 0;

        let (_, new) = tokio::join!(upgrade(&proxy, &["--timeout", "5s"]), async {
            let new = new_process(&proxy).await;
            tokio::time::sleep(moment).await;
            send(if kills_old { proxy.pid() } else { new }, Signal::SIGKILL);
            new
        });

        // The new process may have taken over before it was killed: then the first one, which stays in front, tells of its end.
        if !kills_old && pid_file(&proxy) == u64::from(new) && !is_alive(new) {
            assert_eq!(proxy.wait_exit().await.code(), Some(137), "{round}: {}", proxy.stderr());
            continue;
        }
        let serves = async || match Connection::try_open(proxy.address()).await {
            Ok(mut connection) => connection.ask("GET", "/", "", b"").await.is_ok_and(|answer| answer.status == 200),
            Err(_) => false,
        };
        until(&format!("round {round}: somebody serves"), serves).await;
        until(&format!("round {round}: the pid file names him"), async || serving(&proxy).await == pid_file(&proxy))
            .await;
    }
}

#[tokio::test]
async fn a_stop_calls_an_upgrade_off() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut proxy = stuck(&a, &b).await;

        let (told, new) = tokio::join!(upgrade(&proxy, &[]), async {
            until("the new one probes", async || b.in_flight() == 1).await;
            let new = new_process(&proxy).await;
            proxy.signal(signal);
            new
        });

        assert_eq!(told.status, Some(1), "{}", told.text);
        assert!(proxy.wait_exit().await.success(), "{}", proxy.stderr());
        assert!(!is_alive(new), "{signal}");
        b.release();
        until("the origin is at rest", async || b.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn what_the_old_process_has_learnt_goes_on() {
    let (a, b, mut c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let yaml = r#"
server: { pid_file: "{dir}/roundel.pid" }
upstreams:
  web:
    backends: [{a}, {b}, {c}]
    health_check: { type: http, interval: 1h, timeout: 30m }
    outlier: { consecutive_errors: 1, base_ejection: 300s, max_ejected: 100% }
"#;
    let proxy = Proxy::start(&[&a, &b, &c], yaml).await;
    c.refuse().await;
    until("c is ejected", async || {
        get(proxy.address(), "/").await;
        proxy.state("web", c.address()).await == "ejected"
    })
    .await;
    let path = format!("/api/v1/upstreams/web/backends/{}/drain?force=true", b.address());
    assert_eq!(proxy.admin_post(&path).await.0, 200);
    // Nobody waits for a probe.
    a.hold();
    b.hold();

    upgraded(&proxy).await;

    assert_eq!(proxy.state("web", a.address()).await, "healthy");
    assert_eq!(proxy.state("web", b.address()).await, "drained");
    assert_eq!(proxy.state("web", c.address()).await, "ejected");
    a.release();
    assert_eq!(get(proxy.address(), "/").await.origin(), "a");
}

#[tokio::test]
async fn what_a_rate_limit_has_counted_is_counted_on() {
    let a = Origin::start("a").await;
    let yaml = format!(
        "{PLAIN}\nroutes: [{{ name: api, filters: [{{ rate_limit: {{ key: client_ip, rate: 1/h, burst: 2 }} }}], to: web }}]"
    );
    let proxy = Proxy::start(&[&a], &yaml).await;
    assert_eq!(get(proxy.address(), "/").await.status, 200);

    upgraded(&proxy).await;

    assert_eq!(get(proxy.address(), "/").await.status, 200, "one is left of two");
    assert_eq!(get(proxy.address(), "/").await.status, 429);
}

#[tokio::test]
async fn a_listener_that_is_not_named_any_more_leaves_no_file() {
    let a = Origin::start("a").await;
    let more = r#"listeners: [{ address: "{listen}" }, { address: "unix:{dir}/more.sock" }]"#;
    let proxy = Proxy::start(&[&a], &format!("{more}\n{PLAIN}")).await;
    assert!(proxy.dir().join("more.sock").exists());

    proxy.rewrite_config(PLAIN);
    upgraded(&proxy).await;

    until("its file is gone", async || !proxy.dir().join("more.sock").exists()).await;
}

#[tokio::test]
async fn signals_to_the_first_process_reach_the_one_that_serves() {
    let a = Origin::start("a").await;
    let proxy = Proxy::start(&[&a], PLAIN).await;
    upgraded(&proxy).await;
    until("the first one has drained", async || proxy.stderr().contains("drained")).await;
    get(proxy.address(), "/before").await;
    proxy.log_for("/before").await;
    fs::rename(proxy.dir().join("access.log"), proxy.dir().join("access.log.1")).expect("the directory is ours");

    until("the log is there again", async || {
        proxy.signal(Signal::SIGUSR1);
        proxy.dir().join("access.log").exists()
    })
    .await;

    get(proxy.address(), "/after").await;
    proxy.log_for("/after").await;
}

#[tokio::test]
async fn a_binary_is_named_on_the_socket_alone() {
    let a = Origin::start("a").await;
    let tcp = free_address();
    let yaml = format!("admin: {{ address: \"{tcp}\", token_file: token }}\n{PLAIN}");
    let proxy = Setup::new(&[&a]).file("token", "s3cret\n").launch(&yaml);
    until("it is ready", async || Connection::try_open(proxy.address()).await.is_ok()).await;
    let (token, tcp) = (proxy.dir().join("token").display().to_string(), tcp.to_string());
    let command = async |more: &[&str]| {
        let output = roundel(&[&["upgrade", "--admin", &tcp, "--token-file", &token], more].concat()).await;
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let (status, told) = command(&["--binary", "/bin/true"]).await;
    assert!(status == Some(1) && told.contains("unix socket"), "{told}");
    assert_eq!(command(&[]).await.0, Some(0), "{}", proxy.stderr());
}

/// Kills the process that a pid file names, whatever becomes of the test.
struct Background(PathBuf);

impl Background {
    fn pid(&self) -> Option<u32> {
        fs::read_to_string(&self.0).ok()?.trim().parse().ok()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            send(pid, Signal::SIGKILL);
        }
    }
}

/// The binary with the runtime directory of this setup.
fn command(setup: &Setup) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
    command.env("RUNTIME_DIRECTORY", setup.dir().join("run")).env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG");
    command.stdin(std::process::Stdio::null());
    command
}

#[tokio::test]
async fn a_daemon_is_upgraded_and_leaves_when_it_has_drained() {
    let a = Origin::start("a").await;
    let listen = free_address();
    let setup = Setup::new(&[&a]).listen_on(&listen);
    let yaml = PLAIN.replace("threads: 2", "threads: 2, daemon: true, error_log: \"{dir}/error.log\"");
    let conf = setup.write(&yaml).display().to_string();
    let background = Background(setup.dir().join("roundel.pid"));
    let started = command(&setup).args(["-c", &conf]).output().await.unwrap();
    assert!(started.status.success(), "{started:?}");
    let old = background.pid().expect("the pid file is written");
    until("it serves", async || Connection::try_open(&listen).await.is_ok()).await;

    let output = command(&setup).args(["upgrade", "-c", &conf]).output().await.unwrap();

    assert!(output.status.success(), "{output:?}");
    let new = background.pid().expect("the pid file is written");
    assert_ne!(old, new);
    until("the old one has left", async || !is_alive(old)).await;
    assert_eq!(get(&listen, "/").await.status, 200);
    send(new, Signal::SIGTERM);
    until("the new one has ended", async || !is_alive(new)).await;
    assert!(background.pid().is_none());
    let left = fs::read_dir(setup.dir().join("run")).unwrap().count();
    assert_eq!(left, 0, "the last process leaves nothing in the runtime directory");
}

/// What systemd would hear, read in a thread of its own; descriptors that come along are closed, as it closes them.
fn supervisor(path: &std::path::Path) -> std::sync::Arc<std::sync::Mutex<String>> {
    let socket = std::os::unix::net::UnixDatagram::bind(path).expect("the directory is ours");
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let into = heard.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        while let Ok(read) = socket.recv(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
            let mut heard = into.lock().expect("no reader panics");
            heard.push_str(&text);
            heard.push('\n');
        }
    });
    heard
}

#[tokio::test]
async fn systemd_hears_of_the_start_the_new_main_process_and_the_end() {
    let a = Origin::start("a").await;
    let setup = Setup::new(&[&a]);
    let path = setup.dir().join("notify.sock");
    let heard = supervisor(&path);
    let hears = async |what: &str| {
        until(what, async || heard.lock().unwrap().lines().any(|line| line == what)).await;
        heard.lock().unwrap().clear();
    };
    let setup = setup.environment("NOTIFY_SOCKET", &path.display().to_string()).environment("WATCHDOG_USEC", "100000");
    let mut old = setup.start(PLAIN).await;
    hears("READY=1").await;
    hears("WATCHDOG=1").await;

    let new = upgraded(&old).await["pid"].as_u64().unwrap();

    hears(&format!("MAINPID={new}")).await;
    // Nobody need stay in front: systemd knows the new process.
    assert!(old.wait_exit().await.success(), "{}", old.stderr());
    hears("WATCHDOG=1").await;
    send(u32::try_from(new).unwrap(), Signal::SIGTERM);
    hears("STOPPING=1").await;
}

#[tokio::test]
async fn a_variable_that_is_not_an_upgrades_is_told() {
    let a = Origin::start("a").await;
    for value in ["3", "0:1", "9999:1", "x"] {
        let mut proxy = Setup::new(&[&a]).environment("ROUNDEL_HANDOVER", value).launch(PLAIN);
        assert!(!proxy.wait_exit().await.success());
        let told = proxy.settled_stderr().await;
        assert!(told.contains("ROUNDEL_HANDOVER") && told.lines().count() == 1, "{value}: {told}");
    }
}

#[tokio::test]
async fn descriptors_are_raised_to_what_is_allowed_and_too_few_are_told() {
    let a = Origin::start("a").await;
    for (limits, told) in [("-Sn 256; ulimit -Hn 4096", false), ("-n 1024", true)] {
        let listen = free_address();
        let setup = Setup::new(&[&a]).listen_on(&listen);
        let yaml = format!("listeners: [{{ address: \"{{listen}}\", max_connections: 1000 }}]\n{PLAIN}");
        let conf = setup.write(&yaml).display().to_string();
        let (program, log) = (env!("CARGO_BIN_EXE_roundel"), setup.dir().join("log"));
        let script = format!("ulimit {limits}; exec {program} -c {conf} 2>{}", log.display());
        let mut shell = tokio::process::Command::new("sh");
        shell.env("RUNTIME_DIRECTORY", setup.dir().join("run")).args(["-c", &script]).kill_on_drop(true);
        let child = shell.spawn().unwrap();
        until("it serves", async || Connection::try_open(&listen).await.is_ok()).await;

        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id().unwrap())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let soft_and_hard: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
        assert_eq!(soft_and_hard[0], soft_and_hard[1], "{line}");
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(log.contains("too few descriptors"), told, "{log}");
    }
}
