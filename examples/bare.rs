//! The least load balancer that Pingora allows: round robin, TCP checks every 10 s, no routes, no log, no metrics. What Roundel's general
//! road costs beside it, `benches/versus/scale.py --only general` tells.
//!
//! ```sh
//! cargo run --release --example bare -- 127.0.0.1:8080 127.0.0.1:9001 127.0.0.1:9002
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::background::background_service;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_load_balancing::LoadBalancer;
use pingora_load_balancing::health_check::TcpHealthCheck;
use pingora_load_balancing::selection::RoundRobin;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

// The one that Roundel runs with.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Bare(Arc<LoadBalancer<RoundRobin>>);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let backend = self.0.select(b"", 256).ok_or_else(|| Error::new_str("no backend is healthy"))?;
        Ok(Box::new(HttpPeer::new(backend, false, String::new())))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let Some((listen, backends)) = arguments.split_first().filter(|(_, backends)| !backends.is_empty()) else {
        eprintln!("write the address to listen on, and the backends'");
        return ExitCode::FAILURE;
    };
    let mut balancer = match LoadBalancer::<RoundRobin>::try_from_iter(backends) {
        Ok(balancer) => balancer,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    balancer.set_health_check(TcpHealthCheck::new());
    balancer.health_check_frequency = Some(Duration::from_secs(10));
    let checks = background_service("health", balancer);
    let mut server = Server::new_with_opt_and_conf(None, ServerConf { threads: 1, ..ServerConf::default() });
    let mut proxy = http_proxy_service(&server.configuration, Bare(checks.task()));
    proxy.add_tcp(listen);
    server.add_service(checks);
    server.add_service(proxy);
    server.run_forever()
}
