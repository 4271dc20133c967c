//! `routes[].filters`: what is done to a request and its answer.

use http::HeaderName;

use super::route::{self, Upstreams};
use super::{Checker, header, misread_of, pages, rate_limit};
use crate::base::template;
use crate::base::units::{Misread, parse_duration};
use crate::config::file::collection::{List, Named, OneOrMany, OrNone};
use crate::config::file::filter::{Algorithm, Auth, Cache, Compress, Cors, Filter, HeaderRules, Rewrite};
use crate::config::file::leaf::FilePath;
use crate::config::file::message::header_name;
use crate::config::file::term::{Field, Spanned, instead};
use crate::config::plan::{self, Filters, RouteMatch, Variable};
use crate::config::read::At;
use ipnet::IpNet;

pub(super) fn plan(
    field: &Field<List<Filter>>,
    matches: &[RouteMatch],
    upstreams: &Upstreams<'_>,
    checker: &mut Checker<'_, '_>,
) -> Filters {
    let mut filters = Filters::default();
    let mut seen: Vec<(&'static str, At)> = Vec::new();
    for item in field.value().map_or(&[][..], |list| &list.items) {
        let written = keys(&item.value);
        let mut present = written.iter().filter(|(_, is_written)| *is_written);
        let (Some((key, _)), None) = (present.next(), present.next()) else {
            checker.error(item.at, "an item of `filters` is exactly one filter", "write each after its own `-`");
            continue;
        };
        let first = seen.iter().find(|(known, _)| known == key).map(|(_, at)| *at);
        if let (Some(first), true) = (first, *key != "rate_limit") {
            let help = "write one with both settings";
            checker.clash(item.at, format!("the filter `{key}` is written twice"), (first, "first written here"), help);
        }
        seen.push((key, item.at));
        add(&item.value, &mut filters, matches, upstreams, checker);
    }
    filters
}

fn keys(filter: &Filter) -> [(&'static str, bool); 11] {
    [
        ("deny", !filter.deny.is_absent()),
        ("allow", !filter.allow.is_absent()),
        ("rate_limit", !filter.rate_limit.is_absent()),
        ("cors", !filter.cors.is_absent()),
        ("auth", !filter.auth.is_absent()),
        ("rewrite", !filter.rewrite.is_absent()),
        ("request_headers", !filter.request_headers.is_absent()),
        ("mirror", !filter.mirror.is_absent()),
        ("cache", !filter.cache.is_absent()),
        ("compress", !filter.compress.is_absent()),
        ("response_headers", !filter.response_headers.is_absent()),
    ]
}

fn add(
    written: &Filter,
    filters: &mut Filters,
    matches: &[RouteMatch],
    upstreams: &Upstreams<'_>,
    checker: &mut Checker<'_, '_>,
) {
    filters.deny = networks(&written.deny, checker).or(filters.deny.take());
    filters.allow = networks(&written.allow, checker).or(filters.allow.take());
    if let Some(limit) = on(&written.rate_limit) {
        filters.rate_limits.extend(rate_limit::plan(&limit, checker));
    }
    if let Some(rules) = on(&written.cors) {
        filters.cors = cors(&rules, checker);
    }
    if let Some(auth) = on(&written.auth) {
        filters.auth_basic = self::auth(&auth, checker);
    }
    if let Some(Spanned { value, at }) = on(&written.rewrite) {
        filters.rewrite = Some(rewrite(&value, at, matches, checker));
    }
    if let Some(Spanned { value, at }) = on(&written.request_headers) {
        filters.request_headers = Some(header_rules(&value, at, checker));
    }
    if let Some(Spanned { value, at }) = on(&written.response_headers) {
        filters.response_headers = Some(header_rules(&value, at, checker));
    }
    if let Some(mirror) = on(&written.mirror) {
        match mirror.value.upstream.given() {
            Some(name) => drop(upstreams.find(name, checker)),
            None => checker.required(
                &mirror.value.upstream,
                mirror.at,
                "`mirror` names no upstream",
                "write `upstream: shadow`",
            ),
        }
    }
    if let Some(cache) = on(&written.cache) {
        check_cache(&cache.value, checker);
    }
    if let Some(rules) = on(&written.compress) {
        filters.compress = Some(compress(&rules.value, checker));
    }
}

/// A filter that is written and not turned off.
fn on<T: Clone>(field: &Field<OrNone<T>>) -> Option<Spanned<T>> {
    let Spanned { value, at } = field.given()?;
    value.as_some().map(|value| Spanned { value: value.clone(), at: *at })
}

fn networks(field: &Field<OrNone<OneOrMany<IpNet>>>, checker: &mut Checker<'_, '_>) -> Option<Vec<IpNet>> {
    let Spanned { value, at } = on(field)?;
    if value.0.items.is_empty() && !value.0.is_partial {
        checker.error(at, "no network is written", "write at least one, such as `10.0.0.0/8`");
    }
    Some(value.0.values())
}

fn cors(rules: &Spanned<Cors>, checker: &mut Checker<'_, '_>) -> Option<plan::Cors> {
    let Spanned { value: written, at } = rules;
    checker.required(&written.origins, *at, "`cors` allows no origin", "write `origins: [https://a.example]`");
    let origins = &written.origins.value()?.0;
    let any = origins.items.iter().find(|origin| origin.value == "*");
    if let (Some(any), true) = (any, written.credentials()) {
        let help = "write the origins that may send credentials";
        checker.error(any.at, "`*` and `credentials: true` exclude each other in browsers", help);
    }
    if let (Some(any), true) = (any, origins.items.len() > 1) {
        checker.error(any.at, "`*` is every origin already", "write it alone");
    }
    let read: Vec<String> = origins.items.iter().filter_map(|text| checker.read(text, origin)).collect();
    Some(plan::Cors {
        origins: read,
        methods: written.methods().values(),
        headers: written.headers().values(),
        credentials: written.credentials(),
        max_age: written.max_age(),
    })
}

/// Reads an origin as browsers send it: scheme, host and port, without a path (Fetch, RFC 6454, 6.1).
fn origin(text: &str) -> Result<String, Misread> {
    let wrong =
        || Misread::new(format!("`{text}` is not an origin"), "write it like `https://a.example`, without a path");
    if text == "*" {
        return Ok(text.to_owned());
    }
    let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
    let is_plain = !authority.is_empty() && !authority.contains(['/', '?', '#', '@', ' ', '*']);
    match scheme {
        "http" | "https" if is_plain => Ok(text.to_ascii_lowercase()),
        _ => Err(wrong()),
    }
}

fn auth(auth: &Spanned<Auth>, checker: &mut Checker<'_, '_>) -> Option<plan::AuthBasic> {
    let Spanned { value: written, at } = auth;
    let kinds = [!written.basic.is_absent(), !written.jwt.is_absent(), !written.forward.is_absent()];
    if kinds.iter().filter(|is_written| **is_written).count() != 1 {
        checker.error(*at, "`auth` asks in exactly one way", "write one of `basic`, `jwt` and `forward`");
    }
    if let Some(jwt) = written.jwt.given() {
        checker.required(&jwt.value.jwks, jwt.at, "`jwt` has no keys to verify with", "write `jwks: keys.json`");
    }
    if let Some(forward) = written.forward.given() {
        checker.required(
            &forward.value.url,
            forward.at,
            "`forward` has no service to ask",
            "write `url: http://auth:8080`",
        );
    }
    let Spanned { value: basic, at } = written.basic.given()?;
    checker.required(&basic.users, *at, "`basic` has no users", "write `users: users.htpasswd`");
    let Spanned { value: FilePath(users), at } = basic.users.given()?;
    if let Err(fault) = pages::regular_file(users) {
        checker.error(*at, fault, "write the path of an htpasswd file");
    } else {
        checker.warn_if_others_can_read(users, *at);
    }
    let realm = basic.realm();
    if let (true, Some(at)) = (realm.contains(['"', '\\']) || realm.chars().any(char::is_control), basic.realm.at()) {
        checker.error(at, "this is not a realm", "write it without quotes, `\\` and line breaks");
    }
    Some(plan::AuthBasic { users: users.clone(), realm })
}

fn rewrite(written: &Rewrite, at: At, matches: &[RouteMatch], checker: &mut Checker<'_, '_>) -> plan::Rewrite {
    if written.path.is_absent() && written.path_prefix.is_absent() && written.host.is_absent() {
        checker.error(at, "`rewrite` changes nothing", "write `path`, `path_prefix` or `host`");
    }
    plan::Rewrite {
        path: route::path_rewrite(&written.path, &written.path_prefix, matches, checker),
        host: written.host.value().cloned(),
    }
}

/// The fields that frame a message or address it: changing them would break it.
const FRAMING: [(&str, &str); 7] = [
    ("connection", "the proxy writes it"),
    ("content-length", "the proxy writes it"),
    ("host", "write `rewrite: { host: ... }`"),
    ("keep-alive", "the proxy writes it"),
    ("te", "the proxy writes it"),
    ("transfer-encoding", "the proxy writes it"),
    ("upgrade", "the proxy writes it"),
];

fn header_rules(written: &HeaderRules, at: At, checker: &mut Checker<'_, '_>) -> plan::HeaderRules {
    if written.set.is_absent() && written.add.is_absent() && written.remove.is_absent() {
        checker.error(at, "this filter changes nothing", "write `set`, `add` or `remove`");
    }
    let remove = written.remove.value().map(|names| &names.0.items[..]).unwrap_or_default();
    for name in remove {
        refuse_framing(&name.value, name.at, checker);
    }
    plan::HeaderRules {
        set: values(&written.set(), checker),
        add: values(&written.add(), checker),
        remove: remove.iter().map(|name| name.value.clone()).collect(),
    }
}

fn values(named: &Named<String>, checker: &mut Checker<'_, '_>) -> Vec<(HeaderName, String)> {
    for (name, value) in &named.items {
        if let Ok(parsed) = header_name(&name.value) {
            refuse_framing(&parsed, name.at, checker);
        }
        if value.value.parse::<http::HeaderValue>().is_err() {
            let help = "write visible characters on one line";
            checker.error(value.at, "this is not the value of a header field", help);
        }
        checker.read(value, |text| template::parse(text, variable).map_err(misread_of));
    }
    header::pairs(named, checker)
}

fn variable(name: &str) -> Result<Variable, Misread> {
    Variable::named(name).ok_or_else(|| {
        let names = Variable::ALL.map(|(name, _)| name);
        Misread::new(format!("`{{{name}}}` is no fact of a request"), instead(name, &names, "known here:"))
    })
}

fn refuse_framing(name: &HeaderName, at: At, checker: &mut Checker<'_, '_>) {
    if let Some((_, remedy)) = FRAMING.iter().find(|(framing, _)| name == *framing) {
        checker.error(at, format!("the field `{name}` cannot be changed"), *remedy);
    }
}

fn check_cache(cache: &Cache, checker: &mut Checker<'_, '_>) {
    if let Some(ttl) = cache.ttl.given().filter(|ttl| ttl.value != "respect") {
        checker.read(ttl, parse_duration);
    }
}

fn compress(written: &Compress, checker: &mut Checker<'_, '_>) -> plan::Compress {
    let algorithms = written.algorithms();
    if let (true, Some(at)) = (algorithms.items.is_empty() && !algorithms.is_partial, written.algorithms.at()) {
        checker.error(at, "no algorithm is written", "write `[zstd, br, gzip]`");
    }
    for (index, item) in algorithms.items.iter().enumerate() {
        if algorithms.items[..index].iter().any(|earlier| earlier.value == item.value) {
            checker.error(item.at, format!("`{}` is written twice", item.value.as_str()), "keep one of the two");
        }
    }
    let types = written.types();
    for media in types.items.iter().filter(|media| !is_media_type(&media.value)) {
        let help = "write it like `text/html` or `text/*`";
        checker.error(media.at, format!("`{}` is not a media type", media.value), help);
    }
    plan::Compress {
        algorithms: algorithms.items.iter().map(|item| algorithm(item.value)).collect(),
        min_bytes: written.min_bytes().0,
        types: types.items.into_iter().map(|media| media.value.to_ascii_lowercase()).collect(),
    }
}

fn is_media_type(text: &str) -> bool {
    let is_token =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    text.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && (sub == "*" || is_token(sub)))
}

fn algorithm(written: Algorithm) -> plan::Algorithm {
    match written {
        Algorithm::Zstd => plan::Algorithm::Zstd,
        Algorithm::Brotli => plan::Algorithm::Brotli,
        Algorithm::Gzip => plan::Algorithm::Gzip,
    }
}
