//! A pool in virtual time, and words to tell a story with it.

use std::sync::Arc;
use std::time::Duration;

use roundel::config::plan::{
    self, Balance, HealthCheck, Keepalive, Outlier, Probe, Retry, Start, StatusSet, UpstreamLimits, UpstreamProtocol,
    UpstreamTimeouts, WhenNoneHealthy,
};
use roundel::upstream::time::VirtualTime;
use roundel::upstream::{Ask, Backend, Lease, Member, NoBackend, Pool, State};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// An upstream with the documented defaults.
pub(crate) fn upstream() -> plan::Upstream {
    plan::Upstream {
        name: "web".into(),
        backends: Vec::new(),
        discovery: None,
        balance: Balance::RoundRobin,
        health_check: Some(Arc::new(HealthCheck {
            probe: Probe::Tcp,
            interval: 10 * SECOND,
            timeout: 3 * SECOND,
            fast_interval: SECOND,
            fall: 3,
            rise: 2,
            start: Start::Probe,
            port: None,
            tls: None,
        })),
        outlier: Some(Outlier {
            consecutive_errors: 5,
            base_ejection: 30 * SECOND,
            max_ejection: 300 * SECOND,
            max_ejected: 0.1,
        }),
        slow_start: Duration::ZERO,
        when_none_healthy: WhenNoneHealthy::Fail,
        tls: None,
        protocol: UpstreamProtocol::Http1,
        send_proxy_protocol: None,
        timeouts: UpstreamTimeouts { connect: 3 * SECOND, first_byte: 15 * SECOND, idle: 60 * SECOND, total: None },
        retry: Retry {
            attempts: 1,
            budget: 0.2,
            min_per_second: 3,
            statuses: StatusSet(Vec::new()),
            grpc_statuses: Vec::new(),
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
            body: 64 << 10,
        },
        limits: UpstreamLimits { connections: None, requests: None, pending: None, pending_timeout: SECOND },
        keepalive: Keepalive { idle: 55 * SECOND, max_idle: 128, max_requests: None },
        sticky: None,
    }
}

/// An upstream whose backends are not probed.
pub(crate) fn unprobed() -> plan::Upstream {
    plan::Upstream { health_check: None, ..upstream() }
}

/// The backend on the `port` of a network for documentation, with this weight.
pub(crate) fn member(port: u16, weight: u32) -> Member {
    let addr = std::net::SocketAddr::from(([192, 0, 2, 1], port));
    let name = addr.to_string().into();
    Member {
        name,
        addr: addr.into(),
        tls: false,
        weight,
        backup: false,
        most: None,
        berths: None,
        host: "192.0.2.1".into(),
    }
}

/// Backends `a`, `b`, `c`... with these weights.
pub(crate) fn members(weights: &[u32]) -> Vec<Member> {
    weights.iter().zip(1..).map(|(weight, port)| member(port, *weight)).collect()
}

/// A pool in virtual time.
pub(crate) struct World {
    pub(crate) pool: Arc<Pool>,
    pub(crate) time: VirtualTime,
}

impl World {
    pub(crate) fn new(plan: plan::Upstream, members: Vec<Member>) -> Self {
        let time = VirtualTime::default();
        let pool = Pool::simulated(Arc::new(plan), &time, 42);
        pool.set_members(members);
        Self { pool, time }
    }

    /// A pool whose backends are not probed, with these weights.
    pub(crate) fn balanced(balance: Balance, weights: &[u32]) -> Self {
        Self::new(plan::Upstream { balance, ..unprobed() }, members(weights))
    }

    pub(crate) fn backend(&self, letter: char) -> Arc<Backend> {
        let port = letter as u16 - 'a' as u16 + 1;
        self.pool.backends().find(&format!("192.0.2.1:{port}")).remove(0)
    }

    pub(crate) fn state(&self, letter: char) -> State {
        self.backend(letter).state()
    }

    pub(crate) fn probe(&self, letter: char, good: bool) {
        let result = if good { Ok(Duration::from_millis(1)) } else { Err("connection refused".to_owned()) };
        self.pool.report_probe(&self.backend(letter), result);
    }

    pub(crate) fn probe_all(&self) {
        let all: Vec<_> = self.pool.backends().backends.to_vec();
        all.iter().for_each(|backend| self.pool.report_probe(backend, Ok(Duration::from_millis(1))));
    }

    pub(crate) fn lease(&self) -> Result<Lease, NoBackend> {
        self.pool.lease(&Ask::default())
    }

    pub(crate) fn keyed(&self, key: u64) -> Lease {
        self.pool.lease(&Ask { hash: Some(key), ..Ask::default() }).unwrap()
    }

    /// The letters of the next backends, one request at a time.
    pub(crate) fn order(&self, count: usize) -> String {
        (0..count).map(|_| letter(&self.lease().unwrap())).collect()
    }

    /// How many of the next requests, one at a time, go to each of the backends.
    pub(crate) fn counts(&self, requests: usize) -> Vec<usize> {
        let mut counts = vec![0; self.pool.backends().backends.len()];
        (0..requests).for_each(|_| counts[index(&self.lease().unwrap())] += 1);
        counts
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.time.advance(span);
        self.pool.tick();
    }
}

/// The place of a backend in the alphabet, from 0.
pub(crate) fn index(backend: &Backend) -> usize {
    usize::from(backend.addr().as_inet().unwrap().port()) - 1
}

pub(crate) fn letter(backend: &Backend) -> char {
    char::from(b'a' + index(backend) as u8)
}
