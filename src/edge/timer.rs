//! One timer for all deadlines of a connection.
//!
//! Deadlines are put off with every request, and moving a timer costs more than all the rest of a small one. So a timer is
//! moved only where it would fire too late: it may fire early, and whoever waits looks at the clock then.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is made when it is first waited for, and lives as long as its connection.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it wakes; none where it was never waited for, or has fired.
    wakes: Option<Waker>,
}

impl Timer {
    /// Pending until `at`. It may be ready earlier; to be asked again then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        match &self.wakes {
            Some(task) if task.will_wake(cx.waker()) && sleep.deadline() <= at => {
                if !sleep.is_elapsed() {
                    return Poll::Pending;
                }
                self.wakes = None;
                return Poll::Ready(());
            }
            Some(_) if sleep.deadline() <= at => {}
            _ => sleep.as_mut().reset(at),
        }
        // A task that has used up its turn must not be taken for one that the timer will wake.
        let fired = std::pin::pin!(coop::unconstrained(sleep.as_mut())).poll(cx);
        self.wakes = fired.is_pending().then(|| cx.waker().clone());
        fired
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn wait(timer: &mut Timer, until: Instant) -> Vec<Duration> {
        let began = Instant::now();
        let mut woken = Vec::new();
        while Instant::now() < until {
            poll_fn(|cx| timer.poll(cx, until)).await;
            woken.push(began.elapsed());
        }
        woken
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_put_off_costs_one_early_wake() {
        let (mut timer, start) = (Timer::default(), Instant::now());
        let soon = poll_fn(|cx| Poll::Ready(timer.poll(cx, start + SECOND)));
        assert_eq!(soon.await, Poll::Pending);
        assert_eq!(wait(&mut timer, start + 3 * SECOND).await.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sooner_deadline_is_kept() {
        let (mut timer, start) = (Timer::default(), Instant::now());
        let late = poll_fn(|cx| Poll::Ready(timer.poll(cx, start + 9 * SECOND)));
        assert_eq!(late.await, Poll::Pending);
        assert_eq!(wait(&mut timer, start + SECOND).await.len(), 1);
        assert!(start.elapsed() < 2 * SECOND);
        assert_eq!(wait(&mut timer, start + 5 * SECOND).await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn another_task_is_woken_too() {
        let (mut timer, start) = (Timer::default(), Instant::now());
        let here = poll_fn(|cx| Poll::Ready(timer.poll(cx, start + SECOND)));
        assert_eq!(here.await, Poll::Pending);
        let there = tokio::spawn(async move { wait(&mut timer, start + SECOND).await.len() });
        assert_eq!(there.await.unwrap(), 1);
    }
}
