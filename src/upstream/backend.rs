//! One backend as it lives: counters, health and latency, carried over from plan to plan by its identity (address and
//! TLS).
//!
//! What a request reads or writes here is an atomic; the health itself is behind a lock that requests take only when they
//! fail. Every change of health goes through the pool (`pool`), which counts, rebuilds and reports; this file leaves the
//! rules to the state machine (`state`).

use std::sync::{Arc, OnceLock};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::protocols::l4::socket::SocketAddr;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::latency::{PeakEwma, Quantiles};
use super::state::{Entry, Health, Policy, State};
use crate::base::clock::{Clock, Moment};
use crate::telemetry::metrics::series;

/// A backend as discovery or the plan names it.
#[derive(Debug, Clone)]
pub struct Member {
    /// As the operator wrote it: draining this name drains every backend that bears it.
    pub name: Arc<str>,
    /// Its address, resolved.
    pub addr: SocketAddr,
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Its share; 0: no new requests.
    pub weight: u32,
    /// Used only when no other backend is usable.
    pub backup: bool,
    /// Its host name (or IP address) as written, without a port: for SNI and probes; empty for a unix socket.
    pub host: Arc<str>,
}

/// The identity of a backend: a hash of its address and whether it is spoken to over TLS, the same in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u64);

impl BackendId {
    /// The identity of the backend at `addr`.
    #[must_use]
    pub fn of(addr: &SocketAddr, tls: bool) -> Self {
        let scheme = if tls { "https" } else { "http" };
        Self(xxh3_64(format!("{scheme}://{addr}").as_bytes()))
    }
}

/// A backend as it lives.
#[derive(Debug)]
pub struct Backend {
    id: BackendId,
    addr: SocketAddr,
    address: Arc<str>,
    tls: bool,
    label: ArcSwap<Label>,
    weight: AtomicU32,
    backup: AtomicBool,
    in_flight: AtomicU32,
    requests: AtomicU64,
    failures: AtomicU64,
    standing: AtomicU8,
    share: AtomicU32,
    health: Mutex<Health>,
    last_probe: Mutex<Option<ProbeReport>>,
    ewma: PeakEwma,
    quantiles: Quantiles,
    series: OnceLock<Arc<series::Backend>>,
}

#[derive(Debug)]
struct Label {
    name: Arc<str>,
    host: Arc<str>,
}

/// The last probe of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// When its result came.
    pub at: Moment,
    /// How long it took, or why it failed.
    pub result: Result<Duration, Arc<str>>,
}

// What requests need to know of the health, as bits of `standing`.
const USABLE: u8 = 1;
const OPEN: u8 = 2;
const BLEMISHED: u8 = 4;
const WITHDRAWN: u8 = 8;

/// The share of its weight that a backend out of slow start has, in `Backend::share`.
const WHOLE: u32 = 1 << 16;

/// Which backends a choice may fall on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Usable ones.
    Usable,
    /// All but drained ones: nothing is usable, and the upstream fails open.
    Open,
}

impl Backend {
    /// A backend that joins its upstream at `now`.
    pub(super) fn new(member: &Member, policy: &Policy, entry: Entry, now: Moment) -> Self {
        let backend = Self {
            id: BackendId::of(&member.addr, member.tls),
            addr: member.addr.clone(),
            address: address_text(&member.addr).into(),
            tls: member.tls,
            label: ArcSwap::from_pointee(Label { name: Arc::clone(&member.name), host: Arc::clone(&member.host) }),
            weight: AtomicU32::new(member.weight),
            backup: AtomicBool::new(member.backup),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            standing: AtomicU8::new(0),
            share: AtomicU32::new(WHOLE),
            health: Mutex::new(Health::new(policy, entry, now)),
            last_probe: Mutex::new(None),
            ewma: PeakEwma::default(),
            quantiles: Quantiles::default(),
            series: OnceLock::new(),
        };
        backend.publish(&backend.health.lock(), policy, now);
        backend
    }

    /// Where its tries and probes are counted, once they are.
    #[must_use]
    pub fn series(&self) -> &OnceLock<Arc<series::Backend>> {
        &self.series
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> BackendId {
        self.id
    }

    /// Where to connect.
    #[must_use]
    pub fn addr(&self) -> &SocketAddr {
        &self.addr
    }

    /// Its address in words: `127.0.0.1:8081`, `unix:/run/app.sock`.
    #[must_use]
    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// As the operator wrote it.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.label.load().name)
    }

    /// Its host name (or IP address) as written, without a port; empty for a unix socket.
    #[must_use]
    pub fn host(&self) -> Arc<str> {
        Arc::clone(&self.label.load().host)
    }

