//! Single values: numbers, texts, units, networks, paths, URLs. What stands in HTTP messages is in `message`.
//!
//! What may come from a variable is described as its own form or `${…}`, for the schema sees the file before variables
//! are filled in.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::term::{Decoder, Scope, Term, shortened};
use crate::base::units::{self, Misread};
use crate::config::read::{Node, Style, Value};

/// A form, or a variable in its place.
pub(super) fn or_variable(form: Json) -> Json {
    json!({ "anyOf": [form, { "type": "string", "pattern": "\\$\\{" }] })
}

/// A schema with the few words that the manual calls it by.
pub(super) fn titled(mut schema: Json, title: &str) -> Json {
    schema["title"] = json!(title);
    schema
}

pub(super) fn pattern(pattern: &str) -> Json {
    or_variable(json!({ "type": "string", "pattern": pattern }))
}

impl Term for bool {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match plain(node) {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => decoder.expected(node, "true or false", "write `true` or `false`, without quotes"),
        }
    }

    fn describe(_: &Scope) -> Json {
        titled(or_variable(json!({ "type": "boolean" })), "`true` or `false`")
    }

    fn written(&self) -> Option<Json> {
        Some(json!(self))
    }
}

/// The text of a scalar that may be more than text.
fn plain(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar(scalar) if scalar.style != Style::Quoted => Some(&scalar.text),
        _ => None,
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Integer<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Integer<MIN, MAX> {
    /// The number as a `usize`.
    #[must_use]
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number as a `u32`.
    #[must_use]
    pub fn small(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Term for Integer<MIN, MAX> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let help = format!("write a whole number from {MIN} to {MAX}");
        let text = decoder.text(node, "a whole number", &help)?;
        let digits = plain(node).filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.map(str::parse::<u64>) {
            Some(Ok(number)) if (MIN..=MAX).contains(&number) => return Some(Self(number)),
            Some(_) => decoder.error(node.at, format!("`{}` is out of range", shortened(text)), help),
            None if text.parse::<u64>().is_ok() => {
                decoder.error(
                    node.at,
                    format!("\"{text}\" is a text, not a number"),
                    format!("write `{text}` without quotes"),
                );
            }
            None => decoder.error(node.at, format!("`{}` is not a whole number", shortened(text)), help),
        }
        None
    }

    fn describe(_: &Scope) -> Json {
        let title = format!("a whole number, {MIN} to {MAX}");
        titled(or_variable(json!({ "type": "integer", "minimum": MIN, "maximum": MAX })), &title)
    }

    fn written(&self) -> Option<Json> {
        Some(json!(self.0))
    }
}

/// A decimal number of at least 1, such as `1.25`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factor(pub f64);

impl Term for Factor {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.text(node, "a number", "write it like `1.25`")?;
        let decimal = plain(node).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
        match decimal.and_then(|text| text.parse::<f64>().ok()) {
            Some(factor) if (1.0..=1_000.0).contains(&factor) => Some(Self(factor)),
            _ => {
                decoder.error(
                    node.at,
                    format!("`{}` is not a factor", shortened(text)),
                    "write a number from 1 to 1000",
                );
                None
            }
        }
    }

    fn describe(_: &Scope) -> Json {
        titled(or_variable(json!({ "type": "number", "minimum": 1, "maximum": 1000 })), "a number, 1 to 1000")
    }
}

/// A term that is read from a text by a function and described by a pattern.
macro_rules! text_term {
    ($(#[doc = $doc:literal])* $type:ty, $what:literal, $example:literal, $read:expr, $schema:expr $(, $written:expr)?) => {
        impl Term for $type {
            fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
                let text = decoder.text(node, $what, concat!("write it like ", $example))?;
                let read: fn(&str) -> Result<$type, Misread> = $read;
                read(text).map_err(|misread| decoder.misread(node.at, misread)).ok()
            }

            fn describe(_: &Scope) -> Json {
                titled($schema, $what)
            }

            $( fn written(&self) -> Option<Json> {
                let written: fn(&Self) -> Json = $written;
                Some(written(self))
            } )?
        }
    };
}

const DURATION: &str = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

text_term!(Duration, "a duration", "`10s`", units::parse_duration, pattern(DURATION), |duration| {
    json!(units::format_duration(*duration))
});

/// A duration longer than zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positive(pub Duration);

