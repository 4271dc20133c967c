//! What stands in HTTP messages: methods, header fields, statuses.

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value as Json, json};

use super::leaf::{or_variable, pattern, text_schema, text_term, titled};
use super::term::{Decoder, Scope, Term, shortened};
use crate::base::units::Misread;
use crate::config::plan::StatusSet;
use crate::config::read::{Node, Value};

fn method(text: &str) -> Result<Method, Misread> {
    let wrong = || Misread::new(format!("`{}` is not a method", shortened(text)), "write it like `GET`, in capitals");
    let is_upper = !text.bytes().any(|byte| byte.is_ascii_lowercase());
    Method::from_bytes(text.as_bytes()).ok().filter(|_| is_upper).ok_or_else(wrong)
}

text_term!(Method, "a method", "`GET`", method, pattern("^[A-Z]+"), |method| json!(method.as_str()));

/// Reads the name of a header field.
pub(crate) fn header_name(text: &str) -> Result<HeaderName, Misread> {
    text.parse().map_err(|_| {
        let what = format!("`{}` is not the name of a header field", shortened(text));
        Misread::new(what, "write letters, digits and `-`, like `x-beta`")
    })
}

text_term!(HeaderName, "a header field's name", "`x-beta`", header_name, pattern("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"));

fn header_value(text: &str) -> Result<HeaderValue, Misread> {
    text.parse()
        .map_err(|_| Misread::new("this is not the value of a header field", "write visible characters on one line"))
}

text_term!(HeaderValue, "a header field's value", "`text`", header_value, text_schema());

/// An HTTP status, 200 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16);

/// Reads a status.
pub(crate) fn status(text: &str) -> Result<Status, Misread> {
    match text.parse::<u16>() {
        Ok(status) if (200..=599).contains(&status) && text.len() == 3 => Ok(Status(status)),
        _ => Err(Misread::new(format!("`{}` is not a status", shortened(text)), "write a number from 200 to 599")),
    }
}

text_term!(
    Status,
    "a status",
    "`503`",
    status,
    or_variable(json!({ "type": "integer", "minimum": 200, "maximum": 599 })),
    |status| json!(status.0)
);

/// Reads a status, a class or a range: `204`, `2xx`, `300-399`.
fn status_range(text: &str) -> Result<(u16, u16), Misread> {
    let wrong =
        || Misread::new(format!("`{}` is not a status", shortened(text)), "write it like `204`, `2xx` or `300-399`");
    let number = |text: &str| text.parse::<u16>().ok().filter(|n| text.len() == 3 && (100..=599).contains(n));
    if let Some(class) = text.strip_suffix("xx").and_then(|digit| digit.parse::<u16>().ok()) {
        return if (1..=5).contains(&class) { Ok((class * 100, class * 100 + 99)) } else { Err(wrong()) };
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        (Some(_), Some(_)) => Err(Misread::new(format!("`{text}` is empty"), format!("write `{high}-{low}`"))),
        _ => Err(wrong()),
    }
}

impl Term for StatusSet {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let nodes = match &node.value {
            Value::Sequence(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut ranges = Vec::new();
        let mut whole = true;
        for item in nodes {
            let text = decoder.text(item, "a status", "write it like `[200, \"3xx\", \"400-404\"]`");
            match text.map(status_range) {
                Some(Ok(range)) => ranges.push(range),
                Some(Err(misread)) => {
                    decoder.misread(item.at, misread);
                    whole = false;
                }
                None => whole = false,
            }
        }
        whole.then_some(Self(ranges))
    }

    fn describe(_: &Scope) -> Json {
        let one = json!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^([1-5]xx|[1-5][0-9][0-9](-[1-5][0-9][0-9])?)$|\\$\\{" },
        ] });
        titled(json!({ "anyOf": [one, { "type": "array", "items": one }] }), "statuses")
    }

    fn written(&self) -> Option<Json> {
        let one = |(low, high): &(u16, u16)| match (low % 100, high - low) {
            (0, 99) => json!(format!("{}xx", low / 100)),
            (_, 0) => json!(low),
            _ => json!(format!("{low}-{high}")),
        };
        Some(self.0.iter().map(one).collect())
    }
}
