//! Why a request was won by one route and by no other, in words.
//!
//! It judges each rule by the very functions that `find` is made of, and takes the winner from `find` itself.

use std::fmt::Write as _;
use std::sync::Arc;

use super::predicate::Miss;
use super::{NormalPath, RouteTable, Rule, host, path, predicate};
use crate::base::host::{LONGEST, normalise};
use crate::base::request::RequestView;
use crate::config::plan::{HostPattern, PathPattern, RouteMatch};

/// Every rule in order of precedence, with what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The rules: each host of a route with each of its matches.
    pub considered: Vec<Considered>,
}

/// One rule and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// The route's name.
    pub route: Arc<str>,
    /// The route's place in the plan.
    pub index: usize,
    /// The rule in words: `api.example.com /v1/* GET`.
    pub rule: String,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It won.
    Won,
    /// It matches too, but a rule before it won.
    Outranked(String),
    /// It does not match; `part` counts the parts that did (host, path, method, headers, query).
    Lost {
        /// How many parts matched before the one that did not.
        part: u8,
        /// The first part that did not match, in words.
        why: String,
    },
}

impl Verdict {
    /// The reason a rule lost, in words; none for the winner.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Won => None,
            Self::Outranked(why) | Self::Lost { why, .. } => Some(why),
        }
    }

    /// How near the rule came to winning.
    fn nearness(&self) -> u8 {
        match self {
            Self::Won => u8::MAX,
            Self::Outranked(_) => u8::MAX - 1,
            Self::Lost { part, .. } => *part,
        }
    }
}

/// How many parts of a rule matched where its header fields did not.
const HEADERS: u8 = 3;

impl Explanation {
    /// The rule that won, if any did.
    #[must_use]
    pub fn winner(&self) -> Option<&Considered> {
        self.considered.iter().find(|rule| rule.verdict == Verdict::Won)
    }

    /// One line for each route that did not win: its rule that came nearest, in order of precedence.
    #[must_use]
    pub fn rejected(&self) -> Vec<&Considered> {
        let routes = self.considered.iter().map(|rule| rule.index + 1).max().unwrap_or(0);
        let mut nearest: Vec<Option<usize>> = vec![None; routes];
        for (rank, rule) in self.considered.iter().enumerate() {
            let kept = &mut nearest[rule.index];
            if kept.is_none_or(|kept| self.considered[kept].verdict.nearness() < rule.verdict.nearness()) {
                *kept = Some(rank);
            }
        }
        nearest.sort_unstable();
        let rules = nearest.into_iter().flatten().map(|rank| &self.considered[rank]);
        rules.filter(|rule| rule.verdict != Verdict::Won).collect()
    }
}

pub(super) fn explain(table: &RouteTable, request: &RequestView<'_>, path: &NormalPath<'_>) -> Explanation {
    let mut buffer = [0; LONGEST];
    let host = normalise(request.host, &mut buffer);
    let winner = table.winner(request, path);
    let judge = |(rank, rule): (usize, &Rule)| Considered {
        route: table.routes[rule.index].name.clone(),
        index: rule.index,
        rule: describe(rule.host.as_ref(), &rule.matched),
        verdict: match (lost(rule, request, host, path), winner) {
            (Some((part, why)), _) => Verdict::Lost { part, why },
            (None, Some(won)) if won != rank => Verdict::Outranked(outranked(table, &table.rules[won])),
            (None, _) => Verdict::Won,
        },
    };
    Explanation { considered: table.rules.iter().enumerate().map(judge).collect() }
}

