//! Time and allocations of one operation, printed as a line. Each benchmark is a plain `main`: what is measured is all that
//! runs, and a profiler sees nothing else.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`, and the memory came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How often the measurement is repeated; the best round counts, as other work on the machine can only slow one down.
const ROUNDS: usize = 8;

/// Runs `operation` on the numbers from 0 to `times` in each round, and prints what one run of it costs.
pub(crate) fn measure<T>(name: &str, times: usize, mut operation: impl FnMut(usize) -> T) {
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for number in 0..times {
            black_box(operation(black_box(number)));
        }
        best = best.min(start.elapsed().as_nanos() as f64 / times as f64);
    }
    let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - allocations) as f64 / (times * ROUNDS) as f64;
    println!("{name:<48} {best:>9.1} ns {allocations:>7.2} allocations");
}
