//! The keys of `server`, each by what it does to the process.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::h2::H2Origin;
use crate::harness::wire::Stream;
use crate::harness::{
    Authority, Blackhole, Origin, PATIENCE, Proxy, Road, Setup, free_address, get, on_both_roads, request, until,
};

on_both_roads!(
    connects_happen_on_threads_of_their_own,
    keys_of_tls_are_written_where_that_is_wanted,
    connections_over_ipv6_come_from_the_address_that_is_written,
    no_more_threads_block_than_may,
);

async fn connects_happen_on_threads_of_their_own(road: Road) {
    let a = Origin::start("a").await;
    let keys = "upstream_connect_offload_threadpools: 2, upstream_connect_offload_thread_per_pool: 3";
    let yaml =
        format!("server: {{ threads: 2, {keys} }}\nupstreams: {{ web: {{ backends: [{{a}}], health_check: none }} }}");
    let proxy = Setup::new(&[&a]).on(road).start(&yaml).await;
    // What the system keeps of "upstream connect offload".
    let threads = || proxy.threads_named("upstream connec");
    assert_eq!(threads(), 0, "they begin with the first connect");

    assert_eq!(get(proxy.address(), "/").await.status, 200);

    // The general road has a second connector, Pingora's own.
    let expected = if road == Road::Lane { 6 } else { 12 };
    until("all have taken their names", async || threads() == expected).await;
}

async fn keys_of_tls_are_written_where_that_is_wanted(road: Road) {
    let authority = Authority::new();
    let a = Origin::start_tls("a", &authority, &["127.0.0.1"]).await;
    let start = async |key: bool, file: Option<&str>| {
        let yaml = format!(
            "server: {{ threads: 2, upstream_debug_ssl_keylog: {key} }}\n\
             upstreams: {{ web: {{ backends: [\"https://{{a}}\"], health_check: none, tls: {{ ca: ca.pem }} }} }}"
        );
        let setup = Setup::new(&[&a]).on(road).file("ca.pem", authority.pem());
        let path = setup.dir().join("keys");
        let written = file.map(|file| setup.dir().join(file).display().to_string());
        let setup = match written {
            Some(written) => setup.environment("SSLKEYLOGFILE", &written),
            None => setup,
        };
        let proxy = setup.start(&yaml).await;
        assert_eq!(get(proxy.address(), "/").await.status, 200);
        (fs::read_to_string(path).unwrap_or_default(), proxy.stderr())
    };

    let (keys, told) = start(true, Some("keys")).await;
    assert!(keys.contains("CLIENT_TRAFFIC_SECRET_0 "), "{keys}");
    assert!(told.contains("TLS keys of connections to backends are written"), "{told}");
    assert_eq!(start(false, Some("keys")).await.0, "");
    for file in [None, Some("no/such/directory")] {
        let (_, told) = start(true, file).await;
        assert!(told.contains("TLS keys are not written") && told.contains("SSLKEYLOGFILE"), "{told}");
    }
}

#[tokio::test]
async fn keys_of_probes_are_written_too() {
    let authority = Authority::new();
    let a = Origin::start_tls("a", &authority, &["127.0.0.1"]).await;
    for kind in ["tcp", "http", "http, expect: { body: a }"] {
        let yaml = format!(
            "server: {{ threads: 2, upstream_debug_ssl_keylog: true }}\n\
             upstreams: {{ web: {{ backends: [\"https://{{a}}\"], health_check: {{ type: {kind} }}, tls: {{ ca: ca.pem }} }} }}"
        );
        let setup = Setup::new(&[&a]).file("ca.pem", authority.pem());
        let path = setup.dir().join("keys");
        let _proxy = setup.environment("SSLKEYLOGFILE", &path.display().to_string()).start(&yaml).await;
        assert!(fs::read_to_string(&path).is_ok_and(|keys| keys.contains("CLIENT_TRAFFIC_SECRET_0 ")), "{kind}");
    }
}

/// A backend on the loopback address of IPv6 that answers every connection once; none where the machine has no IPv6.
async fn on_ipv6() -> Option<SocketAddr> {
    let listener = TcpListener::bind("[::1]:0").await.ok()?;
    let address = listener.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let mut stream = Stream::tcp(stream);
            let (_, body) = (stream.head().await, peer.ip().to_string());
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            // The proxy's answer tells what became of it.
            let _ = stream.send((head + &body).as_bytes()).await;
        }
    });
    Some(address)
}

async fn connections_over_ipv6_come_from_the_address_that_is_written(road: Road) {
    let Some(backend) = on_ipv6().await else { return };
    // Loopback has but one address of IPv6. One that the machine has not (RFC 3849) can be nobody's source.
    for (source, outcome) in [("::1", (200, "::1")), ("2001:db8::7", (502, ""))] {
        let yaml = format!(
            "server: {{ threads: 1, client_bind_to_ipv6: [\"{source}\"] }}\n\
             upstreams: {{ web: {{ backends: [\"{backend}\"], health_check: none }} }}"
        );
        let proxy = Setup::new(&[]).on(road).start(&yaml).await;
        let answer = get(proxy.address(), "/").await;
        let text = if answer.status == 200 { answer.text() } else { String::new() };
        assert_eq!((answer.status, text.as_str()), outcome, "{source}");
    }
}

