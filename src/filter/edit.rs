//! Changes to header fields as values: a filter says what to change, and whoever holds the fields changes them.
//!
//! The two data paths keep fields in forms of their own (bytes about to be sent, Pingora's case-keeping maps), and a filter
//! often reads the very fields that it changes. So filters return edits; [`apply`] is for an [`http::HeaderMap`].

use http::{HeaderMap, HeaderName, HeaderValue};

/// One change to header fields. Edits are applied in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Takes the place of all values of the field.
    Set(HeaderName, HeaderValue),
    /// Adds a value to the field.
    Add(HeaderName, HeaderValue),
    /// Removes the field.
    Remove(HeaderName),
}

/// Makes the changes `edits` to `fields`, in order.
pub fn apply(edits: impl IntoIterator<Item = Edit>, fields: &mut HeaderMap) {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => drop(fields.insert(name, value)),
            Edit::Add(name, value) => drop(fields.append(name, value)),
            Edit::Remove(name) => drop(fields.remove(name)),
        }
    }
}
