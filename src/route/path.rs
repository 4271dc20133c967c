//! The table of one host's path patterns. Paths and patterns are compared in the form that `base::path` gives them.

use regex::Regex;

use super::hash::PlainMap;
use crate::base::path::{NormalPath, after_prefix};
use crate::config::plan::PathPattern;

/// Whether `pattern` (in its compared form) matches `path`.
pub(super) fn matches(pattern: &PathPattern, path: &NormalPath<'_>) -> bool {
    match pattern {
        PathPattern::Exact(wanted) => wanted == path.as_str(),
        PathPattern::Prefix(prefix) => after_prefix(path.as_str(), prefix).is_some(),
        PathPattern::Regex(regex) => regex.is_match(path.as_str()),
    }
}

/// `pattern` in the compared form, so that both sides of every comparison went through the same function. A pattern without
/// a normal form stays as it is: no path is ever equal to it.
pub(super) fn normalise_pattern(pattern: &PathPattern) -> PathPattern {
    let normal = |text: &str| NormalPath::new(text).map_or_else(|_| text.to_owned(), NormalPath::into_string);
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
}
