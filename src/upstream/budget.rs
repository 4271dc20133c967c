//! The retry budget: how many of an upstream's requests may be sent twice.
//!
//! Retries help while few requests fail, and multiply the load when all do. So they are paid for: a bucket of tokens gets a
//! share of one for every request and some more every second, and each retry takes one. In a total outage backends get no
//! more than that share beyond what clients send, plus what the bucket held (Google, "Site Reliability Engineering", chapter
//! 21; Finagle's and linkerd's `RetryBudget`). A failed connect has sent nothing and is not charged.
//!
//! [`Bucket`] is pure. What requests add is counted by an atomic and put into the bucket when somebody takes: between two
//! that take the level only rises, so that it comes to the same, and a request that does not fail pays one addition.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::clock::Moment;
use crate::config::plan;

/// How long the bucket takes to fill by time alone.
pub const DEPTH: Duration = Duration::from_secs(10);

/// One token, in the units that levels are counted in.
const TOKEN: u64 = 1_000_000;

/// What fills a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What each request adds, in millionths of a token.
    per_request: u64,
    /// Tokens that each second adds.
    per_second: u64,
}

impl Terms {
    /// The terms that a plan sets.
    #[must_use]
    pub fn of(retry: &plan::Retry) -> Self {
        let per_request = (retry.budget.clamp(0.0, 1.0) * TOKEN as f64).round() as u64;
        Self { per_request, per_second: retry.min_per_second.into() }
    }

    /// The most that the bucket holds, in millionths of a token: what [`DEPTH`] adds. Where time adds nothing, one token, so
    /// that requests can add up to one.
    fn capacity(self) -> u64 {
        let least = if self.per_request > 0 { TOKEN } else { 0 };
        (self.per_second * DEPTH.as_secs() * TOKEN).max(least)
    }
}

/// The tokens of one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    level: u64,
    /// The requests that are in the level already.
    requests: u64,
    /// The moment up to which time is in it.
    at: Moment,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn full(terms: Terms, now: Moment) -> Self {
        Self { level: terms.capacity(), requests: 0, at: now }
    }

    /// Takes a token, where there is one; `requests` is how many there were since the beginning.
    pub fn take(&mut self, terms: Terms, requests: u64, now: Moment) -> bool {
        self.fill(terms, requests, now);
        let enough = self.level >= TOKEN;
        if enough {
            self.level -= TOKEN;
        }
        enough
    }

    /// The tokens that are left.
    pub fn left(&mut self, terms: Terms, requests: u64, now: Moment) -> f64 {
        self.fill(terms, requests, now);
        self.level as f64 / TOKEN as f64
    }

    fn fill(&mut self, terms: Terms, requests: u64, now: Moment) {
        let new = requests.saturating_sub(self.requests);
        let by_requests = new.saturating_mul(terms.per_request);
        let elapsed = now.since(self.at).min(DEPTH);
        let by_time = elapsed.as_nanos() * u128::from(terms.per_second) * u128::from(TOKEN) / 1_000_000_000;
        let added = by_requests.saturating_add(u64::try_from(by_time).unwrap_or(u64::MAX));
        self.level = self.level.saturating_add(added).min(terms.capacity());
        self.requests = self.requests.max(requests);
        self.at = self.at.max(now);
    }
}

/// The budget of one upstream as it lives.
#[derive(Debug)]
pub(super) struct Budget {
    requests: AtomicU64,
    bucket: Mutex<Bucket>,
}

/// What an operator sees of a budget.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct BudgetStatus {
    /// Retries that are allowed now, at once.
    pub left: f64,
    /// Retries that are allowed at once where none was made for a while.
    pub most: f64,
}

impl Budget {
    pub(super) fn new(terms: Terms, now: Moment) -> Self {
        Self { requests: AtomicU64::new(0), bucket: Mutex::new(Bucket::full(terms, now)) }
    }

    /// A request has come.
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Takes the token for a retry, where there is one.
    pub(super) fn take(&self, terms: Terms, now: Moment) -> bool {
        self.bucket.lock().take(terms, self.requests.load(Relaxed), now)
    }

