//! Routes that never win, and hosts on which a route never wins.
//!
//! A rule (one host of a route with one of its matches) is *covered* by another that comes first and matches every request
//! that it matches. In the order of the Gateway API (see `route`) a host, then the kind of a path decide before all else, so
//! that two kinds of rules can be covered: regular expressions, behind a prefix on the same host, and rules without a host
//! or with a wildcard, behind a rule of a more specific host. All else that claims the same is an error of its own.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;

use super::{Certainty, Doubt, Step, Written, route};
use crate::base::path::{NormalPath, after_prefix};
use crate::config::plan::{HostPattern, PathPattern, Plan, Route, RouteMatch};

/// How many pairs of rules are compared at most: of a configuration with more, some doubts are not told.
const MOST_PAIRS: usize = 10_000_000;
/// How many hosts a message names.
const NAMED: usize = 3;

/// A match that other routes cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// The route.
    pub route: Arc<str>,
    /// The place of the match in the route.
    pub index: usize,
    /// The hosts on which it never wins (none: any host), each with the route that wins there.
    pub hosts: Vec<(Option<HostPattern>, Arc<str>)>,
    /// What these hosts are to the route.
    pub extent: Extent,
    /// By what the first of these routes comes before it.
    pub decided_by: Order,
}

/// What decides between two routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A more specific host comes first, whatever the path.
    Host,
    /// A prefix comes before a regular expression.
    Path,
    /// The earlier name comes first.
    Name,
}

/// How much of a match is covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All its hosts: it never wins.
    Whole,
    /// Some of its hosts.
    Some,
    /// More specific hosts of other routes, which its own include.
    Narrower,
}

/// One host of a route with one of its matches.
struct Rule<'a> {
    route: &'a Route,
    index: usize,
    matched: &'a RouteMatch,
    path: Path<'a>,
}

/// A path pattern in its compared form.
enum Path<'a> {
    Exact(String),
    Prefix(String),
    Regex(&'a Regex),
}

/// The rules of each host; none: any.
type ByHost<'a> = BTreeMap<Option<String>, (Option<&'a HostPattern>, Vec<Rule<'a>>)>;

pub(super) fn doubts(plan: &Plan) -> Vec<Doubt> {
    let covered = covered(&plan.routes);
    let is_whole = |route: &Route| {
        let whole = covered.iter().filter(|one| one.route == route.name && one.extent == Extent::Whole);
        whole.count() == route.matches.len()
    };
    let dead: Vec<&Arc<Route>> = plan.routes.iter().filter(|route| is_whole(route)).collect();
    let is_dead = |name: &Arc<str>| dead.iter().any(|route| route.name == *name);
    let of_routes = dead.iter().filter_map(|route| {
        let first = covered.iter().find(|one| one.route == route.name)?;
        Some(first.doubt(route_place(&route.name), &format!("the route `{}` never wins", route.name)))
    });
    let of_matches = covered.iter().filter(|one| !is_dead(&one.route)).map(|one| {
        let what = match one.extent {
            Extent::Whole => format!("this match of `{}` never wins", one.route),
            Extent::Some | Extent::Narrower => format!("this match of `{}` never wins on {}", one.route, one.named()),
        };
        one.doubt(match_place(&one.route, one.index), &what)
    });
    of_routes.chain(of_matches).collect()
}

fn route_place(name: &Arc<str>) -> Written {
    Written::Near(route(name, &[]))
}

fn match_place(name: &Arc<str>, index: usize) -> Written {
    let mut place = route(name, &["match"]);
    place.push(Step::Item(index));
    Written::Near(place)
}

