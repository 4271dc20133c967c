//! `routes`: which request goes where.
//!
//! The plan lists routes by name, which is the last tie-break of precedence. The finer order is over pairs of host and
//! match, of which a route may have several: the route table makes it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::matching::{self, Seen};
use super::{Checker, filter, header, pages};
use crate::base::address::{Host, parse_host, parse_host_name};
use crate::base::units::Misread;
use crate::config::file::File;
use crate::config::file::collection::{List, OneOrMany};
use crate::config::file::route::{Redirect, Respond, Route, Split, Upgrade};
use crate::config::file::term::{Field, Spanned};
use crate::config::plan::{self, Action, HostPattern, PathPattern, PathRewrite, RouteMatch, Upstream};
use crate::config::read::At;

pub(super) fn plan(file: &File, upstreams: &[Arc<Upstream>], checker: &mut Checker<'_, '_>) -> Vec<Arc<plan::Route>> {
    let known = upstreams.iter().map(|upstream| (&*upstream.name, upstream)).collect();
    let known = Upstreams { known, is_partial: file.upstreams.value().is_none_or(|named| named.is_partial) };
    let Some(Spanned { value: list, at }) = file.routes.given() else {
        return if file.routes.is_absent() { without_routes(file, upstreams, checker) } else { Vec::new() };
    };
    if list.items.is_empty() && !list.is_partial {
        checker.error(
            *at,
            "no route is written",
            "write one, or remove `routes` to send everything to the only upstream",
        );
    }
    let mut names = HashMap::new();
    let mut seen = Seen::default();
    let mut routes: Vec<_> =
        list.items.iter().map(|item| Arc::new(one(item, &known, &mut names, &mut seen, checker))).collect();
    routes.sort_by(|a, b| a.name.cmp(&b.name));
    warn_unused(file, &routes, checker);
    routes
}

/// The upstreams that can be named.
pub(super) struct Upstreams<'a> {
    known: HashMap<&'a str, &'a Arc<Upstream>>,
    /// Whether some could not be read, so that an unknown name may be one of them.
    is_partial: bool,
}

impl Upstreams<'_> {
    /// The upstream of this name; an unknown one is told.
    pub(super) fn find(&self, name: &Spanned<String>, checker: &mut Checker<'_, '_>) -> Option<Arc<Upstream>> {
        let found = self.known.get(name.value.as_str()).copied();
        if found.is_none() && !self.is_partial {
            let mut names: Vec<&str> = self.known.keys().copied().collect();
            names.sort_unstable();
            checker.unknown(name.at, &format!("unknown upstream `{}`", name.value), &name.value, &names);
        }
        found.cloned()
    }
}

fn without_routes(file: &File, upstreams: &[Arc<Upstream>], checker: &mut Checker<'_, '_>) -> Vec<Arc<plan::Route>> {
    match upstreams {
        [only] => return vec![Arc::new(everything(only))],
        [] if file.upstreams.is_absent() => {
            let root = checker.root;
            checker.error(root, "no upstream is written", "write `upstreams: { web: { backends: [127.0.0.1:8081] } }`");
        }
        [] => {}
        [..] => {
            let at = file.upstreams.at().unwrap_or_default();
            checker.error(
                at,
                "there are several upstreams, and no routes",
                "write `routes` that say which request goes where",
            );
        }
    }
    Vec::new()
}

/// The route of a configuration without routes: everything goes to the only upstream.
fn everything(upstream: &Arc<Upstream>) -> plan::Route {
    plan::Route {
        name: "default".into(),
        hosts: Vec::new(),
        matches: vec![RouteMatch::default()],
        filters: plan::Filters::default(),
        request_timeout: None,
        body_limit: None,
        websocket: true,
        errors: plan::ErrorPages::new(),
        action: Action::Forward(vec![plan::Split { upstream: upstream.clone(), weight: 1 }]),
    }
}

fn one(
    item: &Spanned<Route>,
    upstreams: &Upstreams<'_>,
    names: &mut HashMap<String, At>,
    seen: &mut Seen,
    checker: &mut Checker<'_, '_>,
) -> plan::Route {
    let Spanned { value: written, at } = item;
    let name = name(written, *at, names, checker);
    let hosts = hosts(written, checker);
    let matches = matching::plan(&written.matches, *at, checker);
    if let Some(hosts) = &hosts {
        seen.check(&name, hosts, &matches, checker);
    }
    let matches: Vec<RouteMatch> = matches.into_iter().map(|spanned| spanned.value).collect();
    plan::Route {
        filters: filter::plan(&written.filters, &matches, upstreams, checker),
        action: action(written, *at, &matches, upstreams, checker),
        name: name.into(),
        hosts: hosts.unwrap_or_default(),
        matches,
        request_timeout: written.timeouts.value().and_then(|timeouts| timeouts.request().some()).map(|time| time.0),
        body_limit: written
            .limits
            .value()
            .and_then(|limits| limits.body.value())
            .map(|body| body.some().map(|size| size.0)),
        websocket: may_be_websocket(written),
        errors: pages::read(&written.errors, checker),
    }
}

