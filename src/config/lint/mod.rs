//! What is accepted, and yet cannot be meant: settings that are each fine alone and void each other.
//!
//! Each doubt is a fact about the plan (a route that never wins, a deadline that never comes), proved by pure functions. What is faulty in itself is left to `check`.

mod circles;
mod retries;
pub mod routes;
mod times;

use std::sync::Arc;

use crate::config::diagnostic::Diagnostic;
use crate::config::plan::Plan;
use crate::config::read::{At, Node, Tree, Value};

/// Something in a plan that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Doubt {
    /// Whether it is told always.
    certainty: Certainty,
    /// Where it is written.
    place: Written,
    /// What is wrong.
    message: String,
    /// What to do.
    help: String,
}

/// How sure it is that something is not meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// Something that is written has no effect, or cannot work: told always.
    Sure,
    /// It works, and yet seldom as it was meant: told where somebody asks to be strict.
    Likely,
}

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Written {
    /// Here, or there is no doubt: what nobody wrote contradicts nobody.
    Exactly(Vec<Step>),
    /// Here, or in the section around it.
    Near(Vec<Step>),
}

/// One step of a path into the file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A key of the language.
    Key(&'static str),
    /// A name that the operator gave.
    Name(Arc<str>),
    /// An item of a list; an item that stands alone is the first.
    Item(usize),
    /// The item of `routes` that has this name.
    Route(Arc<str>),
}

/// Every doubt about `plan`, which was read from `tree`, at its place.
pub(super) fn doubts(plan: &Plan, tree: &Tree) -> Vec<(Certainty, Diagnostic)> {
    let all = [times::doubts(plan), retries::doubts(plan), circles::doubts(plan), routes::doubts(plan)];
    all.into_iter().flatten().filter_map(|doubt| Some((doubt.certainty, doubt.placed(tree)?))).collect()
}

impl Doubt {
    fn placed(self, tree: &Tree) -> Option<Diagnostic> {
        let at = match &self.place {
            Written::Exactly(steps) => steps.iter().try_fold(&tree.root, |node, step| step.take(node, tree))?.at,
            Written::Near(steps) => nearest(steps, tree),
        };
        Some(Diagnostic::warning(self.message).at(tree.marks.place(at)).help(self.help))
    }
}

fn nearest(steps: &[Step], tree: &Tree) -> At {
    let mut node = &tree.root;
    for step in steps {
        let Some(next) = step.take(node, tree) else { break };
        node = next;
    }
    node.at
}

impl Step {
    fn take<'n>(&self, node: &'n Node, tree: &Tree) -> Option<&'n Node> {
        match (self, &node.value) {
            (Self::Key(key), _) => node.get(key),
            (Self::Name(name), _) => node.get(name),
            (Self::Item(index), Value::Sequence(items)) => items.get(*index),
            (Self::Item(0), Value::Scalar(_) | Value::Mapping(_)) => Some(node),
            (Self::Route(name), Value::Sequence(items)) => items.iter().find(|item| match item.get("name") {
                Some(written) => written.text() == Some(name),
                // A route without a name goes by its place.
                None => tree.marks.path(item.at) == **name,
            }),
            _ => None,
        }
    }
}

/// The path of a key of an upstream.
fn upstream(name: &Arc<str>, keys: &[&'static str]) -> Vec<Step> {
    let start = [Step::Key("upstreams"), Step::Name(name.clone())];
    start.into_iter().chain(keys.iter().map(|key| Step::Key(key))).collect()
}

/// The path of a key of a route.
fn route(name: &Arc<str>, keys: &[&'static str]) -> Vec<Step> {
    let start = [Step::Key("routes"), Step::Route(name.clone())];
    start.into_iter().chain(keys.iter().map(|key| Step::Key(key))).collect()
}
