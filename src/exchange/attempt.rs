//! One try after the other: what both roads do before a try, and when it has failed.
//!
//! A road calls [`begin`] and has a backend when it returns; it may drop that at any time, as when the client leaves. When a try
//! has failed, the road says what it knows of the request to [`failed`], and does what the verdict says. Connecting and sending
//! are the road's own.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::base::request::Fields;
use crate::exchange::rescue::{self, Failure};
use crate::exchange::retry::{self, Standing, Verdict};
use crate::exchange::watch::Deadline;
use crate::exchange::{Exchange, snapshot};
use crate::telemetry::metrics::series::Attempt;
use crate::telemetry::reason::Reason;
use crate::telemetry::trace::new_span;
use crate::upstream::lease::{Ask, Chances, Lease, NoBackend};

/// Begins the next try: waits as long as the last one's failure demands, then for a place where the limits are reached, and
/// leases a backend that has not been tried yet. The exchange holds the lease then, and the try's deadline is set.
///
/// # Errors
/// The reason why there is no backend, which the exchange holds too.
pub async fn begin(exchange: &mut Exchange) -> Result<(), Reason> {
    // The last lease ends before the next begins, so that a request is never in flight at two backends.
    exchange.lease = None;
    exchange.arrival.watch.begin_try();
    match lease(exchange).await {
        Ok(lease) => {
            start(exchange, lease);
            Ok(())
        }
        Err(reason) => {
            exchange.reason = Some(reason);
            Err(reason)
        }
    }
}

async fn lease(exchange: &mut Exchange) -> Result<Lease, Reason> {
    let target = exchange.target.clone().ok_or(Reason::ProxyInternalError)?;
    if exchange.attempts == 0 {
        target.pool.count_request();
    }
    pause(exchange).await?;
    let sticky = exchange.sticky.as_deref();
    let ask = Ask { hash: exchange.hash, tried: &exchange.tried, sticky, chances: chances(exchange, &target) };
    let outcome = match target.pool.lease(&ask) {
        Err(NoBackend::AtLimit) => Box::pin(wait_for_place(exchange, &target, &ask)).await?,
        outcome => outcome,
    };
    outcome.map_err(|why| rescue::no_backend(&why, exchange.failure))
}

/// How often the request may be sent. Where nothing is ever sent again, all requests are alike.
fn chances(exchange: &Exchange, target: &snapshot::Target) -> Chances {
    let again = target.plan.retry.attempts == 0 || (exchange.idempotent && exchange.body_is_kept());
    if again { Chances::Several } else { Chances::One }
}

/// Waits until the next try may begin.
async fn pause(exchange: &mut Exchange) -> Result<(), Reason> {
    let pause = std::mem::take(&mut exchange.pause);
    if exchange.out_of_time() {
        return Err(Failure::OutOfTime.reason());
    }
    if pause.is_zero() {
        return Ok(());
    }
    let end = exchange.now() + pause;
    if exchange.arrival.watch.at(Deadline::Request).is_some_and(|deadline| deadline <= end) {
        // Another try would come too late: what is known now is told now.
        return Err(exchange.failure.unwrap_or(Failure::OutOfTime).reason());
    }
    Box::pin(sleep_until(Instant::from_std(exchange.arrival.snapshot.clock.instant(end)))).await;
    Ok(())
}

async fn wait_for_place(
    exchange: &Exchange,
    target: &snapshot::Target,
    ask: &Ask<'_>,
) -> Result<Result<Lease, NoBackend>, Reason> {
    let wait = target.pool.lease_in_turn(ask);
    match exchange.arrival.watch.at(Deadline::Request) {
        None => Ok(wait.await),
        Some(deadline) => {
            let deadline = Instant::from_std(exchange.arrival.snapshot.clock.instant(deadline));
            timeout_at(deadline, wait).await.map_err(|_| Failure::OutOfTime.reason())
        }
    }
}

fn start(exchange: &mut Exchange, lease: Lease) {
    exchange.attempts += 1;
    exchange.tried.push(lease.backend().id());
    exchange.try_began = lease.begun();
    exchange.lease = Some(lease);
    exchange.try_span = exchange.trace.map_or(0, |_| new_span());
    let total = exchange.target.as_ref().and_then(|target| target.plan.timeouts.total);
    exchange.arrival.watch.set_after(Deadline::Try, exchange.try_began, total);
}

/// What a request stands at, where nothing was sent yet; a road adds what it knows.
#[must_use]
pub fn standing(exchange: &Exchange) -> Standing {
    let backends_left = exchange.target.as_ref().is_some_and(|target| target.pool.untried(&exchange.tried));
    Standing {
        idempotent: exchange.idempotent,
        replayable: false,
        answer_begun: false,
        marked: exchange.marked,
        retries: exchange.retries,
        backends_left,
    }
}

/// Takes in that the present try has failed: tells the backend's health and the counters, and decides what follows. Where the
/// verdict is another try, [`begin`] begins it.
pub fn failed(exchange: &mut Exchange, failure: Failure, standing: Standing) -> Verdict {
    exchange.try_failed(failure);
    let verdict = follow(exchange, failure, standing, Attempt::Failed(failure.reason()));
    if verdict == Verdict::GiveUp {
        exchange.reason = Some(failure.reason());
    }
    verdict
}

/// The failure that an answer amounts to, because the operator has chosen its status for retries; none for all others.
#[must_use]
pub fn chosen(exchange: &Exchange, status: u16, answer: &dyn Fields) -> Option<Failure> {
    let target = exchange.target.as_ref()?;
    retry::chosen(status, answer, &target.plan.retry, || exchange.arrival.snapshot.clock.wall(exchange.now()))
}

/// Takes in that the backend has answered with a status that was [`chosen`], before anything of the answer is passed on:
/// whether the request is tried again in its place.
pub fn answered(exchange: &mut Exchange, status: u16, failure: Failure, standing: Standing) -> Verdict {
    let has_room = exchange.target.as_ref().is_some_and(|target| target.pool.has_room_for_another_try());
    if !has_room {
        // An answer in the hand is better than a place in the queue.
        return Verdict::GiveUp;
    }
    let verdict = follow(exchange, failure, standing, Attempt::Answered(status));
    if verdict != Verdict::GiveUp {
        exchange.failure = Some(failure);
        exchange.try_ended(Some(failure), exchange.now());
    }
    verdict
}

/// Decides what follows, within the retry budget, and prepares it.
fn follow(exchange: &mut Exchange, failure: Failure, standing: Standing, cause: Attempt) -> Verdict {
    let Some(target) = exchange.target.clone() else { return Verdict::GiveUp };
    let verdict = retry::after(failure, standing, &target.plan.retry);
    let Verdict::Retry(least) = verdict else { return verdict };
    let counters = &exchange.arrival.snapshot.counters;
    let granted = match failure {
        // The backend has done nothing for it, and wants it elsewhere: nobody's load grows, and there is nothing to wait for. Where
        // the next one says the same, it is an outage like others (gRFC A6, "Transparent Retries").
        Failure::Unprocessed if exchange.retries == 0 => Some(Duration::ZERO),
        _ => target.pool.grant_retry(exchange.retries + 1),
    };
    let Some(backoff) = granted else {
        counters.budget_exhausted(exchange);
        return Verdict::GiveUp;
    };
    counters.retried(exchange, cause);
    exchange.retries += 1;
    exchange.pause = backoff.max(least);
    if !standing.backends_left {
        // There is no other backend: the same one gets a second chance.
        exchange.tried.clear();
    }
    Verdict::Retry(exchange.pause)
}
