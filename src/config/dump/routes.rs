//! Routes and filters as JSON.

use http::HeaderName;
use serde_json::{Map, Value as Json, json};

use super::{or_none, pages, time};
use crate::base::units::{format_rate, format_size};
use crate::config::plan::{
    self, Action, Algorithm, Filters, HeaderRules, HostPattern, PathPattern, PathRewrite, RateKey, RateLimit, Redirect,
    Rewrite, Route, RouteMatch,
};

pub(super) fn route(route: &Route) -> Json {
    let mut shown = json!({
        "name": &*route.name,
        "hosts": route.hosts.iter().map(host).collect::<Vec<_>>(),
        "match": route.matches.iter().map(matching).collect::<Vec<_>>(),
        "filters": filters(&route.filters),
        "timeouts": { "request": or_none(route.request_timeout, |timeout| json!(time(timeout))) },
        "upgrade": if route.websocket { json!(["websocket"]) } else { json!("none") },
        "errors": pages(&route.errors),
    });
    if let Some(body) = route.body_limit {
        shown["limits"] = json!({ "body": or_none(body, |size| json!(format_size(size))) });
    }
    let (key, action) = action(&route.action);
    shown[key] = action;
    shown
}

fn host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Wildcard(suffix) => format!("*{suffix}"),
    }
}

fn matching(one: &RouteMatch) -> Json {
    let (key, path) = match &one.path {
        PathPattern::Exact(path) => ("path", path.as_str()),
        PathPattern::Prefix(path) if path.is_empty() => ("path_prefix", "/"),
        PathPattern::Prefix(path) => ("path_prefix", path.as_str()),
        PathPattern::Regex(regex) => ("path_regex", regex.as_str()),
    };
    let headers = one.headers.iter().map(|(name, value)| (name.to_string(), json!(value)));
    let query = one.query.iter().map(|(name, value)| (name.clone(), json!(value)));
    let mut shown = json!({
        "method": one.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(),
        "headers": headers.collect::<Map<_, _>>(),
        "query": query.collect::<Map<_, _>>(),
    });
    shown[key] = json!(path);
    shown
}

fn filters(filters: &Filters) -> Vec<Json> {
    let networks = |list: &Vec<ipnet::IpNet>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let before = [
        filters.deny.as_ref().map(|list| json!({ "deny": networks(list) })),
        filters.allow.as_ref().map(|list| json!({ "allow": networks(list) })),
    ];
    let limits = filters.rate_limits.iter().map(|limit| Some(json!({ "rate_limit": rate_limit(limit) })));
    let after = [
        filters.cors.as_ref().map(|cors| {
            json!({ "cors": {
                "origins": cors.origins,
                "methods": cors.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(),
                "headers": names(&cors.headers),
                "credentials": cors.credentials,
                "max_age": time(cors.max_age),
            } })
        }),
        filters
            .auth_basic
            .as_ref()
            .map(|auth| json!({ "auth": { "basic": { "users": auth.users, "realm": auth.realm } } })),
        filters.rewrite.as_ref().map(|one| json!({ "rewrite": rewrite(one) })),
        filters.request_headers.as_ref().map(|rules| json!({ "request_headers": header_rules(rules) })),
        filters.compress.as_ref().map(|compress| {
            json!({ "compress": {
                "algorithms": compress.algorithms.iter().map(|one| algorithm(*one)).collect::<Vec<_>>(),
                "min_bytes": format_size(compress.min_bytes),
                "types": compress.types,
            } })
        }),
        filters.response_headers.as_ref().map(|rules| json!({ "response_headers": header_rules(rules) })),
    ];
    before.into_iter().chain(limits).chain(after).flatten().collect()
}

fn rate_limit(limit: &RateLimit) -> Json {
    let plan::Rate { count, per } = limit.rate;
    let mut shown = json!({
        "key": limit.key.to_string(),
        "rate": format_rate(count.into(), per),
        "burst": limit.burst,
        "headers": limit.headers,
        "dry_run": limit.dry_run,
    });
    if let RateKey::ClientIp { ipv4_prefix, ipv6_prefix } = limit.key {
        shown["ipv4_prefix"] = json!(ipv4_prefix);
        shown["ipv6_prefix"] = json!(ipv6_prefix);
    }
    if limit.key != RateKey::Route {
        shown["max_keys"] = json!(limit.max_keys);
    }
    shown
}

fn names(names: &[HeaderName]) -> Vec<&str> {
    names.iter().map(HeaderName::as_str).collect()
}

/// The names of the fields alone: values may be credentials.
fn header_rules(rules: &HeaderRules) -> Json {
    let keys = |pairs: &[(HeaderName, String)]| pairs.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    json!({ "set": keys(&rules.set), "add": keys(&rules.add), "remove": names(&rules.remove) })
}

fn rewrite(one: &Rewrite) -> Json {
    let mut shown = path_rewrite(one.path.as_ref());
    if let Some(host) = &one.host {
        shown.insert("host".to_owned(), json!(String::from_utf8_lossy(host.as_bytes())));
    }
    Json::Object(shown)
}

fn path_rewrite(path: Option<&PathRewrite>) -> Map<String, Json> {
    let (key, path) = match path {
        Some(PathRewrite::Full(path)) => ("path", path),
        Some(PathRewrite::Prefix(path)) => ("path_prefix", path),
        None => return Map::new(),
    };
    Map::from_iter([(key.to_owned(), json!(path))])
}

fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Zstd => "zstd",
        Algorithm::Brotli => "br",
        Algorithm::Gzip => "gzip",
    }
}

fn action(action: &Action) -> (&'static str, Json) {
    match action {
        Action::Forward(splits) => {
            let split = splits.iter().map(|split| json!({ "upstream": &*split.upstream.name, "weight": split.weight }));
            ("to", split.collect())
        }
        Action::Redirect(one) => ("redirect", redirect(one)),
        Action::Respond(respond) => {
            let headers: Vec<&str> = respond.headers.iter().map(|(name, _)| name.as_str()).collect();
            let size = format_size(respond.body.len() as u64);
            ("respond", json!({ "status": respond.status, "body_bytes": size, "headers": headers }))
        }
    }
}

fn redirect(redirect: &Redirect) -> Json {
    let mut shown = path_rewrite(redirect.path.as_ref());
    shown.insert("status".to_owned(), json!(redirect.status));
    for (key, value) in [("scheme", &redirect.scheme), ("host", &redirect.host)] {
        if let Some(value) = value {
            shown.insert(key.to_owned(), json!(value));
        }
    }
    if let Some(port) = redirect.port {
        shown.insert("port".to_owned(), json!(port));
    }
    Json::Object(shown)
}