    /// Its share; 0: no new requests.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Whether it is used only when no other backend is usable.
    #[must_use]
    pub fn backup(&self) -> bool {
        self.backup.load(Relaxed)
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Requests it was chosen for.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Requests that failed at it.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Whether its health lets it get requests (its weight may still be 0).
    #[must_use]
    pub fn usable(&self) -> bool {
        self.standing.load(SeqCst) & USABLE != 0
    }

    /// Whether a choice may fall on it.
    #[must_use]
    pub fn admits(&self, admission: Admission) -> bool {
        let bit = match admission {
            Admission::Usable => USABLE,
            Admission::Open => OPEN,
        };
        self.standing.load(SeqCst) & bit != 0 && self.weight() > 0
    }

    /// The state an operator sees.
    #[must_use]
    pub fn state(&self) -> State {
        self.health.lock().state()
    }

    /// Its health, as it stands.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// The last probe, if there was one.
    #[must_use]
    pub fn last_probe(&self) -> Option<ProbeReport> {
        self.last_probe.lock().clone()
    }

    /// The average latency of its answers.
    #[must_use]
    pub fn ewma(&self) -> &PeakEwma {
        &self.ewma
    }

    /// The share of its weight that it has now: 1.0 but in slow start.
    #[must_use]
    pub fn share(&self) -> f64 {
        f64::from(self.share.load(Relaxed)) / f64::from(WHOLE)
    }

    /// What `/api/v1/status` says of it at `now`.
    #[must_use]
    pub fn status(&self, clock: &Clock, now: Moment) -> BackendStatus {
        let health = self.health();
        let since = clock.wall(health.since()).checked_sub(health.carried()).unwrap_or(std::time::UNIX_EPOCH);
        let millis = |q| self.quantiles.at(q, now).map(|latency| latency.as_micros() as f64 / 1000.0);
        BackendStatus {
            address: self.address.to_string(),
            name: self.name().to_string(),
            state: health.state(),
            since: rfc3339(since),
            reason: health.why().to_string(),
            weight: self.weight(),
            backup: self.backup(),
            in_flight: self.in_flight(),
            requests: self.requests(),
            failures: self.failures(),
            latency_ms: LatencyStatus { p50: millis(0.5), p99: millis(0.99) },
            last_probe: self.last_probe().map(|probe| ProbeStatus::of(&probe, clock)),
        }
    }

    /// Counts a request as in flight. Returns how many are now.
    pub(super) fn board(&self) -> u32 {
        self.in_flight.fetch_add(1, SeqCst) + 1
    }

    /// Counts a request as ended. Returns whether the pool must be told: it was the last of a withdrawn backend.
    pub(super) fn alight(&self) -> bool {
        self.in_flight.fetch_sub(1, SeqCst) == 1 && self.standing.load(SeqCst) & WITHDRAWN != 0
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub(super) fn observe(&self, latency: Duration, now: Moment) {
        self.ewma.observe(latency, now);
        self.quantiles.observe(latency, now);
    }

    /// Whether a success must be told to its health.
    pub(super) fn blemished(&self) -> bool {
        self.standing.load(Relaxed) & BLEMISHED != 0
    }

    /// Whether it is drained, draining, or no longer a member.
    pub(super) fn withdrawn(&self) -> bool {
        self.standing.load(Relaxed) & WITHDRAWN != 0
    }

    pub(super) fn note_probe(&self, report: ProbeReport) {
        *self.last_probe.lock() = Some(report);
    }

    /// Takes over what may change in a member without changing its identity. Returns whether a choice may depend on it.
    pub(super) fn relabel(&self, member: &Member) -> bool {
        self.label.store(Arc::new(Label { name: Arc::clone(&member.name), host: Arc::clone(&member.host) }));
        let weight = self.weight.swap(member.weight, Relaxed);
        let backup = self.backup.swap(member.backup, Relaxed);
        (weight, backup) != (member.weight, member.backup)
    }

    /// Changes its health, and publishes what requests need to know of it.
    pub(super) fn change<T>(&self, policy: &Policy, now: Moment, change: impl FnOnce(&mut Health) -> T) -> T {
        let mut health = self.health.lock();
        let result = change(&mut health);
        self.publish(&health, policy, now);
        result
    }

    fn publish(&self, health: &Health, policy: &Policy, now: Moment) {
        let mut standing = 0;
        standing |= if health.usable() { USABLE } else { 0 };
        standing |= if health.open() { OPEN } else { WITHDRAWN };
        standing |= if health.blemished() { BLEMISHED } else { 0 };
        self.standing.store(standing, SeqCst);
        self.share.store((health.share(policy, now) * f64::from(WHOLE)) as u32, Relaxed);
    }
}

/// What `/api/v1/status` says of a backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackendStatus {
    /// IP address and port, or `unix:` and a path.
    pub address: String,
    /// As the operator wrote it.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Since when (RFC 3339, UTC).
    pub since: String,
    /// Why, in words.
    pub reason: String,
    /// Its share.
    pub weight: u32,
    /// Whether it is used only when no other backend is usable.
    pub backup: bool,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests it was chosen for.
    pub requests: u64,
    /// Requests that failed at it.
    pub failures: u64,
    /// Latency to the first byte over about the last minute.
    pub latency_ms: LatencyStatus,
    /// The last probe; none before the first.
    pub last_probe: Option<ProbeStatus>,
}

/// Latency to the first byte, in milliseconds; none where no request was answered lately.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyStatus {
    /// Half of the requests took no longer.
    pub p50: Option<f64>,
    /// 99 % of the requests took no longer.
    pub p99: Option<f64>,
}

/// The last probe of a backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeStatus {
    /// When its result came (RFC 3339, UTC).
    pub at: String,
    /// Whether it was good.
    pub ok: bool,
    /// How long it took, in milliseconds; none where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ProbeStatus {
    fn of(probe: &ProbeReport, clock: &Clock) -> Self {
        Self {
            at: rfc3339(clock.wall(probe.at)),
            ok: probe.result.is_ok(),
            duration_ms: probe.result.as_ref().ok().map(|took| took.as_micros() as f64 / 1000.0),
            error: probe.result.as_ref().err().map(ToString::to_string),
        }
    }
}

fn rfc3339(time: std::time::SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

fn address_text(addr: &SocketAddr) -> String {
    match addr {
        SocketAddr::Inet(addr) => addr.to_string(),
        SocketAddr::Unix(_) => format!("unix:{addr}"),
    }
}
