//! Header fields as names and values.

use std::collections::HashSet;

use http::HeaderName;

use super::Checker;
use crate::config::file::collection::Named;
use crate::config::file::message::header_name;

/// Each field's name and value. Names that differ only in case are told as written twice.
pub(super) fn pairs<T: Clone>(named: &Named<T>, checker: &mut Checker<'_, '_>) -> Vec<(HeaderName, T)> {
    let mut pairs: Vec<(HeaderName, T)> = Vec::new();
    let mut seen = HashSet::new();
    for (name, value) in &named.items {
        let Some(parsed) = checker.read(name, header_name) else { continue };
        if !seen.insert(parsed.clone()) {
            checker.error(name.at, format!("the field `{parsed}` is written twice"), "keep one of the two");
        }
        pairs.push((parsed, value.value.clone()));
    }
    pairs
}
