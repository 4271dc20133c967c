//! What changes from one plan to another, in the operator's terms: "upstream web loses 1 of 4 backends", not "line 7".
//!
//! The plans are compared as `dump` shows them, so that a change is told in the keys of the language, and
//! so that what is not shown (the values of headers, bodies, the text of error pages) is told only as changed. Named things
//! are known by their names: listeners, upstreams, routes, backends. `edit` compares what is shown, `capacity` judges what an
//! upstream loses, `words` tells it all.

mod capacity;
mod edit;
mod words;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

pub use self::capacity::{Loss, MOST_LOST};
pub use self::edit::Edit;
use super::dump;
use super::plan::{Action, Plan, Route};

/// The sections of the configuration that are lists of named things.
const NAMED: [(Subject, &str); 3] =
    [(Subject::Listener, "listeners"), (Subject::Upstream, "upstreams"), (Subject::Route, "routes")];
/// What of a plan says where it comes from, and not what it means.
const ORIGIN: [&str; 2] = ["source", "hash"];
/// The keys of `server` that a running process can follow.
const LIVE: [&str; 3] = ["ca_file", "error_log", "grace_period_seconds"];

/// Everything that changes from one plan to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// The changes, each with its details.
    pub changes: Vec<Change>,
    /// What upstreams lose of their capacity.
    pub losses: Vec<Loss>,
}

/// One named thing, or one section, that changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What it is.
    pub subject: Subject,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub kind: Kind,
    /// What of it changes; empty where it comes or goes as a whole.
    pub edits: Vec<Edit>,
}

/// What changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The words of the language.
pub enum Subject {
    Listener,
    Upstream,
    Route,
    Section,
}

/// What becomes of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
}

impl Diff {
    /// What changes from `old` to `new`.
    #[must_use]
    pub fn between(old: &Plan, new: &Plan) -> Self {
        let (shown_old, shown_new) = (dump::dump(old), dump::dump(new));
        let mut changes = Vec::new();
        for (subject, section) in NAMED {
            let (hidden_old, hidden_new) = (hidden(old, subject), hidden(new, subject));
            let named = Named { subject, old: &named(&shown_old[section]), new: &named(&shown_new[section]) };
            named.compare(|name| hidden_old.get(name) != hidden_new.get(name), &mut changes);
        }
        sections(&shown_old, &shown_new, same_pages(old, new), &mut changes);
        Self { changes, losses: capacity::losses(old, new) }
    }

    /// Whether both mean the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The keys that only a new process can follow, such as `server.threads`: an upgrade can, a reload cannot.
    #[must_use]
    pub fn beyond_a_reload(&self) -> Vec<String> {
        let server = self.changes.iter().filter(|change| change.subject == Subject::Section && change.name == "server");
        let keys = server.flat_map(|change| &change.edits).map(Edit::path);
        keys.filter(|key| !LIVE.contains(key)).map(|key| format!("server.{key}")).collect()
    }

    /// The losses that must be confirmed.
    pub fn grave_losses(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().filter(|loss| loss.is_grave())
    }
}

/// Named things of one kind, as they are shown.
struct Named<'a> {
    subject: Subject,
    old: &'a [(String, &'a Json)],
    new: &'a [(String, &'a Json)],
}

impl Named<'_> {
    /// Adds what becomes of each; `changed_within` tells of a name whether it changes in what is not shown.
    fn compare(&self, changed_within: impl Fn(&str) -> bool, changes: &mut Vec<Change>) {
        let before: HashMap<&str, &Json> = self.old.iter().map(|(name, shown)| (name.as_str(), *shown)).collect();
        let after: HashSet<&str> = self.new.iter().map(|(name, _)| name.as_str()).collect();
        for (name, _) in self.old.iter().filter(|(name, _)| !after.contains(name.as_str())) {
            changes.push(self.change(name, Kind::Removed, Vec::new()));
        }
        for (name, new) in self.new {
            let Some(old) = before.get(name.as_str()).copied() else {
                changes.push(self.change(name, Kind::Added, Vec::new()));
                continue;
            };
            let edits = edit::edits(old, new);
            if !edits.is_empty() {
                changes.push(self.change(name, Kind::Changed, edits));
            } else if changed_within(name) {
                changes.push(self.change(name, Kind::Changed, vec![Edit::Hidden]));
            }
        }
    }

    fn change(&self, name: &str, kind: Kind, edits: Vec<Edit>) -> Change {
        Change { subject: self.subject, name: name.to_owned(), kind, edits }
    }
}

/// A list of shown things by their names: a mapping, or a sequence of mappings with a `name`.
fn named(shown: &Json) -> Vec<(String, &Json)> {
    match shown {
        Json::Object(entries) => entries.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Json::Array(items) => items.iter().map(|item| (edit::name(item).to_owned(), item)).collect(),
        _ => Vec::new(),
    }
}

/// All there is to know of each thing, in a text that is never shown: what differs in it differs in meaning.
fn hidden(plan: &Plan, subject: Subject) -> Map<String, Json> {
    fn texts<'a, T: Debug + 'a>(things: impl Iterator<Item = (&'a Arc<str>, T)>) -> Map<String, Json> {
        things.map(|(name, thing)| (name.to_string(), Json::String(format!("{thing:?}")))).collect()
    }
    match subject {
        Subject::Listener => texts(plan.listeners.iter().map(|listener| (&listener.name, listener))),
        Subject::Upstream => texts(plan.upstreams.iter().map(|upstream| (&upstream.name, upstream))),
        Subject::Route => texts(plan.routes.iter().map(|route| (&route.name, without_upstreams(route)))),
        Subject::Section => Map::new(),
    }
}

/// A route without what its upstreams are, which is their own affair: of them, the names and shares stay.
fn without_upstreams(route: &Route) -> (Route, Vec<(&str, u32)>) {
    let shares = route.action.splits().iter().map(|split| (&*split.upstream.name, split.weight)).collect();
    let mut bare = route.clone();
    if let Action::Forward(splits) = &mut bare.action {
        splits.clear();
    }
    (bare, shares)
}

fn same_pages(old: &Plan, new: &Plan) -> bool {
    old.errors == new.errors
}

/// Adds the sections that stand alone.
fn sections(old: &Json, new: &Json, same_pages: bool, changes: &mut Vec<Change>) {
    let alone = |key: &&String| !ORIGIN.contains(&key.as_str()) && NAMED.iter().all(|(_, section)| key != section);
    for name in new.as_object().into_iter().flat_map(Map::keys).filter(alone) {
        let mut edits = edit::edits(&old[name], &new[name]);
        if edits.is_empty() && name == "errors" && !same_pages {
            edits.push(Edit::Hidden);
        }
        if !edits.is_empty() {
            changes.push(Change { subject: Subject::Section, name: name.clone(), kind: Kind::Changed, edits });
        }
    }
}

#[cfg(test)]
mod tests;
