//! The handles by which the rest of the house counts: one type for each set of labels.
//!
//! A handle is asked of the [`Registry`](super::Registry) when a snapshot is built and kept in it, so that counting on the
//! path of a request is an addition: no lock, no lookup of names, and no allocation but the first time that a series sees a
//! status or an outcome.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::cell::{Counter, Shards};
use super::histogram::Histogram;
use crate::telemetry::reason::Reason;

/// Counters by a small number; each comes into being with its first count.
#[derive(Debug)]
pub(super) struct Counters {
    shards: Shards,
    cells: Box<[OnceLock<Box<Counter>>]>,
}

impl Counters {
    fn new(shards: Shards, count: usize) -> Self {
        Self { shards, cells: (0..count).map(|_| OnceLock::new()).collect() }
    }

    fn increment(&self, index: usize) {
        if let Some(cell) = self.cells.get(index) {
            cell.get_or_init(|| Box::new(Counter::new(self.shards))).increment();
        }
    }

    /// The counters that have counted, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.cells.iter().enumerate().filter_map(|(index, cell)| Some((index, cell.get()?.value())))
    }
}

/// Statuses in a page of [`Statuses`].
const PAGE: usize = 50;
/// The lowest and the highest status that are told apart.
const LOWEST: u16 = 100;
const HIGHEST: u16 = 599;

/// Counters by status, in pages that come into being with their first count: few statuses are ever seen.
#[derive(Debug)]
pub(super) struct Statuses {
    shards: Shards,
    pages: [OnceLock<Counters>; (HIGHEST - LOWEST + 1) as usize / PAGE],
}

impl Statuses {
    fn new(shards: Shards) -> Self {
        Self { shards, pages: Default::default() }
    }

    fn increment(&self, status: u16) {
        let index = usize::from(status.clamp(LOWEST, HIGHEST) - LOWEST);
        self.pages[index / PAGE].get_or_init(|| Counters::new(self.shards, PAGE)).increment(index % PAGE);
    }

    /// The statuses that were counted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.pages.iter().enumerate().flat_map(|(page, counters)| {
            let first = usize::from(LOWEST) + page * PAGE;
            counters.get().into_iter().flat_map(Counters::iter).map(move |(index, count)| (first + index, count))
        })
    }
}

/// `roundel_requests_total`, `roundel_request_duration_seconds` and the bytes of bodies of one listener, route and upstream.
#[derive(Debug)]
pub struct Requests {
    pub(super) statuses: Statuses,
    pub(super) duration: Histogram,
    pub(super) received: Counter,
    pub(super) sent: Counter,
}

/// What went over a client's connection for one request, in bytes of bodies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bodies {
    /// Of the request's body, what was read.
    pub received: u64,
    /// Of the answer's body, what was written.
    pub sent: u64,
}

impl Requests {
    pub(super) fn new(shards: Shards) -> Self {
        Self {
            statuses: Statuses::new(shards),
            duration: Histogram::new(shards),
            received: Counter::new(shards),
            sent: Counter::new(shards),
        }
    }

    /// Counts a request at its end. A status outside of 100 to 599 counts as the nearest of them.
    pub fn record(&self, status: u16, duration: Duration, bodies: Bodies) {
        self.statuses.increment(status);
        self.duration.observe(duration);
        // Most requests have no body.
        if bodies.received > 0 {
            self.received.add(bodies.received);
        }
        self.sent.add(bodies.sent);
    }
}

/// How one try at a backend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The backend answered with this status.
    Answered(u16),
    /// There was no answer, or not the whole of it.
    Failed(Reason),
}

impl Attempt {
    const ANSWERED: usize = 0;
    const SERVER_ERROR: usize = 1;
    const FIRST_REASON: usize = 2;

    fn index(self) -> usize {
        match self {
            Self::Answered(..500) => Self::ANSWERED,
            Self::Answered(_) => Self::SERVER_ERROR,
            Self::Failed(reason) => Self::FIRST_REASON + reason as usize,
        }
    }

