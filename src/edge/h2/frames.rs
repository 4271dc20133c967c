//! Finds the head of every frame in a stream of bytes (RFC 9113, 4.1), however they are cut. Pure; what frames mean is told
//! elsewhere.

/// The bytes of a frame's head.
const HEAD: usize = 9;

/// The kinds of frames that are told apart here (RFC 9113, 6).
pub(super) mod kind {
    pub(in crate::edge::h2) const DATA: u8 = 0x0;
    pub(in crate::edge::h2) const HEADERS: u8 = 0x1;
    pub(in crate::edge::h2) const RST_STREAM: u8 = 0x3;
    pub(in crate::edge::h2) const SETTINGS: u8 = 0x4;
    pub(in crate::edge::h2) const PING: u8 = 0x6;
    pub(in crate::edge::h2) const CONTINUATION: u8 = 0x9;
}

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// The bytes of its payload.
    pub(super) length: u32,
    /// Its kind.
    pub(super) kind: u8,
    flags: u8,
}

impl Frame {
    fn parse(head: [u8; HEAD]) -> Self {
        Self { length: u32::from_be_bytes([0, head[0], head[1], head[2]]), kind: head[3], flags: head[4] }
    }

    /// Whether it ends the stream in its direction.
    pub(super) const fn ends_stream(self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0
    }

    /// Whether it opens or goes on with a block of fields that it does not end.
    pub(super) const fn leaves_block_open(self) -> bool {
        matches!(self.kind, kind::HEADERS | kind::CONTINUATION) && self.flags & END_HEADERS == 0
    }

    /// Whether it acknowledges a frame of the other side.
    pub(super) const fn acknowledges(self) -> bool {
        matches!(self.kind, kind::SETTINGS | kind::PING) && self.flags & ACK != 0
    }
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub(super) struct Scanner {
    /// Bytes that are no part of a frame's head: those of the preface, then of the present frame's payload.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
    /// The frame whose payload is skipped.
    inside: Option<Frame>,
}

impl Scanner {
    /// At the start of a direction that begins with so many bytes before its first frame.
    pub(super) const fn after(preface: usize) -> Self {
        Self { skip: preface, head: [0; HEAD], have: 0, inside: None }
    }

    /// Looks at the next bytes, and tells of each frame whose head they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if self.skip == 0 && (skipped > 0 || !bytes.is_empty()) {
                self.inside = None;
            }
            if bytes.is_empty() {
                return;
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                let frame = Frame::parse(self.head);
                self.have = 0;
                self.skip = frame.length as usize;
                self.inside = (self.skip > 0).then_some(frame);
                found(frame);
            }
        }
    }

    /// Whether the bytes so far end in the middle of a frame that other frames wait for; DATA has deadlines of its own.
    pub(super) fn is_amid_frame(&self) -> bool {
        self.have > 0 || self.inside.is_some_and(|frame| frame.kind != kind::DATA)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, kind: u8, flags: u8) -> Vec<u8> {
        let length_bytes = u32::try_from(length).unwrap().to_be_bytes();
        let mut bytes = vec![length_bytes[1], length_bytes[2], length_bytes[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(9 + length, 0xff);
        bytes
    }

    fn scan(pieces: &[&[u8]]) -> (Vec<Frame>, bool) {
        let mut scanner = Scanner::after(4);
        let mut found = Vec::new();
        for piece in pieces {
            scanner.feed(piece, |frame| found.push(frame));
        }
        (found, scanner.is_amid_frame())
    }

    #[test]
    fn flags_mean_what_their_kind_says() {
        let of = |kind, flags| Frame { length: 0, kind, flags };
        assert!(of(kind::DATA, 1).ends_stream() && of(kind::HEADERS, 5).ends_stream());
        assert!(!of(kind::PING, 1).ends_stream() && of(kind::PING, 1).acknowledges());
        assert!(!of(kind::HEADERS, 1).acknowledges());
        assert!(of(kind::HEADERS, 1).leaves_block_open() && !of(kind::CONTINUATION, 4).leaves_block_open());
    }

    #[test]
    fn a_frame_that_has_not_ended_is_known_as_one() {
        let ping = frame(8, kind::PING, 0);
        let whole = [b"PREF".as_slice(), &ping].concat();
        assert!(!scan(&[&whole]).1);
        for end in 5..whole.len() {
            assert!(scan(&[&whole[..end]]).1, "{end}");
        }
        let data = [b"PREF".as_slice(), &frame(8, kind::DATA, 0)].concat();
        assert!(!scan(&[&data[..15]]).1);
    }

    proptest! {
        #[test]
        fn frames_are_found_however_the_bytes_are_cut(
            frames in prop::collection::vec((0usize..40, 0u8..12, any::<u8>()), 0..12),
            cuts in prop::collection::vec(1usize..30, 0..40),
        ) {
            let mut bytes = b"PREF".to_vec();
            for (length, kind, flags) in &frames {
                bytes.extend(frame(*length, *kind, *flags));
            }
            let (mut pieces, mut rest) = (Vec::new(), bytes.as_slice());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let (found, amid) = scan(&pieces);
            let expected: Vec<_> = frames
                .iter()
                .map(|(length, kind, flags)| Frame { length: u32::try_from(*length).unwrap(), kind: *kind, flags: *flags })
                .collect();
            prop_assert_eq!(found, expected);
            prop_assert!(!amid);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut scanner = Scanner::after(0);
            scanner.feed(&bytes, |_| ());
        }
    }
}
