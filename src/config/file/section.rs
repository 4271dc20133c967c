//! `section!` and `words!`: one declaration each for the struct, its reading, its known keys and its JSON Schema.
//!
//! ```text
//! section! {
//!     /// How the process stops.              ← the section's description
//!     Drain {
//!         /// From "not ready" on.            ← the key's description
//!         delay: Duration = Duration::ZERO,   ← key, term, default
//!         kind as "type": Kind,               ← a key that is a word of Rust; no default: none, or told in the description
//!     }
//! }
//! ```
//!
//! Every key becomes a `Field<Term>`. A key with a default also becomes a method of its name that returns the value or the
//! default: the schema and the manual print the very default that the program uses. `Backend or its address { … }` lets a
//! value stand for the section that has this key alone.

use serde_json::{Map, Value as Json, json};

use super::term::Scope;

/// One key of a section, described.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) describe: fn(&Scope) -> Option<Json>,
    pub(super) default: Option<Json>,
}

/// The JSON Schema of a section.
pub(super) fn describe(scope: &Scope, about: &str, keys: Vec<Key>) -> Json {
    let mut properties = Map::new();
    for key in keys {
        let Some(mut schema) = (key.describe)(&scope.key(key.name)) else { continue };
        schema["description"] = json!(paragraph(key.about));
        if let Some(default) = key.default {
            schema["default"] = default;
        }
        properties.insert(key.name.to_owned(), schema);
    }
    json!({ "type": "object", "description": paragraph(about), "properties": properties, "additionalProperties": false })
}

/// A doc comment as running text.
pub(super) fn paragraph(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident $(or its $short:ident)? {
            $( $(#[doc = $doc:literal])* $key:ident $(as $word:literal)? : $term:ty $(= $default:expr)?, )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Default)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $key: $crate::config::file::term::Field<$term>, )*
        }

        impl $name {
            /// The keys of this section, in the order of the manual.
            pub const KEYS: &'static [&'static str] = &[$( section!(@word $key $($word)?) ),*];

            $( section!(@default $key, $term $(, $default)?); )*
        }

        impl $crate::config::file::term::Term for $name {
            fn decode(
                node: &$crate::config::read::Node,
                decoder: &mut $crate::config::file::term::Decoder<'_>,
            ) -> Option<Self> {
                let mut section = Self::default();
                $( if matches!(node.value, $crate::config::read::Value::Scalar(_)) && !node.is_null() {
                    section.$short = decoder.field(node);
                    return Some(section);
                } )?
                for entry in decoder.mapping(node)? {
                    match entry.key.as_str() {
                        $( key if key == section!(@word $key $($word)?) => section.$key = decoder.field(&entry.value), )*
                        _ => {
                            // What was meant is not missing, too.
                            let near = decoder.unknown_key(entry, Self::KEYS);
                            $( if near == Some(section!(@word $key $($word)?)) && section.$key.is_absent() {
                                section.$key = $crate::config::file::term::Field::Faulty;
                            } )*
                        }
                    }
                }
                Some(section)
            }

            fn describe(scope: &$crate::config::file::term::Scope) -> serde_json::Value {
                let whole = $crate::config::file::section::describe(scope, concat!($($about, "\n"),*), vec![
                    $( $crate::config::file::section::Key {
                        name: section!(@word $key $($word)?),
                        about: concat!($($doc, "\n"),*),
                        describe: |scope| scope.describe::<$term>(),
                        default: section!(@written $term $(, $default)?),
                    } ),*
                ]);
                section!(@short scope, whole, $( $short )?)
            }
        }

        $( section!(@short_term $name, $short); )?
    };
    (@word $key:ident $word:literal) => { $word };
    (@word $key:ident) => { stringify!($key) };
    (@default $key:ident, $term:ty, $default:expr) => {
        /// The value, or the default.
        #[must_use]
        pub fn $key(&self) -> $term {
            self.$key.value().cloned().unwrap_or_else(|| $default)
        }
    };
    (@default $key:ident, $term:ty) => {};
    (@written $term:ty, $default:expr) => {{
        let default: $term = $default;
        $crate::config::file::term::Term::written(&default)
    }};
    (@written $term:ty) => { None };
    (@short $scope:ident, $whole:ident, $short:ident) => {
        serde_json::json!({ "anyOf": [Self::describe_short($scope), $whole] })
    };
    (@short $scope:ident, $whole:ident, ) => { $whole };
    (@short_term $name:ident, $short:ident) => {
        impl $name {
            fn describe_short(scope: &$crate::config::file::term::Scope) -> serde_json::Value {
                fn of<T: $crate::config::file::term::Term>(
                    _: fn(&$name) -> &$crate::config::file::term::Field<T>,
                    scope: &$crate::config::file::term::Scope,
                ) -> serde_json::Value {
                    T::describe(scope)
                }
                of(|section| &section.$short, scope)
            }
        }
    };
}

/// One of a few words: the enum, its reading with "did you mean", its schema.
macro_rules! words {
    (
        $(#[doc = $about:literal])*
        $name:ident { $( $(#[doc = $doc:literal])* $variant:ident = $word:literal, )* }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $doc])* $variant, )* }

        impl $name {
            /// The words, in the order of the manual.
            pub const WORDS: &'static [&'static str] = &[$( $word ),*];

            /// The word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }

        impl $crate::config::file::term::Term for $name {
            fn decode(
                node: &$crate::config::read::Node,
                decoder: &mut $crate::config::file::term::Decoder<'_>,
            ) -> Option<Self> {
                let example = format!("write one of: {}", Self::WORDS.join(", "));
                match decoder.text(node, "a word", &example)? {
                    $( $word => Some(Self::$variant), )*
                    other => {
                        decoder.unknown_word(node.at, other, Self::WORDS);
                        None
                    }
                }
            }

            fn describe(_: &$crate::config::file::term::Scope) -> serde_json::Value {
                serde_json::json!({ "enum": Self::WORDS })
            }

            fn written(&self) -> Option<serde_json::Value> {
                Some(serde_json::json!(self.as_str()))
            }
        }
    };
}

pub(super) use {section, words};