    /// `answered`, `server_error` or the word of a reason.
    pub(super) fn word(index: usize) -> &'static str {
        match index {
            Self::ANSWERED => "answered",
            Self::SERVER_ERROR => "server_error",
            _ => Reason::all().nth(index - Self::FIRST_REASON).unwrap_or(Reason::ProxyInternalError).as_str(),
        }
    }

    fn counters(shards: Shards) -> Counters {
        Counters::new(shards, Self::FIRST_REASON + Reason::all().count())
    }
}

/// Whether a connection had been used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It was made for this request, and that took so long (TLS included).
    New(Duration),
    /// It came from the pool.
    Reused,
}

/// What is counted for one upstream.
#[derive(Debug)]
pub struct Upstream {
    pub(super) connect: Histogram,
    pub(super) first_byte: Histogram,
    pub(super) new_connections: Counter,
    pub(super) reused_connections: Counter,
    pub(super) retries: Counters,
    pub(super) budget_exhausted: Counter,
}

impl Upstream {
    pub(super) fn new(shards: Shards) -> Self {
        Self {
            connect: Histogram::new(shards),
            first_byte: Histogram::new(shards),
            new_connections: Counter::new(shards),
            reused_connections: Counter::new(shards),
            retries: Attempt::counters(shards),
            budget_exhausted: Counter::new(shards),
        }
    }

    /// A request got a connection to a backend.
    pub fn connected(&self, connection: Connection) {
        match connection {
            Connection::New(took) => {
                self.new_connections.increment();
                self.connect.observe(took);
            }
            Connection::Reused => self.reused_connections.increment(),
        }
    }

    /// The first byte of an answer came this long after the request had been sent.
    pub fn first_byte(&self, after: Duration) {
        self.first_byte.observe(after);
    }

    /// A request is tried again because a try ended like this.
    pub fn retried(&self, cause: Attempt) {
        self.retries.increment(cause.index());
    }

    /// A request would have been tried again had the retry budget allowed it.
    pub fn budget_exhausted(&self) {
        self.budget_exhausted.increment();
    }
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// As expected.
    Success,
    /// Otherwise, or not in time.
    Failure,
}

/// What is counted for one backend of an upstream.
#[derive(Debug)]
pub struct Backend {
    pub(super) attempts: Counters,
    pub(super) probe_successes: AtomicU64,
    pub(super) probe_failures: AtomicU64,
    pub(super) ejections: AtomicU64,
}

impl Backend {
    pub(super) fn new(shards: Shards) -> Self {
        Self {
            attempts: Attempt::counters(shards),
            probe_successes: AtomicU64::new(0),
            probe_failures: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
        }
    }

    /// A try at the backend ended.
    pub fn attempt(&self, outcome: Attempt) {
        self.attempts.increment(outcome.index());
    }

    /// A probe of the backend ended.
    pub fn probed(&self, outcome: Probe) {
        let counter = match outcome {
            Probe::Success => &self.probe_successes,
            Probe::Failure => &self.probe_failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The backend was ejected.
    pub fn ejected(&self) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The listener holds `max_connections` already.
    MaxConnections,
    /// The process has few descriptors left: the rest is kept for connections to backends.
    Descriptors,
    /// The client holds `connections_per_client` already.
    ConnectionsPerClient,
    /// It did not begin with the PROXY protocol, as its peer must.
    ProxyProtocol,
    /// It did not come to speak TLS, or the client did not prove who it is.
    TlsHandshake,
}

impl Refusal {
    /// Every refusal.
    pub(super) const ALL: [Self; 5] =
        [Self::MaxConnections, Self::Descriptors, Self::ConnectionsPerClient, Self::ProxyProtocol, Self::TlsHandshake];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxConnections => "connection_limit_reached",
            Self::Descriptors => "descriptors",
            Self::ConnectionsPerClient => "connections_per_client",
            Self::ProxyProtocol => "proxy_protocol",
            Self::TlsHandshake => "tls_handshake",
        }
    }

