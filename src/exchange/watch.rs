//! What the connection and the exchange of one request tell each other while the request is under way.
//!
//! Pingora drives a request and knows neither our deadlines nor our bounds. The client's connection is ours, and Pingora
//! polls it all through a request, also while it waits for the backend: so the exchange writes its deadlines here, the
//! connection enforces them, and what ended the request is noted here before Pingora sees an error that names no cause.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::base::clock::Moment;
use crate::exchange::request_id::RequestId;
use crate::exchange::trail::Trail;
use crate::exchange::tried::Tried;
use crate::telemetry::reason::Reason;
use crate::telemetry::trace::Trace;

/// How long a client that has closed its side is still answered. It may only have said all it has to say (TCP lets it); most
/// have left, and no backend shall work for them much longer.
pub const HALF_CLOSED: Duration = Duration::from_millis(500);

/// How much of a head is kept for a request that is cut off.
const HEAD_KEPT: usize = 1024;

/// A deadline that the exchange may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// The answer's first byte (`upstreams.timeouts.first_byte`).
    FirstByte,
    /// The whole try (`upstreams.timeouts.total`).
    Try,
    /// The whole request (`routes.timeouts.request`).
    Request,
    /// The next part of an answer that has begun (`upstreams.timeouts.idle`).
    AnswerIdle,
}

impl Deadline {
    const ALL: [Self; 4] = [Self::FirstByte, Self::Try, Self::Request, Self::AnswerIdle];

    /// The reason of a request that this deadline ended.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::FirstByte | Self::Try | Self::AnswerIdle => Reason::HttpResponseTimeout,
            Self::Request => Reason::RequestTimeout,
        }
    }
}

/// Deadlines, bounds and counts of the request that a connection carries now. A connection has one, reset for each request.
#[derive(Debug)]
pub struct Watch {
    /// Nanoseconds of the moment by [`Deadline`]; zero: not set.
    deadlines: [AtomicU64; 4],
    /// Nanoseconds that may lie between two parts of the answer; zero: Pingora's own timeout is enough.
    answer_idle: AtomicU64,
    /// The most body bytes (decoded) that the client may send.
    body_limit: AtomicU64,
    /// Body bytes (decoded) that the client has sent.
    body_received: AtomicU64,
    /// The [`Reason`] that ended the request, plus one.
    ended: AtomicU8,
    tunnel: AtomicBool,
    /// The last of the answer was given to the connection.
    answer_ended: AtomicBool,
    /// The connection stopped reading the request, because its answer was complete.
    let_go: AtomicBool,
    /// Something of the answer was sent.
    on_wire: AtomicBool,
    /// The answer's head waits for the first of its body.
    holding: AtomicBool,
    /// What the request takes along when it is begun again.
    carried: Mutex<Option<Carried>>,
    /// How the present request's head began, for those who must tell of a request that was cut off.
    head: Mutex<Vec<u8>>,
}

/// What a request that is begun again, from its head, takes along.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Its id.
    pub id: RequestId,
    /// The backends it was tried at.
    pub tried: Tried,
    /// How its tries went.
    pub trail: Trail,
    /// Its trace.
    pub trace: Option<Trace>,
    /// How often it was sent, or a connect was made for it.
    pub attempts: u32,
    /// How often it was sent again.
    pub retries: u32,
    /// Why it would have been refused, were a filter not on trial.
    pub dry_run: Option<Reason>,
    /// What its answer says of rate limits.
    pub limit_fields: Vec<(HeaderName, HeaderValue)>,
    /// How long the next try has to wait.
    pub pause: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            deadlines: Default::default(),
            answer_idle: AtomicU64::new(0),
            body_limit: AtomicU64::new(u64::MAX),
            body_received: AtomicU64::new(0),
            ended: AtomicU8::new(0),
            tunnel: AtomicBool::new(false),
            answer_ended: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            on_wire: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            carried: Mutex::new(None),
            head: Mutex::default(),
        }
    }
}

impl Watch {
    /// Forgets the last request.
    pub fn reset(&self) {
        for deadline in &self.deadlines {
            deadline.store(0, Relaxed);
        }
        self.answer_idle.store(0, Relaxed);
        self.body_limit.store(u64::MAX, Relaxed);
        self.body_received.store(0, Relaxed);
        self.ended.store(0, Relaxed);
        self.tunnel.store(false, Relaxed);
        self.answer_ended.store(false, Relaxed);
        self.let_go.store(false, Relaxed);
        self.on_wire.store(false, Relaxed);
        self.holding.store(false, Relaxed);
    }

