//! Two shown values, compared key by key.

use std::collections::{HashMap, HashSet};

use serde_json::{Value as Json, json};

/// One key that changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// A value gives way to another.
    Set {
        /// The key's path within its thing, such as `timeouts.connect`.
        path: String,
        /// The old value.
        from: Json,
        /// The new value.
        to: Json,
    },
    /// A list gains an item.
    Gain {
        /// The list's path.
        path: String,
        /// The item, or its name.
        item: Json,
    },
    /// A list loses an item.
    Lose {
        /// The list's path.
        path: String,
        /// The item, or its name.
        item: Json,
    },
    /// Something changes that is never shown, such as the value of a header or the text of a page.
    Hidden,
}

impl Edit {
    /// The path of the key; empty where it is not shown.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Set { path, .. } | Self::Gain { path, .. } | Self::Lose { path, .. } => path,
            Self::Hidden => "",
        }
    }

    /// As JSON: `path`, with `from` and `to`, `gains`, or `loses`; `{"hidden": true}` for what is not shown.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Set { path, from, to } => json!({ "path": path, "from": from, "to": to }),
            Self::Gain { path, item } => json!({ "path": path, "gains": item }),
            Self::Lose { path, item } => json!({ "path": path, "loses": item }),
            Self::Hidden => json!({ "hidden": true }),
        }
    }
}

/// What changes from `old` to `new`.
pub(super) fn edits(old: &Json, new: &Json) -> Vec<Edit> {
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

/// The `name` of a shown thing; empty where it has none.
pub(super) fn name(item: &Json) -> &str {
    item.get("name").and_then(Json::as_str).unwrap_or_default()
}

fn compare(path: &str, old: &Json, new: &Json, found: &mut Vec<Edit>) {
    match (old, new) {
        _ if old == new => {}
        (Json::Object(before), Json::Object(after)) => {
            let gone = before.keys().filter(|key| !after.contains_key(*key));
            for key in gone.chain(after.keys()) {
                let value = |all: &serde_json::Map<String, Json>| all.get(key).cloned().unwrap_or_default();
                compare(&below(path, key), &value(before), &value(after), found);
            }
        }
        (Json::Array(before), Json::Array(after)) => compare_lists(path, before, after, found),
        _ => found.push(Edit::Set { path: path.to_owned(), from: old.clone(), to: new.clone() }),
    }
}

/// Lists of named things are compared by name, others item by item; an order that alone changes is told as a whole.
fn compare_lists(path: &str, old: &[Json], new: &[Json], found: &mut Vec<Edit>) {
    let told = found.len();
    let is_named = |item: &Json| !name(item).is_empty();
    if old.iter().chain(new).all(is_named) {
        // Of two with one name the first counts.
        let before: HashMap<&str, &Json> = old.iter().rev().map(|item| (name(item), item)).collect();
        let after: HashSet<&str> = new.iter().map(name).collect();
        for item in old.iter().filter(|item| !after.contains(name(item))) {
            found.push(Edit::Lose { path: path.to_owned(), item: name(item).into() });
        }
        for item in new {
            match before.get(name(item)) {
                Some(known) => compare(&format!("{path}[{}]", name(item)), known, item, found),
                None => found.push(Edit::Gain { path: path.to_owned(), item: name(item).into() }),
            }
        }
    } else {
        let (before, after): (HashSet<&Json>, HashSet<&Json>) = (old.iter().collect(), new.iter().collect());
        let lost = old.iter().filter(|item| !after.contains(item));
        found.extend(lost.map(|item| Edit::Lose { path: path.to_owned(), item: item.clone() }));
        let gained = new.iter().filter(|item| !before.contains(item));
        found.extend(gained.map(|item| Edit::Gain { path: path.to_owned(), item: item.clone() }));
    }
    if found.len() == told {
        found.push(Edit::Set { path: path.to_owned(), from: old.into(), to: new.into() });
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
