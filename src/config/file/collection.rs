//! Lists, named things, and things that can be turned off.

use serde_json::{Value as Json, json};

use super::term::{Decoder, Scope, Spanned, Term};
use crate::config::read::{At, Node, Value};

/// A list; each item keeps its place. Items that are wrong are told and left out.
#[derive(Debug, Clone)]
pub struct List<T> {
    /// The items that could be read.
    pub items: Vec<Spanned<T>>,
    /// Whether some could not be read.
    pub is_partial: bool,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { items: Vec::new(), is_partial: false }
    }
}

impl<T> List<T> {
    /// A list of these values, for defaults.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = T>) -> Self {
        let items = values.into_iter().map(|value| Spanned { value, at: At::default() }).collect();
        Self { items, is_partial: false }
    }

    /// The values without their places.
    #[must_use]
    pub fn values(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.items.iter().map(|item| item.value.clone()).collect()
    }

    fn read(nodes: &[Node], decoder: &mut Decoder<'_>) -> Self
    where
        T: Term,
    {
        let items: Vec<_> = nodes
            .iter()
            .filter_map(|node| T::decode(node, decoder).map(|value| Spanned { value, at: node.at }))
            .collect();
        let is_partial = items.len() < nodes.len();
        Self { items, is_partial }
    }
}

impl<T: Term> Term for List<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::Sequence(nodes) => Some(Self::read(nodes, decoder)),
            _ => decoder.expected(node, "a list", "write `[a, b]`, or each item after a `-`"),
        }
    }

    fn describe(scope: &Scope) -> Json {
        json!({ "type": "array", "items": scope.item().describe::<T>().unwrap_or(json!(false)) })
    }

    fn written(&self) -> Option<Json> {
        self.items.iter().map(|item| item.value.written()).collect()
    }
}

/// A list whose only item may stand alone.
#[derive(Debug, Clone)]
pub struct OneOrMany<T>(pub List<T>);

impl<T: Term> Term for OneOrMany<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::Sequence(nodes) => Some(Self(List::read(nodes, decoder))),
            _ => T::decode(node, decoder)
                .map(|value| Self(List { items: vec![Spanned { value, at: node.at }], is_partial: false })),
        }
    }

    fn describe(scope: &Scope) -> Json {
        let one = scope.item().describe::<T>().unwrap_or(json!(false));
        json!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// Named things, in the order of the file.
#[derive(Debug, Clone)]
pub struct Named<T> {
    /// Each name with its place, and the thing with its place.
    pub items: Vec<(Spanned<String>, Spanned<T>)>,
    /// Whether some could not be read.
    pub is_partial: bool,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self { items: Vec::new(), is_partial: false }
    }
}

impl<T: Term> Term for Named<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let mut named = Self::default();
        for entry in decoder.mapping(node)? {
            match T::decode(&entry.value, decoder) {
                Some(value) => {
                    let name = Spanned { value: entry.key.clone(), at: entry.key_at };
                    named.items.push((name, Spanned { value, at: entry.value.at }));
                }
                None => named.is_partial = true,
            }
        }
        Some(named)
    }

    fn describe(scope: &Scope) -> Json {
        json!({ "type": "object", "additionalProperties": scope.key("*").describe::<T>().unwrap_or(json!(false)) })
    }
}

/// A thing, or `none`: turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrNone<T> {
    /// Turned off.
    None,
    /// The thing.
    Some(T),
}

impl<T> OrNone<T> {
    /// As an `Option`.
    pub fn some(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Some(value) => Some(value),
        }
    }

    /// As an `Option` of a reference.
    pub const fn as_some(&self) -> Option<&T> {
        match self {
            Self::None => None,
            Self::Some(value) => Some(value),
        }
    }
}

/// Whether a node says `none`, or `{ type: none }`.
pub(crate) fn is_none(node: &Node) -> bool {
    let alone = matches!(&node.value, Value::Mapping(entries) if entries.len() == 1);
    node.text() == Some("none") || (alone && node.get("type").and_then(Node::text) == Some("none"))
}

impl<T: Term> Term for OrNone<T> {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if is_none(node) { Some(Self::None) } else { T::decode(node, decoder).map(Self::Some) }
    }

    fn describe(scope: &Scope) -> Json {
        let off = json!({
            "type": "object", "properties": { "type": { "const": "none" } }, "required": ["type"],
            "additionalProperties": false,
        });
        json!({ "anyOf": [{ "const": "none" }, T::describe(scope), off] })
    }

    fn written(&self) -> Option<Json> {
        match self {
            Self::None => Some(json!("none")),
            Self::Some(value) => value.written(),
        }
    }
}