/// As [`explain`], where all is known but the header fields: a rule that wants fields may have matched, and what it was is
/// known from who won.
pub(super) fn recall(
    table: &RouteTable,
    request: &RequestView<'_>,
    path: &NormalPath<'_>,
    won: Option<&str>,
) -> Explanation {
    let mut buffer = [0; LONGEST];
    let host = normalise(request.host, &mut buffer);
    let lost = |rule: &Rule| lost(rule, request, host, path).filter(|(part, _)| *part != HEADERS);
    let of_winner = |rule: &Rule| won.is_some_and(|won| *table.routes[rule.index].name == *won);
    let winner = table.rules.iter().position(|rule| of_winner(rule) && lost(rule).is_none());
    let judge = |(rank, rule): (usize, &Rule)| Considered {
        route: table.routes[rule.index].name.clone(),
        index: rule.index,
        rule: describe(rule.host.as_ref(), &rule.matched),
        verdict: match (lost(rule), winner) {
            (Some((part, why)), _) => Verdict::Lost { part, why },
            (None, Some(won)) if won == rank => Verdict::Won,
            (None, Some(won)) if won < rank => Verdict::Outranked(outranked(table, &table.rules[won])),
            (None, _) => {
                Verdict::Lost { part: HEADERS, why: "the request's header fields are not those it wants".into() }
            }
        },
    };
    Explanation { considered: table.rules.iter().enumerate().map(judge).collect() }
}

fn outranked(table: &RouteTable, winner: &Rule) -> String {
    let name = &table.routes[winner.index].name;
    format!("it matches, but `{name}` comes first ({})", describe(winner.host.as_ref(), &winner.matched))
}

/// How many parts matched, and the first that did not in words; none where all match.
fn lost(rule: &Rule, request: &RequestView<'_>, host: Option<&str>, path: &NormalPath<'_>) -> Option<(u8, String)> {
    if let Some(pattern) = rule.host.as_ref().filter(|pattern| !host::serves(pattern, host)) {
        return Some((0, format!("host is `{}`, not `{}`", host.unwrap_or_default(), host_text(Some(pattern)))));
    }
    if !path::matches(&rule.matched.path, path) {
        return Some((1, format!("path is `{}`, not {}", path.as_str(), path_sentence(&rule.matched.path))));
    }
    match predicate::miss(&rule.matched, request)? {
        Miss::Method => Some((2, format!("method is {}, not {}", request.method, methods_text(&rule.matched)))),
        Miss::Header(name, wanted) => Some((HEADERS, header_sentence(request, name.as_str(), wanted))),
        Miss::Query(name, wanted) => Some((4, format!("query parameter `{name}` is not `{wanted}`"))),
    }
}

fn header_sentence(request: &RequestView<'_>, name: &str, wanted: &str) -> String {
    match request.fields.get(name) {
        Some(value) => format!("header `{name}` is `{}`, not `{wanted}`", String::from_utf8_lossy(value)),
        None => format!("header `{name}` is missing (wanted `{wanted}`)"),
    }
}

fn path_sentence(pattern: &PathPattern) -> String {
    match pattern {
        PathPattern::Exact(path) => format!("`{path}`"),
        PathPattern::Prefix(prefix) => format!("`{prefix}` or below"),
        PathPattern::Regex(regex) => format!("matched by `{regex}`"),
    }
}

/// A rule in words: host, path, methods, header fields, query parameters.
fn describe(host: Option<&HostPattern>, matched: &RouteMatch) -> String {
    let mut text = format!("{} {}", host_text(host), path_text(&matched.path));
    if !matched.methods.is_empty() {
        let _ = write!(text, " {}", methods_text(matched));
    }
    for (name, value) in &matched.headers {
        let _ = write!(text, " {name}: {value}");
    }
    for (name, value) in &matched.query {
        let _ = write!(text, " ?{name}={value}");
    }
    text
}

fn host_text(host: Option<&HostPattern>) -> String {
    match host {
        Some(HostPattern::Exact(host)) => host.to_string(),
        Some(HostPattern::Wildcard(suffix)) => format!("*{suffix}"),
        None => "*".to_owned(),
    }
}

fn path_text(pattern: &PathPattern) -> String {
    match pattern {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(prefix) => format!("{prefix}/*"),
        PathPattern::Regex(regex) => format!("~{regex}"),
    }
}

fn methods_text(matched: &RouteMatch) -> String {
    matched.methods.iter().map(http::Method::as_str).collect::<Vec<_>>().join("|")
}
