//! The lines of a head as its bytes come: what the parsers of requests' and of answers' heads have in common.

use super::fields::Span;

/// Where a parser stands in its bytes. No byte of a whole line is looked at twice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lines {
    /// Where the line begins that has not ended yet.
    line: usize,
    /// Up to where that line is known to hold no line end.
    scanned: usize,
}

/// Why a line is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It goes beyond what the head may have, ended or not.
    Beyond,
    /// It ends with a LF that no CR precedes (RFC 9112, 2.2).
    BareLf,
}

impl Lines {
    /// Where the line begins that has not ended yet: after the last one, how many bytes all had.
    #[inline]
    pub(super) const fn begin(&self) -> usize {
        self.line
    }

    /// Whether nothing has come of the line that is due.
    #[inline]
    pub(super) const fn is_at_begin(&self) -> bool {
        self.scanned == self.line
    }

    /// The next whole line without its CRLF, of a head of `most` bytes at the most; none where it has not ended.
    #[inline]
    pub(super) fn next(&mut self, buffer: &[u8], most: usize) -> Result<Option<Span>, Fault> {
        let unseen = buffer.get(self.scanned..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', unseen) else {
            self.wait(buffer);
            return if buffer.len() > most { Err(Fault::Beyond) } else { Ok(None) };
        };
        let lf = self.scanned + at;
        if lf >= most {
            return Err(Fault::Beyond);
        }
        let start = self.line;
        self.pass(lf + 1 - start);
        if buffer[start..lf].last() != Some(&b'\r') {
            return Err(Fault::BareLf);
        }
        Ok(Some(Span::new(start, lf - 1)))
    }

    /// Waits for more of the line: nothing in what has come ends it.
    #[inline]
    pub(super) fn wait(&mut self, buffer: &[u8]) {
        self.scanned = buffer.len().max(self.line);
    }

    /// Passes over so many bytes of the line that is due, and begins another after them.
    #[inline]
    pub(super) const fn pass(&mut self, bytes: usize) {
        self.line += bytes;
        self.scanned = self.line;
    }
}
