//! Where a body ends, and whether its framing keeps to the grammar (RFC 9112, 6 and 7.1).
//!
//! [`BodyCheck`] looks at the wire bytes as they pass, in pieces of any size, and changes nothing: the bytes go on as they
//! came. The data of a body is skipped without a look; only chunk lines and trailers are read byte by byte.

use super::grammar::{self, QUOTED, TOKEN, VALUE};
use super::refusal::Refusal;
use super::trailer::Trailer;

/// Bytes of a chunk line without its CRLF.
const MAX_CHUNK_LINE: u16 = 256;
/// Bytes of all chunk extensions of a body: they carry nothing that is passed on in good faith.
const MAX_EXTENSIONS: u16 = 16 * 1024;
/// Hex digits of a chunk size.
const MAX_SIZE_DIGITS: u8 = 16;

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// The body has this many bytes.
    Length(u64),
    /// The body comes in chunks (RFC 9112, 7.1).
    Chunked,
}

impl Framing {
    /// The length of the body, where it is known from the head.
    #[must_use]
    pub const fn length(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Length(length) => Some(length),
            Self::Chunked => None,
        }
    }
}

/// What one call of [`BodyCheck::advance`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many of the given bytes belong to this body; the rest are the next message's.
    pub taken: usize,
    /// Whether the body has ended.
    pub ended: bool,
}

/// What a body is made of, told as a [`BodyCheck`] comes upon it.
pub trait Parts {
    /// Content, without chunk lines.
    fn content(&mut self, bytes: &[u8]);

    /// A byte of the trailer section, which ends with its empty line.
    fn trailer(&mut self, byte: u8);
}

/// The body passes as it is framed, and nobody asks.
impl Parts for () {
    fn content(&mut self, _bytes: &[u8]) {}

    fn trailer(&mut self, _byte: u8) {}
}

/// Follows one body over the wire.
#[derive(Debug)]
pub struct BodyCheck {
    state: State,
    decoded: u64,
    /// Bytes of the chunk line so far.
    line: u16,
    /// Bytes of all chunk extensions so far.
    extensions: u16,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum State {
    Ended,
    Refused(Refusal),
    /// So many bytes of a body with a length.
    Sized(u64),
    /// A digit of the chunk size, after so many, or what may follow it.
    Size {
        size: u64,
        digits: u8,
    },
    /// In the extensions of a chunk of this size.
    Extension(Extension, u64),
    /// The LF of a chunk line.
    SizeLf(u64),
    /// So many bytes of a chunk's data.
    Data(u64),
    DataCr,
    DataLf,
    /// The trailer section after the last chunk.
    Trailer(Trailer),
}

/// What comes next in `*( ";" token [ "=" ( token / quoted-string ) ] )` (RFC 9112, 7.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    NameStart,
    Name,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    AfterQuoted,
}

