//! `include: [conf.d/*.yaml]`: further files, merged into one tree.
//!
//! Named things are joined (upstreams by name, listeners and routes as lists); anything else may stand in one file only.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::node::{Entry, Marks, Node, Value};
use crate::config::diagnostic::{Diagnostic, Diagnostics};

/// How many files one pattern may name.
const MAX_MATCHES: usize = 1_000;

/// The files that a pattern names, sorted; `*` and `?` stand in its last component only.
///
/// # Errors
/// Says why the pattern names no file.
pub(super) fn expand(directory: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let path = directory.join(pattern);
    let is_pattern = |part: &OsStr| part.to_string_lossy().contains(['*', '?']);
    if Path::new(pattern).parent().is_some_and(|parent| parent.iter().any(is_pattern)) {
        return Err("`*` and `?` may stand in the last part of the path only".to_owned());
    }
    let Some(last) = path.file_name().filter(|last| is_pattern(last)) else {
        return Ok(vec![path]);
    };
    let parent = path.parent().unwrap_or(directory);
    let entries = std::fs::read_dir(parent).map_err(|error| format!("cannot read {}: {error}", parent.display()))?;
    let last = last.to_string_lossy();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("cannot read {}: {error}", parent.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && matches(last.as_bytes(), name.as_bytes()) {
            found.push(parent.join(entry.file_name()));
        }
    }
    if found.len() > MAX_MATCHES {
        return Err(format!("names {} files, more than {MAX_MATCHES}", found.len()));
    }
    found.sort();
    Ok(found)
}

/// Whether `name` fits a pattern of `*` (any bytes) and `?` (one byte), in time linear in their product.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((star_p, star_n)) => {
                    star = Some((star_p, star_n + 1));
                    p = star_p + 1;
                    n = star_n + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Merges the entries of an included file into those of the file that includes it.
pub(super) fn merge(into: &mut Vec<Entry>, from: Vec<Entry>, marks: &Marks, out: &mut Diagnostics) {
    for entry in from {
        match into.iter_mut().find(|known| known.key == entry.key) {
            None => into.push(entry),
            Some(known) => join(known, entry, marks, out),
        }
    }
}

fn join(known: &mut Entry, entry: Entry, marks: &Marks, out: &mut Diagnostics) {
    match (known.key.as_str(), &mut known.value.value, entry.value) {
        ("include", Value::Sequence(all), Node { value: Value::Sequence(more), .. })
        | ("listeners" | "routes", Value::Sequence(all), Node { value: Value::Sequence(more), .. }) => all.extend(more),
        ("upstreams", Value::Mapping(all), Node { value: Value::Mapping(more), .. }) => {
            let first: HashMap<String, usize> =
                all.iter().enumerate().map(|(index, upstream)| (upstream.key.clone(), index)).collect();
            for upstream in more {
                match first.get(&upstream.key) {
                    None => all.push(upstream),
                    Some(first) => {
                        let what = format!("the upstream `{}`", upstream.key);
                        out.push(twice(&what, &all[*first], &upstream, marks));
                    }
                }
            }
        }
        (key, _, value) => {
            let second = Entry { key: key.to_owned(), key_at: entry.key_at, value };
            let diagnostic = twice(&format!("`{key}`"), known, &second, marks);
            out.push(diagnostic);
        }
    }
}

fn twice(what: &str, first: &Entry, second: &Entry, marks: &Marks) -> Diagnostic {
    Diagnostic::error(format!("{what} is defined twice"))
        .at(marks.place(second.key_at))
        .other("first defined here", marks.place(first.key_at))
        .help("keep one of the two")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stars_and_question_marks_match_file_names() {
        for (pattern, name, expected) in [
            ("*.yaml", "a.yaml", true),
            ("*.yaml", "a.yml", false),
            ("?.yaml", "a.yaml", true),
            ("?.yaml", "ab.yaml", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_star_in_place_of_any_part_still_matches(before in "[a-z]{0,8}", part in "[a-z]{0,8}", after in "[a-z]{0,8}") {
            let (pattern, name) = (format!("{before}*{after}"), format!("{before}{part}{after}"));
            prop_assert!(matches(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
