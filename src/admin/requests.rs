//! Requests that ended lately: one with its why, or a list of the last ones.

use http::StatusCode;
use serde_json::json;

use super::Answer;
use crate::exchange::recent::Wanted;
use crate::exchange::snapshot::Snapshot;
use crate::exchange::why;

/// How many requests a list holds where nobody says, and at most.
const USUAL: usize = 20;
const MOST: usize = 500;

/// The request of an id.
pub(super) fn one(snapshot: &Snapshot, id: &str) -> Answer {
    let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
    match snapshot.recent.find(&id) {
        Some(past) => Answer::json(StatusCode::OK, &why::explain(&past, snapshot)),
        None => Answer::problem(
            StatusCode::NOT_FOUND,
            "no request of that id is remembered (it is still under way, or newer ones have taken its place)",
        ),
    }
}

/// The last requests that a query asks for, newest first.
pub(super) fn last(snapshot: &Snapshot, query: &str) -> Answer {
    match Asked::parse(query) {
        Ok(asked) => {
            let found = snapshot.recent.last(&asked.wanted, asked.limit);
            let requests: Vec<_> = found.iter().map(|past| why::summary(past, snapshot)).collect();
            Answer::json(StatusCode::OK, &json!({ "requests": requests }))
        }
        Err(fault) => Answer::problem(StatusCode::BAD_REQUEST, fault),
    }
}

/// What a query asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    wanted: Wanted,
    limit: usize,
}

impl Asked {
    fn parse(query: &str) -> Result<Self, &'static str> {
        let mut asked = Self { wanted: Wanted::All, limit: USUAL };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("last", wanted)) => {
                    asked.wanted = Wanted::parse(wanted)
                        .ok_or("`last` is none of all, failed, a class (5xx), a status (503), a reason")?;
                }
                Some(("limit", limit)) => {
                    asked.limit = limit
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MOST).contains(limit))
                        .ok_or("`limit` is no number from 1 to 500")?;
                }
                _ => return Err("unknown parameter (requests know `last` and `limit`)"),
            }
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_which_requests_and_how_many() {
        let asked = |wanted, limit| Ok(Asked { wanted, limit });
        assert_eq!(Asked::parse(""), asked(Wanted::All, USUAL));
        assert_eq!(Asked::parse("last=5xx&limit=3"), asked(Wanted::Class(5), 3));
        for wrong in ["last=6xx", "limit=0", "limit=501", "limit=x", "since=1", "last"] {
            assert!(Asked::parse(wrong).is_err(), "{wrong}");
        }
    }
}
