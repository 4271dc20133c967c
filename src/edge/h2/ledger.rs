//! What a client may ask of a connection besides its requests.
//!
//! Frames that carry no request and no body cost us work and the client next to nothing: PING, SETTINGS, PRIORITY,
//! WINDOW_UPDATE, empty DATA, CONTINUATION, frames of unknown kinds, and resets of streams (CVE-2019-9511 to 9518,
//! CVE-2023-44487, CVE-2025-8671, VU#421644). An honest client sends them along with its requests. So they are paid for: each
//! takes a token, requests and answers bring some in, a trickle comes with time, and who is overdrawn is told to be calm. Pure.

use super::frames::{Frame, kind};
use crate::base::clock::Moment;

/// Frames of control at once, and a second.
const CONTROL: (u64, u64) = (2_000, 200);
/// What each request, and each frame of an answer, brings in: a client grants window for the stream and the connection after
/// each frame at most, and may measure the way with a PING.
const CONTROL_PER_WORK: u64 = 4;
/// Streams that end early at once, and a second. Each whole answer allows for another.
const RESETS: (u64, u64) = (500, 100);

/// What a client has overdone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abuse {
    /// Frames that carry neither request nor body.
    Control,
    /// Streams that were begun and not finished, whoever reset them.
    Resets,
}

/// The account of one connection.
#[derive(Debug)]
pub(super) struct Ledger {
    control: Tokens,
    resets: Tokens,
}

impl Ledger {
    /// A new account, with all that may be used at once.
    pub(super) const fn new(now: Moment) -> Self {
        Self { control: Tokens::full(CONTROL, now), resets: Tokens::full(RESETS, now) }
    }

    /// The client has sent a frame; what it has overdone with it.
    pub(super) fn received(&mut self, frame: Frame, now: Moment) -> Option<Abuse> {
        match frame.kind {
            kind::HEADERS => self.control.bring(CONTROL_PER_WORK),
            kind::DATA if frame.length > 0 || frame.ends_stream() => {}
            kind::RST_STREAM => return (!self.resets.take(now)).then_some(Abuse::Resets),
            _ if frame.acknowledges() => {}
            _ => return (!self.control.take(now)).then_some(Abuse::Control),
        }
        None
    }

    /// We have sent a frame; what the client has made us do too often.
    pub(super) fn sent(&mut self, frame: Frame, now: Moment) -> Option<Abuse> {
        if frame.kind == kind::RST_STREAM {
            return (!self.resets.take(now)).then_some(Abuse::Resets);
        }
        if matches!(frame.kind, kind::HEADERS | kind::DATA) {
            self.control.bring(CONTROL_PER_WORK);
        }
        if frame.ends_stream() {
            self.resets.bring(1);
        }
        None
    }
}

/// Tokens that come with time, up to a bound.
#[derive(Debug)]
struct Tokens {
    have: u64,
    most: u64,
    per_second: u64,
    /// Up to when time has brought its tokens in.
    at: Moment,
}

impl Tokens {
    const fn full((most, per_second): (u64, u64), now: Moment) -> Self {
        Self { have: most, most, per_second, at: now }
    }

    fn bring(&mut self, tokens: u64) {
        self.have = (self.have + tokens).min(self.most);
    }

    /// Takes one; whether there was one. Time is asked only where there is none.
    fn take(&mut self, now: Moment) -> bool {
        if self.have == 0 {
            let waited = now.since(self.at);
            let come = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX).saturating_mul(self.per_second) / 1_000;
            if come == 0 {
                return false;
            }
            self.at = now;
            self.bring(come.min(self.most));
        }
        self.have -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::frames::Scanner;
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Frame {
        let mut found = None;
        Scanner::after(0).feed(&[0, 0, length, kind, flags, 0, 0, 0, 1], |frame| found = Some(frame));
        found.unwrap()
    }

    const PING: u8 = kind::PING;
    const WINDOW_UPDATE: u8 = 0x8;

    fn received(ledger: &mut Ledger, frame: Frame, times: u64, now: Moment) -> Option<u64> {
        (0..times).find(|_| ledger.received(frame, now).is_some())
    }

    #[test]
    fn every_flood_of_control_is_bounded() {
        for kind in [0x2, kind::SETTINGS, PING, WINDOW_UPDATE, kind::CONTINUATION, kind::DATA, 0x10, 0xfa] {
            let mut ledger = Ledger::new(Moment::START);
            assert_eq!(received(&mut ledger, frame(kind, 0, 0), 5_000, Moment::START), Some(CONTROL.0), "{kind}");
        }
    }

    #[test]
    fn acknowledgements_and_bodies_are_free() {
        let mut ledger = Ledger::new(Moment::START);
        for free in [frame(PING, 1, 8), frame(kind::SETTINGS, 1, 0), frame(kind::DATA, 0, 1), frame(kind::DATA, 1, 0)] {
            assert_eq!(received(&mut ledger, free, 10_000, Moment::START), None);
        }
    }

    #[test]
    fn a_client_may_grant_window_and_measure_the_way_for_every_frame_it_gets() {
        let mut ledger = Ledger::new(Moment::START);
        for _ in 0..100_000 {
            assert_eq!(ledger.sent(frame(kind::DATA, 0, 100), Moment::START), None);
            for control in [frame(WINDOW_UPDATE, 0, 4), frame(WINDOW_UPDATE, 0, 4), frame(PING, 0, 8)] {
                assert_eq!(ledger.received(control, Moment::START), None);
            }
        }
    }

    #[test]
    fn as_many_streams_may_be_cancelled_as_are_answered() {
        let mut ledger = Ledger::new(Moment::START);
        for _ in 0..100_000 {
            assert_eq!(ledger.received(frame(kind::HEADERS, 5, 9), Moment::START), None);
            assert_eq!(ledger.sent(frame(kind::DATA, 1, 0), Moment::START), None);
            assert_eq!(ledger.received(frame(kind::RST_STREAM, 0, 4), Moment::START), None);
        }
    }

    #[test]
    fn resets_are_bounded_whoever_sends_them() {
        let reset = frame(kind::RST_STREAM, 0, 4);
        let mut rapid = Ledger::new(Moment::START);
        assert_eq!(received(&mut rapid, reset, 5_000, Moment::START), Some(RESETS.0));
        let mut made = Ledger::new(Moment::START);
        assert_eq!((0..5_000).find(|_| made.sent(reset, Moment::START).is_some()), Some(RESETS.0));
    }

    #[test]
    fn time_brings_tokens_back() {
        let mut ledger = Ledger::new(Moment::START);
        let ping = frame(PING, 0, 8);
        assert_eq!(received(&mut ledger, ping, 5_000, Moment::START), Some(CONTROL.0));
        let later = Moment::START + Duration::from_secs(2);
        assert_eq!(received(&mut ledger, ping, 5_000, later), Some(2 * CONTROL.1));
    }

    proptest! {
        #[test]
        fn over_any_time_no_more_pass_than_the_burst_and_the_rate(gaps in prop::collection::vec(0u64..50_000_000, 1..4_000)) {
            let mut ledger = Ledger::new(Moment::START);
            let (mut nanos, mut passed) = (0u64, 0u64);
            for gap in gaps {
                nanos += gap;
                passed += u64::from(ledger.received(frame(kind::RST_STREAM, 0, 4), Moment::from_nanos(nanos)).is_none());
            }
            prop_assert!(passed <= RESETS.0 + nanos * RESETS.1 / 1_000_000_000 + 1);
        }
    }
}
