//! Places and the queue for them: random histories of requests that come, wait, are served, end and leave, step by step on one
//! thread. A history is its seed.

use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;
use roundel::config::plan::{self, UpstreamLimits};
use roundel::upstream::{Ask, Lease, Member, NoBackend};
use tokio::task::{AbortHandle, yield_now};

use crate::world::{SECOND, World, members, unprobed};

const HISTORIES: u64 = 300;
const STEPS: usize = 150;

/// What has become of those who came, in the order in which it did.
#[derive(Default)]
struct Ended {
    served: Vec<(usize, Lease)>,
    refused: Vec<(usize, NoBackend)>,
}

struct History {
    rng: Rng,
    world: World,
    most: u32,
    most_pending: usize,
    ended: Arc<Mutex<Ended>>,
    /// Who waits, in the order in which they came.
    waiting: Vec<(usize, AbortHandle)>,
    held: Vec<Lease>,
    came: usize,
}

#[tokio::test]
async fn no_place_stays_free_while_somebody_waits_and_turns_are_kept() {
    for seed in 0..HISTORIES {
        History::new(seed).run(seed).await;
    }
}

impl History {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (most, most_pending) = (rng.u32(1..6), rng.usize(0..8));
        let limits = UpstreamLimits {
            connections: None,
            requests: Some(most),
            pending: Some(most_pending),
            pending_timeout: 3600 * SECOND,
        };
        let world = World::new(plan::Upstream { limits, ..unprobed() }, members(&[1, 1, 1]));
        let (ended, waiting, held) = (Arc::default(), Vec::new(), Vec::new());
        Self { rng, world, most, most_pending, ended, waiting, held, came: 0 }
    }

    async fn run(mut self, seed: u64) {
        for _ in 0..STEPS {
            match self.rng.u8(..10) {
                0..5 => self.come(),
                5..8 if !self.held.is_empty() => {
                    let ending = self.rng.usize(..self.held.len());
                    drop(self.held.swap_remove(ending));
                }
                8 if !self.waiting.is_empty() => {
                    let leaving = self.rng.usize(..self.waiting.len());
                    self.waiting.remove(leaving).1.abort();
                }
                9 => self.everything_at_once(),
                _ => {}
            }
            self.settle(seed).await;
        }
        while !self.held.is_empty() || !self.waiting.is_empty() {
            self.held.clear();
            self.settle(seed).await;
        }
        assert_eq!((self.world.pool.in_flight(), self.world.pool.limits().pending), (0, 0), "seed {seed}");
    }

    fn come(&mut self) {
        let (pool, ended, number) = (Arc::clone(&self.world.pool), Arc::clone(&self.ended), self.came);
        self.came += 1;
        let task = tokio::spawn(async move {
            let outcome = pool.lease_in_turn(&Ask::default()).await;
            let mut ended = ended.lock();
            match outcome {
                Ok(lease) => ended.served.push((number, lease)),
                Err(why) => ended.refused.push((number, why)),
            }
        });
        self.waiting.push((number, task.abort_handle()));
    }

    /// A request ends, the first who waits leaves, and another comes, before anybody looks.
    fn everything_at_once(&mut self) {
        if !self.waiting.is_empty() {
            self.held.pop();
            self.waiting.remove(0).1.abort();
        }
        self.come();
    }

    async fn settle(&mut self, seed: u64) {
        for _ in 0..20 {
            yield_now().await;
        }
        let mut ended = std::mem::take(&mut *self.ended.lock());
        assert!(ended.served.is_sorted_by_key(|(number, _)| *number), "seed {seed}: out of turn");
        if let (Some((last, _)), Some(passed)) = (ended.served.last(), self.first_left_behind(&ended)) {
            assert!(passed > *last, "seed {seed}: {passed} was passed over");
        }
        let is_over =
            |number| ended.served.iter().any(|one| one.0 == number) || ended.refused.iter().any(|one| one.0 == number);
        self.waiting.retain(|(number, _)| !is_over(*number));
        assert!(ended.refused.iter().all(|(_, why)| *why == NoBackend::QueueFull), "seed {seed}: {:?}", ended.refused);
        self.held.extend(ended.served.drain(..).map(|(_, lease)| lease));

        let (held, waiting) = (self.held.len(), self.waiting.len());
        let told = self.world.pool.limits();
        assert!(held <= self.most as usize && waiting <= self.most_pending, "seed {seed}: {held} and {waiting}");
        assert_eq!((told.in_flight, told.pending), (held as u64, waiting), "seed {seed}");
        assert!(waiting == 0 || held == self.most as usize, "seed {seed}: a place is free, and {waiting} wait");
    }

    /// The first of those who came and neither were served nor refused nor have left.
    fn first_left_behind(&self, ended: &Ended) -> Option<usize> {
        let over = |number: &usize| {
            ended.served.iter().any(|one| one.0 == *number) || ended.refused.iter().any(|one| one.0 == *number)
        };
        self.waiting.iter().map(|(number, _)| *number).find(|number| !over(number))
    }
}

/// A pool of two backends that take one request each.
fn narrow() -> World {
    let one = |member: Member| Member { most: Some(1), ..member };
    World::new(unprobed(), members(&[1, 1]).into_iter().map(one).collect())
}

#[test]
fn a_full_backend_is_passed_over_and_where_all_are_full_a_request_may_wait() {
    let world = narrow();
    let (first, second) = (world.lease().unwrap(), world.lease().unwrap());
    assert_ne!(first.id(), second.id());
    assert_eq!(world.lease().unwrap_err(), NoBackend::AtLimit);
    let tried = [first.id()];
    drop(second);
    assert!(world.pool.lease(&Ask { tried: &tried, ..Ask::default() }).is_ok());
    let all = ['a', 'b'].map(|letter| world.backend(letter).id());
    assert_eq!(world.pool.lease(&Ask { tried: &all, ..Ask::default() }).unwrap_err(), NoBackend::AllTried);
}

#[tokio::test]
async fn who_waits_is_told_when_nobody_is_left_to_wait_for() {
    let world = narrow();
    let held = [world.lease().unwrap(), world.lease().unwrap()];
    let pool = Arc::clone(&world.pool);
    let waiter = tokio::spawn(async move { pool.lease_in_turn(&Ask::default()).await.map(drop) });
    yield_now().await;
    assert_eq!(world.pool.limits().pending, 1);
    for letter in ['a', 'b'] {
        world.pool.drain(world.backend(letter).address());
    }
    assert_eq!(waiter.await.unwrap(), Err(NoBackend::NoneHealthy { backends: 2 }));
    drop(held);
}

#[tokio::test]
async fn a_plan_that_allows_more_lets_those_in_who_wait() {
    let limits = |requests| UpstreamLimits { requests, ..unprobed().limits };
    let world = World::new(plan::Upstream { limits: limits(Some(1)), ..unprobed() }, members(&[1]));
    let _held = world.lease().unwrap();
    let waiters: Vec<_> = std::iter::repeat_with(|| {
        let pool = Arc::clone(&world.pool);
        tokio::spawn(async move { pool.lease_in_turn(&Ask::default()).await.is_ok() })
    })
    .take(3)
    .collect();
    yield_now().await;
    world.pool.set_plan(Arc::new(plan::Upstream { limits: limits(None), ..unprobed() }));
    for waiter in waiters {
        assert!(waiter.await.unwrap());
    }
}
