//! A short text that lies where it is kept: no allocation, and what is too long is cut.

use std::borrow::Cow;

/// At most `N` bytes of a text, which may be hostile: no encoding is assumed.
#[derive(Clone, Copy)]
pub struct Inline<const N: usize> {
    length: u16,
    cut: bool,
    bytes: [u8; N],
}

impl<const N: usize> Inline<N> {
    /// Keeps `text`, or as much of it as there is room for.
    pub fn set(&mut self, text: &[u8]) {
        let length = text.len().min(N).min(usize::from(u16::MAX));
        self.bytes[..length].copy_from_slice(&text[..length]);
        // The bound above is that of the type.
        self.length = length as u16;
        self.cut = length < text.len();
    }

    /// What was kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// What was kept, as text: bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }

    /// Whether there was more.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl<const N: usize> Default for Inline<N> {
    fn default() -> Self {
        Self { length: 0, cut: false, bytes: [0; N] }
    }
}

impl<const N: usize> std::fmt::Debug for Inline<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_and_said_to_be() {
        let mut text = Inline::<4>::default();
        for (given, kept, cut) in [("abcd", "abcd", false), ("abcdef", "abcd", true), ("", "", false)] {
            text.set(given.as_bytes());
            assert_eq!((text.text().as_ref(), text.is_cut()), (kept, cut), "{given}");
        }
    }
}
