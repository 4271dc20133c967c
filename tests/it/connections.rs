//! A backend never has more connections than its `max_connections`, idle ones included, whoever opens them.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pingora_core::protocols::SocketDigest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Address, Connection, Load, Road, Setup, free_address, on_both_roads, request};

on_both_roads!(
    a_backend_never_has_more_connections_than_it_takes,
    whose_request_it_is_makes_no_difference,
    a_connection_that_a_backend_gives_up_makes_room,
    a_request_for_a_tunnel_takes_the_place_of_an_idle_connection,
);

/// What the backend takes.
const MOST: usize = 4;
/// A connection to whose other end nothing has been said of its end, as Linux counts states.
const ESTABLISHED: u8 = 1;

/// A backend that counts its connections: those that stood at the same moment.
#[derive(Default)]
struct Count {
    open: Mutex<BTreeMap<usize, RawFd>>,
    most: AtomicUsize,
    accepted: AtomicUsize,
    requests: AtomicUsize,
}

/// A connection in the count. It leaves the count before its socket is closed.
struct Counted {
    count: Arc<Count>,
    number: usize,
    stream: TcpStream,
}

impl Counted {
    fn new(count: &Arc<Count>, stream: TcpStream) -> Self {
        let number = count.accepted.fetch_add(1, Ordering::SeqCst);
        let mut open = count.open.lock().expect("nothing panics with it");
        open.insert(number, stream.as_raw_fd());
        // All of these were accepted before: who is not closed now was open when the first was looked at.
        let stands =
            |fd: &&RawFd| SocketDigest::from_raw_fd(**fd).tcp_info().is_some_and(|info| info.tcpi_state == ESTABLISHED);
        count.most.fetch_max(open.values().filter(stands).count(), Ordering::SeqCst);
        drop(open);
        Self { count: Arc::clone(count), number, stream }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.open.lock().expect("nothing panics with it").remove(&self.number);
    }
}

impl Count {
    /// Starts the backend. It closes a connection after `answers` answers.
    async fn start(answers: usize) -> (Address, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address").into();
        let count = Arc::<Self>::default();
        let shared = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Counted::new(&shared, stream), answers));
            }
        });
        (address, count)
    }

    fn expect(&self, requests: usize) {
        assert_eq!(self.requests.load(Ordering::SeqCst), requests);
        let most = self.most.load(Ordering::SeqCst);
        assert!(most <= MOST, "{most} connections at once");
    }
}

async fn serve(mut connection: Counted, answers: usize) {
    let mut received = Vec::new();
    for answer in 1..=answers {
        let end = loop {
            if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            match connection.stream.read_buf(&mut received).await {
                Ok(1..) => {}
                _ => return,
            }
        };
        received.drain(..end);
        connection.count.requests.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..2_000))).await;
        let close = if answer == answers { "connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\n{close}content-length: 2\r\n\r\nok");
        if connection.stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn upstream(more: &str) -> String {
    format!(
        "upstreams:
  web:
    backends: [{{ address: {{count}}, max_connections: {MOST} }}]
    health_check: none
    limits: {{ pending_timeout: 60s }}
{more}"
    )
}

async fn a_backend_never_has_more_connections_than_it_takes(road: Road) {
    let (address, count) = Count::start(usize::MAX).await;
    let proxy = Setup::new(&[]).on(road).word("count", &address.to_string()).start(&upstream("")).await;

    Load::of(6_000, 64).run(proxy.address()).await.expect_all_ok();

    count.expect(6_000);
    let accepted = count.accepted.load(Ordering::SeqCst);
    assert!(accepted < 100, "{accepted} connections for 6,000 requests: idle ones are used again");
}

/// A connection that begins with the PROXY protocol serves one client alone: those of others are closed for it.
async fn whose_request_it_is_makes_no_difference(road: Road) {
    let (address, count) = Count::start(usize::MAX).await;
    let yaml = format!(
        "listeners: [{{ address: \"{{listen}}\", trusted_proxies: [127.0.0.0/8] }}]\n{}",
        upstream("    send_proxy_protocol: v1\n")
    );
    let proxy = Setup::new(&[]).on(road).word("count", &address.to_string()).start(&yaml).await;

    let clients = (0..16_u8).map(|client| {
        let address = proxy.address().clone();
        tokio::spawn(async move {
            let mut connection = Connection::open(&address).await;
            let fields = format!("x-forwarded-for: 192.0.2.{client}\r\n");
            for _ in 0..50 {
                let answer = connection.ask("GET", "/", &fields, b"").await.expect("an answer");
                assert_eq!(answer.status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("the client does not panic");
    }

    count.expect(800);
}

async fn a_connection_that_a_backend_gives_up_makes_room(road: Road) {
    let (address, count) = Count::start(3).await;
    let proxy = Setup::new(&[]).on(road).word("count", &address.to_string()).start(&upstream("")).await;

    Load::of(1_500, 64).run(proxy.address()).await.expect_all_ok();

    count.expect(1_500);
}

async fn a_request_for_a_tunnel_takes_the_place_of_an_idle_connection(road: Road) {
    let (address, count) = Count::start(usize::MAX).await;
    let proxy = Setup::new(&[]).on(road).word("count", &address.to_string()).start(&upstream("")).await;
    Load::of(400, 16).run(proxy.address()).await.expect_all_ok();

    let tunnels = (0..16).map(|_| {
        let address = proxy.address().clone();
        tokio::spawn(async move {
            let ask = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
            request(&address, "GET", "/", ask, b"").await.status
        })
    });
    for status in tunnels.collect::<Vec<_>>() {
        assert_eq!(status.await.expect("the client does not panic"), 200, "the backend does not switch");
    }

    count.expect(416);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_roads_together_keep_to_the_bound_and_take_idle_connections_from_each_other() {
    let (address, count) = Count::start(usize::MAX).await;
    let general = free_address();
    let setup = Setup::new(&[]).word("count", &address.to_string()).word("general", &general.to_string());
    let listeners = "listeners:
  - { name: lane, address: \"{listen}\", lane: auto }
  - { name: general, address: \"{general}\", lane: \"off\" }
";
    let proxy = setup.start(&format!("{listeners}{}", upstream(""))).await;

    // All that are idle belong to the one road when the other begins.
    for address in [proxy.address(), &general, proxy.address(), &general] {
        Load::of(400, 16).run(address).await.expect_all_ok();
    }
    let both = [Load::of(3_000, 32).start(proxy.address()), Load::of(3_000, 32).start(&general)];
    for load in both {
        load.finish().await.expect_all_ok();
    }

    count.expect(7_600);
}