impl BodyCheck {
    /// A check at the start of a body.
    #[must_use]
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Sized(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
        };
        Self { state, decoded: 0, line: 0, extensions: 0 }
    }

    /// Whether the body has ended.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Bytes of content so far, without chunk lines and trailers.
    #[must_use]
    pub const fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Takes the next wire bytes, up to the end of the body. Bytes of a body that is refused later in the same call count as not
    /// taken: do not pass them on.
    ///
    /// # Errors
    /// A refusal (400) where the bytes break the grammar or a bound; every later call gives it again.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, Refusal> {
        self.take_apart(bytes, &mut ())
    }

    /// The same, and tells `parts` what the bytes are. Of a body that is refused in the same call it may be told too much.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn take_apart(&mut self, bytes: &[u8], parts: &mut impl Parts) -> Result<Progress, Refusal> {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            let rest = &bytes[taken..];
            taken += match self.state {
                State::Ended => break,
                State::Sized(left) => self.skip(rest, left, parts, State::Sized, State::Ended),
                State::Data(left) => self.skip(rest, left, parts, State::Data, State::DataCr),
                state => match self.step(state, byte) {
                    Ok(next) => {
                        if matches!(state, State::Trailer(_)) {
                            parts.trailer(byte);
                        }
                        self.state = next;
                        1
                    }
                    Err(refusal) => {
                        self.state = State::Refused(refusal);
                        return Err(refusal);
                    }
                },
            };
        }
        Ok(Progress { taken, ended: self.ended() })
    }

    /// Passes over up to `left` bytes of content, and moves on to `more(left)` or to `done`. At least one byte is passed over.
    fn skip(&mut self, bytes: &[u8], left: u64, parts: &mut impl Parts, more: fn(u64) -> State, done: State) -> usize {
        let skipped = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        parts.content(&bytes[..skipped]);
        self.decoded = self.decoded.saturating_add(skipped as u64);
        self.state = match left - skipped as u64 {
            0 => done,
            left => more(left),
        };
        skipped
    }

    fn step(&mut self, state: State, byte: u8) -> Result<State, Refusal> {
        match state {
            State::Size { size, digits } => {
                self.count_line(byte)?;
                self.size(size, digits, byte)
            }
            State::Extension(extension, size) => {
                self.count_line(byte)?;
                self.count_extension(byte)?;
                extended(extension, size, byte)
            }
            State::SizeLf(_) | State::DataLf if byte != b'\n' => Err(bare_cr()),
            State::SizeLf(0) => Ok(State::Trailer(Trailer::default())),
            State::SizeLf(size) => Ok(State::Data(size)),
            State::DataCr if byte != b'\r' => Err(Refusal::malformed(
                "a chunk's data is not followed by CRLF: it is longer than its size, or its size is wrong",
                "RFC 9112, 7.1",
            )),
            State::DataCr => Ok(State::DataLf),
            State::DataLf => {
                self.line = 0;
                Ok(State::Size { size: 0, digits: 0 })
            }
            State::Trailer(mut trailer) => match trailer.step(byte)? {
                true => Ok(State::Ended),
                false => Ok(State::Trailer(trailer)),
            },
            State::Refused(refusal) => Err(refusal),
            State::Ended | State::Sized(_) | State::Data(_) => Ok(state),
        }
    }

    /// `1*HEXDIG`, and then the line end or an extension.
    fn size(&mut self, size: u64, digits: u8, byte: u8) -> Result<State, Refusal> {
        const RULE: &str = "RFC 9112, 7.1";
        match byte {
            b';' if digits > 0 => {
                self.count_extension(byte)?;
                Ok(State::Extension(Extension::NameStart, size))
            }
            b'\r' if digits > 0 => Ok(State::SizeLf(size)),
            b'\n' => Err(bare_lf()),
            _ => match (byte as char).to_digit(16) {
                Some(_) if digits == MAX_SIZE_DIGITS => {
                    Err(Refusal::malformed("a chunk size has more than 16 digits", RULE))
                }
                Some(digit) => {
                    // 16 digits fill 64 bits, so that nothing is shifted out.
                    let size = size << 4 | u64::from(digit);
                    match size > i64::MAX as u64 {
                        true => Err(Refusal::malformed("a chunk size is beyond 2^63 - 1", RULE)),
                        false => Ok(State::Size { size, digits: digits + 1 }),
                    }
                }
                None => Err(Refusal::malformed("a chunk size is not made of hex digits alone", RULE)),
            },
        }
    }

    fn count_line(&mut self, byte: u8) -> Result<(), Refusal> {
        if byte != b'\r' {
            self.line += 1;
        }
        if self.line > MAX_CHUNK_LINE {
            return Err(Refusal::malformed("a chunk line is longer than 256 bytes", "RFC 9112, 7.1.1"));
        }
        Ok(())
    }

    fn count_extension(&mut self, byte: u8) -> Result<(), Refusal> {
        if byte != b'\r' {
            self.extensions += 1;
        }
        if self.extensions > MAX_EXTENSIONS {
            let detail = "the chunk extensions of one body are longer than 16 KiB";
            return Err(Refusal::malformed(detail, "RFC 9112, 7.1.1"));
        }
        Ok(())
    }
}

/// The state after `byte` of a chunk extension. White space around `;` and `=`, which RFC 9112, 7.1.1, bids senders not to
/// generate, is refused.
fn extended(extension: Extension, size: u64, byte: u8) -> Result<State, Refusal> {
    use Extension::{AfterQuoted, Escaped, Name, NameStart, Quoted, Value, ValueStart};
    let next = match (extension, byte) {
        (Name | Value | AfterQuoted, b'\r') => return Ok(State::SizeLf(size)),
        (Name | Value | AfterQuoted, b';') => NameStart,
        (Name, b'=') => ValueStart,
        (NameStart | Name, _) if grammar::is(byte, TOKEN) => Name,
        (ValueStart, b'"') => Quoted,
        (ValueStart | Value, _) if grammar::is(byte, TOKEN) => Value,
        (Quoted, b'"') => AfterQuoted,
        (Quoted, b'\\') => Escaped,
        (Quoted, _) if grammar::is(byte, QUOTED) => Quoted,
        (Escaped, _) if grammar::is(byte, VALUE) => Quoted,
        (_, b'\n') => return Err(bare_lf()),
        _ => return Err(Refusal::malformed("a chunk extension is not ;name or ;name=value", "RFC 9112, 7.1.1")),
    };
    Ok(State::Extension(next, size))
}