#[tokio::test]
async fn idle_connections_over_http_2_are_kept_in_the_number_that_is_written() {
    for (size, most) in [(1, 2), (128, 1)] {
        let (x, y) = (H2Origin::echo().await, H2Origin::echo().await);
        let yaml = format!(
            "
server: {{ threads: 1, upstream_keepalive_pool_size: {size} }}
upstreams:
  x: {{ backends: [\"{{x}}\"], protocol: h2, health_check: none }}
  y: {{ backends: [\"{{y}}\"], protocol: h2, health_check: none }}
routes: [{{ match: [{{ path: /x }}], to: x }}, {{ match: [{{ path: /y }}], to: y }}]
"
        );
        let setup = Setup::new(&[]).word("x", &x.address.to_string()).word("y", &y.address.to_string());
        let proxy = setup.start(&yaml).await;
        for path in ["/x", "/y", "/x"] {
            assert_eq!(get(proxy.address(), path).await.status, 200);
        }
        assert_eq!(x.connections(), most, "{size}");
    }
}

/// A proxy that hashes a password on a thread that may block, for every request with a name of its own.
async fn hashing(road: Road, keys: &str) -> (Origin, Proxy) {
    let a = Origin::start("a").await;
    let yaml = format!(
        "
server: {{ threads: 1, {keys} }}
upstreams: {{ web: {{ backends: [{{a}}], health_check: none }} }}
routes: [{{ name: web, filters: [{{ auth: {{ basic: {{ users: users }} }} }}], to: web }}]
"
    );
    let users = "anna:$2y$08$AN4hstyEIyh.IMR0djtAJOIE42qGjAgVp68LFUW4ri08c4ba2KwJq\n";
    let proxy = Setup::new(&[&a]).on(road).file("users", users).start(&yaml).await;
    (a, proxy)
}

/// Logs in with so many wrong names at once; how many threads have blocked, and may do so again.
async fn log_in(proxy: &Proxy, clients: usize) -> usize {
    let mut asking = JoinSet::new();
    for number in 0..clients {
        let address = proxy.address().clone();
        asking.spawn(async move {
            use base64::Engine as _;
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("anna:wrong-{number}"));
            request(&address, "GET", "/", &format!("Authorization: Basic {pair}\r\n"), b"").await.status
        });
    }
    let statuses = asking.join_all().await;
    assert!(statuses.iter().all(|status| *status == 401), "{statuses:?}");
    blocking(proxy)
}

/// The threads of the listeners beyond the one that serves.
fn blocking(proxy: &Proxy) -> usize {
    proxy.threads_named("listeners") - 1
}

async fn no_more_threads_block_than_may(road: Road) {
    let (_a, one) = hashing(road, "max_blocking_threads: 1").await;
    assert_eq!(log_in(&one, 8).await, 1);
    let (_a, many) = hashing(road, "max_blocking_threads: 100").await;
    assert!(log_in(&many, 8).await > 1);
}

#[tokio::test]
async fn idle_threads_that_have_blocked_are_kept_as_long_as_written() {
    let (_a, kept) = hashing(Road::Lane, "blocking_threads_ttl_seconds: 3600").await;
    let (_b, ended) = hashing(Road::Lane, "blocking_threads_ttl_seconds: 0").await;
    log_in(&kept, 1).await;
    log_in(&ended, 1).await;

    until("those of the second have ended", async || blocking(&ended) == 0).await;
    assert_eq!(blocking(&kept), 1, "the first has used its own before");
}

/// Kills the process that a pid file names, whatever becomes of the test.
struct Background(PathBuf);

impl Background {
    fn pid(&self) -> Option<Pid> {
        fs::read_to_string(&self.0).ok()?.trim().parse().ok().map(Pid::from_raw)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            // It may have ended by itself.
            let _ = signal::kill(pid, Signal::SIGKILL);
        }
    }
}

/// Runs `roundel -c FILE -d` until it has gone into the background, or has not.
async fn daemon(setup: &Setup, yaml: &str) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
    command.arg("-c").arg(setup.write(yaml)).arg("-d").env("RUNTIME_DIRECTORY", setup.dir().join("run"));
    command.env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG").stdin(std::process::Stdio::null());
    tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").expect("it runs")
}

#[tokio::test]
async fn a_daemon_works_where_it_is_told_to() {
    let a = Origin::start("a").await;
    let listen = free_address();
    let setup = Setup::new(&[&a]).listen_on(&listen).file("page.txt", "mine");
    let background = Background(setup.dir().join("roundel.pid"));
    fs::create_dir(setup.dir().join("work")).unwrap();
    let yaml = |directory: &str| {
        format!(
            "server: {{ threads: 1, working_directory: {directory}, pid_file: roundel.pid, error_log: error.log, \
             daemon_wait_for_ready: true }}\n\
             errors: {{ 404: page.txt }}\nroutes: [{{ name: web, match: [{{ path: /web }}], to: web }}]\n\
             upstreams: {{ web: {{ backends: [{{a}}] }} }}"
        )
    };

    let lost = daemon(&setup, &yaml("nowhere")).await;
    let told = String::from_utf8_lossy(&lost.stderr).into_owned();
    assert!(!lost.status.success() && told.contains("server.working_directory") && told.contains("nowhere"), "{told}");

    let started = daemon(&setup, &yaml("work")).await;
    assert!(started.status.success(), "{started:?}");
    let pid = background.pid().expect("the pid file is written");
    let works_in = fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs");
    assert_eq!(works_in, setup.dir().join("work").canonicalize().unwrap());
    assert_eq!(get(&listen, "/").await.text(), "mine");
    // The file is found again from there.
    fs::write(setup.dir().join("page.txt"), "new").unwrap();
    signal::kill(pid, Signal::SIGHUP).expect("the daemon runs");
    until("the page is read again", async || get(&listen, "/").await.text() == "new").await;
}

#[tokio::test]
async fn a_daemon_is_waited_for_no_longer_than_written() {
    let silent = Blackhole::new();
    let setup = Setup::new(&[]).word("silent", &silent.address().to_string());
    let background = Background(setup.dir().join("roundel.pid"));
    let yaml = |wait: bool| {
        format!(
            "server: {{ threads: 1, pid_file: roundel.pid, error_log: error.log, daemon_wait_for_ready: {wait}, \
             daemon_ready_timeout_seconds: 1 }}\n\
             upstreams: {{ web: {{ backends: [\"{{silent}}\"], health_check: {{ interval: 1h, timeout: 30m }} }} }}"
        )
    };
    for wait in [true, false] {
        let output = daemon(&setup, &yaml(wait)).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.success(), told.contains("was not ready within 1s")), (!wait, wait), "{told}");
        let pid = background.pid().expect("it goes on in the background");
        signal::kill(pid, Signal::SIGTERM).expect("the daemon runs");
        until("it has ended", async || signal::kill(pid, None).is_err()).await;
    }
}

#[tokio::test]
async fn sockets_are_handed_over_where_it_is_written() {
    let a = Origin::start("a").await;
    let yaml = "server: { threads: 1, upgrade_sock: \"{dir}/over.sock\", pid_file: \"{dir}/roundel.pid\" }\n\
                upstreams: { web: { backends: [{a}] } }";
    let mut proxy = Proxy::start(&[&a], yaml).await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roundel"));
    command.arg("-c").arg(proxy.config()).arg("-u").env("RUNTIME_DIRECTORY", proxy.dir().join("run"));
    let new = command.env_remove("RUST_LOG").stderr(std::process::Stdio::null()).kill_on_drop(true).spawn().unwrap();

    until("the new process waits there", async || is_listening(&proxy.dir().join("over.sock"))).await;
    proxy.signal(Signal::SIGQUIT);

    assert!(proxy.wait_exit().await.success());
    let pid = fs::read_to_string(proxy.dir().join("roundel.pid")).unwrap();
    assert_eq!(Some(pid.trim()), new.id().map(|id| id.to_string()).as_deref());
    assert_eq!(get(proxy.address(), "/").await.status, 200);
}

/// Whether somebody listens on a unix socket; asking it would take the one connection that is awaited there.
fn is_listening(path: &Path) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    // The fourth column has the flag of a socket that listens.
    let listens = |line: &str| line.split_whitespace().nth(3) == Some("00010000");
    sockets.lines().any(|line| line.ends_with(&path.display().to_string()) && listens(line))
}

