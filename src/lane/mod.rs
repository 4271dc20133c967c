//! The direct lane: a plain request over HTTP/1.1 or HTTP/2 from its head to its record, without Pingora's proxy in between.
//!
//! It serves what needs nothing but bytes passed on: any method, no body or one with a length or in chunks, answers of every
//! framing. What it does not serve (HTTP/1.0, an upgrade, an expectation, a route with a filter that changes bodies) it
//! declines before anything has happened, and the general road takes it. Both roads call the same rooms in the same
//! order; what differs is who moves the bytes. `crossing` is one try at one backend, `head` writes heads, `client` is what the edge does for a
//! request, `work` the buffers.

mod client;
mod crossing;
mod head;
mod work;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use tokio::sync::watch;

pub use self::client::Client;
use self::crossing::{Crossing, Step};
use self::head::{Afterwards, Passing};
use self::work::Work;
use crate::base::request::RequestView;
use crate::exchange::admission::{self, Admission};
use crate::exchange::rescue::Failure;
use crate::exchange::retry::{Standing, Verdict};
use crate::exchange::{Arrival, Exchange, Given, KeepAlive, attempt, grpc, progress, record, reply};
use crate::filter::auth::basic::Job;
use crate::filter::{self, Refusal};
use crate::telemetry::reason::Reason;
use crate::upstream::connection::{Connection, Connector, Fault};
use crate::upstream::idle;
use crate::wire::answer::{self, Body};
use crate::wire::framing::Framing;
use crate::wire::head::{Head, HeadParser, Version};
use crate::wire::target::Form;

/// The direct lane of a process.
#[derive(Debug, Clone)]
pub struct Lane {
    connector: Arc<Connector>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It is not for this road. Nothing has happened.
    Declined,
    /// It is over, and its connection may carry another.
    Again,
    /// It is over, and so is its connection.
    Last,
}

impl Lane {
    /// The lane, which connects to backends by `connector`.
    #[must_use]
    pub fn new(connector: Arc<Connector>) -> Self {
        Self { connector }
    }

    /// Serves the request whose head `parser` has read, where it fits.
    pub async fn serve<C: Client>(
        &self,
        client: &mut C,
        arrival: Arrival,
        parser: &HeadParser,
        draining: &watch::Receiver<bool>,
    ) -> Served {
        let bytes = client.lend_head();
        let Some(head) = parser.head(&bytes).filter(fits) else {
            client.take_back(bytes);
            return Served::Declined;
        };
        // Large: it is made where it stays.
        let mut exchange = Exchange::new(arrival, &head.fields);
        let (work, exchange) = (Work::borrow(), &mut exchange);
        let mut passage = Passage { lane: self, client: &mut *client, head, exchange, draining, work };
        let served = match passage.begin() {
            Some(admission) => passage.pass(admission).await,
            None => passage.decline(),
        };
        drop(passage);
        client.take_back(bytes);
        served
    }
}

/// Whether a head asks for nothing but a message passed on.
fn fits(head: &Head<'_>) -> bool {
    let is_plain = |option: &[u8]| {
        option.is_empty() || option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive")
    };
    head.version == Version::Http11
        && head.target.form() == Form::Origin
        && head.upgrade.is_none()
        && !head.expect_continue
        && !grpc::is_grpc(&head.fields)
        && head
            .fields
            .all("connection")
            .all(|value| value.split(|byte| *byte == b',').all(|option| is_plain(option.trim_ascii())))
}

/// One request on the lane.
struct Passage<'a, C: Client> {
    lane: &'a Lane,
    client: &'a mut C,
    head: Head<'a>,
    exchange: &'a mut Exchange,
    draining: &'a watch::Receiver<bool>,
    work: Work,
}

/// The answer of a backend that a try has got.
struct Answered {
    crossing: Crossing,
    afterwards: Afterwards,
    /// Whether the backend means to go on after it.
    persistent: bool,
}

/// How a try ended that has not failed.
enum Outcome {
    /// Its answer was passed on.
    Passed(Afterwards),
    /// Its answer was not: the request is tried again.
    PassedOver,
}

