//! The alphabets of HTTP/1.1 as one lookup table, and the few scans that use it.
//!
//! Rules that need more than the next byte live with the part of the message they judge.

use crate::base::text;

/// `tchar` (RFC 9110, 5.6.2).
pub(super) const TOKEN: u8 = 1;
/// What a path may hold besides percent escapes: `pchar` and `/` (RFC 3986, 3.3), and `[ ] | ^` (see `target`).
pub(super) const PATH: u8 = 1 << 1;
/// What a query may hold besides percent escapes: as the path, with `? { } \` and the backtick (see `target`).
pub(super) const QUERY: u8 = 1 << 2;
/// What a host name may hold: `unreserved` (RFC 3986, 2.3), the characters of DNS names and a little more.
pub(super) const HOST: u8 = 1 << 3;
/// What a field value may hold: VCHAR, SP, HTAB, obs-text (RFC 9110, 5.5). Also what may follow a backslash in a quoted
/// string (RFC 9110, 5.6.4).
pub(super) const VALUE: u8 = 1 << 4;
/// `qdtext` (RFC 9110, 5.6.4).
pub(super) const QUOTED: u8 = 1 << 5;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if byte == 9 || byte >= 32 && byte != 127 {
            table[byte] |= VALUE;
            if byte != b'"' as usize && byte != b'\\' as usize {
                table[byte] |= QUOTED;
            }
        }
        byte += 1;
    }
    let table =
        with(table, b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", TOKEN | PATH | QUERY | HOST);
    let table = with(table, b"!#$%&'*+-.^_`|~", TOKEN);
    let table = with(table, b"-._~", HOST);
    let table = with(table, b"-._~!$&'()*+,;=:@/[]|^", PATH | QUERY);
    with(table, b"?{}\\`", QUERY)
}

const fn with(mut table: [u8; 256], bytes: &[u8], class: u8) -> [u8; 256] {
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] |= class;
        at += 1;
    }
    table
}

/// Whether `byte` belongs to `class`.
#[inline]
pub(super) const fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// The length of the longest start of `bytes` that belongs to `class`.
#[inline]
pub(super) fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|&byte| !is(byte, class)).unwrap_or(bytes.len())
}

/// Whether every byte may stand in a field value. Eight bytes are judged at a time; only a word that holds a control
/// character (HTAB is one) is looked at byte by byte.
#[inline]
pub(super) fn is_value(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|word| !holds_control(*word) || run(word, VALUE) == 8) && run(rest, VALUE) == rest.len()
}

/// Whether a byte of `word` is below 0x20 or equal to 0x7f: the "haszero" and "hasless" tests of Anderson's Bit Twiddling
/// Hacks.
#[inline]
const fn holds_control(word: [u8; 8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    let word = u64::from_ne_bytes(word);
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let from_delete = word ^ (ONES * 0x7f);
    let is_delete = from_delete.wrapping_sub(ONES) & !from_delete;
    (below_space | is_delete) & HIGHS != 0
}

/// Where `bytes` begins and ends without the white space around it (OWS: RFC 9110, 5.6.3).
#[inline]
pub(super) fn trimmed(bytes: &[u8]) -> std::ops::Range<usize> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    match bytes.iter().position(|byte| !is_space(byte)) {
        None => bytes.len()..bytes.len(),
        // The byte at `start` is not white space, so that there is a last one.
        Some(start) => start..bytes.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1),
    }
}

/// `bytes` as text. Callers pass bytes that were found to be ASCII; anything else would be empty text, not a panic.
#[inline]
pub(super) fn ascii(bytes: &[u8]) -> &str {
    text::ascii(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_alphabets_have_the_sizes_of_their_grammars() {
        let size = |class| (0..=255).filter(|&byte| is(byte, class)).count();
        assert_eq!(size(TOKEN), 77);
        assert_eq!(size(HOST), 66);
        assert_eq!(
            size(PATH),
            79 + 1 + 4,
            "pchar without the percent sign, the slash, and the four that browsers send"
        );
        assert_eq!(size(QUERY), 84 + 5);
        assert_eq!(size(VALUE), 256 - 32 - 1 + 1);
        assert_eq!(size(QUOTED), size(VALUE) - 2);
    }

    #[test]
    fn white_space_is_trimmed_at_both_ends_only() {
        for (text, kept) in [("", ""), (" \t ", ""), ("a", "a"), ("\t a b \t", "a b"), ("a ", "a"), (" a", "a")] {
            assert_eq!(&text[trimmed(text.as_bytes())], kept, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn words_are_judged_as_bytes_are(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(is_value(&bytes), bytes.iter().all(|&byte| is(byte, VALUE)));
        }

        #[test]
        fn one_bad_byte_is_found_wherever_it_stands(at in 0usize..24, bad in 0u8..=0x7f) {
            let mut bytes = [0xe9; 24];
            bytes[at] = bad;
            prop_assert_eq!(is_value(&bytes), is(bad, VALUE));
        }
    }
}
