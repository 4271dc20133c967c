//! How long a request waits for its client, over HTTP/1.1 and HTTP/2 alike: the idle deadlines of a read and a write under way, and
//! those that the exchange sets in its [`Watch`].

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::base::clock::{Clock, Moment};
use crate::config::plan;
use crate::exchange::watch::Watch;
use crate::telemetry::reason::Reason;

/// What waits are judged by.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// The exchange's deadlines, and what it is told.
    pub(super) watch: &'a Watch,
    /// What tells the time.
    pub(super) clock: &'a Clock,
    /// The listener's.
    pub(super) timeouts: &'a plan::ListenerTimeouts,
}

/// A read and a write that wait for the client.
#[derive(Debug, Default)]
pub(super) struct Waits {
    reading_since: Option<Moment>,
    writing_since: Option<Moment>,
    /// What the clock said when the timer fired last.
    seen: Moment,
}

impl Waits {
    /// A read waits.
    pub(super) fn reads(&mut self, clock: &Clock) {
        self.reading_since.get_or_insert_with(|| clock.now());
    }

    /// No read waits any longer.
    pub(super) fn has_read(&mut self) {
        self.reading_since = None;
    }

    /// A write waits: meanwhile the backend is not to blame for what does not come.
    pub(super) fn writes(&mut self, rules: Rules<'_>) {
        self.writing_since.get_or_insert_with(|| rules.clock.now());
        rules.watch.answer_held_up();
    }

    /// Whether a write waits.
    pub(super) const fn is_writing(&self) -> bool {
        self.writing_since.is_some()
    }

    /// No write waits any longer, though nothing was sent.
    pub(super) fn has_flushed(&mut self) {
        self.writing_since = None;
    }

    /// Something of the answer has gone out.
    pub(super) fn has_written(&mut self, rules: Rules<'_>) {
        if self.writing_since.take().is_some() {
            // The client takes the answer again: from now on the backend has to go on.
            rules.watch.answer_moved(rules.clock.now());
        }
        rules.watch.went_out();
        // A request, or its tunnel, is idle only while nothing moves in either direction.
        self.reading_since = None;
    }

    /// Pending until the soonest of the exchange's deadlines, those of a read and a write under way, and `own` has passed; then
    /// the reason, which the watch was told. An own deadline without a reason ends nothing. `timer` is pending until a time, or
    /// not as long.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        rules: Rules<'_>,
        own: Option<(Moment, Option<Reason>)>,
        mut timer: impl FnMut(&mut Context<'_>, Instant) -> Poll<()>,
    ) -> Poll<Option<Reason>> {
        let Rules { watch, clock, timeouts } = rules;
        let read_idle = if watch.is_tunnel() { timeouts.tunnel_idle } else { timeouts.body_idle };
        loop {
            let theirs = watch.next().map(|(at, deadline)| (at, Some(deadline.reason())));
            let idle = |since: Option<Moment>, most| since.map(|since| (since + most, Some(Reason::ClientTimeout)));
            let (read, write) = (idle(self.reading_since, read_idle), idle(self.writing_since, timeouts.write_idle));
            let Some((at, reason)) = [own, theirs, read, write].into_iter().flatten().min_by_key(|(at, _)| *at) else {
                return Poll::Pending;
            };
            // A deadline that has passed stays passed, however often it is asked for: the timer fires once.
            if self.seen < at {
                ready!(timer(cx, Instant::from_std(clock.instant(at))));
                self.seen = clock.now();
            }
            if self.seen >= at {
                if let Some(reason) = reason {
                    watch.end(reason);
                }
                return Poll::Ready(reason);
            }
        }
    }
}