impl<C: Client> Passage<'_, C> {
    /// Asks the route and its filters, where the route fits.
    fn begin(&mut self) -> Option<Admission> {
        let view = view(&self.head, self.exchange);
        let admission = admission::begin_where(self.exchange, &view, |route| route.direct)?;
        self.client.accept();
        Some(admission)
    }

    /// The request goes another road.
    fn decline(&mut self) -> Served {
        self.exchange.decline();
        Served::Declined
    }

    /// The request from the verdict of its route's filters to its record.
    async fn pass(&mut self, admission: Admission) -> Served {
        let afterwards = self.admit(admission).await;
        self.record();
        if afterwards == Afterwards::Keep && self.client.body_ended() { Served::Again } else { Served::Last }
    }

    /// What becomes of the request, from the verdict of its route's filters on.
    async fn admit(&mut self, admission: Admission) -> Afterwards {
        match admission {
            Admission::Forward => self.forward().await,
            Admission::Refuse(refusal) => Box::pin(self.refuse(refusal, self.wish())).await,
            Admission::Answer(answer) => Box::pin(self.answer(answer, self.wish())).await,
            // On the heap, as it is rare: a connection has room for all that its requests may come to wait for.
            Admission::MustHash(job) => Box::pin(self.admit_hashed(job)).await,
        }
    }

    async fn admit_hashed(&mut self, job: Job) -> Afterwards {
        // A thread pool that takes no more work is as good as a wrong password.
        let right = tokio::task::spawn_blocking(move || job.run()).await.unwrap_or(false);
        match self.resume(right) {
            Admission::Forward => self.forward().await,
            Admission::Refuse(refusal) => self.refuse(refusal, self.wish()).await,
            Admission::Answer(answer) => self.answer(answer, self.wish()).await,
            Admission::MustHash(_) => self.fail(Reason::ProxyInternalError).await,
        }
    }

    fn resume(&mut self, right: bool) -> Admission {
        let view = view(&self.head, self.exchange);
        admission::resume(self.exchange, &view, right)
    }

    /// One try after the other, until one has an answer or none may follow.
    async fn forward(&mut self) -> Afterwards {
        self.work.lost = !self.exchange.idempotent;
        loop {
            if let Err(reason) = self.begin_try().await {
                return Box::pin(self.fail(reason)).await;
            }
            match self.attempt().await {
                Ok(Outcome::Passed(afterwards)) => return afterwards,
                Ok(Outcome::PassedOver) => {}
                Err(failure) => {
                    let standing = self.standing(failure);
                    if attempt::failed(self.exchange, failure, standing) == Verdict::GiveUp {
                        return Box::pin(self.fail(failure.reason())).await;
                    }
                }
            }
            self.work.begin_anew();
            self.exchange.given = Given::default();
        }
    }

    /// Begins the next try, unless the client leaves while it waits for one.
    async fn begin_try(&mut self) -> Result<(), Reason> {
        let Self { client, exchange, .. } = self;
        tokio::select! {
            biased;
            begun = attempt::begin(exchange) => return begun,
            () = poll_fn(|cx| client.poll_wait(cx, None)) => {}
        }
        Err(self.exchange.arrival.watch.ended().unwrap_or(Reason::ClientGone))
    }

    /// What a request stands at whose try has failed so.
    fn standing(&self, failure: Failure) -> Standing {
        let standing = attempt::standing(self.exchange);
        if matches!(failure, Failure::Connect(_)) {
            return Standing { replayable: true, ..standing };
        }
        Standing {
            replayable: !self.work.lost && self.exchange.body_is_kept(),
            answer_begun: self.answer_begun(),
            ..standing
        }
    }

    /// Whether anything of an answer has gone to the client.
    fn answer_begun(&self) -> bool {
        self.exchange.given.status.is_some() && self.exchange.arrival.watch.is_on_wire()
    }

    /// One try: connect, send, pass the answer on.
    async fn attempt(&mut self) -> Result<Outcome, Failure> {
        let connection = self.connect().await?;
        self.write_request();
        match self.answer_head(Crossing::new(connection)).await? {
            Some(answered) => self.pass_body(answered).await.map(Outcome::Passed),
            None => Ok(Outcome::PassedOver),
        }
    }

    /// The warmest connection that waits at the backend, or a new one.
    async fn connect(&mut self) -> Result<Connection, Failure> {
        let (Some(target), Some(lease)) = (&self.exchange.target, &self.exchange.lease) else {
            return Err(Failure::Internal);
        };
        let (plan, backend) = (&target.plan, lease.backend());
        let group = target.peers.group();
        let now = self.exchange.try_began;
        let take = || backend.warm().take(group, now, plan.keepalive.idle, Connection::is_quiet);
        let (connection, reused) = match self.exchange.may_reuse().then(take).flatten() {
            Some(connection) => (connection, true),
            None => {
                let left = self.exchange.arrival.watch.next().map(|(at, _)| at.since(self.exchange.try_began));
                let within = left.unwrap_or(Duration::MAX).min(plan.timeouts.connect);
                let connect = self.lane.connector.connect(&target.peers, backend, None, within);
                // As above.
                let connected = Box::pin(connect).await;
                let out_of_time = self.exchange.out_of_time();
                let failure = |fault: Fault| match out_of_time {
                    true => Failure::OutOfTime,
                    false => Failure::Connect(fault.into()),
                };
                (connected.map_err(failure)?, false)
            }
        };
        self.exchange.connected(connection.fd(), reused);
        Ok(connection)
    }

    fn write_request(&mut self) {
        let work = &mut *self.work;
        work.request.clear();
        let view = view(&self.head, self.exchange);
        head::request(&self.head, &view, self.exchange, C::VERSION, &mut work.value, &mut work.request);
        work.request.extend_from_slice(&work.kept);
    }

    /// Sends the request and waits for the head of its answer; none where the request is tried again in its place. A 1xx on the
    /// way is passed on as it comes.
    async fn answer_head(&mut self, mut crossing: Crossing) -> Result<Option<Answered>, Failure> {
        loop {
            let Self { client, work, exchange, .. } = self;
            poll_fn(|cx| crossing.poll_head(cx, *client, work, exchange)).await?;
            let work = &mut **work;
            let Some(answer) = work.parser.head(&work.received) else { return Err(Failure::Internal) };
            let (len, status, persistent, body) =
                (answer.len, answer.status, answer.persistent, answer.body(self.head.method));
            match status {
                // Nobody has asked to leave HTTP.
                101 => return Err(Failure::NotHttp),
                100..=199 => {
                    head::informational(&answer, &mut work.answer);
                    crossing.pass_informational(work, len)?;
                    self.send(&[], false).await.map_err(|()| self.by_client())?;
                }
                _ => {
                    let idle = exchange.target.as_ref().map(|target| target.plan.timeouts.idle);
                    let now = progress::answered(exchange, status, idle);
                    if passes_over(&answer, work.lost, exchange) {
                        return Ok(None);
                    }
                    let whole = crossing.request_is_sent() || client.body_ended();
                    let afterwards = if whole { wish(exchange, &self.head, self.draining) } else { Afterwards::Close };
                    let passing = Passing { into_chunks: body == Body::UntilClose, afterwards };
                    head::answer(&answer, &view(&self.head, exchange), exchange, passing, &mut work.answer);
                    let hold = may_wait(exchange, &self.head, body);
                    crossing.begin_body(work, len, body, hold, now);
                    self.exchange.given.status = Some(status);
                    return Ok(Some(Answered { crossing, afterwards, persistent }));
                }
            }
        }
    }

    /// Passes the answer on, and lets the backend's connection wait for another request where it may.
    async fn pass_body(&mut self, answered: Answered) -> Result<Afterwards, Failure> {
        let Answered { mut crossing, afterwards, persistent } = answered;
        loop {
            let Self { client, work, exchange, .. } = self;
            match poll_fn(|cx| crossing.poll_body(cx, *client, work, exchange)).await? {
                Step::Received if persistent => self.let_wait(&mut crossing),
                Step::Received => {}
                Step::Passed => break,
            }
        }
        self.exchange.arrival.watch.end_answer();
        if self.client.body_ended() {
            // The backend has answered without all of it.
            self.client.consume(self.client.body().len());
        }
        Ok(afterwards)
    }

    /// Lets the backend's connection wait for another request, where it may.
    fn let_wait(&mut self, crossing: &mut Crossing) {
        if self.exchange.afterwards == idle::Afterwards::Keep
            && let (Some(target), Some(lease)) = (&self.exchange.target, &self.exchange.lease)
            && let Some(connection) = crossing.take_reusable(&self.work)
        {
            let now = crossing.last_read();
            lease.backend().warm().put(connection, target.peers.group(), now, &target.plan.keepalive);
        }
    }

    /// The request has failed, and the client is told as much as can still be told.
    async fn fail(&mut self, reason: Reason) -> Afterwards {
        self.exchange.reason = Some(reason);
        if !self.answer_begun() {
            self.exchange.given = Given::default();
            self.work.answer.clear();
            if reason != Reason::ClientGone {
                self.refuse(Refusal { reason, fields: Vec::new() }, Afterwards::Close).await;
            }
        }
        Afterwards::Close
    }

    /// Answers a request that a filter has refused.
    async fn refuse(&mut self, refusal: Refusal, afterwards: Afterwards) -> Afterwards {
        self.exchange.reason = Some(refusal.reason);
        let reply = reply::Answer::new(refusal.reason, &self.head.fields, self.exchange.style());
        let mut fields = reply.headers;
        fields.extend(refusal.fields);
        self.answer(filter::Answer { status: reply.status, fields, body: reply.body }, afterwards).await
    }

    /// Sends an answer of our own.
    async fn answer(&mut self, answer: filter::Answer, afterwards: Afterwards) -> Afterwards {
        // As on the general road, a body that no backend has asked for ends with its connection.
        let afterwards = if self.exchange.arrival.body == Some(0) { afterwards } else { Afterwards::Close };
        head::own(&answer, &view(&self.head, self.exchange), self.exchange, afterwards, &mut self.work.answer);
        self.exchange.given.status = Some(answer.status);
        self.exchange.arrival.watch.begin_try();
        let bodiless = matches!(answer.status, 204 | 304) || self.head.method == "HEAD";
        let body = if bodiless { &[] } else { &answer.body[..] };
        match self.send(body, true).await {
            Ok(()) => {
                self.exchange.given.bytes = body.len() as u64;
                afterwards
            }
            Err(()) => {
                self.exchange.reason.get_or_insert(Reason::ClientGone);
                Afterwards::Close
            }
        }
    }

    /// Sends what stands in the answer's buffer, and `body`; with `last` nothing follows.
    async fn send(&mut self, body: &[u8], last: bool) -> Result<(), ()> {
        let Self { client, work, .. } = self;
        let (mut head, mut body) = (&work.answer[..], body);
        while !head.is_empty() || !body.is_empty() {
            let count = poll_fn(|cx| client.poll_give(cx, head, body, last)).await.map_err(|_| ())?;
            let of_head = count.min(head.len());
            head = &head[of_head..];
            body = &body[count - of_head..];
        }
        work.answer.clear();
        let leave = |cx: &mut Context<'_>| if last { client.poll_end(cx, &[]) } else { client.poll_flush(cx) };
        poll_fn(leave).await.map_err(|_| ())
    }

    fn by_client(&self) -> Failure {
        crossing::by_client(self.exchange)
    }

    fn wish(&self) -> Afterwards {
        wish(self.exchange, &self.head, self.draining)
    }

    fn record(&mut self) {
        let end = end(&self.head, C::VERSION, self.exchange.given);
        record::write(self.exchange, end);
    }
}

