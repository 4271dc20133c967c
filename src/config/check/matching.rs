//! `routes[].match`: what a request must be, and that no two routes claim the same.

use std::collections::{HashMap, HashSet};

use http::Method;
use regex::RegexBuilder;

use super::{Checker, header};
use crate::base::units::Misread;
use crate::config::file::collection::OneOrMany;
use crate::config::file::route::Match;
use crate::config::file::term::{Field, Spanned};
use crate::config::plan::{HostPattern, PathPattern, RouteMatch};
use crate::config::read::At;

/// The most memory that one compiled regular expression may take, in bytes.
const MAX_REGEX: usize = 1024 * 1024;

/// The matches of the route that stands at `route`; where none is written, everything matches there.
pub(super) fn plan(
    field: &Field<OneOrMany<Match>>,
    route: At,
    checker: &mut Checker<'_, '_>,
) -> Vec<Spanned<RouteMatch>> {
    let Some(Spanned { value, at }) = field.given() else {
        return vec![Spanned { value: RouteMatch::default(), at: route }];
    };
    if value.0.items.is_empty() && !value.0.is_partial {
        checker.error(*at, "no match is written", "write one, or remove `match` to match everything");
    }
    let read = |item: &Spanned<Match>, checker: &mut Checker<'_, '_>| {
        one(&item.value, checker).map(|value| Spanned { value, at: item.at })
    };
    value.0.items.iter().filter_map(|item| read(item, checker)).collect()
}

/// One match; none where a part of it was misread, so that nothing is said of what it might equal.
fn one(written: &Match, checker: &mut Checker<'_, '_>) -> Option<RouteMatch> {
    let path = path(written, checker);
    let methods = methods(written, checker);
    let headers = written.headers.value().map(|named| header::pairs(named, checker)).unwrap_or_default();
    let query = written.query.value().map(|named| &named.items[..]).unwrap_or_default();
    let query = query.iter().map(|(name, value)| (name.value.clone(), value.value.clone())).collect();
    let is_whole = !matches!(written.method, Field::Faulty)
        && !matches!(written.headers, Field::Faulty)
        && !matches!(written.query, Field::Faulty);
    path.filter(|_| is_whole).map(|path| RouteMatch { path, methods, headers, query })
}

fn path(written: &Match, checker: &mut Checker<'_, '_>) -> Option<PathPattern> {
    let fields = [&written.path, &written.path_prefix, &written.path_regex];
    let mut places = fields.iter().filter_map(|field| field.at());
    if let (Some(first), Some(second)) = (places.next(), places.next()) {
        let message = "a match has one path only";
        checker.clash(second, message, (first, "the other is here"), "write two matches: any of them may hold");
        return None;
    }
    if let Some(exact) = written.path.given() {
        return checker.read(exact, normal_path).map(PathPattern::Exact);
    }
    if let Some(prefix) = written.path_prefix.given() {
        let prefix = checker.read(prefix, normal_path)?;
        return Some(PathPattern::Prefix(prefix.trim_end_matches('/').to_owned()));
    }
    if let Some(expression) = written.path_regex.given() {
        return checker.read(expression, regex).map(PathPattern::Regex);
    }
    fields.iter().all(|field| field.is_absent()).then(PathPattern::default)
}

/// A path that a normalised path can be: anything else would never match.
fn normal_path(text: &str) -> Result<String, Misread> {
    if text.starts_with(['~', '^']) {
        let expression = text.trim_start_matches(['~', '*', ' ']);
        return Err(Misread::new(format!("`{text}` is not a path"), format!("write `path_regex: \"{expression}\"`")));
    }
    if !text.starts_with('/') {
        return Err(Misread::new(format!("`{text}` is not a path"), format!("write `/{text}`")));
    }
    if text.contains(['?', '#']) {
        return Err(Misread::new(format!("`{text}` has a query"), "write it as `query: { name: value }`"));
    }
    let elements = text.split('/').skip(1);
    let last = elements.clone().count();
    let is_normal = |(index, element): (usize, &str)| {
        element != "." && element != ".." && (!element.is_empty() || index + 1 == last)
    };
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) || !elements.enumerate().all(is_normal) {
        return Err(Misread::new(
            format!("`{text}` can never match"),
            "write it without `//`, `/.`, `/..` and white space: paths are normalised first",
        ));
    }
    Ok(text.to_owned())
}

