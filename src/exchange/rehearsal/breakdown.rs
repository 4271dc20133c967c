//! In what way a backend breaks down, and what that does to probes and requests at a moment.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::units::{Misread, format_duration, format_share, parse_duration, parse_share};
use crate::upstream::health::ProbeAnswer;

/// How long a healthy backend takes to answer a request or a probe.
pub const ANSWER: Duration = Duration::from_millis(20);
/// A flapping backend is down and up in turn, and this many times down.
const FLAPS: u32 = 3;
/// The shortest and the longest time that a flapping backend may be down or up.
const FLAP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// In what way a backend breaks down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Breakdown {
    /// Its process ends: connections break, and new ones are refused.
    Crash,
    /// Its machine or network is gone: nothing comes back, and connects time out.
    Unreachable,
    /// Its process hangs: connects succeed, and no answer comes.
    Hang,
    /// It answers this share (0.0 to 1.0) of requests, and of probes that ask the application, with 503.
    Errors(f64),
    /// It crashes and comes back in turn, each for this long, and is down three times.
    Flapping(Duration),
}

impl Breakdown {
    /// One of each kind.
    pub const EACH: [Self; 5] =
        [Self::Crash, Self::Unreachable, Self::Hang, Self::Errors(0.2), Self::Flapping(Duration::from_secs(30))];

    /// What happens, in words.
    #[must_use]
    pub fn story(self) -> String {
        match self {
            Self::Crash => "its process ends: connections are refused".to_owned(),
            Self::Unreachable => "its machine or network is gone: connects time out".to_owned(),
            Self::Hang => "its process hangs: connects succeed, no answer comes".to_owned(),
            Self::Errors(share) => format!("it answers {} of requests with 503", format_share(share)),
            Self::Flapping(span) => {
                format!("it crashes and comes back, {} each, {FLAPS} times", format_duration(span))
            }
        }
    }
}

impl fmt::Display for Breakdown {
    /// As it is written on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash => f.write_str("crash"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Hang => f.write_str("hang"),
            Self::Errors(share) => write!(f, "errors={}", format_share(*share)),
            Self::Flapping(span) => write!(f, "flapping={}", format_duration(*span)),
        }
    }
}

impl FromStr for Breakdown {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        match text.split_once('=') {
            None if text == "crash" => Ok(Self::Crash),
            None if text == "unreachable" => Ok(Self::Unreachable),
            None if text == "hang" => Ok(Self::Hang),
            Some(("errors", share)) => Ok(Self::Errors(parse_share(share)?)),
            Some(("flapping", span)) => match parse_duration(span)? {
                span if span < FLAP.0 || span > FLAP.1 => {
                    Err(Misread::new(format!("`{span:?}` is out of bounds"), "write between `100ms` and `1h`"))
                }
                span => Ok(Self::Flapping(span)),
            },
            _ => Err(Misread::new(
                format!("`{text}` is no failure"),
                "write `crash`, `unreachable`, `hang`, `errors=20%` or `flapping=30s`",
            )),
        }
    }
}

/// What is wrong with a backend at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Illness {
    Refuses,
    Unreachable,
    Hangs,
    Errs(f64),
}

impl Illness {
    /// How it answers a probe. `chance` is uniform in 0.0..1.0.
    pub(super) fn answer_probe(ill: Option<Self>, asks_application: bool, chance: f64) -> ProbeAnswer {
        match ill {
            Some(Self::Refuses) => (Duration::ZERO, Err("connection refused")),
            Some(Self::Unreachable) => (Duration::MAX, Err("no answer in time")),
            Some(Self::Hangs) if asks_application => (Duration::MAX, Err("no answer in time")),
            Some(Self::Errs(share)) if asks_application && chance < share => (ANSWER, Err("status 503")),
            _ => (ANSWER, Ok(())),
        }
    }
}

/// A breakdown with its beginning and its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    pub(super) breakdown: Breakdown,
    pub(super) from: Moment,
    pub(super) until: Moment,
}

impl Outage {
    /// How long it lasts, where other breakdowns last for `usual`.
    pub(super) fn length(breakdown: Breakdown, usual: Duration) -> Duration {
        match breakdown {
            Breakdown::Flapping(span) => span * (2 * FLAPS - 1),
            _ => usual,
        }
    }

    /// What is wrong with the backend at `moment`.
    pub(super) fn illness(&self, moment: Moment) -> Option<Illness> {
        if moment < self.from || moment >= self.until {
            return None;
        }
        match self.breakdown {
            Breakdown::Crash => Some(Illness::Refuses),
            Breakdown::Unreachable => Some(Illness::Unreachable),
            Breakdown::Hang => Some(Illness::Hangs),
            Breakdown::Errors(share) => Some(Illness::Errs(share)),
            Breakdown::Flapping(span) => {
                let turns = moment.since(self.from).as_nanos() / span.as_nanos().max(1);
                turns.is_multiple_of(2).then_some(Illness::Refuses)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breakdown_reads_as_it_is_written() {
        for breakdown in Breakdown::EACH {
            assert_eq!(breakdown.to_string().parse::<Breakdown>().unwrap(), breakdown);
        }
        for wrong in ["", "fire", "crash=1", "errors", "errors=20", "errors=200%", "flapping=0s", "flapping=2h"] {
            assert!(wrong.parse::<Breakdown>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_flapping_backend_is_down_three_times_and_ends_up() {
        let span = Duration::from_secs(10);
        let breakdown = Breakdown::Flapping(span);
        let from = Moment::after_start(Duration::from_secs(5));
        let outage = Outage { breakdown, from, until: from + Outage::length(breakdown, Duration::ZERO) };
        let down: Vec<_> = (0..70)
            .filter(|second| outage.illness(Moment::after_start(Duration::from_secs(*second))).is_some())
            .collect();
        assert_eq!(down, (5..15).chain(25..35).chain(45..55).collect::<Vec<_>>());
    }

    #[test]
    fn a_probe_that_only_connects_does_not_see_a_hang() {
        assert!(Illness::answer_probe(Some(Illness::Hangs), false, 0.0).1.is_ok());
        assert!(Illness::answer_probe(Some(Illness::Hangs), true, 0.0).1.is_err());
    }
}