    /// What is told of it in words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::MaxConnections => "the listener has as many connections as `max_connections` allows",
            Self::Descriptors => "the process has no descriptor to spare for another connection of a client",
            Self::ConnectionsPerClient => "the client has as many connections as `connections_per_client` allows",
            Self::ProxyProtocol => "no sound PROXY header came first",
            Self::TlsHandshake => "the TLS handshake failed",
        }
    }
}

/// What is counted for one listener.
#[derive(Debug, Default)]
pub struct Listener {
    pub(super) open: AtomicU64,
    pub(super) refused: [AtomicU64; Refusal::ALL.len()],
}

impl Listener {
    /// A connection was accepted; it counts as open until the value returned is dropped.
    #[must_use]
    pub fn opened(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// A connection was refused.
    pub fn refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// An open connection, as long as it lives.
#[derive(Debug)]
pub struct OpenConnection(Arc<Listener>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is counted for the rate limits of one route.
#[derive(Debug)]
pub struct RateLimits {
    pub(super) refused: Counter,
    pub(super) on_trial: Counter,
}

impl RateLimits {
    pub(super) fn new(shards: Shards) -> Self {
        Self { refused: Counter::new(shards), on_trial: Counter::new(shards) }
    }

    /// A request was refused.
    pub fn refused(&self) {
        self.refused.increment();
    }

    /// A request passed that a limit on trial would have refused.
    pub fn on_trial(&self) {
        self.on_trial.increment();
    }
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The new configuration serves.
    Success,
    /// It was refused, and the old one serves on.
    Failure,
}

/// What is counted for the process as a whole.
#[derive(Debug)]
pub struct Process {
    answers: Counters,
    pub(super) generation: AtomicU64,
    pub(super) reload_successes: AtomicU64,
    pub(super) reload_failures: AtomicU64,
}

impl Process {
    pub(super) fn new(shards: Shards) -> Self {
        Self {
            answers: Counters::new(shards, Reason::all().count()),
            generation: AtomicU64::new(0),
            reload_successes: AtomicU64::new(0),
            reload_failures: AtomicU64::new(0),
        }
    }

    /// The proxy answered by itself, or a request ended without its answer.
    pub fn answered(&self, reason: Reason) {
        self.answers.increment(reason as usize);
    }

    /// How often each reason was given, by its word; a word that two reasons share comes twice.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::all()
            .zip(&self.answers.cells)
            .map(|(reason, cell)| (reason.as_str(), cell.get().map_or(0, |c| c.value())))
    }

    /// The configuration of this generation serves; the first has the number 1.
    pub fn generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// A reload ended.
    pub fn reloaded(&self, outcome: Reload) {
        let counter = match outcome {
            Reload::Success => &self.reload_successes,
            Reload::Failure => &self.reload_failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_counter_of_its_own() {
        let statuses = Statuses::new(Shards::for_threads(1));
        for status in LOWEST..=HIGHEST {
            statuses.increment(status);
        }
        let counted: Vec<(usize, u64)> = statuses.iter().collect();
        assert_eq!(counted, (100..600).map(|status| (status, 1)).collect::<Vec<_>>());
    }

    #[test]
    fn a_status_beyond_all_counts_as_the_nearest() {
        let statuses = Statuses::new(Shards::for_threads(1));
        for status in [0, 99, 600, u16::MAX] {
            statuses.increment(status);
        }
        assert_eq!(statuses.iter().collect::<Vec<_>>(), [(100, 2), (599, 2)]);
    }

    #[test]
    fn an_attempt_is_told_by_its_word() {
        let word = |attempt: Attempt| Attempt::word(attempt.index());
        assert_eq!(word(Attempt::Answered(404)), "answered");
        assert_eq!(word(Attempt::Answered(500)), "server_error");
        for reason in Reason::all() {
            assert_eq!(word(Attempt::Failed(reason)), reason.as_str());
        }
    }

    #[test]
    fn a_connection_is_open_until_it_is_dropped() {
        let listener = Arc::new(Listener::default());
        let (first, second) = (listener.opened(), listener.opened());
        drop(first);
        assert_eq!(listener.open(), 1);
        drop(second);
        assert_eq!(listener.open(), 0);
    }
}
