//! Doubt: what speaks for asking another backend, although this one is in use.
//!
//! Two things do. A connect that waits longer than connects there should is the first sign of a machine that is gone: while it
//! waits, further requests need not wait there too. If nothing comes of it, one connect at a time finds out more, until one is
//! answered. And a backend on probation (`state`) proves itself by one request at a time, its trial: one that can be sent again, if
//! such come.
//!
//! Doubt only ranks backends: a request that no other one may serve goes to one that is in doubt. Taking backends out is the
//! state machine's, ranking them the pool's and its policies'.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use super::backend::Backend;
use super::peer::PeerTemplate;
use crate::base::clock::{Clock, Moment};

/// A connect is in doubt after this part of the time that it may take: 375 ms of the 3 s where nothing is written, which no
/// network takes whose connects fail in 3 s.
const DOUBTED_PART: u32 = 8;

/// ... but not before this time: less than that is the scheduler's.
const SOONEST: Duration = Duration::from_millis(20);

/// So many requests in a row that can be sent but once leave a trial to others; then the next one is it, whatever it is: there may
/// be no other kind.
const LEFT_TO_OTHERS: u32 = 8;

/// From when on connects are in doubt at a backend where none is under way.
const NEVER: u64 = u64::MAX;

/// The connects under way at one backend.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Knocks {
    waiting: u32,
    /// Whether the last that is known of it is that it did not answer.
    silent: bool,
    /// When the oldest of them that was begun since one was answered is in doubt.
    doubted_at: Option<Moment>,
}

/// How a connect ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Somebody is there, if only to refuse.
    Some,
    /// Nothing came.
    None,
}

impl Knocks {
    fn begin(&mut self, now: Moment, within: Duration) {
        self.waiting += 1;
        let soon = if self.silent { Duration::ZERO } else { (within / DOUBTED_PART).max(SOONEST) };
        self.doubted_at.get_or_insert(now + soon);
    }

    fn end(&mut self, answer: Answer, now: Moment) {
        self.waiting = self.waiting.saturating_sub(1);
        self.silent = answer == Answer::None && (self.silent || self.doubted_at.is_some_and(|doubted| now >= doubted));
        if answer == Answer::Some || self.waiting == 0 {
            self.doubted_at = None;
        }
    }
}

/// What speaks for asking another backend than this one.
#[derive(Debug)]
pub(super) struct Doubt {
    knocks: Mutex<Knocks>,
    // Of `knocks`, for those who choose.
    doubted_at: AtomicU64,
    tried: AtomicBool,
    /// Requests that have left the trial to others.
    left: AtomicU32,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            knocks: Mutex::default(),
            doubted_at: AtomicU64::new(NEVER),
            tried: AtomicBool::new(false),
            left: AtomicU32::new(0),
        }
    }
}

impl Doubt {
    /// Whether connects wait longer at `now` than they should.
    pub(super) fn is_silent(&self, now: Moment) -> bool {
        now.nanos() >= self.doubted_at.load(Relaxed)
    }

    /// Whether a trial is under way.
    pub(super) fn is_tried(&self) -> bool {
        self.tried.load(Relaxed)
    }

    /// Begins a trial, where none is under way.
    pub(super) fn begin_trial(&self) -> bool {
        !self.tried.swap(true, Relaxed)
    }

    /// Whether a request that can be sent but once leaves the trial to one that can be sent again.
    pub(super) fn leave_trial(&self) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| (left < LEFT_TO_OTHERS).then_some(left + 1)).is_ok()
    }

    /// Ends the trial.
    pub(super) fn end_trial(&self) {
        self.left.store(0, Relaxed);
        self.tried.store(false, Relaxed);
    }

    /// A connect begins that may take as long as `within`. It ends when what is returned is dropped.
    pub(super) fn knock<'k>(&'k self, clock: &'k Clock, within: Duration) -> Knock<'k> {
        self.begin(clock.now(), within);
        Knock { doubt: self, clock, answer: Answer::None }
    }

    /// A connect begins at `now` that may take as long as `within`.
    pub(super) fn begin(&self, now: Moment, within: Duration) {
        self.change(|knocks| knocks.begin(now, within));
    }

    /// A connect ends so at `now`.
    pub(super) fn end(&self, answer: Answer, now: Moment) {
        self.change(|knocks| knocks.end(answer, now));
    }

    fn change(&self, change: impl FnOnce(&mut Knocks)) {
        let mut knocks = self.knocks.lock();
        change(&mut knocks);
        self.doubted_at.store(knocks.doubted_at.map_or(NEVER, Moment::nanos), Relaxed);
    }
}

/// A connect under way.
#[derive(Debug)]
pub(super) struct Knock<'d> {
    doubt: &'d Doubt,
    clock: &'d Clock,
    answer: Answer,
}

impl Knock<'_> {
    /// How it ended.
    pub(super) fn ended(mut self, answer: Answer) {
        self.answer = answer;
    }
}

impl Drop for Knock<'_> {
    fn drop(&mut self) {
        self.doubt.end(self.answer, self.clock.now());
    }
}

/// A connect under way that others make, as Pingora does for HTTP/2. It ends without an answer when it is dropped.
#[derive(Debug)]
pub struct Knocking {
    backend: Arc<Backend>,
    clock: Clock,
    answer: Answer,
}

impl Knocking {
    /// A connect to `backend`, one of those of `peers`, begins now.
    #[must_use]
    pub fn at(backend: &Arc<Backend>, peers: &PeerTemplate, clock: &Clock) -> Self {
        backend.connect_begins(clock.now(), peers.patience());
        Self { backend: Arc::clone(backend), clock: clock.clone(), answer: Answer::None }
    }

