//! The terms of the language: how a key's value is read from a node, and how it is described.
//!
//! A [`Term`] is everything that can stand after a key. Reading collects faults in the [`Decoder`] and goes on, so that
//! all faults of a file are told at once; the `section!` macro makes a section of named terms.

use serde_json::Value as Json;

use crate::base::units::Misread;
use crate::config::diagnostic::{Diagnostic, Diagnostics};
use crate::config::read::{At, Entry, Marks, Node, Value};
use crate::config::support::Support;

/// Something that can stand after a key.
pub trait Term: Sized {
    /// Reads a node; where that fails, the fault is told to the decoder and nothing is returned.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self>;

    /// The JSON Schema of this term.
    fn describe(scope: &Scope) -> Json;

    /// The value as an operator would write it, for the description of defaults.
    fn written(&self) -> Option<Json> {
        None
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: At,
}

/// A key of a section.
#[derive(Debug, Clone, Default)]
pub enum Field<T> {
    /// Not written: the default holds.
    #[default]
    Absent,
    /// Written wrongly; the fault is told already, so that nothing more need be said of this key.
    Faulty,
    /// Written.
    Given(Spanned<T>),
}

impl<T> Field<T> {
    /// The value and its place, where it is written.
    #[must_use]
    pub const fn given(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Given(spanned) => Some(spanned),
            Self::Absent | Self::Faulty => None,
        }
    }

    /// The value, where it is written.
    #[must_use]
    pub fn value(&self) -> Option<&T> {
        self.given().map(|spanned| &spanned.value)
    }

    /// Where it is written.
    #[must_use]
    pub fn at(&self) -> Option<At> {
        self.given().map(|spanned| spanned.at)
    }

    /// Whether the key is not there at all.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// The section that is written, or one whose every key is absent.
#[must_use]
pub fn written_or_default<T: Clone + Default>(field: &Field<T>) -> T {
    field.value().cloned().unwrap_or_default()
}

/// What reading carries along: the places of nodes, and the faults so far.
pub struct Decoder<'a> {
    /// The places of nodes.
    pub marks: &'a Marks,
    /// What was found so far.
    pub found: Diagnostics,
}

impl<'a> Decoder<'a> {
    /// A decoder that has found nothing yet.
    #[must_use]
    pub fn new(marks: &'a Marks) -> Self {
        Self { marks, found: Diagnostics::default() }
    }

    /// Tells a fault at a place.
    pub fn error(&mut self, at: At, message: impl Into<String>, help: impl Into<String>) {
        if self.found.is_full() {
            return;
        }
        self.found.push(Diagnostic::error(message).at(self.marks.place(at)).help(help));
    }

    /// Tells a fault of a unit, an address, or another small text.
    pub fn misread(&mut self, at: At, misread: Misread) {
        self.error(at, misread.fault, misread.remedy);
    }

    /// Reads the value of a key.
    pub fn field<T: Term>(&mut self, node: &Node) -> Field<T> {
        match T::decode(node, self) {
            Some(value) => Field::Given(Spanned { value, at: node.at }),
            None => Field::Faulty,
        }
    }

    /// The entries of a mapping; anything else is a fault.
    pub fn mapping<'n>(&mut self, node: &'n Node) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Mapping(entries) => Some(entries),
            _ => self.expected(node, "keys and values", "write `{ key: value }`, or the keys indented below"),
        }
    }

    /// The text of a scalar; anything else is a fault. `what` says what is expected, `example` how it looks.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str, example: &str) -> Option<&'n str> {
        match node.text() {
            Some(text) if !node.is_null() => Some(text),
            _ => self.expected(node, what, example),
        }
    }

    /// Tells that something else is expected here.
    pub fn expected<T>(&mut self, node: &Node, what: &str, example: &str) -> Option<T> {
        let found = match &node.value {
            Value::Faulty => return None,
            Value::Scalar(_) if node.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) => format!("`{}`", shortened(&scalar.text)),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "keys and values".to_owned(),
        };
        self.error(node.at, format!("expected {what}, found {found}"), example);
        None
    }

    /// Tells that a key is not known; returns the known one that looks most like it, which is what was meant.
    pub fn unknown_key<'k>(&mut self, entry: &Entry, known: &[&'k str]) -> Option<&'k str> {
        let help = match entry.key.as_str() {
            "<<" => "write the keys out: an alias (`*name`) stands for a whole value, and nothing is merged".to_owned(),
            key => instead(key, known, "known here:"),
        };
        self.error(entry.key_at, format!("unknown key `{}`", shortened(&entry.key)), help);
        closest(&entry.key, known)
    }

    /// Tells that a word is not one of those that may stand here.
    pub fn unknown_word(&mut self, at: At, word: &str, known: &[&str]) {
        let help = instead(word, known, "write one of:");
        self.error(at, format!("unknown word `{}`", shortened(word)), help);
    }
}

/// The known word that looks most like `word`, where one is near.
#[must_use]
pub fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let scored = known.iter().take(CANDIDATES).map(|candidate| (likeness(word, candidate), *candidate));
    scored.filter(|(score, _)| *score >= 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

/// How many known words are looked at, and how many are listed.
const CANDIDATES: usize = 1_000;
const LISTED: usize = 40;

/// How much two words look alike, 0 to 1: one slip of the finger is always near.
fn likeness(word: &str, known: &str) -> f64 {
    let is_slip = word.len() > 2 && strsim::osa_distance(word, known) == 1;
    strsim::jaro_winkler(word, known).max(if is_slip { 0.9 } else { 0.0 })
}

/// What to write instead of an unknown word.
#[must_use]
pub fn instead(word: &str, known: &[&str], list: &str) -> String {
    match closest(word, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.len() > LISTED => format!("{list} {}, ...", known[..LISTED].join(", ")),
        None => format!("{list} {}", known.join(", ")),
    }
}

/// A text short enough for a message.
#[must_use]
pub fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    if line.len() == text.len() && text.chars().count() <= 64 {
        return text.to_owned();
    }
    format!("{}...", line.chars().take(60).collect::<String>())
}

/// What describing carries along: where in the language it is, and what is supported.
pub struct Scope {
    /// The path of the term, such as `upstreams.*.backends[].weight`.
    pub path: String,
    /// What is supported.
    pub support: Support,
}

impl Scope {
    /// The scope of a key below this one.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { path, support: self.support }
    }

    /// The scope of an item of the list here.
    #[must_use]
    pub fn item(&self) -> Self {
        Self { path: format!("{}[]", self.path), support: self.support }
    }

    /// The schema of the term `T` here; none where nothing of it is supported.
    #[must_use]
    pub fn describe<T: Term>(&self) -> Option<Json> {
        match self.support.words_allowed(&self.path) {
            None => Some(T::describe(self)),
            Some([]) => None,
            Some(words) => {
                Some(serde_json::json!({ "enum": words.iter().copied().map(plain_word).collect::<Vec<_>>() }))
            }
        }
    }
}

/// A word as YAML types it where it stands without quotes.
fn plain_word(word: &str) -> Json {
    match word {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        _ => Json::from(word),
    }
}
