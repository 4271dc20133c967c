//! The trailer section of a chunked body (RFC 9112, 7.1.2), byte by byte: field lines up to an empty one.

use super::grammar::{self, TOKEN, VALUE};
use super::refusal::Refusal;

/// Bytes of the whole section, with its line ends.
const MAX_BYTES: u16 = 8 * 1024;
/// Field lines of the section.
const MAX_FIELDS: u8 = 32;

/// Fields that decide how a message is framed, routed, authorised, cached or read, so that they come too late in a trailer
/// (RFC 9110, 6.5.1), in alphabetical order. Someone behind us might merge them into the head.
const FORBIDDEN: [&str; 48] = [
    "age",
    "authentication-info",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-forwarded-by",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-http-method-override",
    "x-real-ip",
];

/// Follows one trailer section over the wire.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trailer {
    state: State,
    bytes: u16,
    fields: u8,
    name: Name,
}

/// What comes next.
#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// A name, or the empty line.
    #[default]
    LineStart,
    Name,
    Value,
    /// The LF of a field line.
    ValueLf,
    /// The LF of the empty line.
    EndLf,
}

/// A field's name in small letters, as far as a forbidden one could go.
#[derive(Debug, Clone, Copy, Default)]
struct Name {
    letters: [u8; 32],
    len: u8,
}

impl Name {
    fn push(&mut self, byte: u8) {
        if let Some(letter) = self.letters.get_mut(usize::from(self.len)) {
            *letter = byte.to_ascii_lowercase();
        }
        // A name that fills the array and more is longer than every forbidden one.
        self.len = self.len.saturating_add(1);
    }

    fn is_forbidden(&self) -> bool {
        let Some(name) = self.letters.get(..usize::from(self.len)) else { return false };
        FORBIDDEN.binary_search_by(|forbidden| forbidden.as_bytes().cmp(name)).is_ok()
    }
}

impl Trailer {
    /// Takes one byte, and tells whether the section has ended with it.
    pub(super) fn step(&mut self, byte: u8) -> Result<bool, Refusal> {
        const RULE: &str = "RFC 9112, 7.1.2 and 5";
        self.bytes += 1;
        if self.bytes > MAX_BYTES {
            return Err(Refusal::malformed("the trailers are longer than 8 KiB", "RFC 9112, 7.1.2"));
        }
        self.state = match (self.state, byte) {
            (State::LineStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => return Ok(true),
            (State::LineStart, _) if grammar::is(byte, TOKEN) => self.begin(byte)?,
            (State::LineStart, b' ' | b'\t') => {
                return Err(Refusal::malformed(
                    "a trailer is folded over several lines; write it on one",
                    "RFC 9112, 5.2",
                ));
            }
            (State::Name, b':') if self.name.is_forbidden() => {
                return Err(Refusal::malformed(
                    "a trailer bears the name of a field that belongs in the head",
                    "RFC 9110, 6.5.1",
                ));
            }
            (State::Name, b':') => State::Value,
            (State::Name, _) if grammar::is(byte, TOKEN) => {
                self.name.push(byte);
                State::Name
            }
            (State::Value, b'\r') => State::ValueLf,
            (State::Value, _) if grammar::is(byte, VALUE) => State::Value,
            (State::ValueLf, b'\n') => State::LineStart,
            (State::LineStart | State::Value, b'\n') => {
                return Err(Refusal::malformed("a trailer ends with a bare LF; end lines with CRLF", "RFC 9112, 2.2"));
            }
            (State::ValueLf | State::EndLf, _) => {
                return Err(Refusal::malformed("a CR stands without its LF in a trailer", "RFC 9112, 2.2"));
            }
            (State::Value, _) => return Err(Refusal::malformed("a trailer's value holds a control character", RULE)),
            (State::LineStart | State::Name, _) => {
                return Err(Refusal::malformed("a trailer's name is not a token followed by a colon", RULE));
            }
        };
        Ok(false)
    }

    fn begin(&mut self, byte: u8) -> Result<State, Refusal> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Refusal::malformed("there are more than 32 trailers", "RFC 9112, 7.1.2"));
        }
        self.name = Name::default();
        self.name.push(byte);
        Ok(State::Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &[u8]) -> Result<Option<usize>, Refusal> {
        let mut trailer = Trailer::default();
        for (at, &byte) in text.iter().enumerate() {
            if trailer.step(byte)? {
                return Ok(Some(at + 1));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_section_ends_with_its_empty_line() {
        for (text, end) in [
            ("\r\n", Some(2)),
            ("\r\nGET", Some(2)),
            ("a: b\r\n\r\n", Some(8)),
            ("grpc-status:0\r\nGrpc-Message:\t caf\u{e9} \r\n\r\nx", Some(40)),
            ("a:\r\n\r\n", Some(6)),
            ("", None),
            ("a: b\r\n", None),
            ("a: b\r\n\r", None),
        ] {
            assert_eq!(section(text.as_bytes()), Ok(end), "{text:?}");
        }
    }

    #[test]
    fn a_section_outside_the_grammar_is_refused() {
        for text in [
            "\n",
            "\rx",
            "a: b\n\r\n",
            "a: b\rc\r\n\r\n",
            " a: b\r\n",
            "a: b\r\n c\r\n\r\n",
            "a b: c\r\n",
            "a : b\r\n",
            "a\r\n",
            ": a\r\n",
            "a: \0\r\n",
            "a: \x7f\r\n",
            "\u{e9}: a\r\n",
            "a\n",
            "a: b\r\n\rx",
        ] {
            assert!(section(text.as_bytes()).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn fields_that_belong_in_the_head_are_refused_in_any_case() {
        assert!(FORBIDDEN.is_sorted());
        assert!(FORBIDDEN.iter().all(|name| name.len() <= 32));
        for name in FORBIDDEN {
            for name in [name.to_owned(), name.to_ascii_uppercase()] {
                assert!(section(format!("{name}: x\r\n\r\n").as_bytes()).is_err(), "{name} was taken");
                assert!(section(format!("{name}-x: x\r\n\r\n").as_bytes()).is_ok());
            }
        }
        let long = "a".repeat(300);
        assert!(section(format!("{long}: x\r\n\r\n").as_bytes()).is_ok());
    }

    #[test]
    fn a_section_is_bounded() {
        let fields = |count: usize| format!("{}\r\n", "a: b\r\n".repeat(count));
        assert!(section(fields(32).as_bytes()).is_ok());
        assert!(section(fields(33).as_bytes()).is_err());
        let bytes = |count: usize| format!("a:{}\r\n\r\n", "x".repeat(count - 6));
        assert_eq!(section(bytes(8192).as_bytes()), Ok(Some(8192)));
        assert!(section(bytes(8193).as_bytes()).is_err());
    }
}