impl<C: Client> Drop for Passage<'_, C> {
    /// A request whose task is dropped has its line too.
    fn drop(&mut self) {
        let end = end(&self.head, C::VERSION, self.exchange.given);
        record::write_cut(self.exchange, end);
    }
}

/// What is told of a request at its end.
fn end<'h>(head: &'h Head<'_>, version: http::Version, given: Given) -> record::End<'h> {
    record::End {
        method: head.method.as_bytes(),
        host: head.host.as_bytes(),
        target: head.target.as_str().as_bytes(),
        version,
        fields: &head.fields,
        status: given.status,
        bytes_out: given.bytes,
    }
}

/// What routes and filters see of a request.
fn view<'h>(head: &'h Head<'_>, exchange: &Exchange) -> RequestView<'h> {
    head.view(exchange.arrival.scheme, exchange.client_address())
}

/// Whether all sides mean the client's connection to carry another request.
fn wish(exchange: &Exchange, head: &Head<'_>, draining: &watch::Receiver<bool>) -> Afterwards {
    let last = exchange.arrival.keep_alive == KeepAlive::Last || !head.persistent || *draining.borrow();
    if last { Afterwards::Close } else { Afterwards::Keep }
}

/// Whether the head of an answer may wait for its body, so that the request can be sent again if the backend dies between
/// them: where it has a length, and the request is idempotent and has no body.
fn may_wait(exchange: &Exchange, head: &Head<'_>, body: Body) -> bool {
    exchange.idempotent && head.body.length() == Some(0) && matches!(body, Body::Framed(Framing::Length(1..)))
}

/// Whether the request is tried again in place of passing on the answer that has come.
fn passes_over(answer: &answer::Head<'_>, lost: bool, exchange: &mut Exchange) -> bool {
    let Some(failure) = attempt::chosen(exchange, answer.status, &answer.fields) else { return false };
    let standing = Standing { replayable: !lost && exchange.body_is_kept(), ..attempt::standing(exchange) };
    attempt::answered(exchange, answer.status, failure, standing) != Verdict::GiveUp
}
