//! One YAML document → a tree of nodes, with every key and value placed.
//!
//! What is ambiguous or unbounded is refused: duplicate keys, keys that are no text, tags, several documents, deep
//! nesting, aliases that grow without bound. Nothing is typed here.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::node::{At, Entry, Marks, Node, Range, Scalar, Style, Value};
use crate::config::diagnostic::Diagnostic;

/// How deep collections may be nested.
const MAX_DEPTH: usize = 64;
/// How many nodes all files together may have, aliases written out.
const MAX_NODES: usize = 2_000_000;
/// How much text aliases may copy, in bytes.
const MAX_COPIED: usize = 16 * 1024 * 1024;

/// Reads the text of the file that is `source` in `marks`.
///
/// # Errors
/// The first place where the text is no YAML, or YAML that is refused.
pub(super) fn read(text: &str, source: u32, marks: &mut Marks) -> Result<Node, Diagnostic> {
    let mut reader = Reader { parser: Parser::new_from_str(text), source, marks, anchors: HashMap::new(), copied: 0 };
    reader.document()
}

struct Reader<'a, 'm> {
    parser: Parser<'a, StrInput<'a>>,
    source: u32,
    marks: &'m mut Marks,
    anchors: HashMap<usize, Node>,
    /// Bytes of text that aliases have copied.
    copied: usize,
}

/// How a collection is written.
#[derive(Clone, Copy)]
enum Layout {
    /// In brackets or braces.
    Flow,
    /// By indentation, below this key.
    Block(Option<At>),
}

impl Layout {
    /// The start of a collection in flow style is its bracket; in block style it is nothing.
    fn of(start: Span, key: Option<At>) -> Self {
        if start.is_empty() { Self::Block(key) } else { Self::Flow }
    }
}

impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Result<Node, Diagnostic> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    return Err(self
                        .refuse(span, "a second document begins here")
                        .help("write one document, or use `include`"));
                }
                event => root = Some(self.node(event, span, 0, None)?),
            }
        }
        match root {
            Some(node) => Ok(node),
            None => {
                let at = self.add(Span::empty(Marker::new(0, 1, 0)))?;
                Ok(Node { at, value: Value::Mapping(Vec::new()) })
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Diagnostic> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::empty(Marker::new(0, 1, 0)))),
        }
    }

    /// Reads what an event begins. A block collection, or nothing at all, that belongs to a key is marked by its key.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize, key: Option<At>) -> Result<Node, Diagnostic> {
        if depth > MAX_DEPTH {
            return Err(self.refuse(span, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (value, anchor, tag, at) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                (Value::Scalar(Scalar { text: text.into_owned(), style }), anchor, tag, self.add(span)?)
            }
            Event::SequenceStart(anchor, tag) => {
                let at = self.add(span)?;
                (self.sequence(at, depth, Layout::of(span, key))?, anchor, tag, at)
            }
            Event::MappingStart(anchor, tag) => {
                let at = self.add(span)?;
                (self.mapping(at, depth, Layout::of(span, key))?, anchor, tag, at)
            }
            Event::Alias(anchor) => return self.alias(anchor, span),
            _ => return Err(self.refuse(span, "unexpected end of the document")),
        };
        if tag.is_some() {
            return Err(self.refuse(span, "tags are not read").help("remove it: every key knows its own type"));
        }
        let node = Node { at, value };
        if let (Some(key), true) = (key, node.is_null()) {
            self.marks.set_range(at, self.marks.range(key));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, at: At, depth: usize, layout: Layout) -> Result<Value, Diagnostic> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                self.close(at, span, layout, items.first().map(|item: &Node| item.at));
                return Ok(Value::Sequence(items));
            }
            items.push(self.node(event, span, depth + 1, None)?);
        }
    }

    fn mapping(&mut self, at: At, depth: usize, layout: Layout) -> Result<Value, Diagnostic> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut known: HashMap<String, At> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let (key, anchor) = match event {
                Event::MappingEnd => {
                    self.close(at, span, layout, entries.first().map(|entry| entry.key_at));
                    return Ok(Value::Mapping(entries));
                }
                Event::Scalar(text, _, anchor, None) if !text.is_empty() => (text.into_owned(), anchor),
                _ => return Err(self.refuse(span, "this key is not text").help("write keys as plain words")),
            };
            let key_at = self.add(span)?;
            if anchor > 0 {
                return Err(self.refuse(span, "a key cannot have an anchor").help("put the anchor on the value"));
            }
            if let Some(first) = known.insert(key.clone(), key_at) {
                let first = self.marks.show(self.marks.range(first), String::new());
                let message = format!("duplicate key `{key}`");
                return Err(self.refuse(span, message).other("first written here", first).help("keep one of the two"));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1, Some(key_at))?;
            entries.push(Entry { key, key_at, value });
        }
    }

    /// Marks a collection: in flow style on one line whole, in block style by its key or else its first child.
    fn close(&mut self, at: At, end: Span, layout: Layout, first: Option<At>) {
        let mut range = self.marks.range(at);
        match (layout, first) {
            (Layout::Block(Some(mark)), _) | (Layout::Block(None), Some(mark)) => range = self.marks.range(mark),
            (Layout::Flow, _) if end.end.line() == range.line as usize => {
                range.length = (end.end.col() as u32 + 1).saturating_sub(range.column).max(1);
            }
            (Layout::Flow, _) | (Layout::Block(None), None) => {}
        }
        self.marks.set_range(at, range);
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node, Diagnostic> {
        match self.anchors.get(&anchor).cloned() {
            Some(node) => self.copy(&node, span),
            None => Err(self.refuse(span, "an alias of a value that is not complete")),
        }
    }

    /// Copies an anchored value; each node of the copy counts, so that aliases of aliases stay bounded.
    fn copy(&mut self, node: &Node, span: Span) -> Result<Node, Diagnostic> {
        if self.marks.count() >= MAX_NODES {
            return Err(self.refuse(span, format!("more than {MAX_NODES} values")));
        }
        let at = self.marks.add(self.marks.range(node.at));
        let value = match &node.value {
            Value::Scalar(scalar) => {
                self.copied += scalar.text.len();
                if self.copied > MAX_COPIED {
                    return Err(self.refuse(span, "aliases stand for more than 16MiB of text"));
                }
                Value::Scalar(scalar.clone())
            }
            Value::Sequence(items) => {
                Value::Sequence(items.iter().map(|item| self.copy(item, span)).collect::<Result<_, _>>()?)
            }
            Value::Faulty => Value::Faulty,
            Value::Mapping(entries) => {
                let copied = entries.iter().map(|entry| {
                    let key_at = self.marks.add(self.marks.range(entry.key_at));
                    Ok(Entry { key: entry.key.clone(), key_at, value: self.copy(&entry.value, span)? })
                });
                Value::Mapping(copied.collect::<Result<_, Diagnostic>>()?)
            }
        };
        Ok(Node { at, value })
    }

    fn add(&mut self, span: Span) -> Result<At, Diagnostic> {
        if self.marks.count() >= MAX_NODES {
            return Err(self.refuse(span, format!("more than {MAX_NODES} values")));
        }
        let range = self.range(span);
        Ok(self.marks.add(range))
    }

    fn range(&self, span: Span) -> Range {
        let (start, end) = (span.start, span.end);
        let column = start.col() as u32 + 1;
        let length = match start.line() == end.line() {
            true => end.col().saturating_sub(start.col()) as u32,
            false => self.rest_of_line(start),
        };
        Range { source: self.source, line: start.line() as u32, column, length: length.max(1) }
    }

    fn rest_of_line(&self, start: Marker) -> u32 {
        let lines = &self.marks.source(self.source).lines;
        let line = lines.get(start.line().saturating_sub(1)).map_or("", |line| line.trim_end());
        line.chars().count().saturating_sub(start.col()) as u32
    }

    fn refuse(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).at(self.marks.show(self.range(span), String::new()))
    }

    fn syntax(&self, error: &ScanError) -> Diagnostic {
        let marker = *error.marker();
        let diagnostic = self.refuse(Span::empty(marker), format!("not YAML: {}", error.info()));
        let lines = &self.marks.source(self.source).lines;
        let near = lines.get(marker.line().saturating_sub(1)).map_or("", String::as_str);
        if near.contains('\t') {
            diagnostic.help("indent with spaces: YAML does not allow tabs")
        } else if near.contains("${") {
            diagnostic.help("put quotes around `${NAME}` inside `{ }` and `[ ]`")
        } else {
            diagnostic
        }
    }
}