impl Positive {
    /// This many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// This many milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

fn positive(text: &str) -> Result<Positive, Misread> {
    match units::parse_duration(text)? {
        Duration::ZERO => Err(Misread::new("zero is too short", "write a longer time, such as `10s`")),
        duration => Ok(Positive(duration)),
    }
}

text_term!(Positive, "a duration", "`10s`", positive, pattern(DURATION), |duration| {
    json!(units::format_duration(duration.0))
});

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

text_term!(
    Size,
    "a size",
    "`64KiB`",
    |text| units::parse_size(text).map(Size),
    pattern("^[0-9]+(B|KiB|MiB|GiB|TiB)$"),
    |size| json!(units::format_size(size.0))
);

/// A share, 0.0 to 1.0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub f64);

text_term!(
    Share,
    "a share",
    "`20%`",
    |text| units::parse_share(text).map(Share),
    pattern("^[0-9]+(\\.[0-9]+)? ?%$"),
    |share| json!(units::format_share(share.0))
);

/// A rate: how many, and in what time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64, pub Duration);

text_term!(
    Rate,
    "a rate",
    "`100/s`",
    |text| units::parse_rate(text).map(|(count, time)| Rate(count, time)),
    pattern("^[0-9]+/(s|m|h)$")
);

pub(super) fn text_schema() -> Json {
    json!({ "type": ["string", "number", "boolean"] })
}

text_term!(String, "a text", "`text`", |text| Ok(text.to_owned()), text_schema(), |text| json!(text));

/// A name that appears in logs, metrics and addresses of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

/// Reads a name.
pub(crate) fn name(text: &str) -> Result<Name, Misread> {
    if text.is_empty() || text.len() > 128 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Misread::new(
            format!("`{}` is not a name", shortened(text)),
            "write 1 to 128 characters without white space",
        ));
    }
    Ok(Name(text.to_owned()))
}

text_term!(Name, "a name", "`web`", name, text_schema());

fn network(text: &str) -> Result<IpNet, Misread> {
    let wrong = || Misread::new(format!("`{}` is not a network", shortened(text)), "write it like `10.0.0.0/8`");
    if let Ok(network) = text.parse::<IpNet>() {
        return match network.trunc() == network {
            true => Ok(network),
            false => Err(Misread::new(
                format!("`{text}` has bits set beyond its prefix"),
                format!("write `{}` for the network, or `{}` for the address", network.trunc(), network.addr()),
            )),
        };
    }
    text.parse::<std::net::IpAddr>().map(IpNet::from).map_err(|_| wrong())
}

text_term!(IpNet, "a network", "`10.0.0.0/8`", network, pattern("^[0-9A-Fa-f:.]+(/[0-9]+)?$"));

/// A path; relative ones start from the directory of the file that names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

impl Term for FilePath {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.text(node, "a path", "write it like `conf/file.pem`")?;
        if text.is_empty() || text.contains('\0') {
            decoder.error(node.at, "this is not a path", "write it like `conf/file.pem`");
            return None;
        }
        Some(Self(decoder.marks.directory(node.at).join(text)))
    }

    fn describe(_: &Scope) -> Json {
        titled(json!({ "type": "string", "minLength": 1 }), "a path")
    }
}

/// The address of an HTTP service: `http://host:port` or `https://host:port`, with or without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(pub String);

fn url(text: &str) -> Result<Url, Misread> {
    let wrong =
        || Misread::new(format!("`{}` is not a URL", shortened(text)), "write it like `https://example.com/path`");
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(Url(text.to_owned())),
        _ => Err(wrong()),
    }
}

text_term!(Url, "a URL", "`https://example.com/path`", url, pattern("^https?://"));

fn ip<T: std::str::FromStr>(text: &str, example: &str) -> Result<T, Misread> {
    let wrong =
        |_| Misread::new(format!("`{}` is not such an address", shortened(text)), format!("write it like `{example}`"));
    text.parse().map_err(wrong)
}

text_term!(Ipv4Addr, "an IPv4 address", "`10.0.0.7`", |text| ip(text, "10.0.0.7"), pattern("^[0-9.]+$"));
text_term!(Ipv6Addr, "an IPv6 address", "`fd00::7`", |text| ip(text, "fd00::7"), pattern("^[0-9A-Fa-f:.]+$"));

pub(super) use text_term;
