//! What the tests of this room and of those above it share: plans with the documented defaults, and backends by address.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::l4::socket::SocketAddr;

use super::backend::{Backend, Member};
use super::state::{Entry, Policy};
use crate::base::clock::Moment;
use crate::config::plan;

/// `retry` as it is where nothing is written.
pub(crate) const RETRY: plan::Retry = plan::Retry {
    attempts: 1,
    budget: 0.2,
    min_per_second: 3,
    statuses: plan::StatusSet(Vec::new()),
    grpc_statuses: Vec::new(),
    backoff: Duration::from_millis(25),
    max_backoff: Duration::from_millis(250),
    body: 65_536,
};

/// An upstream with the documented defaults and no backends.
pub(super) fn upstream(name: &str) -> plan::Upstream {
    plan::Upstream {
        name: name.into(),
        backends: Vec::new(),
        discovery: None,
        balance: plan::Balance::RoundRobin,
        health_check: None,
        outlier: None,
        slow_start: Duration::ZERO,
        when_none_healthy: plan::WhenNoneHealthy::Fail,
        tls: None,
        protocol: plan::UpstreamProtocol::Http1,
        send_proxy_protocol: None,
        timeouts: plan::UpstreamTimeouts {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            total: None,
        },
        retry: RETRY,
        limits: plan::UpstreamLimits {
            connections: None,
            requests: None,
            pending: None,
            pending_timeout: Duration::from_secs(1),
        },
        keepalive: plan::Keepalive { idle: Duration::from_secs(55), max_idle: 128, max_requests: None },
        sticky: None,
    }
}

/// A health check with the given probe, a timeout of 2 s and otherwise the documented defaults.
pub(super) fn health_check(probe: plan::Probe) -> plan::HealthCheck {
    plan::HealthCheck {
        probe,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        fast_interval: Duration::from_secs(1),
        fall: 3,
        rise: 2,
        start: plan::Start::Probe,
        port: None,
        tls: None,
    }
}

/// `GET /`, which 2xx and 3xx answer well.
pub(super) fn http_probe() -> plan::HttpProbe {
    plan::HttpProbe {
        method: http::Method::GET,
        path: "/".to_owned(),
        host: None,
        headers: Vec::new(),
        expect_status: plan::StatusSet(vec![(200, 399)]),
        expect_body: None,
    }
}

/// An entry at `addr` (`127.0.0.1:80` or `unix:/path`), written as it is.
pub(super) fn member(addr: &str) -> Member {
    let (parsed, host) = match addr.strip_prefix("unix:") {
        Some(path) => {
            let socket = std::os::unix::net::SocketAddr::from_pathname(path).unwrap();
            (SocketAddr::Unix(socket), String::new())
        }
        None => {
            let inet: std::net::SocketAddr = addr.parse().unwrap();
            (SocketAddr::Inet(inet), inet.ip().to_string())
        }
    };
    Member {
        name: addr.into(),
        addr: parsed,
        tls: false,
        weight: 1,
        backup: false,
        most: None,
        berths: None,
        host: host.into(),
    }
}

/// A backend that has just joined.
pub(super) fn backend(member: &Member) -> Arc<Backend> {
    let policy = Policy::of(&upstream("test"));
    Arc::new(Backend::new(member, &policy, Entry::AtStart, Moment::START))
}

/// A process with no settings of its own.
pub(super) fn server() -> plan::Server {
    plan::Server {
        daemon: false,
        error_log: None,
        pid_file: "pid".into(),
        upgrade_sock: "sock".into(),
        user: None,
        group: None,
        working_directory: None,
        threads: 1,
        listener_tasks_per_fd: 1,
        work_stealing: true,
        ca_file: None,
        grace_period: Duration::from_secs(30),
        client_bind_to_ipv4: Vec::new(),
        client_bind_to_ipv6: Vec::new(),
        upstream_keepalive_pool_size: 128,
        upstream_connect_offload_threadpools: None,
        upstream_connect_offload_thread_per_pool: None,
        upstream_debug_ssl_keylog: false,
        max_blocking_threads: None,
        blocking_threads_ttl_seconds: None,
        daemon_wait_for_ready: false,
        daemon_ready_timeout_seconds: None,
        runtime_directory: "run".into(),
        instance: "00000000".to_owned(),
    }
}

/// A directory with a certificate authority, and files signed by it.
pub(super) struct Authority {
    /// Where the files are.
    pub(super) directory: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    /// A new authority, whose certificate is `ca.pem`.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, issuer: rcgen::Issuer::new(params, key) }
    }

    /// The path of a file.
    pub(super) fn path(&self, file: &str) -> std::path::PathBuf {
        self.directory.path().join(file)
    }

    /// Writes `NAME.pem` and `NAME.key`, for the host `name`.
    pub(super) fn issue(&self, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
