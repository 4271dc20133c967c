//! Plans and members that several benchmarks share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use roundel::config::plan::{
    Balance, HealthCheck, Keepalive, Probe, Retry, Start, StatusSet, Upstream, UpstreamLimits, UpstreamProtocol,
    UpstreamTimeouts, WhenNoneHealthy,
};
use roundel::upstream::Member;

/// The backend of this index, from 0 on, at an address that is set aside for benchmarks (RFC 2544).
pub(crate) fn member(index: usize, weight: u32) -> Member {
    let [.., high, low] = (index as u32 + 1).to_be_bytes();
    let addr = SocketAddr::from(([198, 18, high, low], 80));
    Member {
        name: addr.to_string().into(),
        addr: addr.into(),
        tls: false,
        weight,
        backup: false,
        most: None,
        berths: None,
        host: "".into(),
    }
}

/// An upstream that bounds nothing; where `probe_every` is given, its backends wait for their first probe.
pub(crate) fn upstream(balance: Balance, probe_every: Option<Duration>) -> Upstream {
    let second = Duration::from_secs(1);
    let health_check = probe_every.map(|interval| HealthCheck {
        probe: Probe::Tcp,
        interval,
        timeout: second,
        fast_interval: second,
        fall: 3,
        rise: 2,
        start: Start::Probe,
        port: None,
        tls: None,
    });
    Upstream {
        name: "bench".into(),
        backends: Vec::new(),
        discovery: None,
        balance,
        health_check: health_check.map(Arc::new),
        outlier: None,
        slow_start: Duration::ZERO,
        when_none_healthy: WhenNoneHealthy::Fail,
        tls: None,
        protocol: UpstreamProtocol::Http1,
        send_proxy_protocol: None,
        timeouts: UpstreamTimeouts { connect: second, first_byte: second, idle: second, total: None },
        retry: Retry {
            attempts: 1,
            budget: 0.2,
            min_per_second: 3,
            statuses: StatusSet(Vec::new()),
            grpc_statuses: Vec::new(),
            backoff: Duration::ZERO,
            max_backoff: Duration::ZERO,
            body: 0,
        },
        limits: UpstreamLimits { connections: None, requests: None, pending: None, pending_timeout: second },
        keepalive: Keepalive { idle: second, max_idle: 0, max_requests: None },
        sticky: None,
    }
}