    pub(super) fn status(&self, terms: Terms, now: Moment) -> BudgetStatus {
        let left = self.bucket.lock().left(terms, self.requests.load(Relaxed), now);
        BudgetStatus { left, most: terms.capacity() as f64 / TOKEN as f64 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(budget: f64, min_per_second: u32) -> Terms {
        Terms::of(&plan::Retry { budget, min_per_second, ..super::super::fixture::RETRY })
    }

    fn second(count: u64) -> Moment {
        Moment::START + Duration::from_secs(count)
    }

    /// How many tokens can be taken at once.
    fn takes(bucket: &mut Bucket, terms: Terms, requests: u64, now: Moment) -> usize {
        std::iter::repeat_with(|| bucket.take(terms, requests, now)).take(1_000_000).take_while(|taken| *taken).count()
    }

    #[test]
    fn it_starts_full_and_holds_ten_seconds_of_its_floor() {
        let terms = terms(0.2, 3);
        let mut bucket = Bucket::full(terms, Moment::START);
        assert_eq!(takes(&mut bucket, terms, 0, Moment::START), 30);
        assert_eq!(takes(&mut bucket, terms, 0, second(1)), 3);
        assert_eq!(takes(&mut bucket, terms, 0, second(1000)), 30);
    }

    #[test]
    fn five_requests_pay_for_one_retry() {
        let terms = terms(0.2, 3);
        let mut bucket = Bucket::full(terms, Moment::START);
        takes(&mut bucket, terms, 0, Moment::START);
        assert_eq!(takes(&mut bucket, terms, 4, Moment::START), 0);
        assert_eq!(takes(&mut bucket, terms, 50, Moment::START), 10);
    }

    #[test]
    fn without_a_floor_requests_alone_pay_and_without_either_nothing_does() {
        let mut by_requests = Bucket::full(terms(0.2, 0), Moment::START);
        assert_eq!(takes(&mut by_requests, terms(0.2, 0), 0, second(100)), 1);
        assert_eq!(takes(&mut by_requests, terms(0.2, 0), 5, second(100)), 1);
        assert_eq!(takes(&mut Bucket::full(terms(0.0, 0), Moment::START), terms(0.0, 0), 1000, second(100)), 0);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_share_and_the_floor_and_the_bucket(
            budget in 0.0..=1.0, floor in 0_u32..20,
            steps in prop::collection::vec((0_u64..40, 0_u64..2_000, 0_usize..60), 1..80),
        ) {
            let terms = terms(budget, floor);
            let mut bucket = Bucket::full(terms, Moment::START);
            let (mut requests, mut retries, mut now) = (0, 0, Moment::START);
            for (new, millis, wanted) in steps {
                requests += new;
                now = now + Duration::from_millis(millis);
                retries += (0..wanted).filter(|_| bucket.take(terms, requests, now)).count();
                let seconds = now.since(Moment::START).as_secs_f64();
                let most = f64::from(floor) * 10.0 + f64::from(floor) * seconds + budget * requests as f64;
                prop_assert!(retries as f64 <= most.max(f64::from(floor) * seconds + budget * requests as f64 + 1.0) + 1e-3);
            }
        }

        #[test]
        fn it_comes_to_the_same_how_often_somebody_looks(
            steps in prop::collection::vec((0_u64..10, 0_u64..500), 1..50),
        ) {
            let terms = terms(0.25, 2);
            let (mut often, mut seldom) = (Bucket::full(terms, Moment::START), Bucket::full(terms, Moment::START));
            takes(&mut often, terms, 0, Moment::START);
            takes(&mut seldom, terms, 0, Moment::START);
            let (mut requests, mut now) = (0, Moment::START);
            for (new, millis) in steps {
                requests += new;
                now = now + Duration::from_millis(millis);
                often.left(terms, requests, now);
            }
            prop_assert_eq!(often.left(terms, requests, now), seldom.left(terms, requests, now));
        }
    }
}
