//! Which route wins a request: built once from the plan, read by every request without a lock or an allocation.
//!
//! The order of precedence is that of the Kubernetes Gateway API: host (exact, longest wildcard, none), path (exact, longest
//! prefix, regular expression), method, number of header fields, number of query parameters, and at last the route's name.
//! The order of the file never counts. The best rule *among those that match* wins: where the routes of the most
//! specific host do not match the rest of a request, those of less specific hosts are tried.
//!
//! It does no input or output and reads no clock, so that the data path, `explain` and tests run the same functions.

mod explain;
mod hash;
mod host;
mod path;
mod predicate;
pub mod split;

use std::cmp::Reverse;
use std::sync::Arc;

pub use explain::{Considered, Explanation, Verdict};

use self::hash::PlainMap;
use self::path::PathTable;
use crate::base::host::{LONGEST, normalise};
use crate::base::path::NormalPath;
use crate::base::request::RequestView;
use crate::config::plan::{HostPattern, PathPattern, Route, RouteMatch};

/// All routes, ready to be searched.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    /// Every combination of a route's hosts and matches, in order of precedence: a rule's place is its rank.
    rules: Vec<Rule>,
    exact: PlainMap<Arc<str>, PathTable>,
    wildcard: PlainMap<Arc<str>, PathTable>,
    any: PathTable,
}

/// One host of a route with one of its matches.
#[derive(Debug)]
struct Rule {
    /// The route's place in the plan.
    index: usize,
    host: Option<HostPattern>,
    matched: RouteMatch,
}

/// The route that a request has won.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// Its place in the plan's routes: the key of what lives as long as the route does.
    pub index: usize,
    /// The match by which it won, its patterns in the form in which they are compared.
    pub matched: &'a RouteMatch,
}

/// One row of the table as the proxy orders it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The host; none: any.
    pub host: Option<&'a HostPattern>,
    /// The match.
    pub matched: &'a RouteMatch,
    /// The route.
    pub route: &'a Arc<Route>,
    /// The route's place in the plan.
    pub index: usize,
}

impl RouteTable {
    /// The table of `routes`, whose order does not matter.
    #[must_use]
    pub fn build(routes: &[Arc<Route>]) -> Self {
        let mut rules: Vec<Rule> =
            routes.iter().enumerate().flat_map(|(index, route)| rules_of(index, route)).collect();
        // The sort is stable: matches of one route that are alike stay in the order of the route.
        rules.sort_by(|a, b| precedence(a, &routes[a.index]).cmp(&precedence(b, &routes[b.index])));
        let mut table = Self {
            routes: routes.to_vec(),
            rules: Vec::new(),
            exact: PlainMap::default(),
            wildcard: PlainMap::default(),
            any: PathTable::default(),
        };
        for (rank, rule) in rules.iter().enumerate() {
            let rank = u32::try_from(rank).expect("a configuration has fewer than four billion rules");
            table.paths_of(rule.host.as_ref()).insert(&rule.matched.path, rank);
        }
        table.all_paths().for_each(PathTable::link);
        table.rules = rules;
        table
    }

    /// The route that wins `request`, whose path has the normal form `path`.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>, path: &NormalPath<'_>) -> Option<Found<'_>> {
        self.winner(request, path).map(|rank| self.found(rank))
    }

    /// Every rule in order of precedence, and for each why it won or lost `request`.
    #[must_use]
    pub fn explain(&self, request: &RequestView<'_>, path: &NormalPath<'_>) -> Explanation {
        explain::explain(self, request, path)
    }

    /// Every rule in order of precedence, for a request that the route `won` has won, or none, and whose header fields are
    /// not known any more.
    #[must_use]
    pub fn recall(&self, request: &RequestView<'_>, path: &NormalPath<'_>, won: Option<&str>) -> Explanation {
        explain::recall(self, request, path, won)
    }

    /// The whole table in order of precedence.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        self.rules.iter().map(|rule| Row {
            host: rule.host.as_ref(),
            matched: &rule.matched,
            route: &self.routes[rule.index],
            index: rule.index,
        })
    }

    /// The rank of the rule that wins.
    fn winner(&self, request: &RequestView<'_>, path: &NormalPath<'_>) -> Option<usize> {
        let accept = |rank: u32| predicate::miss(&self.rules[rank as usize].matched, request).is_none();
        let mut buffer = [0; LONGEST];
        let host = normalise(request.host, &mut buffer);
        let named = host.and_then(|host| self.first_of_host(host, path, &accept));
        named.or_else(|| self.any.first(path, accept)).map(|rank| rank as usize)
    }

    fn first_of_host(&self, host: &str, path: &NormalPath<'_>, accept: &impl Fn(u32) -> bool) -> Option<u32> {
        let exact = self.exact.get(host).and_then(|paths| paths.first(path, accept));
        if exact.is_some() || self.wildcard.is_empty() {
            return exact;
        }
        host::suffixes(host).filter_map(|suffix| self.wildcard.get(suffix)).find_map(|paths| paths.first(path, accept))
    }

    fn found(&self, rank: usize) -> Found<'_> {
        let rule = &self.rules[rank];
        Found { route: &self.routes[rule.index], index: rule.index, matched: &rule.matched }
    }

    fn paths_of(&mut self, host: Option<&HostPattern>) -> &mut PathTable {
        match host {
            Some(HostPattern::Exact(host)) => self.exact.entry(host.clone()).or_default(),
            Some(HostPattern::Wildcard(suffix)) => self.wildcard.entry(suffix.clone()).or_default(),
            None => &mut self.any,
        }
    }

    fn all_paths(&mut self) -> impl Iterator<Item = &mut PathTable> {
        self.exact.values_mut().chain(self.wildcard.values_mut()).chain([&mut self.any])
    }
}

fn rules_of(index: usize, route: &Route) -> impl Iterator<Item = Rule> {
    let hosts = match route.hosts.as_slice() {
        [] => vec![None],
        hosts => hosts.iter().map(|host| Some(host::normalise_pattern(host))).collect(),
    };
    hosts.into_iter().flat_map(move |host| {
        route.matches.iter().map(move |matched| {
            let path = path::normalise_pattern(&matched.path);
            Rule { index, host: host.clone(), matched: RouteMatch { path, ..matched.clone() } }
        })
    })
}

/// The key by which rules are ordered: the smaller wins.
fn precedence<'r>(rule: &Rule, route: &'r Route) -> impl Ord + use<'r> {
    let host = match &rule.host {
        Some(HostPattern::Exact(_)) => (0, Reverse(0)),
        Some(HostPattern::Wildcard(suffix)) => (1, Reverse(suffix.len())),
        None => (2, Reverse(0)),
    };
    let path = match &rule.matched.path {
        PathPattern::Exact(_) => (0, Reverse(0)),
        PathPattern::Prefix(prefix) => (1, Reverse(prefix.len())),
        PathPattern::Regex(_) => (2, Reverse(0)),
    };
    let matched = &rule.matched;
    let rest = (Reverse(matched.headers.len()), Reverse(matched.query.len()));
    (host, path, matched.methods.is_empty(), rest, route.name.as_ref())
}

#[cfg(test)]
mod tests;