fn regex(text: &str) -> Result<regex::Regex, Misread> {
    RegexBuilder::new(text).size_limit(MAX_REGEX).build().map_err(|error| {
        let reason = error.to_string();
        let last = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Misread::new("this is not a regular expression", last)
    })
}

fn methods(written: &Match, checker: &mut Checker<'_, '_>) -> Vec<Method> {
    let Some(Spanned { value, at }) = written.method.given() else { return Vec::new() };
    if value.0.items.is_empty() && !value.0.is_partial {
        checker.error(*at, "no method is written", "write one, or remove `method` to match all");
    }
    let mut methods = Vec::new();
    let mut seen = HashSet::new();
    for method in &value.0.items {
        if !seen.insert(method.value.clone()) {
            checker.error(method.at, format!("the method `{}` is written twice", method.value), "keep one of the two");
        }
        methods.push(method.value.clone());
    }
    methods
}

/// The most pairs of a host and a match, methods counted singly.
const MAX_CLAIMS: usize = 1_000_000;

/// What every match so far claims, to find two that only the names of their routes could tell apart.
#[derive(Default)]
pub(super) struct Seen(HashMap<Claim, (String, At)>);

/// One host, path, method, set of headers and set of query parameters.
#[derive(PartialEq, Eq, Hash)]
struct Claim {
    host: Option<HostPattern>,
    path: (u8, String),
    method: Option<Method>,
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
}

impl Seen {
    /// Adds the claims of a route, and tells the first clash of each of its matches.
    pub(super) fn check(
        &mut self,
        route: &str,
        hosts: &[HostPattern],
        matches: &[Spanned<RouteMatch>],
        checker: &mut Checker<'_, '_>,
    ) {
        for Spanned { value, at } in matches {
            let count = hosts.len().max(1).saturating_mul(value.methods.len().max(1));
            if self.0.len().saturating_add(count) > MAX_CLAIMS {
                let help = format!("write at most {MAX_CLAIMS} pairs in all");
                return checker.error(*at, "too many hosts and matches", help);
            }
            let mut clash = None;
            for claim in claims(hosts, value) {
                match self.0.get(&claim) {
                    Some(first) => clash = clash.or(Some(first.clone())),
                    None => {
                        self.0.insert(claim, (route.to_owned(), *at));
                    }
                }
            }
            if let Some((first, first_at)) = clash {
                let message = match first == route {
                    true => format!("two matches of the route `{route}` are equal"),
                    false => format!("the routes `{first}` and `{route}` have an equal match"),
                };
                let why = format!("the match of `{first}` is here");
                checker.clash(*at, message, (first_at, &why), "change a host, path, method, header or query of one");
            }
        }
    }
}

fn claims(hosts: &[HostPattern], one: &RouteMatch) -> Vec<Claim> {
    let hosts: Vec<Option<HostPattern>> =
        if hosts.is_empty() { vec![None] } else { hosts.iter().cloned().map(Some).collect() };
    let methods: Vec<Option<Method>> =
        if one.methods.is_empty() { vec![None] } else { one.methods.iter().cloned().map(Some).collect() };
    let path = match &one.path {
        PathPattern::Exact(path) => (0, path.clone()),
        PathPattern::Prefix(path) => (1, path.clone()),
        PathPattern::Regex(regex) => (2, regex.as_str().to_owned()),
    };
    let mut headers: Vec<_> = one.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    let mut query = one.query.clone();
    headers.sort();
    query.sort();
    let pairs = hosts.iter().flat_map(|host| methods.iter().map(move |method| (host, method)));
    pairs
        .map(|(host, method)| Claim {
            host: host.clone(),
            path: path.clone(),
            method: method.clone(),
            headers: headers.clone(),
            query: query.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_can_never_match_is_refused() {
        for path in ["/", "/a", "/a/", "/a/b", "/a..b", "/.well-known"] {
            assert!(normal_path(path).is_ok(), "{path}");
        }
        for path in ["", "a", "//", "/a//b", "/a/./b", "/a/..", "/a?b", "/a b"] {
            assert!(normal_path(path).is_err(), "{path}");
        }
    }
}
