//! Timers of streams. A stream lives for a moment and its deadline is a minute away: to make a timer for each, to have the runtime
//! wake for it and to take it down again would cost more than all else about deadlines. So a connection keeps a few, and
//! lends them to one stream after the other.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::edge::timer::Timer;

/// How many a connection keeps.
const KEPT: usize = 4;

/// The timers that a connection has to lend.
#[derive(Debug, Default)]
pub(super) struct Alarms(Mutex<Vec<Set>>);

/// A timer that stays set when it goes from one stream to the next: it wakes whoever has it, and the runtime never knows.
#[derive(Debug)]
struct Set {
    timer: Timer,
    whom: Arc<Whom>,
    waker: Waker,
}

/// Whom a timer wakes.
#[derive(Debug, Default)]
struct Whom(AtomicWaker);

impl Wake for Whom {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

impl Default for Set {
    fn default() -> Self {
        let whom = Arc::<Whom>::default();
        Self { timer: Timer::default(), waker: whom.clone().into(), whom }
    }
}

/// The alarm of one stream. It borrows a timer when it is first waited for.
#[derive(Debug)]
pub(super) struct Alarm {
    set: Option<Set>,
    home: Arc<Alarms>,
}

impl Alarm {
    /// An alarm whose timer comes from `home`.
    pub(super) const fn new(home: Arc<Alarms>) -> Self {
        Self { set: None, home }
    }

    /// Pending until `at`. It may be ready earlier; to be asked again then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let home = &self.home;
        let set = self.set.get_or_insert_with(|| home.0.lock().pop().unwrap_or_default());
        set.whom.0.register(cx.waker());
        set.timer.poll(&mut Context::from_waker(&set.waker), at)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let Some(set) = self.set.take() else { return };
        drop(set.whom.0.take());
        let mut spare = self.home.0.lock();
        if spare.len() < KEPT {
            spare.push(set);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn wait(mut alarm: Alarm, until: Instant) {
        while Instant::now() < until {
            poll_fn(|cx| alarm.poll(cx, until)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_lent_on_wakes_the_next() {
        let home = Arc::<Alarms>::default();
        let start = Instant::now();
        let mut first = Alarm::new(home.clone());
        let soon = poll_fn(|cx| Poll::Ready(first.poll(cx, start + 2 * SECOND)));
        assert_eq!(soon.await, Poll::Pending);
        drop(first);
        assert_eq!(home.0.lock().len(), 1);
        let next = Alarm::new(home.clone());
        tokio::spawn(wait(next, start + 3 * SECOND)).await.unwrap();
        assert!((3 * SECOND..4 * SECOND).contains(&start.elapsed()));
        tokio::spawn(wait(Alarm::new(home.clone()), Instant::now() + SECOND)).await.unwrap();
        assert!((4 * SECOND..5 * SECOND).contains(&start.elapsed()));
        assert_eq!(home.0.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_few_are_kept() {
        let home = Arc::<Alarms>::default();
        let until = Instant::now() + SECOND;
        futures::future::join_all((0..9).map(|_| wait(Alarm::new(home.clone()), until))).await;
        assert_eq!(home.0.lock().len(), KEPT);
    }
}