fn may_be_websocket(written: &Route) -> bool {
    let protocols = written.upgrade().some().unwrap_or_default();
    protocols.items.iter().any(|item| item.value == Upgrade::Websocket)
}

fn name(written: &Route, at: At, names: &mut HashMap<String, At>, checker: &mut Checker<'_, '_>) -> String {
    let (name, name_at) = match written.name.given() {
        Some(name) => (name.value.0.clone(), name.at),
        None => (checker.decoder.marks.path(at), at),
    };
    if let Some(first) = names.insert(name.clone(), name_at) {
        let message = format!("two routes are called `{name}`");
        checker.clash(name_at, message, (first, "the first is here"), "give each its own name");
    }
    name
}

/// The hosts; none where one of them was misread, so that nothing is said of what the route might claim.
fn hosts(written: &Route, checker: &mut Checker<'_, '_>) -> Option<Vec<HostPattern>> {
    let Some(Spanned { value: list, at }) = written.hosts.given() else {
        return written.hosts.is_absent().then(Vec::new);
    };
    if list.0.items.is_empty() && !list.0.is_partial {
        checker.error(*at, "no host is written", "write one, or remove `hosts` to serve all");
    }
    let mut hosts = Vec::new();
    let mut seen = HashSet::new();
    for host in &list.0.items {
        let Some(pattern) = checker.read(host, host_pattern) else { continue };
        if !seen.insert(pattern.clone()) {
            checker.error(host.at, format!("the host `{}` is written twice", host.value), "keep one of the two");
        }
        hosts.push(pattern);
    }
    (!list.0.is_partial && hosts.len() == list.0.items.len()).then_some(hosts)
}