    /// Somebody is there.
    pub fn answered(mut self) {
        self.answer = Answer::Some;
    }
}

impl Drop for Knocking {
    fn drop(&mut self) {
        self.backend.connect_ends(self.answer, self.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONNECT: Duration = Duration::from_secs(3);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn at(millis: u32) -> Moment {
        Moment::START + MILLISECOND * millis
    }

    /// Whether connects are in doubt at these times.
    fn doubted<const N: usize>(knocks: Knocks, millis: [u32; N]) -> [bool; N] {
        millis.map(|millis| knocks.doubted_at.is_some_and(|doubted| at(millis) >= doubted))
    }

    #[test]
    fn a_connect_that_waits_for_an_eighth_of_its_time_casts_doubt_until_it_ends() {
        let mut knocks = Knocks::default();
        knocks.begin(at(0), CONNECT);
        assert_eq!(doubted(knocks, [374, 375, 3000]), [false, true, true]);
        knocks.end(Answer::None, at(3000));
        assert_eq!(doubted(knocks, [3000]), [false]);
    }

    #[test]
    fn where_nothing_came_one_at_a_time_finds_out_until_one_is_answered() {
        let mut knocks = Knocks::default();
        knocks.begin(at(0), CONNECT);
        knocks.end(Answer::None, at(3000));
        for millis in [4000, 8000] {
            knocks.begin(at(millis), CONNECT);
            assert_eq!(doubted(knocks, [millis]), [true]);
            knocks.end(Answer::None, at(millis + 1));
        }
        knocks.begin(at(9000), CONNECT);
        knocks.end(Answer::Some, at(9001));
        knocks.begin(at(9002), CONNECT);
        assert_eq!(doubted(knocks, [9376, 9377]), [false, true]);
    }

    #[test]
    fn who_leaves_before_there_is_doubt_leaves_none() {
        let mut knocks = Knocks::default();
        knocks.begin(at(0), CONNECT);
        knocks.end(Answer::None, at(374));
        assert_eq!(knocks, Knocks::default());
    }

    #[test]
    fn one_answer_dispels_the_doubt_that_others_cast() {
        let mut knocks = Knocks::default();
        knocks.begin(at(0), CONNECT);
        knocks.begin(at(100), CONNECT);
        knocks.end(Answer::Some, at(101));
        assert_eq!(doubted(knocks, [2000]), [false]);
        knocks.begin(at(2000), CONNECT);
        assert_eq!(doubted(knocks, [2374, 2375]), [false, true]);
    }

    #[test]
    fn one_that_is_given_up_leaves_the_doubt_that_others_cast() {
        let mut knocks = Knocks::default();
        knocks.begin(at(0), CONNECT);
        knocks.begin(at(100), CONNECT);
        knocks.end(Answer::None, at(101));
        assert_eq!(doubted(knocks, [374, 375]), [false, true]);
    }

    #[test]
    fn short_connects_are_not_doubted_for_what_the_scheduler_does() {
        let mut knocks = Knocks::default();
        knocks.begin(at(0), 10 * MILLISECOND);
        assert_eq!(doubted(knocks, [19, 20]), [false, true]);
    }

    #[test]
    fn those_who_choose_see_the_doubt_as_long_as_the_connect_is_under_way() {
        let (doubt, clock) = (Doubt::default(), Clock::start());
        let late = Moment::START + Duration::from_secs(3600);
        let knock = doubt.knock(&clock, CONNECT);
        assert_eq!([doubt.is_silent(clock.now()), doubt.is_silent(late)], [false, true]);
        knock.ended(Answer::Some);
        assert!(!doubt.is_silent(late));
        drop(doubt.knock(&clock, CONNECT));
        assert!(!doubt.is_silent(late));
    }

    #[test]
    fn there_is_one_trial_at_a_time() {
        let doubt = Doubt::default();
        assert_eq!([doubt.begin_trial(), doubt.begin_trial(), doubt.is_tried()], [true, false, true]);
        doubt.end_trial();
        assert!(!doubt.is_tried() && doubt.begin_trial());
    }

    #[test]
    fn some_leave_a_trial_to_others_but_not_for_ever() {
        let doubt = Doubt::default();
        for _ in 0..3 {
            assert!((0..LEFT_TO_OTHERS).all(|_| doubt.leave_trial()));
            assert!(!doubt.leave_trial() && doubt.begin_trial());
            doubt.end_trial();
        }
    }

    proptest! {
        /// Begin, be answered or give up, in whatever order.
        #[test]
        fn doubt_needs_a_connect_that_has_waited_long_and_unanswered(steps in prop::collection::vec((0..3, 0..600u32), 1..60)) {
            let (mut knocks, mut waiting, mut now) = (Knocks::default(), Vec::new(), 0);
            for (step, pause) in steps {
                now += pause;
                match step {
                    0 => {
                        knocks.begin(at(now), CONNECT);
                        waiting.push(now);
                    }
                    // Those begun before an answer count no longer.
                    _ if waiting.is_empty() => {}
                    1 => {
                        waiting.pop();
                        knocks.end(Answer::Some, at(now));
                    }
                    _ => {
                        waiting.remove(0);
                        knocks.end(Answer::None, at(now));
                    }
                }
                prop_assert_eq!(knocks.waiting as usize, waiting.len());
                if let Some(doubted) = knocks.doubted_at {
                    prop_assert!(!waiting.is_empty());
                    prop_assert!(doubted <= at(now) + CONNECT / DOUBTED_PART);
                }
            }
            waiting.iter().for_each(|_| knocks.end(Answer::None, at(now)));
            prop_assert_eq!((knocks.waiting, knocks.doubted_at), (0, None));
        }
    }
}