#[tokio::test]
async fn the_process_becomes_the_user_that_is_written() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let a = Origin::start("a").await;
    let nobody = nix::unistd::User::from_name("nobody").expect("users can be read").expect("every system has nobody");
    let daemon = nix::unistd::Group::from_name("daemon").expect("groups can be read").expect("every system has daemon");
    let ids = |proxy: &Proxy| {
        let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid())).expect("it runs");
        let id =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().nth(1)?.parse().ok());
        (id("Uid:").expect("a process has a user"), id("Gid:").expect("a process has a group"))
    };
    for (keys, expected) in [
        ("", (0, 0)),
        (", user: nobody", (nobody.uid.as_raw(), nobody.gid.as_raw())),
        (", user: nobody, group: daemon", (nobody.uid.as_raw(), daemon.gid.as_raw())),
        (", group: daemon", (0, daemon.gid.as_raw())),
    ] {
        let yaml = format!("server: {{ threads: 1{keys} }}\nupstreams: {{ web: {{ backends: [{{a}}] }} }}");
        let setup = Setup::new(&[&a]).listen_on(&free_address());
        // Another user must reach the directory.
        fs::set_permissions(setup.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let proxy = setup.start(&yaml).await;
        assert_eq!(ids(&proxy), expected, "{keys}");
        assert_eq!(get(proxy.address(), "/").await.status, 200, "{keys}");
    }
}
