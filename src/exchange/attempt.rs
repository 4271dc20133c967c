//! One try after the other: what both roads do before a try, and when it has failed.

use crate::exchange::Exchange;
use crate::exchange::rescue::{self, Failure};
use crate::exchange::retry::{self, Standing, Verdict};
use crate::exchange::watch::Deadline;
use crate::telemetry::metrics::series::Attempt;
use crate::telemetry::reason::Reason;
use crate::upstream::lease::Ask;

/// Begins the next try: leases a backend that has not been tried yet.
///
/// # Errors
/// The reason why there is no backend, which the exchange holds too.
pub async fn begin(exchange: &mut Exchange) -> Result<(), Reason> {
    exchange.lease = None;
    exchange.arrival.watch.begin_try();
    let target = exchange.target.clone().ok_or(Reason::ProxyInternalError)?;
    if exchange.out_of_time() {
        exchange.reason = Some(Failure::OutOfTime.reason());
        return Err(Failure::OutOfTime.reason());
    }
    let ask = Ask { hash: exchange.hash, tried: &exchange.tried, sticky: exchange.sticky.as_deref() };
    let lease = target.pool.lease(&ask).map_err(|why| rescue::no_backend(&why, exchange.failure));
    let lease = match lease {
        Ok(lease) => lease,
        Err(reason) => {
            exchange.reason = Some(reason);
            return Err(reason);
        }
    };
    exchange.attempts += 1;
    exchange.tried.push(lease.backend().id());
    exchange.lease = Some(lease);
    exchange.try_began = exchange.now();
    exchange.arrival.watch.set_after(Deadline::Try, exchange.try_began, target.plan.timeouts.total);
    Ok(())
}

/// What a request stands at, where nothing was sent yet; a road adds what it knows.
#[must_use]
pub fn standing(exchange: &Exchange) -> Standing {
    let backends_left = exchange.target.as_ref().is_some_and(|target| target.pool.untried(&exchange.tried));
    Standing { idempotent: false, replayable: false, answer_begun: false, retries: exchange.retries, backends_left }
}

/// Takes in that the present try has failed, and decides what follows.
pub fn failed(exchange: &mut Exchange, failure: Failure, standing: Standing) -> Verdict {
    exchange.try_failed(failure);
    let verdict =
        exchange.target.as_ref().map_or(Verdict::GiveUp, |target| retry::after(failure, standing, &target.plan.retry));
    match verdict {
        Verdict::Failover => {}
        Verdict::Retry => {
            exchange.retries += 1;
            exchange.arrival.snapshot.counters.retried(exchange, Attempt::Failed(failure.reason()));
            if !standing.backends_left {
                exchange.tried.clear();
            }
        }
        Verdict::GiveUp => exchange.reason = Some(failure.reason()),
    }
    verdict
}
