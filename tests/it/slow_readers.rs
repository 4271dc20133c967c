//! What is told is told beside the requests: a disk that is full, a pipe that nobody reads or that is closed, and a reader of
//! events that takes nothing hold no request up, and what is lost is counted.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use crate::harness::{Connection, Load, Origin, Proxy, Setup, until};

/// A proxy that writes long lines to this path.
fn logging(path: &str) -> String {
    format!("access_log: {{ path: \"{path}\" }}\nupstreams: {{ web: {{ backends: [{{a}}] }} }}")
}

/// A pipe in the proxy's directory.
fn pipe(setup: &Setup) -> PathBuf {
    let path = setup.dir().join("pipe");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("the directory takes a pipe");
    path
}

/// Its reading end, open at once and never read.
fn unread(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).expect("a pipe can be opened for reading")
}

async fn all_are_served(proxy: &Proxy) {
    Load::of(2_000, 8)
        .with("GET", "/a/path/of/some/length/so/that/lines/are/long", b"")
        .run(proxy.address())
        .await
        .expect_all_ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_no_request_up() {
    let a = Origin::start("a").await;
    let proxy = Setup::new(&[&a]).start(&logging("/dev/full")).await;
    all_are_served(&proxy).await;
    until("the process's log tells of it", async || proxy.stderr().contains("access log")).await;
    all_are_served(&proxy).await;
    assert_eq!(proxy.admin_text("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_nobody_reads_holds_no_request_up_and_what_is_lost_is_counted() {
    let a = Origin::start("a").await;
    let setup = Setup::new(&[&a]);
    let path = pipe(&setup);
    let _reader = unread(&path);
    let proxy = setup.start(&logging("{dir}/pipe")).await;
    // The pipe takes 64 KiB, the queue 8 MiB: what comes after both is dropped.
    let long: &'static str = Box::leak(format!("/{}", "long".repeat(2_000)).into_boxed_str());
    until("lines are dropped", async || {
        Load::of(1_000, 16).with("GET", long, b"").run(proxy.address()).await.expect_all_ok();
        proxy.metric("roundel_access_log_dropped_total", &[]).await > 0.0
    })
    .await;
    all_are_served(&proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_whose_reader_has_left_holds_no_request_up() {
    let a = Origin::start("a").await;
    let setup = Setup::new(&[&a]);
    let path = pipe(&setup);
    let reader = unread(&path);
    let proxy = setup.start(&logging("{dir}/pipe")).await;
    all_are_served(&proxy).await;
    drop(reader);
    all_are_served(&proxy).await;
    assert_eq!(proxy.admin_text("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_events_and_metrics_that_take_nothing_hold_no_request_up() {
    let a = Origin::start("a").await;
    let proxy = Setup::new(&[&a]).start("upstreams: { web: { backends: [{a}] } }").await;
    let mut still = Vec::new();
    for path in ["/api/v1/events?last=1000", "/metrics", "/api/v1/config", "/api/v1/history"] {
        for _ in 0..8 {
            let mut connection = Connection::open(proxy.admin_address()).await;
            connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            still.push(connection);
        }
    }
    all_are_served(&proxy).await;
    assert_eq!(proxy.admin_text("/api/v1/status").await.0, 200);
}