impl Covered {
    fn doubt(&self, place: Written, what: &str) -> Doubt {
        let winner = self.hosts.first().map_or("another", |(_, winner)| winner);
        let narrow = format!("narrow the match of `{winner}`");
        let (why, help) = match self.decided_by {
            Order::Host => (
                "a more specific host comes before any path",
                format!("write this match for that host too, in a route of its own, or {narrow}"),
            ),
            Order::Path => (
                "a prefix comes before a regular expression",
                format!("{narrow}, or write this path without a regular expression"),
            ),
            Order::Name => {
                ("of two regular expressions the earlier name comes first", format!("{narrow}, or rename it"))
            }
        };
        let certainty = match self.extent {
            Extent::Whole => Certainty::Sure,
            Extent::Some | Extent::Narrower => Certainty::Likely,
        };
        Doubt { certainty, place, message: format!("{what}: `{winner}` takes its requests ({why})"), help }
    }

    /// The hosts in words.
    fn named(&self) -> String {
        let named = self.hosts.iter().take(NAMED).map(|(host, _)| host.as_ref().map_or("any host".to_owned(), text));
        let named = named.collect::<Vec<_>>().join(", ");
        match self.hosts.len().saturating_sub(NAMED) {
            0 => named,
            more => format!("{named} and {more} more"),
        }
    }
}

/// Every match of `routes` that is covered.
#[must_use]
pub fn covered(routes: &[Arc<Route>]) -> Vec<Covered> {
    let by_host = by_host(routes);
    let mut pairs = 0;
    let mut found = Vec::new();
    for route in routes {
        for (index, matched) in route.matches.iter().enumerate() {
            let rule = Rule { route, index, matched, path: Path::of(&matched.path) };
            found.extend(rule.covered_on_its_hosts(&by_host, &mut pairs));
            found.extend(rule.covered_on_narrower_hosts(&by_host, &mut pairs));
        }
    }
    found
}

fn by_host(routes: &[Arc<Route>]) -> ByHost<'_> {
    let mut by_host = ByHost::new();
    for route in routes {
        for (index, matched) in route.matches.iter().enumerate() {
            for host in hosts(route) {
                let rule = Rule { route, index, matched, path: Path::of(&matched.path) };
                by_host.entry(host.map(text)).or_insert_with(|| (host, Vec::new())).1.push(rule);
            }
        }
    }
    by_host
}

fn hosts(route: &Route) -> impl Iterator<Item = Option<&HostPattern>> {
    let any = route.hosts.is_empty().then_some(None);
    route.hosts.iter().map(Some).chain(any)
}

fn text(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Wildcard(suffix) => format!("*{suffix}"),
    }
}

