//! The fields of a head as slices of the bytes the client sent: nothing is copied, joined, lowered or sorted.

use std::ops::Range;

use super::grammar::{self, TOKEN};
use crate::base::request::Fields;

/// A part of the buffer, in 8 bytes: heads are limited to less than 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// `HeadParser` bounds every head by `u32::MAX`, so that no offset is cut.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(super) const fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    #[inline]
    pub(super) const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The bytes of `buffer` that it names.
    #[inline]
    pub(super) fn of(self, buffer: &[u8]) -> &[u8] {
        &buffer[self.range()]
    }
}

/// Where one field's name and value stand in the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct FieldSpan {
    pub(super) name: Span,
    pub(super) value: Span,
}

/// Why a field line is refused, with the length of what can be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not begin with a name and a colon.
    Name(usize),
    /// Its value, which begins after the colon, holds what no value may.
    Value(usize),
}

impl FieldSpan {
    /// `name ":" OWS value OWS` (RFC 9112, 5), in the line that `line` names.
    #[inline]
    pub(super) fn parse(buffer: &[u8], line: Span) -> Result<Self, Fault> {
        let (text, start) = (line.of(buffer), line.range().start);
        let name_len = grammar::run(text, TOKEN);
        if name_len == 0 || text.get(name_len) != Some(&b':') {
            return Err(Fault::Name(name_len));
        }
        let rest = &text[name_len + 1..];
        if !grammar::is_value(rest) {
            return Err(Fault::Value(name_len));
        }
        let (trimmed, at) = (grammar::trimmed(rest), start + name_len + 1);
        let value = Span::new(at + trimmed.start, at + trimmed.end);
        Ok(Self { name: Span::new(start, start + name_len), value })
    }
}

/// A field line as it came.
#[derive(Debug, Clone)]
pub struct Line<'b> {
    /// The field's name.
    pub name: &'b str,
    /// Its value, without the white space around it.
    pub value: &'b [u8],
    /// Where the name ends in the bytes of the head.
    name_ends: usize,
    /// From the first byte of the name to the last of the value, in the bytes of the head.
    bytes: Range<usize>,
}

impl Line<'_> {
    /// The line in the bytes of the head, without its end, where it is written as we write lines: one space before the value.
    #[must_use]
    pub fn as_we_write_it(&self, head: &[u8]) -> Option<Range<usize>> {
        let gap = head.get(self.name_ends..self.bytes.end - self.value.len())?;
        (gap == b": ").then(|| self.bytes.clone())
    }
}

/// The fields of a head, in the order and the letters of the wire.
#[derive(Clone, Copy)]
pub struct HeadFields<'b> {
    pub(super) buffer: &'b [u8],
    pub(super) spans: &'b [FieldSpan],
}

impl<'b> HeadFields<'b> {
    /// How many field lines there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Every field line as name and value, without the white space around the value.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'b str, &'b [u8])> + use<'b> {
        let buffer = self.buffer;
        self.spans.iter().map(move |span| (grammar::ascii(span.name.of(buffer)), span.value.of(buffer)))
    }

    /// Every field line with its place in the bytes of the head.
    pub fn lines(&self) -> impl ExactSizeIterator<Item = Line<'b>> + use<'b> {
        let buffer = self.buffer;
        self.spans.iter().map(move |span| Line {
            name: grammar::ascii(span.name.of(buffer)),
            value: span.value.of(buffer),
            name_ends: span.name.range().end,
            bytes: span.name.range().start..span.value.range().end,
        })
    }

    /// The bytes of the head that the fields belong to.
    #[must_use]
    pub const fn bytes(&self) -> &'b [u8] {
        self.buffer
    }

    /// The values of the field `name`, in order; names are compared without regard to case (RFC 9110, 5.1).
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'b [u8]> + use<'b, 'n> {
        let buffer = self.buffer;
        let named = move |span: &&FieldSpan| span.name.of(buffer).eq_ignore_ascii_case(name.as_bytes());
        self.spans.iter().filter(named).map(move |span| span.value.of(buffer))
    }

    /// The first value of the field `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.all(name).next()
    }
}

impl Fields for HeadFields<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        Self::get(self, name)
    }

    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        self.all(name).for_each(visit);
    }
}

impl std::fmt::Debug for HeadFields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, String::from_utf8_lossy(value)))).finish()
    }
}
