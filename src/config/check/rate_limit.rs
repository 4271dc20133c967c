//! `rate_limit`: how many requests come in a time.

use std::time::Duration;

use super::Checker;
use crate::base::units::Misread;
use crate::config::file::filter::RateLimit;
use crate::config::file::leaf::{Integer, Rate};
use crate::config::file::message::header_name;
use crate::config::file::term::{Field, Spanned};
use crate::config::plan::{self, RateKey};

/// The highest rate: a token a microsecond, beyond which nanoseconds are too coarse to count by.
const FASTEST: u64 = 1_000_000;

/// One limit; none where a fault was told.
pub(super) fn plan(limit: &Spanned<RateLimit>, checker: &mut Checker<'_, '_>) -> Option<plan::RateLimit> {
    let Spanned { value: written, at } = limit;
    checker.required(&written.rate, *at, "`rate_limit` has no rate", "write `rate: 100/s`");
    let key = key(written, checker);
    if let (true, true, Some(at)) = (written.dry_run(), written.headers(), written.headers.at()) {
        checker.error(at, "a limit with `dry_run: true` tells clients nothing", "remove `headers`, or `dry_run`");
    }
    let rate = rate(written.rate.given()?, checker)?;
    Some(plan::RateLimit {
        key: key?,
        burst: written.burst.value().map_or(rate.count.min(FASTEST as u32), |burst| burst.small()),
        rate,
        max_keys: written.max_keys().size(),
        headers: written.headers(),
        dry_run: written.dry_run(),
    })
}

fn rate(written: &Spanned<Rate>, checker: &mut Checker<'_, '_>) -> Option<plan::Rate> {
    let Rate(count, per) = written.value;
    let fastest = Duration::from_secs(per.as_secs() * FASTEST);
    if Duration::from_secs(count) > fastest {
        checker.error(written.at, "this rate is too high to count by", "write at most `1000000/s`, or no limit");
        return None;
    }
    Some(plan::Rate { count: u32::try_from(count).ok()?, per })
}

fn key(written: &RateLimit, checker: &mut Checker<'_, '_>) -> Option<RateKey> {
    let prefixes = (bits(written.ipv4_prefix()), bits(written.ipv6_prefix()));
    let default = written.key();
    let key = match written.key.given() {
        Some(text) => checker.read(text, |text| parse(text, prefixes))?,
        None if written.key.is_absent() => parse(&default, prefixes).ok()?,
        None => return None,
    };
    if !matches!(key, RateKey::ClientIp { .. }) {
        let help = "remove it, or write `key: client_ip`";
        only(&written.ipv4_prefix, "`ipv4_prefix` is for `client_ip`", help, checker);
        only(&written.ipv6_prefix, "`ipv6_prefix` is for `client_ip`", help, checker);
    }
    if key == RateKey::Route {
        only(&written.max_keys, "`route` is a single key", "remove `max_keys`", checker);
    }
    Some(key)
}

fn only<T>(field: &Field<T>, fault: &str, help: &str, checker: &mut Checker<'_, '_>) {
    if let Some(at) = field.at() {
        checker.error(at, fault, help);
    }
}

fn bits<const MIN: u64, const MAX: u64>(prefix: Integer<MIN, MAX>) -> u8 {
    u8::try_from(prefix.0).unwrap_or(u8::MAX)
}

fn parse(text: &str, (ipv4_prefix, ipv6_prefix): (u8, u8)) -> Result<RateKey, Misread> {
    match text.split_once(':') {
        None if text == "client_ip" => Ok(RateKey::ClientIp { ipv4_prefix, ipv6_prefix }),
        None if text == "route" => Ok(RateKey::Route),
        Some(("header", name)) => header_name(name).map(RateKey::Header),
        Some(("cookie", name)) if is_cookie_name(name) => Ok(RateKey::Cookie(name.to_owned())),
        Some(("query", name)) if !name.is_empty() => Ok(RateKey::Query(name.to_owned())),
        _ => Err(Misread::new(
            format!("`{text}` cannot be counted by"),
            "write `client_ip`, `route`, `header:NAME`, `cookie:NAME` or `query:NAME`",
        )),
    }
}

/// Whether a cookie can have this name: a token, as the name of a header field (RFC 6265, 4.1.1).
fn is_cookie_name(name: &str) -> bool {
    header_name(name).is_ok()
}