impl Rule<'_> {
    /// Only a regular expression can be covered by a rule of the same host.
    fn covered_on_its_hosts(&self, by_host: &ByHost<'_>, pairs: &mut usize) -> Option<Covered> {
        if !matches!(self.path, Path::Regex(_)) {
            return None;
        }
        let winner = |host: Option<&HostPattern>, pairs: &mut usize| {
            let (_, rules) = by_host.get(&host.map(text))?;
            first(rules, pairs, |other| other.precedes(self) && other.covers(self))
        };
        let found: Vec<_> = hosts(self.route).filter_map(|host| Some((host, winner(host, pairs)?))).collect();
        let is_whole = found.len() == hosts(self.route).count();
        self.covered(&found, if is_whole { Extent::Whole } else { Extent::Some })
    }

    /// A rule for the root is meant for what is left over: nobody wonders that others come first.
    fn covered_on_narrower_hosts(&self, by_host: &ByHost<'_>, pairs: &mut usize) -> Option<Covered> {
        if matches!(&self.path, Path::Prefix(prefix) if prefix.is_empty()) || self.has_exact_hosts_only() {
            return None;
        }
        let mut found = Vec::new();
        for (host, rules) in by_host.values() {
            *pairs += 1;
            let Some(host) = host.filter(|host| self.includes(host)) else { continue };
            // Where the route has the host itself, its own rule there wins what it can.
            if rules.iter().any(|other| std::ptr::eq(other.route, self.route)) {
                continue;
            }
            if let Some(winner) = first(rules, pairs, |other| other.covers(self)) {
                found.push((Some(host), winner));
            }
        }
        self.covered(&found, Extent::Narrower)
    }

    fn covered(&self, found: &[(Option<&HostPattern>, &Rule<'_>)], extent: Extent) -> Option<Covered> {
        let decided_by = match (extent, &found.first()?.1.path) {
            (Extent::Narrower, _) => Order::Host,
            (Extent::Whole | Extent::Some, Path::Regex(_)) => Order::Name,
            (Extent::Whole | Extent::Some, Path::Exact(_) | Path::Prefix(_)) => Order::Path,
        };
        let hosts = found.iter().map(|(host, winner)| (host.cloned(), winner.route.name.clone())).collect();
        Some(Covered { route: self.route.name.clone(), index: self.index, hosts, extent, decided_by })
    }

    fn has_exact_hosts_only(&self) -> bool {
        hosts(self.route).all(|host| matches!(host, Some(HostPattern::Exact(_))))
    }

    /// Whether one of the rule's hosts includes `host` and is another.
    fn includes(&self, host: &HostPattern) -> bool {
        let (HostPattern::Exact(name) | HostPattern::Wildcard(name)) = host;
        hosts(self.route).any(|own| match own {
            None => true,
            Some(HostPattern::Exact(_)) => false,
            Some(HostPattern::Wildcard(suffix)) => name.len() > suffix.len() && name.ends_with(&**suffix),
        })
    }

    /// Whether this rule comes before `other`, a regular expression of the same host.
    fn precedes(&self, other: &Self) -> bool {
        if std::ptr::eq(self.route, other.route) {
            return false;
        }
        let rank = |rule: &Self| {
            let matched = rule.matched;
            (
                matched.methods.is_empty(),
                Reverse(matched.headers.len()),
                Reverse(matched.query.len()),
                rule.route.name.clone(),
            )
        };
        !matches!(self.path, Path::Regex(_)) || rank(self) < rank(other)
    }

    /// Whether this rule matches every request that `other` matches, the host aside.
    fn covers(&self, other: &Self) -> bool {
        let (own, others) = (self.matched, other.matched);
        let methods = own.methods.is_empty()
            || (!others.methods.is_empty() && others.methods.iter().all(|method| own.methods.contains(method)));
        methods
            && own.headers.iter().all(|header| others.headers.contains(header))
            && own.query.iter().all(|parameter| others.query.contains(parameter))
            && self.path.covers(&other.path)
    }
}

/// The first rule that `wanted` accepts, while pairs may still be compared.
fn first<'r, 'a>(rules: &'r [Rule<'a>], pairs: &mut usize, wanted: impl Fn(&Rule<'_>) -> bool) -> Option<&'r Rule<'a>> {
    *pairs = pairs.saturating_add(rules.len());
    if *pairs > MOST_PAIRS {
        return None;
    }
    rules.iter().find(|rule| wanted(rule))
}

impl<'a> Path<'a> {
    fn of(pattern: &'a PathPattern) -> Self {
        let normal = |text: &str| NormalPath::new(text).map_or_else(|_| text.to_owned(), NormalPath::into_string);
        match pattern {
            PathPattern::Exact(path) => Self::Exact(normal(path)),
            PathPattern::Prefix(prefix) => Self::Prefix(normal(prefix).trim_end_matches('/').to_owned()),
            PathPattern::Regex(regex) => Self::Regex(regex),
        }
    }

    /// Whether this pattern is sure to match every path that `other` matches.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(other)) => own == other,
            (Self::Prefix(own), Self::Exact(other) | Self::Prefix(other)) => after_prefix(other, own).is_some(),
            (Self::Prefix(own), Self::Regex(other)) => {
                own.is_empty()
                    || beginning(other.as_str()).strip_prefix(own.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
            (Self::Regex(own), Self::Exact(other)) => own.is_match(other),
            (Self::Regex(own), Self::Regex(other)) => own.as_str() == other.as_str() || is_begun_by(own, other),
            (Self::Exact(_), Self::Prefix(_) | Self::Regex(_)) | (Self::Regex(_), Self::Prefix(_)) => false,
        }
    }
}

/// Whether `own` asks for nothing but a beginning, with which every path that `other` matches begins.
fn is_begun_by(own: &Regex, other: &Regex) -> bool {
    let asked = own.as_str().strip_suffix('$').and_then(|rest| rest.strip_suffix(".*")).unwrap_or(own.as_str());
    let start = beginning(asked);
    asked.strip_prefix('^') == Some(start) && !start.is_empty() && beginning(other.as_str()).starts_with(start)
}

/// The text with which every path begins that the regular expression matches; empty where none is sure.
fn beginning(regex: &str) -> &str {
    let Some(rest) = regex.strip_prefix('^').filter(|rest| !rest.contains('|')) else { return "" };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '~');
    let end = rest.find(|c| !is_plain(c)).unwrap_or(rest.len());
    match rest[end..].chars().next() {
        // What may be repeated may be missing.
        Some('*' | '?' | '{') => &rest[..end.saturating_sub(1)],
        _ => &rest[..end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Support};

    fn told(routes: &str) -> Vec<(String, Extent, String)> {
        let text = format!("upstreams: {{ web: {{ backends: [127.0.0.1:1] }} }}\nroutes:\n{routes}");
        let loaded = config::load_text_with("t", &text, &|_| None, Support::Everything).unwrap();
        let told = covered(&loaded.plan.routes);
        told.iter().map(|one| (one.route.to_string(), one.extent, one.hosts[0].1.to_string())).collect()
    }

    #[test]
    fn the_sure_beginning_of_a_regular_expression_is_found() {
        for (regex, expected) in [
            ("^/u/[0-9]+$", "/u/"),
            ("^/users?", "/user"),
            ("^/a+", "/a"),
            ("^/a{0,1}b", "/"),
            ("^/x.*", "/x"),
            ("/x", ""),
            ("^/a|/b", ""),
            ("^", ""),
            ("^*", ""),
            ("(?i)^/a", ""),
        ] {
            assert_eq!(beginning(regex), expected, "{regex}");
        }
    }

    #[test]
    fn a_prefix_covers_the_regular_expressions_below_it() {
        let site = "  - { name: site, match: { path_prefix: /u }, to: web }\n";
        let user = |regex: &str, more: &str| {
            told(&format!("{site}  - {{ name: user, match: {{ path_regex: '{regex}'{more} }}, to: web }}"))
        };
        let covered = vec![("user".to_owned(), Extent::Whole, "site".to_owned())];
        assert_eq!(user("^/u/[0-9]+$", ""), covered);
        assert_eq!(user("^/u/[0-9]+$", ", headers: { x-beta: '1' }"), covered, "the path decides before header fields");
        assert_eq!(user("^/u[0-9]+$", ""), []);
        assert_eq!(user("/u/x", ""), []);
    }

    #[test]
    fn what_the_prefix_does_not_take_is_not_covered() {
        let post = "  - { name: site, match: { path_prefix: /, method: POST }, to: web }\n";
        assert_eq!(told(&format!("{post}  - {{ name: user, match: {{ path_regex: ^/u }}, to: web }}")), []);
        let elsewhere = "  - { name: site, hosts: a.example, match: { path_prefix: / }, to: web }\n";
        let user = "  - { name: user, hosts: b.example, match: { path_regex: ^/u }, to: web }";
        assert_eq!(told(&format!("{elsewhere}{user}")), []);
    }

    #[test]
    fn a_more_specific_host_takes_paths_from_wildcards_and_from_routes_without_hosts() {
        let site = "  - { name: site, hosts: [www.example.org, other.example], to: web }\n";
        let health =
            |hosts: &str| told(&format!("{site}  - {{ name: health, {hosts} match: {{ path: /healthz }}, to: web }}"));
        let narrower = vec![("health".to_owned(), Extent::Narrower, "site".to_owned())];
        assert_eq!(health(""), narrower);
        assert_eq!(health("hosts: '*.example.org',"), narrower);
        assert_eq!(health("hosts: '*.example.net',"), []);
        assert_eq!(health("hosts: healthy.example,"), []);
        assert_eq!(told(&format!("{site}  - {{ name: rest, to: web }}")), [], "a rule for what is left over");
    }
}
