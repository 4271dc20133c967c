//! Paths in the form in which they are compared.
//!
//! The backend receives the path as the client sent it: the normal form decides which route wins, and nothing else, unless
//! a rewrite says otherwise.

use std::borrow::Cow;

use thiserror::Error;

/// A path in its normal form.
///
/// Escapes of unreserved characters are decoded (RFC 3986, 6.2.2.2) and the digits of all others are upper case (6.2.2.1);
/// repeated slashes are one slash; then `.` and `..` elements are resolved (5.2.4). An escaped slash or NUL is never decoded,
/// so it can neither end an element nor a string. Merging slashes before resolving dots is what nginx does: `/a//../b` is `/b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath<'a>(Cow<'a, str>);

/// Why a path has no normal form; each is answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// Neither begins with a slash nor is the `*` of `OPTIONS *`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// More `..` than elements before them.
    #[error("the path leads above the root")]
    AboveRoot,
    /// A `%` without two hexadecimal digits. To let it pass would make the form depend on how often it is computed:
    /// `%2%65` would become `%2e`, and that a dot.
    #[error("a % in the path is not followed by two hexadecimal digits (write %25 for a percent sign)")]
    BadEscape,
}

impl<'a> NormalPath<'a> {
    /// The normal form of `raw`; borrowed where `raw` already has it. An empty path is the root (RFC 9110, 4.2.3).
    ///
    /// # Errors
    /// A path that has no normal form: see [`PathError`].
    pub fn new(raw: &'a str) -> Result<Self, PathError> {
        match raw {
            "" => Ok(Self(Cow::Borrowed("/"))),
            "*" => Ok(Self(Cow::Borrowed(raw))),
            _ if !raw.starts_with('/') => Err(PathError::NotAbsolute),
            _ if is_plain(raw) => Ok(Self(Cow::Borrowed(raw))),
            _ => resolve(&unescape(raw)?).map(|path| Self(Cow::Owned(path))),
        }
    }

    /// The path in its normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path in its normal form, on its own.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0.into_owned()
    }
}

/// Whether `raw` is sure to be in normal form: without escapes, empty elements, and elements that begin with a dot.
fn is_plain(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    !bytes.contains(&b'%') && memchr::memchr_iter(b'/', bytes).all(|at| !matches!(bytes.get(at + 1), Some(b'/' | b'.')))
}

fn unescape(raw: &str) -> Result<String, PathError> {
    let mut path = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        path.push_str(&rest[..at]);
        let byte = escaped_byte(&rest.as_bytes()[at..]).ok_or(PathError::BadEscape)?;
        if matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(byte));
        } else {
            path.push_str(&rest[at..at + 3].to_ascii_uppercase());
        }
        rest = &rest[at + 3..];
    }
    path.push_str(rest);
    Ok(path)
}

/// The byte that the escape at the start of `text` stands for.
#[must_use]
pub fn escaped_byte(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

fn resolve(path: &str) -> Result<String, PathError> {
    let mut kept: Vec<&str> = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." => kept.pop().map(drop).ok_or(PathError::AboveRoot)?,
            _ => kept.push(element),
        }
    }
    let is_directory = matches!(path.rsplit('/').next(), Some("" | "." | ".."));
    let mut resolved = String::with_capacity(path.len());
    for element in &kept {
        resolved.push('/');
        resolved.push_str(element);
    }
    if is_directory || kept.is_empty() {
        resolved.push('/');
    }
    Ok(resolved)
}

/// What follows `prefix` in `path`, where `prefix` ends at the end of an element: empty, or beginning with a slash.
#[must_use]
pub fn after_prefix<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    (prefix.is_empty() || rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(raw: &str) -> Result<String, PathError> {
        NormalPath::new(raw).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn paths_are_brought_to_one_form() {
        for (raw, expected) in [
            ("", "/"),
            ("/", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a//../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/%61", "/a"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2F..%2Fb", "/a%2F..%2Fb"),
            ("/%00", "/%00"),
            ("/%7euser", "/~user"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/caf%c3%a9", "/caf%C3%A9"),
        ] {
            assert_eq!(normal(raw).as_deref(), Ok(expected), "{raw:?}");
        }
    }

    #[test]
    fn paths_without_a_normal_form_are_refused() {
        for (raw, expected) in [
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/%2e%2e/etc", PathError::AboveRoot),
            ("a", PathError::NotAbsolute),
            ("/%", PathError::BadEscape),
            ("/%2", PathError::BadEscape),
            ("/%2%65", PathError::BadEscape),
            ("/%zz", PathError::BadEscape),
            ("/%é", PathError::BadEscape),
        ] {
            assert_eq!(normal(raw), Err(expected), "{raw:?}");
        }
    }

    #[test]
    fn a_path_in_normal_form_is_borrowed() {
        assert!(matches!(NormalPath::new("/api/v1/users"), Ok(NormalPath(Cow::Borrowed(_)))));
    }

    #[test]
    fn a_prefix_ends_with_an_element() {
        for (path, prefix, rest) in [
            ("/v1", "/v1", Some("")),
            ("/v1/x", "/v1", Some("/x")),
            ("/v10", "/v1", None),
            ("/x", "", Some("/x")),
            ("*", "", Some("*")),
        ] {
            assert_eq!(after_prefix(path, prefix), rest, "{path} {prefix}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_normal_form(raw in "/([a-zA-Z./~ é]|%[0-9a-fA-F]{2}|%2[eEfF]|%25){0,24}") {
            if let Ok(once) = normal(&raw) {
                prop_assert_eq!(normal(&once), Ok(once));
            }
        }

        #[test]
        fn the_normal_form_has_no_dot_elements_and_no_empty_ones(raw in "/([a./]|%2e|%2E|%2f){0,24}") {
            if let Ok(once) = normal(&raw) {
                let inner = once.strip_suffix('/').unwrap_or(&once);
                prop_assert!(inner.split('/').skip(1).all(|element| !matches!(element, "" | "." | "..")), "{once}");
            }
        }

        #[test]
        fn no_path_makes_it_panic(raw in ".*") {
            let _ = normal(&raw);
        }
    }
}
