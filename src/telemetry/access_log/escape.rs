//! Texts that came from a client, made harmless for one line of a log.
//!
//! Whatever the bytes are, a line stays one line and a terminal obeys none of them.

/// Appends `text` as the inside of a JSON string (RFC 8259, section 7). Bytes that are not UTF-8 become U+FFFD. Beyond what
/// JSON asks for, DEL, the C1 controls and U+2028 and U+2029 are escaped: some readers take them for line ends, some
/// terminals for commands.
pub(super) fn json(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain_ascii(text) {
        out.extend_from_slice(text);
        return;
    }
    for chunk in text.utf8_chunks() {
        json_str(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Whether all of `text` is ASCII that stands for itself: what nearly all texts are. Sixteen bytes are judged at a time, the last of
/// them together with some of those before.
fn is_plain_ascii(text: &[u8]) -> bool {
    let (chunks, rest) = text.as_chunks::<16>();
    match (text.last_chunk::<16>(), text.first_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(last), ..) => !chunks.iter().any(hold_special) && (rest.is_empty() || !hold_special(last)),
        (None, Some(first), Some(last)) => !hold_special(first) && !hold_special(last),
        _ => !rest.iter().any(|byte| is_special(*byte)),
    }
}

/// Without a branch, so that the compiler judges all of them at once.
fn hold_special<const N: usize>(bytes: &[u8; N]) -> bool {
    bytes.iter().fold(false, |any, byte| any | is_special(*byte))
}

/// Whether a byte is a control character, a quote, a backslash, DEL or beyond ASCII.
const fn is_special(byte: u8) -> bool {
    byte.wrapping_sub(b' ') >= 0x7f - b' ' || byte == b'"' || byte == b'\\'
}

fn json_str(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let length = if JSON_PLAIN[usize::from(byte)] { 0 } else { json_unsafe_length(&bytes[at..]) };
        if length == 0 {
            at += 1;
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..at]);
        json_escape(out, &bytes[at..at + length]);
        at += length;
        plain_from = at;
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

/// The bytes that stand for themselves whatever follows. 0xC2 and 0xE2 begin characters of which some do not.
const JSON_PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain[0x7f] = false;
    plain[0xc2] = false;
    plain[0xe2] = false;
    plain
};

/// How many bytes the character at the start takes, if it must be escaped; else 0.
fn json_unsafe_length(bytes: &[u8]) -> usize {
    match bytes {
        [0xc2, 0x80..=0x9f, ..] => 2,
        [0xe2, 0x80, 0xa8 | 0xa9, ..] => 3,
        [0xc2 | 0xe2, ..] => 0,
        _ => 1,
    }
}

fn json_escape(out: &mut Vec<u8>, character: &[u8]) {
    match character {
        b"\"" => out.extend_from_slice(b"\\\""),
        b"\\" => out.extend_from_slice(b"\\\\"),
        b"\n" => out.extend_from_slice(b"\\n"),
        b"\r" => out.extend_from_slice(b"\\r"),
        b"\t" => out.extend_from_slice(b"\\t"),
        [byte] | [0xc2, byte] => {
            out.extend_from_slice(b"\\u00");
            hex(out, *byte, b"0123456789abcdef");
        }
        _ => {
            out.extend_from_slice(b"\\u20");
            // U+2028 ends in A8 and U+2029 in A9.
            hex(out, character[character.len() - 1] & 0x2f, b"0123456789abcdef");
        }
    }
}

/// Appends `text` as nginx writes variables to its log (`ngx_http_log_escape`): `"`, `\`, control bytes and all beyond
/// ASCII become `\xHH`.
pub(super) fn nginx(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| matches!(byte, 0..0x20 | b'"' | b'\\' | 0x7f..)) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"\\x");
        hex(out, rest[at], b"0123456789ABCDEF");
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn hex(out: &mut Vec<u8>, byte: u8, digits: &[u8; 16]) {
    out.push(digits[usize::from(byte >> 4)]);
    out.push(digits[usize::from(byte & 15)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(escape: fn(&mut Vec<u8>, &[u8]), text: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_escapes_what_ends_lines_or_commands_terminals() {
        let hostile = "a\"b\\c\n\r\t\u{0}\u{1b}[2J\u{7f}\u{85}\u{9b}é\u{2028}\u{2029}€\u{2027}";
        assert_eq!(
            escaped(json, hostile.as_bytes()),
            "a\\\"b\\\\c\\n\\r\\t\\u0000\\u001b[2J\\u007f\\u0085\\u009bé\\u2028\\u2029€\u{2027}"
        );
    }

    #[test]
    fn one_special_byte_is_found_wherever_it_stands() {
        for length in 0..50 {
            let mut text = vec![b'a'; length];
            assert!(is_plain_ascii(&text));
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    text[at] = byte;
                    let plain = (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain_ascii(&text), plain, "{byte:#x} at {at} of {length}");
                }
                text[at] = b'a';
            }
        }
    }

    #[test]
    fn json_replaces_bytes_that_are_not_utf8() {
        assert_eq!(escaped(json, b"a\xffb\xe2\x80"), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn nginx_escapes_as_nginx_does() {
        assert_eq!(escaped(nginx, b"\"\\\n\x1f ~\x7f\x80\xff/a?b=c"), "\\x22\\x5C\\x0A\\x1F ~\\x7F\\x80\\xFF/a?b=c");
    }

    proptest! {
        #[test]
        fn json_means_the_same_text_as_before(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let quoted = format!("\"{}\"", escaped(json, &text));
            let read: String = serde_json::from_str(&quoted).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&text));
        }

        #[test]
        fn json_of_any_text_holds_no_control_character(text in any::<String>()) {
            let harmful = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
            prop_assert!(!escaped(json, text.as_bytes()).chars().any(harmful));
        }

        #[test]
        fn nginx_escaping_leaves_printable_ascii_only(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(escaped(nginx, &text).bytes().all(|byte| matches!(byte, 0x20..0x7f)));
        }
    }
}
