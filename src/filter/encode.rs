//! Bodies on their way through a compression library, chunk by chunk.
//!
//! What an encoder holds is bounded by its window (256 KiB for Brotli, 512 KiB for Zstandard, 32 KiB for gzip) and the chunk
//! that it is given. It never waits: when output must be complete is said once, when it is made, or by [`Encoder::flush`].

use std::io::{self, Write as _};

use bytes::Bytes;

use crate::config::plan::Algorithm;

/// Levels that favour speed: an answer is encoded anew for each client.
const GZIP_LEVEL: u32 = 5;
const BROTLI_QUALITY: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
const BROTLI_WINDOW_LOG: u32 = 18;
const ZSTD_WINDOW_LOG: u32 = 19;
/// Bytes that Brotli writes at a time.
const BROTLI_BUFFER: usize = 4096;

/// When the output of a chunk must be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Whenever the library sees fit: best for size.
    WhenFull,
    /// With each chunk, so that whoever reads it sees all that has been sent so far: for streams of events.
    EachChunk,
}

/// A body that is being encoded.
pub struct Encoder {
    stream: Stream,
    flush: Flush,
}

enum Stream {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("flush", &self.flush).finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder of `algorithm`.
    ///
    /// # Errors
    /// The library has no memory.
    pub fn new(algorithm: Algorithm, flush: Flush) -> io::Result<Self> {
        let stream = match algorithm {
            Algorithm::Gzip => {
                Stream::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL)))
            }
            Algorithm::Brotli => Stream::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER,
                BROTLI_QUALITY,
                BROTLI_WINDOW_LOG,
            ))),
            Algorithm::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
                Stream::Zstd(encoder)
            }
        };
        Ok(Self { stream, flush })
    }

    /// Takes the next `chunk` and gives what is ready to be sent, which may be nothing yet.
    ///
    /// # Errors
    /// The library failed; what was given so far is no complete body.
    pub fn write(&mut self, chunk: &[u8]) -> io::Result<Bytes> {
        match &mut self.stream {
            Stream::Gzip(stream) => stream.write_all(chunk)?,
            Stream::Brotli(stream) => stream.write_all(chunk)?,
            Stream::Zstd(stream) => stream.write_all(chunk)?,
        }
        match self.flush {
            Flush::EachChunk if !chunk.is_empty() => self.flush(),
            _ => Ok(self.ready()),
        }
    }

    /// Gives everything taken so far, so that a reader can decode all of it.
    ///
    /// # Errors
    /// The library failed; what was given so far is no complete body.
    pub fn flush(&mut self) -> io::Result<Bytes> {
        match &mut self.stream {
            Stream::Gzip(stream) => stream.flush()?,
            Stream::Brotli(stream) => stream.flush()?,
            Stream::Zstd(stream) => stream.flush()?,
        }
        Ok(self.ready())
    }

    /// Gives the rest and ends the body.
    ///
    /// # Errors
    /// The library failed; what was given so far is no complete body.
    pub fn finish(self) -> io::Result<Bytes> {
        match self.stream {
            Stream::Gzip(stream) => stream.finish(),
            Stream::Brotli(stream) => Ok(stream.into_inner()),
            Stream::Zstd(stream) => stream.finish(),
        }
        .map(Bytes::from)
    }

    fn ready(&mut self) -> Bytes {
        let output = match &mut self.stream {
            Stream::Gzip(stream) => stream.get_mut(),
            Stream::Brotli(stream) => stream.get_mut(),
            Stream::Zstd(stream) => stream.get_mut(),
        };
        std::mem::take(output).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;

    const ALL: [Algorithm; 3] = [Algorithm::Gzip, Algorithm::Brotli, Algorithm::Zstd];

    /// As much of `encoded` as can be decoded: all of a body, or of one that is still under way.
    fn decoded(algorithm: Algorithm, encoded: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn io::Read + '_> = match algorithm {
            Algorithm::Gzip => Box::new(flate2::read::GzDecoder::new(encoded)),
            Algorithm::Brotli => Box::new(brotli::Decompressor::new(encoded, 4096)),
            Algorithm::Zstd => Box::new(zstd::stream::read::Decoder::new(encoded).unwrap()),
        };
        let mut body = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            body.extend_from_slice(&buffer[..read]);
        }
        body
    }

    #[test]
    fn a_reader_sees_each_event_when_it_is_sent() {
        for algorithm in ALL {
            let mut encoder = Encoder::new(algorithm, Flush::EachChunk).unwrap();
            let (mut sent, mut seen) = (Vec::new(), Vec::new());
            for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
                seen.extend_from_slice(&encoder.write(event.as_bytes()).unwrap());
                sent.extend_from_slice(event.as_bytes());
                assert_eq!(decoded(algorithm, &seen), sent, "{algorithm:?}");
            }
            seen.extend_from_slice(&encoder.finish().unwrap());
            assert_eq!(decoded(algorithm, &seen), sent);
        }
    }

    #[test]
    fn a_large_body_comes_out_smaller_and_bit_by_bit() {
        let line = b"the quick brown fox jumps over the lazy dog 0123456789\n".repeat(2_000);
        for algorithm in ALL {
            let mut encoder = Encoder::new(algorithm, Flush::WhenFull).unwrap();
            let mut encoded = Vec::new();
            for _ in 0..40 {
                encoded.extend_from_slice(&encoder.write(&line).unwrap());
            }
            let before_the_end = encoded.len();
            encoded.extend_from_slice(&encoder.finish().unwrap());
            assert!(before_the_end > 0 && encoded.len() < line.len(), "{algorithm:?}: {}", encoded.len());
            assert_eq!(decoded(algorithm, &encoded), line.repeat(40));
        }
    }

    #[test]
    fn an_empty_body_is_a_valid_body() {
        for algorithm in ALL {
            let encoder = Encoder::new(algorithm, Flush::WhenFull).unwrap();
            let encoded = encoder.finish().unwrap();
            assert!(!encoded.is_empty() && decoded(algorithm, &encoded).is_empty(), "{algorithm:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn decoded_bodies_are_what_the_backend_sent(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..12),
            each in any::<bool>(),
        ) {
            let flush = if each { Flush::EachChunk } else { Flush::WhenFull };
            for algorithm in ALL {
                let mut encoder = Encoder::new(algorithm, flush).unwrap();
                let mut encoded = Vec::new();
                for chunk in &chunks {
                    encoded.extend_from_slice(&encoder.write(chunk).unwrap());
                }
                encoded.extend_from_slice(&encoder.finish().unwrap());
                prop_assert_eq!(decoded(algorithm, &encoded), chunks.concat());
            }
        }
    }
}