#[cold]
const fn bare_lf() -> Refusal {
    Refusal::malformed("a chunk line ends with a bare LF; end lines with CRLF", "RFC 9112, 2.2 and 7.1")
}

#[cold]
const fn bare_cr() -> Refusal {
    Refusal::malformed("a CR stands without its LF in the framing of a chunk", "RFC 9112, 2.2 and 7.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the body ends and how much content it has, or None where `bytes` do not reach its end.
    fn body(framing: Framing, bytes: &[u8]) -> Result<Option<(usize, u64)>, Refusal> {
        let mut check = BodyCheck::new(framing);
        let progress = check.advance(bytes)?;
        assert_eq!(progress.ended, check.ended());
        Ok(progress.ended.then_some((progress.taken, check.decoded())))
    }

    fn chunked(bytes: &str) -> Result<Option<(usize, u64)>, Refusal> {
        body(Framing::Chunked, bytes.as_bytes())
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        assert_eq!(body(Framing::None, b"GET"), Ok(Some((0, 0))));
        assert_eq!(body(Framing::Length(0), b"GET"), Ok(Some((0, 0))));
        assert_eq!(body(Framing::Length(3), b"abcGET"), Ok(Some((3, 3))));
        assert_eq!(body(Framing::Length(u64::MAX), b"abc"), Ok(None));
    }

    #[test]
    fn a_chunked_body_ends_with_its_last_chunk_and_trailers() {
        for (text, end) in [
            ("0\r\n\r\nGET", Some((5, 0))),
            ("000\r\n\r\n", Some((7, 0))),
            ("3\r\nabc\r\n0\r\n\r\nx", Some((13, 3))),
            ("a\r\n\r\n0\r\n\r\n\0\n\r\r\n00\r\n\r\nx", Some((21, 10))),
            ("0000000000000003;a;b=c;d=\"e\\\" ;\tf\"\r\nabc\r\n0;x\r\n\r\n", Some((48, 3))),
            ("0\r\nx-sum: 1\r\n\r\nx", Some((15, 0))),
            ("7fffffffffffffff\r\nabc", None),
            ("3\r\nabc\r\n0\r\n\r", None),
            ("", None),
        ] {
            assert_eq!(chunked(text), Ok(end), "{text:?}");
        }
    }

    #[test]
    fn chunks_outside_the_grammar_are_refused() {
        for text in [
            "\r\n",
            "\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            "1\t;a\r\n",
            "1\n",
            "1\rx",
            "1\r\r\n",
            "1_0\r\n",
            ";a\r\n",
            "00000000000000001\r\n",
            "8000000000000000\r\n",
            "ffffffffffffffff\r\n",
            "10000000000000000\r\n",
            "1;\r\n",
            "1;;a\r\n",
            "1; a\r\n",
            "1;a \r\n",
            "1;a= b\r\n",
            "1;a=\r\n",
            "1;=a\r\n",
            "1;a=\"b\r\n",
            "1;a=\"b\"c\r\n",
            "1;a=b=c\r\n",
            "1;a\0\r\n",
            "1;a\n",
            "1;a\rb\r\n",
            "1;a=\"\n\"\r\n",
            "1;a=\"\0\"\r\n",
            "1;a=\"\\\n\"\r\n",
            "1;\u{e9}\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\rb",
            "1\r\na0\r\n\r\n",
            "0\r\n\n",
            "0\r\n\rx",
            "0\r\nContent-Length: 1\r\n\r\n",
            "0\r\nhost: a\r\n\r\n",
            "0\n\r\n",
        ] {
            assert!(chunked(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn chunk_lines_are_bounded_each_and_together() {
        let line = |len: usize| format!("1;{}", "a".repeat(len - 2));
        assert_eq!(chunked(&format!("{}\r\nx\r\n", line(256))), Ok(None));
        assert!(chunked(&format!("{}\r\nx\r\n", line(257))).is_err());
        let lines = |extensions: usize| format!("{}\r\nx\r\n", line(257 - 128)).repeat(extensions / 128);
        assert_eq!(chunked(&lines(16 * 1024)), Ok(None));
        assert!(chunked(&format!("{}1;", lines(16 * 1024))).is_err());
    }

    #[test]
    fn a_refused_body_stays_refused() {
        let mut check = BodyCheck::new(Framing::Chunked);
        let refusal = check.advance(b"x").unwrap_err();
        assert_eq!(check.advance(b"0\r\n\r\n"), Err(refusal));
        assert!(!check.ended());
    }
}
