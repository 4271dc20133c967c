//! Names with values that stand together in one text: cookies and query parameters.
//!
//! Of several with the same name the first counts, as the Gateway API recommends for query parameters.

use crate::base::path::escaped_byte;
use crate::base::request::Fields;

/// What `read` makes of the value of a cookie (RFC 6265, 4.2), without its quotes; none where there is no such cookie.
pub fn cookie<T>(fields: &dyn Fields, name: &str, mut read: impl FnMut(&[u8]) -> T) -> Option<T> {
    let mut found = None;
    fields.each("cookie", &mut |field| {
        if found.is_none() {
            found = field.split(|byte| *byte == b';').find_map(|pair| value_of(pair, name)).map(&mut read);
        }
    });
    found
}

fn value_of<'p>(pair: &'p [u8], name: &str) -> Option<&'p [u8]> {
    let mut halves = pair.trim_ascii().splitn(2, |byte| *byte == b'=');
    if halves.next()? != name.as_bytes() {
        return None;
    }
    let value = halves.next()?;
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(unquoted.unwrap_or(value))
}

/// The value of a query parameter, decoded.
pub fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<impl Iterator<Item = u8> + use<'q>> {
    let mut pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(found, _)| decoded(found).eq(name.bytes()))?;
    Some(decoded(value))
}

/// The bytes that a part of a query stands for: `+` is a space, escapes are decoded, and a `%` that begins no escape stands
/// for itself (the URL standard, section 5.1).
fn decoded(text: &str) -> impl Iterator<Item = u8> + use<'_> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (byte, length) = match (escaped_byte(rest), rest.first()?) {
            (Some(byte), _) => (byte, 3),
            (None, b'+') => (b' ', 1),
            (None, other) => (*other, 1),
        };
        rest = &rest[length..];
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sid(cookies: &[&str]) -> Option<String> {
        let mut fields = http::HeaderMap::new();
        for value in cookies {
            fields.append("cookie", value.parse().unwrap());
        }
        cookie(&fields, "sid", |value| String::from_utf8_lossy(value).into_owned())
    }

    #[test]
    fn the_first_cookie_of_the_name_counts() {
        assert_eq!(sid(&["a=1; sid=x; sid=y", "sid=z"]).as_deref(), Some("x"));
        assert_eq!(sid(&["a=1", "sid=\"q=1\""]).as_deref(), Some("q=1"));
        assert_eq!(sid(&["sid", "xsid=1", "SID=1", ""]), None);
        assert_eq!(sid(&["sid="]).as_deref(), Some(""));
    }

    #[test]
    fn parameters_are_decoded_on_both_sides_of_the_equals_sign() {
        let value = |query| parameter(Some(query), "k y").map(|value| String::from_utf8(value.collect()).unwrap());
        assert_eq!(value("a=1&k+y=%61%2B&k+y=2").as_deref(), Some("a+"));
        assert_eq!(value("%6b%20y").as_deref(), Some(""));
        assert_eq!(value("ky=1&"), None);
        assert!(parameter(None, "k").is_none());
    }
}
