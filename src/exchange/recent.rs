//! The requests that ended lately, each with what could not be found out afterwards: the memory of `roundel why`.
//!
//! Three rings, so that a flood of good requests, or of refused ones, leaves the failures where they are. Writing one copies
//! some short texts into a slot that is there already; what can be worked out later (`why`) is not recorded.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::inline::Inline;
use crate::base::request::Scheme;
use crate::base::ring::Ring;
use crate::base::shard::Shards;
use crate::exchange::trail::Trail;
use crate::telemetry::reason::Reason;
use crate::upstream::roll::Roll;

/// How many requests of each kind are kept.
const PLAIN: usize = 1024;
const REFUSED: usize = 512;
const FAILED: usize = 1024;

/// The most of a path (with its query) that is kept.
pub const LONGEST_PATH: usize = 256;

/// The requests that ended lately.
#[derive(Debug)]
pub struct Recent {
    plain: Ring<Past>,
    refused: Ring<Past>,
    failed: Ring<Past>,
}

/// One request that has ended.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Its id.
    pub id: Inline<128>,
    /// Its method; empty where none could be made out.
    pub method: Inline<24>,
    /// The authority that it asked for.
    pub host: Inline<96>,
    /// Path and query as they came.
    pub path: Inline<LONGEST_PATH>,
    /// The version of HTTP.
    pub version: Option<http::Version>,
    /// How the client reached us.
    pub scheme: Option<Scheme>,
    /// The client's address after trusted proxies.
    pub client: Option<IpAddr>,
    /// The generation of the configuration that it was served by.
    pub generation: u64,
    /// The listener's name.
    pub listener: Option<Arc<str>>,
    /// The route that won it.
    pub route: Option<Arc<str>>,
    /// The upstream that it was sent to, or meant for.
    pub upstream: Option<Arc<str>>,
    /// When its head was complete.
    pub received: Moment,
    /// How long it took, to the last byte of its answer.
    pub duration: Duration,
    /// The status that was sent, or that stands for the end.
    pub status: u16,
    /// Whether that status was sent.
    pub answered: bool,
    /// Why the proxy answered by itself, or why there was no whole answer.
    pub reason: Option<Reason>,
    /// Why it would have been refused, were a filter not on trial.
    pub on_trial: Option<Reason>,
    /// What was wrong with a head that never became a request.
    pub detail: Option<&'static str>,
    /// Bytes of body that the client sent.
    pub bytes_in: u64,
    /// Bytes of body written to the client.
    pub bytes_out: u64,
    /// The id of its trace, where it has one.
    pub trace: Option<u128>,
    /// The tries at backends.
    pub trail: Trail,
    /// Who could not be chosen, where the request ended for want of a backend.
    pub roll: Option<Arc<Roll>>,
}

/// What is looked for among the requests that ended lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    All,
    /// Those that failed: a 5xx, or an answer that broke off.
    Failed,
    /// Those with a status of this hundred.
    Class(u16),
    /// Those with this status.
    Status(u16),
    /// Those with a reason of this word.
    Reason(String),
}

impl Wanted {
    /// Reads `all`, `failed`, `5xx`, `503` or the word of a reason.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "all" => return Some(Self::All),
            "failed" => return Some(Self::Failed),
            _ => {}
        }
        if let Some(class) = text.strip_suffix("xx") {
            return class.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class);
        }
        if let Ok(status) = text.parse() {
            return (100..=599).contains(&status).then_some(Self::Status(status));
        }
        Reason::all().any(|reason| reason.as_str() == text).then(|| Self::Reason(text.to_owned()))
    }

    fn is(&self, past: &Past) -> bool {
        match self {
            Self::All => true,
            Self::Failed => past.has_failed(),
            Self::Class(class) => past.status / 100 == *class,
            Self::Status(status) => past.status == *status,
            Self::Reason(word) => past.reason.is_some_and(|reason| reason.as_str() == word),
        }
    }
}

