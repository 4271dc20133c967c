//! Paths in the form in which they are compared, and the table of one host's path patterns.
//!
//! The backend receives the path as the client sent it: the normal form decides which route wins, and nothing else, unless
//! a rewrite says otherwise.

use std::borrow::Cow;

use regex::Regex;
use thiserror::Error;

use super::hash::PlainMap;
use crate::config::plan::PathPattern;

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
pub(super) fn escaped_byte(text: &[u8]) -> Option<u8> {
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

/// Whether `pattern` (in its compared form) matches `path`.
pub(super) fn matches(pattern: &PathPattern, path: &NormalPath<'_>) -> bool {
    match pattern {
        PathPattern::Exact(wanted) => wanted == path.as_str(),
        PathPattern::Prefix(prefix) => after_prefix(path.as_str(), prefix).is_some(),
        PathPattern::Regex(regex) => regex.is_match(path.as_str()),
    }
}

/// What follows `prefix` in `path`, where `prefix` ends at the end of an element: empty, or beginning with a slash.
#[must_use]
pub fn after_prefix<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    (prefix.is_empty() || rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// `pattern` in the compared form, so that both sides of every comparison went through the same function. A pattern without
/// a normal form stays as it is: no path is ever equal to it.
pub(super) fn normalise_pattern(pattern: &PathPattern) -> PathPattern {
    let normal = |text: &str| NormalPath::new(text).map_or_else(|_| text.to_owned(), |path| path.0.into_owned());
    match pattern {
        PathPattern::Exact(path) => PathPattern::Exact(normal(path)),
        PathPattern::Prefix(prefix) => PathPattern::Prefix(normal(prefix).trim_end_matches('/').to_owned()),
        PathPattern::Regex(regex) => PathPattern::Regex(regex.clone()),
    }
}

/// The path patterns of one host, and for each the rules that have it.
///
/// A lookup costs one hash for the exact paths, one for each element of the path that some prefix shares, and one match
/// for each regular expression; the number of patterns does not enter.
#[derive(Debug)]
pub(super) struct PathTable {
    exact: PlainMap<Box<str>, Vec<u32>>,
    prefixes: Vec<Node>,
    regexes: Vec<(Regex, u32)>,
}

/// A path element in the tree of prefixes; the first node is the root.
#[derive(Debug, Default)]
struct Node {
    rules: Vec<u32>,
    /// The nearest node above that has rules.
    above: Option<u32>,
    children: PlainMap<Box<str>, u32>,
}

impl Default for PathTable {
    fn default() -> Self {
        Self { exact: PlainMap::default(), prefixes: vec![Node::default()], regexes: Vec::new() }
    }
}

impl PathTable {
    /// Adds `rule` under `pattern`, which is in its compared form. Rules must come in order of precedence.
    pub(super) fn insert(&mut self, pattern: &PathPattern, rule: u32) {
        match pattern {
            PathPattern::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(rule),
            PathPattern::Prefix(prefix) => self.insert_prefix(prefix, rule),
            PathPattern::Regex(regex) => self.regexes.push((regex.clone(), rule)),
        }
    }

    fn insert_prefix(&mut self, prefix: &str, rule: u32) {
        let mut at = 0;
        for element in elements(prefix) {
            at = self.child(at, element);
        }
        self.prefixes[at].rules.push(rule);
    }

    fn child(&mut self, parent: usize, element: &str) -> usize {
        let next = self.prefixes.len();
        let found = *self.prefixes[parent].children.entry(element.into()).or_insert(index(next));
        if found as usize == next {
            self.prefixes.push(Node::default());
        }
        found as usize
    }

    /// Links each node to the nearest one above it that has rules. Called once, after the last insertion.
    pub(super) fn link(&mut self) {
        // A child always stands behind its parent, so that a parent's link is there when its children ask for it.
        for parent in 0..self.prefixes.len() {
            let node = &self.prefixes[parent];
            let above = if node.rules.is_empty() { node.above } else { Some(index(parent)) };
            let children: Vec<u32> = node.children.values().copied().collect();
            for child in children {
                self.prefixes[child as usize].above = above;
            }
        }
    }

    /// The first rule, by precedence of its path, that matches `path` and that `accept` accepts.
    pub(super) fn first(&self, path: &NormalPath<'_>, accept: impl Fn(u32) -> bool) -> Option<u32> {
        let path = path.as_str();
        self.first_exact(path, &accept).or_else(|| self.first_prefix(path, &accept)).or_else(|| {
            self.regexes.iter().find(|(regex, rule)| accept(*rule) && regex.is_match(path)).map(|(_, rule)| *rule)
        })
    }

    fn first_exact(&self, path: &str, accept: &impl Fn(u32) -> bool) -> Option<u32> {
        // Most hosts have no exact paths: their requests are spared the hash.
        if self.exact.is_empty() {
            return None;
        }
        self.exact.get(path)?.iter().copied().find(|rule| accept(*rule))
    }

    fn first_prefix(&self, path: &str, accept: &impl Fn(u32) -> bool) -> Option<u32> {
        let mut node = self.deepest(path);
        loop {
            if let Some(rule) = node.rules.iter().find(|rule| accept(**rule)) {
                return Some(*rule);
            }
            node = &self.prefixes[node.above? as usize];
        }
    }

    /// The node of the longest prefix of `path`, by element, that is in the tree (with rules or without).
    fn deepest(&self, path: &str) -> &Node {
        let mut node = &self.prefixes[0];
        for element in elements(path) {
            match node.children.get(element) {
                Some(child) => node = &self.prefixes[*child as usize],
                None => break,
            }
        }
        node
    }
}

/// The elements of a path or prefix; the empty prefix and `*` have none.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}

fn index(position: usize) -> u32 {
    u32::try_from(position).expect("a configuration has fewer than four billion path elements")
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

    #[test]
    fn the_longest_prefix_wins_and_the_next_is_tried_when_it_is_refused() {
        let mut table = PathTable::default();
        for (rule, prefix) in ["/a/b/c", "/a/b", "/a", ""].iter().enumerate() {
            table.insert(&PathPattern::Prefix((*prefix).into()), index(rule));
        }
        table.link();
        let first = |path: &str, at_least: u32| table.first(&NormalPath::new(path).unwrap(), |rule| rule >= at_least);
        assert_eq!(first("/a/b/c/d", 0), Some(0));
        assert_eq!(first("/a/b/cd", 0), Some(1));
        assert_eq!(first("/a/b/c", 2), Some(2));
        assert_eq!(first("/z", 0), Some(3));
        assert_eq!(first("/a/b/c", 4), None);
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