    /// Notes how the head of the present request begins.
    pub fn note_head(&self, head: &[u8]) {
        let mut kept = self.head.lock();
        kept.clear();
        kept.extend_from_slice(&head[..head.len().min(HEAD_KEPT)]);
    }

    /// How the head of the present request began; the memory for it is given back.
    #[must_use]
    pub fn take_head(&self) -> Vec<u8> {
        std::mem::take(&mut self.head.lock())
    }

    /// Something of the answer was sent: it cannot be taken back.
    pub fn went_out(&self) {
        self.on_wire.store(true, Relaxed);
    }

    /// Whether something of the answer was sent.
    #[must_use]
    pub fn is_on_wire(&self) -> bool {
        self.on_wire.load(Relaxed)
    }

    /// The answer's head may wait a moment for the first of its body: until then the request can be sent elsewhere.
    pub fn hold(&self) {
        self.holding.store(true, Relaxed);
    }

    /// The answer goes out as it comes.
    pub fn release(&self) {
        self.holding.store(false, Relaxed);
    }

    /// Whether the answer's head waits.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.holding.load(Relaxed)
    }

    /// The request is begun again, and takes this along.
    pub fn begin_again(&self, carried: Carried) {
        *self.carried.lock() = Some(carried);
    }

    /// Whether the request is begun again.
    #[must_use]
    pub fn begins_again(&self) -> bool {
        self.carried.lock().is_some()
    }

    /// What the request takes along, where it is begun again.
    #[must_use]
    pub fn take_carried(&self) -> Option<Carried> {
        self.carried.lock().take()
    }

    /// Sets a deadline; it stands until it is cleared.
    pub fn set(&self, deadline: Deadline, at: Moment) {
        self.deadlines[deadline as usize].store(at.nanos().max(1), Relaxed);
    }

    /// Sets a deadline `after` from `now`, where there is one.
    pub fn set_after(&self, deadline: Deadline, now: Moment, after: Option<Duration>) {
        if let Some(after) = after {
            self.set(deadline, now + after);
        }
    }

    /// Clears a deadline.
    pub fn clear(&self, deadline: Deadline) {
        self.deadlines[deadline as usize].store(0, Relaxed);
    }

    /// When a deadline is, if it is set.
    #[must_use]
    pub fn at(&self, deadline: Deadline) -> Option<Moment> {
        let nanos = self.deadlines[deadline as usize].load(Relaxed);
        (nanos != 0).then(|| Moment::from_nanos(nanos))
    }

    /// The next deadline and what it is.
    #[must_use]
    pub fn next(&self) -> Option<(Moment, Deadline)> {
        let set = Deadline::ALL.into_iter().filter_map(|deadline| Some((self.at(deadline)?, deadline)));
        set.min_by_key(|(at, _)| *at)
    }

    /// Bounds the request's body to `bytes` (decoded).
    pub fn limit_body(&self, bytes: u64) {
        self.body_limit.store(bytes, Relaxed);
    }

    /// Notes that the client has sent `bytes` of body in all, before a bound is known.
    pub fn note_body(&self, bytes: u64) {
        self.body_received.store(bytes, Relaxed);
    }

    /// Notes that the client has sent `bytes` of body in all; whether that is within the bound.
    #[must_use]
    pub fn body_within_limit(&self, bytes: u64) -> bool {
        self.body_received.store(bytes, Relaxed);
        bytes <= self.body_limit.load(Relaxed)
    }

    /// Notes that the client has sent so many more bytes into its tunnel.
    pub fn tunnelled(&self, bytes: u64) {
        self.body_received.fetch_add(bytes, Relaxed);
    }

    /// Body bytes (decoded) that the client has sent; of a tunnel, all bytes.
    #[must_use]
    pub fn body_received(&self) -> u64 {
        self.body_received.load(Relaxed)
    }

    /// Notes what ended the request; the first reason stands.
    pub fn end(&self, reason: Reason) {
        // A request is driven by one task, so that nothing comes between the load and the store.
        if self.ended.load(Relaxed) == 0 {
            self.ended.store(reason as u8 + 1, Relaxed);
        }
    }

    /// What ended the request, if the connection knows.
    #[must_use]
    pub fn ended(&self) -> Option<Reason> {
        let code = self.ended.load(Relaxed).checked_sub(1)?;
        Reason::all().nth(code.into())
    }

    /// An answer has begun, between whose parts no more than `idle` may lie.
    pub fn bound_answer(&self, idle: Duration, now: Moment) {
        self.answer_idle.store(u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.answer_moved(now);
    }

    /// A part of the answer has come, or has gone to the client.
    pub fn answer_moved(&self, now: Moment) {
        let idle = self.answer_idle.load(Relaxed);
        if idle != 0 {
            self.set(Deadline::AnswerIdle, now + Duration::from_nanos(idle));
        }
    }

    /// The client does not take what has come: the backend is not to blame for what does not come meanwhile.
    pub fn answer_held_up(&self) {
        self.clear(Deadline::AnswerIdle);
    }

    /// Forgets what ended a try, before the next one.
    pub fn begin_try(&self) {
        self.ended.store(0, Relaxed);
        self.answer_idle.store(0, Relaxed);
        self.clear(Deadline::AnswerIdle);
        self.clear(Deadline::FirstByte);
        self.clear(Deadline::Try);
    }

    /// The connection has become a tunnel: bytes pass as they are, both ways. The request has its answer with that, so that no
    /// deadline of it stands any longer; the tunnel has its own.
    pub fn open_tunnel(&self) {
        self.answer_idle.store(0, Relaxed);
        for deadline in Deadline::ALL {
            self.clear(deadline);
        }
        self.tunnel.store(true, Relaxed);
    }

    /// The last of the answer is about to be given to the connection.
    pub fn end_answer(&self) {
        self.answer_idle.store(0, Relaxed);
        self.clear(Deadline::AnswerIdle);
        self.answer_ended.store(true, Relaxed);
    }

    /// The answer has been sent: whether it was whole, so that the rest of the request need not be read.
    #[must_use]
    pub fn let_go(&self) -> bool {
        let whole = self.answer_ended.load(Relaxed);
        self.let_go.store(whole, Relaxed);
        whole
    }

    /// Whether the request ended because its answer was complete, and not because anything failed.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.let_go.load(Relaxed)
    }

    /// Whether the connection has become a tunnel.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.tunnel.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_deadline_is_next_and_its_reason_is_told() {
        let watch = Watch::default();
        assert_eq!(watch.next(), None);
        watch.set(Deadline::Request, Moment::from_nanos(50));
        watch.set(Deadline::FirstByte, Moment::from_nanos(20));
        assert_eq!(watch.next(), Some((Moment::from_nanos(20), Deadline::FirstByte)));
        watch.clear(Deadline::FirstByte);
        assert_eq!(watch.next(), Some((Moment::from_nanos(50), Deadline::Request)));
        assert_eq!(Deadline::Request.reason(), Reason::RequestTimeout);
    }

    #[test]
    fn an_answer_must_move_unless_the_client_holds_it_up() {
        let watch = Watch::default();
        watch.answer_moved(Moment::from_nanos(5));
        assert_eq!(watch.next(), None, "no bound is set");
        watch.bound_answer(Duration::from_nanos(10), Moment::from_nanos(5));
        watch.answer_moved(Moment::from_nanos(7));
        assert_eq!(watch.next(), Some((Moment::from_nanos(17), Deadline::AnswerIdle)));
        watch.answer_held_up();
        assert_eq!(watch.next(), None);
        watch.answer_moved(Moment::from_nanos(20));
        watch.end_answer();
        assert_eq!(watch.next(), None);
    }

    #[test]
    fn the_first_reason_stands_until_the_next_try() {
        let watch = Watch::default();
        watch.end(Reason::HttpResponseTimeout);
        watch.end(Reason::ClientGone);
        assert_eq!(watch.ended(), Some(Reason::HttpResponseTimeout));
        watch.begin_try();
        assert_eq!(watch.ended(), None);
    }

    #[test]
    fn a_tunnel_has_no_deadline_of_its_request() {
        let watch = Watch::default();
        watch.set(Deadline::Request, Moment::from_nanos(50));
        watch.open_tunnel();
        assert_eq!((watch.next(), watch.is_tunnel()), (None, true));
    }

    #[test]
    fn a_request_is_let_go_only_once_its_answer_is_whole() {
        let watch = Watch::default();
        assert!(!watch.let_go() && !watch.is_answered());
        watch.end_answer();
        assert!(!watch.is_answered());
        assert!(watch.let_go() && watch.is_answered());
        watch.reset();
        assert!(!watch.is_answered());
    }

    #[test]
    fn a_body_is_bounded_once_a_limit_is_set() {
        let watch = Watch::default();
        assert!(watch.body_within_limit(u64::MAX - 1));
        watch.limit_body(10);
        assert!(watch.body_within_limit(10));
        assert!(!watch.body_within_limit(11));
    }
}