fn host_pattern(text: &str) -> Result<HostPattern, Misread> {
    if text == "*" {
        return Err(Misread::new("`*` is every host", "remove `hosts` to serve all"));
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        return Ok(HostPattern::Wildcard(format!(".{}", parse_host_name(suffix)?).into()));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && !host.contains(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(Misread::new(format!("`{text}` has a port"), format!("write `{host}`: every port is served")));
    }
    if text.contains('*') {
        return Err(Misread::new(format!("`{text}` is not a host"), "write `*.` in front only, like `*.example.org`"));
    }
    match parse_host(text)? {
        Host::Ip(std::net::IpAddr::V6(ip)) => Ok(HostPattern::Exact(format!("[{ip}]").into())),
        Host::Ip(ip) => Ok(HostPattern::Exact(ip.to_string().into())),
        Host::Name(name) => Ok(HostPattern::Exact(name.into())),
    }
}

fn action(
    written: &Route,
    at: At,
    matches: &[RouteMatch],
    upstreams: &Upstreams<'_>,
    checker: &mut Checker<'_, '_>,
) -> Action {
    let actions = [!written.to.is_absent(), !written.redirect.is_absent(), !written.respond.is_absent()];
    if actions.iter().filter(|is_written| **is_written).count() != 1 {
        checker.error(at, "a route does exactly one thing", "write one of `to`, `redirect` and `respond`");
    }
    if let Some(Spanned { value, at }) = written.redirect.given() {
        return Action::Redirect(redirect(value, *at, matches, checker));
    }
    match written.respond.value() {
        Some(respond) => Action::Respond(answer(respond, checker)),
        None => Action::Forward(splits(&written.to, upstreams, checker)),
    }
}

fn splits(
    field: &Field<OneOrMany<Split>>,
    upstreams: &Upstreams<'_>,
    checker: &mut Checker<'_, '_>,
) -> Vec<plan::Split> {
    let Some(Spanned { value, at }) = field.given() else { return Vec::new() };
    let list: &List<Split> = &value.0;
    let mut splits: Vec<plan::Split> = Vec::new();
    let mut seen = HashSet::new();
    for item in &list.items {
        if item.value.upstream.is_absent() {
            checker.error(item.at, "no upstream is named", "write `upstream: web`");
        }
        let Some(upstream) = item.value.upstream.given().and_then(|name| upstreams.find(name, checker)) else {
            continue;
        };
        if !seen.insert(upstream.name.clone()) {
            checker.error(item.at, format!("the upstream `{}` is written twice", upstream.name), "keep one of the two");
        }
        splits.push(plan::Split { upstream, weight: item.value.weight().small() });
    }
    if list.items.is_empty() && !list.is_partial {
        checker.error(*at, "no upstream is written", "write `to: web`");
    }
    if !splits.is_empty() && splits.iter().all(|split| split.weight == 0) {
        checker.error(*at, "all upstreams have the weight 0", "give at least one a weight of 1 or more");
    }
    splits
}

fn redirect(written: &Redirect, at: At, matches: &[RouteMatch], checker: &mut Checker<'_, '_>) -> plan::Redirect {
    let path = path_rewrite(&written.path, &written.path_prefix, matches, checker);
    let changes = [
        !written.scheme.is_absent(),
        !written.host.is_absent(),
        !written.port.is_absent(),
        !written.path.is_absent(),
        !written.path_prefix.is_absent(),
    ];
    if !changes.contains(&true) {
        checker.error(
            at,
            "the redirect leads back to itself",
            "write at least one of `scheme`, `host`, `port`, `path`",
        );
    }
    let status = written.status().0;
    if let (false, Some(at)) = ([301, 302, 303, 307, 308].contains(&status), written.status.at()) {
        checker.error(at, format!("{status} is not the status of a redirect"), "write 301, 302, 303, 307 or 308");
    }
    plan::Redirect {
        scheme: written.scheme.value().map(|scheme| scheme.as_str().to_owned()),
        host: written.host.given().and_then(|host| checker.read(host, parse_host_name)),
        port: written.port.value().and_then(|port| u16::try_from(port.0).ok()),
        path,
        status,
    }
}

/// A new path: whole, or in place of the prefix that matched, which every match must have.
pub(super) fn path_rewrite(
    full: &Field<String>,
    prefix: &Field<String>,
    matches: &[RouteMatch],
    checker: &mut Checker<'_, '_>,
) -> Option<PathRewrite> {
    if let (Some(first), Some(at)) = (full.at(), prefix.at()) {
        let help = "keep one of the two";
        checker.clash(at, "`path` and `path_prefix` are both written", (first, "`path` is here"), help);
    }
    if let Some(full) = full.given() {
        return checker.read(full, new_path).map(PathRewrite::Full);
    }
    let prefix = prefix.given()?;
    if !matches.iter().all(|one| matches!(one.path, PathPattern::Prefix(_))) {
        let help = "write `path_prefix` in every match, or `path` here";
        checker.error(prefix.at, "a prefix is replaced, but not every match has one", help);
    }
    checker.read(prefix, new_path).map(PathRewrite::Prefix)
}

fn new_path(text: &str) -> Result<String, Misread> {
    let is_path = text.starts_with('/') && !text.contains(['?', '#']);
    match text.parse::<http::uri::PathAndQuery>() {
        Ok(_) if is_path => Ok(text.to_owned()),
        _ => {
            Err(Misread::new(format!("`{text}` is not a path"), "begin it with `/`, without white space, `?` and `#`"))
        }
    }
}

fn answer(written: &Respond, checker: &mut Checker<'_, '_>) -> plan::Respond {
    let status = written.status().0;
    if let (204 | 205 | 304, Some(at), false) = (status, written.body.at(), written.body().is_empty()) {
        checker.error(
            at,
            format!("an answer of status {status} has no body"),
            "remove `body`, or write another status",
        );
    }
    plan::Respond { status, body: written.body().into(), headers: header::pairs(&written.headers(), checker) }
}

fn warn_unused(file: &File, routes: &[Arc<plan::Route>], checker: &mut Checker<'_, '_>) {
    let Some(upstreams) = file.upstreams.value() else { return };
    let mut used: HashSet<&str> = HashSet::new();
    for route in routes {
        if let Action::Forward(splits) = &route.action {
            used.extend(splits.iter().map(|split| &*split.upstream.name));
        }
    }
    let filters = file.routes.value().into_iter().flat_map(|routes| &routes.items);
    let filters = filters.filter_map(|route| route.value.filters.value()).flat_map(|filters| &filters.items);
    let mirrors = filters.filter_map(|filter| filter.value.mirror.value()?.as_some());
    used.extend(mirrors.filter_map(|mirror| mirror.upstream.value().map(String::as_str)));
    for (name, _) in upstreams.items.iter().filter(|(name, _)| !used.contains(name.value.as_str())) {
        let message = format!("no route leads to the upstream `{}`", name.value);
        checker.warning(name.at, message, "remove it, or write a route");
    }
}
