//! One backend as it lives: counters, health and latency, carried over from plan to plan by its identity (address and
//! TLS).
//!
//! What a request reads or writes here is an atomic; the health itself is behind a lock that requests take only when they
//! fail. Every change of health goes through the pool (`pool`), which counts, rebuilds and reports; this file leaves the
//! rules to the state machine (`state`).

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::protocols::l4::socket::SocketAddr;
use xxhash_rust::xxh3::xxh3_64;

use super::berths::{Berth, Berths};
use super::breaker::Breaker;
use super::connection::Connection;
use super::doubt::{Answer, Doubt, Knock};
use super::idle::Uses;
use super::latency::{PeakEwma, Quantiles};
use super::state::{Entry, Health, Policy, State};
use super::warm::Warm;
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
    /// Requests at once; none: no bound of its own.
    pub most: Option<u32>,
    /// Connections at once, idle ones included; none: no bound of its own. `most` is no larger.
    pub berths: Option<u32>,
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
    in_flight: Breaker,
    requests: AtomicU64,
    failures: AtomicU64,
    standing: AtomicU8,
    share: AtomicU32,
    health: Mutex<Health>,
    last_probe: Mutex<Option<ProbeReport>>,
    ewma: PeakEwma,
    quantiles: Quantiles,
    series: OnceLock<Arc<series::Backend>>,
    uses: Uses,
    warm: Warm<Connection>,
    berths: Arc<Berths>,
    doubt: Doubt,
    speaks_http_2: AtomicBool,
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
const ON_PROBATION: u8 = 16;

/// The share of its weight that a backend out of slow start has, in `Backend::share`.
const WHOLE: u32 = 1 << 16;