impl Past {
    /// Whether somebody will ask why: it ended in a 5xx, or its answer broke off.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.status >= 500 || self.reason.is_some_and(|reason| reason.status() >= 500)
    }

    /// When it ended.
    #[must_use]
    pub fn ended(&self) -> Moment {
        self.received + self.duration
    }
}

impl Recent {
    /// An empty memory for a process in which so many threads serve.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shards = Shards::for_threads(threads);
        let ring = |capacity| Ring::new(shards, capacity);
        Self { plain: ring(PLAIN), refused: ring(REFUSED), failed: ring(FAILED) }
    }

    /// Keeps a request of this status and reason; `write` fills every field of a slot that an older one has left.
    pub fn keep(&self, status: u16, reason: Option<Reason>, write: impl FnOnce(&mut Past)) {
        let ring = match reason.map(Reason::status) {
            _ if status >= 500 => &self.failed,
            Some(500..) => &self.failed,
            Some(_) => &self.refused,
            None => &self.plain,
        };
        ring.put(write);
    }

    /// The request of this id; of several the last one. Ids that trusted proxies send may repeat.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Past> {
        let mut found: Option<Past> = None;
        self.each(|past| {
            if past.id.as_bytes() == id.as_bytes() && found.as_ref().is_none_or(|last| last.ended() <= past.ended()) {
                found = Some(past.clone());
            }
        });
        found
    }

    /// The last requests that are `wanted`, newest first.
    #[must_use]
    pub fn last(&self, wanted: &Wanted, count: usize) -> Vec<Past> {
        let mut moments = Vec::new();
        self.each(|past| {
            if wanted.is(past) {
                moments.push(past.ended());
            }
        });
        moments.sort_unstable();
        let Some(since) = moments.len().checked_sub(count.max(1)).map(|at| moments[at]).or(moments.first().copied())
        else {
            return Vec::new();
        };
        let mut found = Vec::new();
        self.each(|past| {
            if wanted.is(past) && past.ended() >= since {
                found.push(past.clone());
            }
        });
        found.sort_by_key(|past| std::cmp::Reverse(past.ended()));
        found.truncate(count);
        found
    }

    fn each(&self, mut look: impl FnMut(&Past)) {
        for ring in [&self.failed, &self.refused, &self.plain] {
            ring.each(&mut look);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(recent: &Recent, id: &str, ended: u64, status: u16, reason: Option<Reason>) {
        recent.keep(status, reason, |past| {
            past.id.set(id.as_bytes());
            past.received = Moment::from_nanos(ended);
            past.status = status;
            past.reason = reason;
        });
    }

    #[test]
    fn a_flood_of_good_and_of_refused_requests_leaves_the_failures() {
        let recent = Recent::new(1);
        keep(&recent, "broken", 1, 502, Some(Reason::ConnectionRefused));
        keep(&recent, "half", 2, 200, Some(Reason::HttpResponseIncomplete));
        for number in 0..3000 {
            keep(&recent, "good", 10 + number, 200, None);
            keep(&recent, "refused", 10 + number, 404, Some(Reason::NoRoute));
        }
        assert_eq!(recent.find("broken").map(|past| past.status), Some(502));
        assert!(recent.find("half").is_some_and(|past| past.has_failed()));
        assert!(recent.find("unknown").is_none());
    }

    #[test]
    fn the_last_ones_come_newest_first() {
        let recent = Recent::new(4);
        for number in 0..10 {
            keep(&recent, &number.to_string(), number, if number % 2 == 0 { 200 } else { 503 }, None);
        }
        let ids = |wanted: &str, count| {
            let found = recent.last(&Wanted::parse(wanted).unwrap(), count);
            found.iter().map(|past| past.id.text().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ids("all", 3), ["9", "8", "7"]);
        assert_eq!(ids("5xx", 2), ["9", "7"]);
        assert_eq!(ids("503", 100).len(), 5);
        assert_eq!(ids("client_gone", 100).len(), 0);
    }

    #[test]
    fn what_cannot_be_wanted_is_refused() {
        for text in ["", "9xx", "0", "99", "600", "unheard_of"] {
            assert_eq!(Wanted::parse(text), None, "{text}");
        }
    }
}
