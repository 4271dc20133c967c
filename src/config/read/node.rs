//! The tree of a configuration as text: scalars, sequences, mappings, each with its place.
//!
//! Nodes hold a small [`At`]; the [`Marks`] know file, line, column and path of each, so that a place costs a few bytes
//! until somebody asks for it.

use std::path::PathBuf;

use crate::config::diagnostic::Place;

/// Where a node stands: a ticket for [`Marks::place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct At(u32);

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where.
    pub at: At,
    /// What.
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub enum Value {
    /// A text, typed by whoever reads it.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping, in the order of the file, without duplicate keys.
    Mapping(Vec<Entry>),
    /// What could not be read; the fault is told already.
    Faulty,
}

/// A text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text, variables filled in.
    pub text: String,
    /// How it was written.
    pub style: Style,
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: may be a number, a boolean or nothing at all.
    Plain,
    /// In quotes, or as a block: a text.
    Quoted,
    /// In quotes, with a variable filled in: whatever the text says, so that variables may stand in flow collections too.
    Filled,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands; its path is that of the mapping.
    pub key_at: At,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// The scalar's text, where it is a scalar.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The value of `key`, where this is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// Whether nothing is written: `key:` alone, `null` or `~`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { text, style: Style::Plain }) if matches!(text.as_str(), "" | "~" | "null"))
    }
}

/// The files that were read, and the place of every node in them.
#[derive(Debug, Default)]
pub struct Marks {
    sources: Vec<Source>,
    marks: Vec<Mark>,
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Source {
    /// The file as it was named.
    pub(super) name: PathBuf,
    /// The absolute directory that relative paths in it start from.
    pub(super) directory: PathBuf,
    /// Its text, line by line.
    pub(super) lines: Vec<String>,
}

/// A range of one line of one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) source: u32,
    /// From 1.
    pub(super) line: u32,
    /// From 1, in characters.
    pub(super) column: u32,
    pub(super) length: u32,
}

#[derive(Debug)]
struct Mark {
    range: Range,
    step: Option<(At, Step)>,
}

/// The last step of a path.
#[derive(Debug)]
pub(super) enum Step {
    Key(Box<str>),
    Index(u32),
    /// The key of an entry: stands where its mapping stands.
    Same,
}

impl Marks {
    /// The place that a ticket stands for.
    #[must_use]
    pub fn place(&self, at: At) -> Place {
        let Some(mark) = self.marks.get(at.0 as usize) else {
            return self.show(Range { source: 0, line: 0, column: 0, length: 0 }, String::new());
        };
        self.show(mark.range, self.path(at))
    }

    /// The path of the value that a ticket stands for, such as `upstreams.api.backends[2]`.
    #[must_use]
    pub fn path(&self, at: At) -> String {
        let mut steps = Vec::new();
        let mut here = at;
        while let Some((parent, step)) = self.marks.get(here.0 as usize).and_then(|mark| mark.step.as_ref()) {
            steps.push(step);
            here = *parent;
        }
        let mut path = String::new();
        for step in steps.iter().rev() {
            match step {
                Step::Key(key) if path.is_empty() => path.push_str(key),
                Step::Key(key) => path.extend([".", key]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Same => {}
            }
        }
        path
    }

    /// The absolute directory that relative paths written at this place start from.
    #[must_use]
    pub fn directory(&self, at: At) -> PathBuf {
        let source = self.marks.get(at.0 as usize).and_then(|mark| self.sources.get(mark.range.source as usize));
        source.map(|source| source.directory.clone()).unwrap_or_default()
    }

    pub(super) fn show(&self, range: Range, path: String) -> Place {
        let source = self.sources.get(range.source as usize);
        let line = source.and_then(|source| source.lines.get((range.line as usize).saturating_sub(1)));
        let (text, skipped) = line.map_or((String::new(), 0), |line| window(line, range.column));
        Place {
            file: source.map(|source| source.name.clone()).unwrap_or_default(),
            line: range.line,
            column: range.column,
            length: range.length,
            path,
            text,
            skipped,
        }
    }

    pub(super) fn add_source(&mut self, source: Source) -> u32 {
        self.sources.push(source);
        self.sources.len() as u32 - 1
    }

    pub(super) fn source(&self, index: u32) -> &Source {
        &self.sources[index as usize]
    }

    pub(super) fn add(&mut self, range: Range) -> At {
        self.marks.push(Mark { range, step: None });
        At(self.marks.len() as u32 - 1)
    }

    pub(super) fn count(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn range(&self, at: At) -> Range {
        self.marks[at.0 as usize].range
    }

    pub(super) fn set_range(&mut self, at: At, range: Range) {
        self.marks[at.0 as usize].range = range;
    }

    /// Gives every node below `node` its path.
    pub(super) fn name_paths(&mut self, node: &Node) {
        match &node.value {
            Value::Scalar(_) | Value::Faulty => {}
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.set_step(item.at, node.at, Step::Index(index as u32));
                    self.name_paths(item);
                }
            }
            Value::Mapping(entries) => {
                for entry in entries {
                    self.set_step(entry.key_at, node.at, Step::Same);
                    self.set_step(entry.value.at, node.at, Step::Key(entry.key.as_str().into()));
                    self.name_paths(&entry.value);
                }
            }
        }
    }

    fn set_step(&mut self, at: At, parent: At, step: Step) {
        self.marks[at.0 as usize].step = Some((parent, step));
    }
}

/// The longest part of a line that is shown, in characters.
const SHOWN: usize = 160;

/// The part of a line around a column (from 1), and how many characters are left out before it.
fn window(line: &str, column: u32) -> (String, u32) {
    let column = column as usize;
    let skipped = if column > SHOWN / 2 && line.len() > SHOWN { column - SHOWN / 2 } else { 0 };
    let rest = line.char_indices().nth(skipped).map_or("", |(at, _)| &line[at..]);
    (rest.chars().take(SHOWN).collect(), skipped as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("{}HERE{}", "x".repeat(10_000), "y".repeat(10_000));
        let (text, skipped) = window(&line, 10_001);
        assert_eq!(&text[10_000 - skipped as usize..][..4], "HERE");
        assert_eq!(text.len(), SHOWN);
        assert_eq!(window("short", 5), ("short".to_owned(), 0));
        assert_eq!(window(&"ü".repeat(500), 400).0.chars().count(), SHOWN);
    }
}