/// The version of HTTP that a backend has chosen, where it is asked over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    /// HTTP/1.1. What is not known yet is taken for this.
    Http1,
    /// HTTP/2.
    Http2,
}

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
            in_flight: Breaker::new(member.most),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            standing: AtomicU8::new(0),
            share: AtomicU32::new(WHOLE),
            health: Mutex::new(Health::new(policy, entry, now)),
            last_probe: Mutex::new(None),
            ewma: PeakEwma::default(),
            quantiles: Quantiles::default(),
            series: OnceLock::new(),
            uses: Uses::default(),
            warm: Warm::default(),
            berths: Berths::new(member.berths),
            doubt: Doubt::default(),
            speaks_http_2: AtomicBool::new(false),
        };
        backend.publish(&backend.health.lock(), policy, now);
        backend
    }

    /// How often its connections were used.
    #[must_use]
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// The connections of HTTP/1.1 to it that wait for another request.
    #[must_use]
    pub fn warm(&self) -> &Warm<Connection> {
        &self.warm
    }

    /// Its berths.
    pub(super) fn berths(&self) -> &Arc<Berths> {
        &self.berths
    }

    /// Takes a berth for a connection that is to be made, where they are bounded. Where all are taken, a connection that is
    /// idle is closed for it.
    pub(super) async fn berth(&self) -> Option<Berth> {
        self.berths.most()?;
        loop {
            let mut freed = pin!(self.berths.freed());
            freed.as_mut().enable();
            if let Some(berth) = self.berths.try_take() {
                return Some(berth);
            }
            if self.warm.take_coldest().is_none() {
                freed.await;
            }
        }
    }

    /// Notes that a connect begins that may take as long as `within`, until what is returned is dropped.
    pub(super) fn knock<'k>(&'k self, clock: &'k Clock, within: Duration) -> Knock<'k> {
        self.doubt.knock(clock, within)
    }

    /// Notes that a connect begins at `now` that may take as long as `within`, and which [`Backend::connect_ends`] ends:
    /// where another party makes it, and for rehearsals.
    pub fn connect_begins(&self, now: Moment, within: Duration) {
        self.doubt.begin(now, within);
    }

    /// Notes that a connect ends so at `now`.
    pub fn connect_ends(&self, answer: Answer, now: Moment) {
        self.doubt.end(answer, now);
    }

    /// Whether it comes from an ejection and has yet to prove that it serves, by one request at a time.
    #[must_use]
    pub fn on_probation(&self) -> bool {
        self.standing.load(SeqCst) & ON_PROBATION != 0
    }

    /// Whether it is on probation, and its trial is under way.
    pub(super) fn on_trial(&self) -> bool {
        self.on_probation() && self.doubt.is_tried()
    }

    /// Whether a request had better go elsewhere at `now`, if it can.
    pub(super) fn is_doubtful(&self, now: Moment) -> bool {
        self.doubt.is_silent(now) || self.on_trial()
    }

    /// Begins a trial, where it is on probation and none is under way.
    pub(super) fn begin_trial(&self) -> bool {
        self.on_probation() && self.doubt.begin_trial()
    }

    /// Whether a request that can be sent but once leaves the trial to another one.
    pub(super) fn leaves_trial(&self) -> bool {
        self.on_probation() && self.doubt.leave_trial()
    }

    /// Ends the trial.
    pub(super) fn end_trial(&self) {
        self.doubt.end_trial();
    }

    /// What it chose when it was asked last.
    #[must_use]
    pub fn tongue(&self) -> Tongue {
        if self.speaks_http_2.load(Relaxed) { Tongue::Http2 } else { Tongue::Http1 }
    }

    /// Notes what it has chosen.
    pub fn speaks(&self, tongue: Tongue) {
        self.speaks_http_2.store(tongue == Tongue::Http2, Relaxed);
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
        u32::try_from(self.in_flight.count()).unwrap_or(u32::MAX)
    }

    /// How many requests it takes at once; none: no bound of its own.
    #[must_use]
    pub fn most(&self) -> Option<u64> {
        self.in_flight.most()
    }

    /// Whether it takes one more request at once.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight.has_room()
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
        self.read(Health::state)
    }

    /// Its health, as it stands.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// Reads something of its health.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Health) -> T) -> T {
        read(&self.health.lock())
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

    /// Counts a request as in flight; whether there is room for it.
    pub(super) fn board(&self) -> bool {
        self.in_flight.enter()
    }

    /// Counts a request as ended. Returns whether the pool must be told: it was the last of a withdrawn backend.
    pub(super) fn alight(&self) -> bool {
        self.in_flight.leave() == 0 && self.standing.load(SeqCst) & WITHDRAWN != 0
    }

    pub(super) fn quantiles(&self) -> &Quantiles {
        &self.quantiles
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

    pub(super) fn note_probe(&self, report: ProbeReport) {
        *self.last_probe.lock() = Some(report);
    }

    /// The backend as it was named last.
    pub(super) fn member(&self) -> Member {
        Member {
            name: self.name(),
            addr: self.addr.clone(),
            tls: self.tls,
            weight: self.weight(),
            backup: self.backup(),
            most: self.in_flight.most().and_then(|most| u32::try_from(most).ok()),
            berths: self.berths.most().and_then(|most| u32::try_from(most).ok()),
            host: self.host(),
        }
    }

    /// Takes over what may change in a member without changing its identity.
    pub(super) fn relabel(&self, member: &Member) {
        self.label.store(Arc::new(Label { name: Arc::clone(&member.name), host: Arc::clone(&member.host) }));
        self.weight.store(member.weight, Relaxed);
        self.backup.store(member.backup, Relaxed);
        self.in_flight.set_most(member.most);
        self.berths.set_most(member.berths);
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
        standing |= if health.on_probation() { ON_PROBATION } else { 0 };
        self.standing.store(standing, SeqCst);
        self.share.store((health.share(policy, now) * f64::from(WHOLE)) as u32, Relaxed);
    }
}

fn address_text(addr: &SocketAddr) -> String {
    match addr {
        SocketAddr::Inet(addr) => addr.to_string(),
        SocketAddr::Unix(_) => format!("unix:{addr}"),
    }
}
