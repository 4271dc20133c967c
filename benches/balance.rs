//! What a choice costs: nanoseconds and allocations for each policy, with 2, 100 and 10,000 backends.
//!
//! A choice is a whole lease: chosen, counted in, answered, counted out. `cargo bench --bench balance`.

#[path = "measure/plans.rs"]
mod plans;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use plans::{member, upstream};
use roundel::base::clock::Clock;
use roundel::config::plan::{Balance, HashKey};
use roundel::upstream::{Ask, Member, Pool};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: all is the system allocator's; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CHOICES: u32 = 200_000;

fn main() {
    println!("{:<34} {:>8} {:>12} {:>12} {:>14}", "policy", "backends", "ns a choice", "allocations", "renewal in us");
    for (name, balance, weights) in policies() {
        for count in [2, 100, 10_000] {
            measure(name, &balance, &weights, count);
        }
    }
}

fn policies() -> Vec<(&'static str, Balance, [u32; 2])> {
    let hash = |load_factor| Balance::Hash { key: HashKey::ClientIp, load_factor };
    vec![
        ("round_robin (Pingora)", Balance::RoundRobin, [1, 1]),
        ("round_robin, weights 3:1 (smooth)", Balance::RoundRobin, [3, 1]),
        ("least_requests", Balance::LeastRequests, [1, 1]),
        ("least_requests, weights 3:1", Balance::LeastRequests, [3, 1]),
        ("peak_ewma", Balance::PeakEwma, [1, 1]),
        ("random, 2 choices", Balance::Random { choices: 2 }, [1, 1]),
        ("random, 2 choices, weights 3:1", Balance::Random { choices: 2 }, [3, 1]),
        ("hash", hash(None), [1, 1]),
        ("hash, load_factor 1.25", hash(Some(1.25)), [1, 1]),
    ]
}

fn measure(name: &str, balance: &Balance, weights: &[u32; 2], count: usize) {
    let pool = Pool::new(Arc::new(upstream(balance.clone(), None)), Clock::start());
    let list: Vec<Member> = (0..count).map(|index| member(index, weights[index % 2])).collect();
    pool.set_members(list.clone());
    let begun = Instant::now();
    pool.drain(&list[0].name);
    pool.resume(&list[0].name);
    let renewal = begun.elapsed() / 2;
    choose(&pool, CHOICES / 10);
    let allocations = ALLOCATIONS.load(Relaxed);
    let begun = Instant::now();
    choose(&pool, CHOICES);
    let nanos = begun.elapsed().as_nanos() as f64 / f64::from(CHOICES);
    let allocations = (ALLOCATIONS.load(Relaxed) - allocations) as f64 / f64::from(CHOICES);
    println!("{name:<34} {count:>8} {nanos:>12.0} {allocations:>12.2} {:>14}", renewal.as_micros());
}

fn choose(pool: &Arc<Pool>, times: u32) {
    for key in 0..u64::from(times) {
        let ask = Ask { hash: Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)), ..Ask::default() };
        let mut lease = pool.lease(black_box(&ask)).expect("backends that are not probed are usable");
        lease.succeeded(Duration::from_millis(1));
    }
}
