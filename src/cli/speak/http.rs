//! The answers of an admin listener: HTTP/1.1 as it is sent there, read strictly enough to end where the answer ends.

use std::io::{self, BufRead, BufReader, Read};

/// More than any head of an admin listener.
const LONGEST_HEAD: u64 = 64 * 1024;

/// The body of an answer; reading ends where it ends.
#[derive(Debug)]
pub(in crate::cli) struct Body<R> {
    reader: BufReader<R>,
    left: Left,
}

/// What is left of a body.
#[derive(Debug, Clone, Copy)]
enum Left {
    /// So many bytes.
    Length(u64),
    /// So many bytes of the present chunk, and then more chunks; none: the first has not begun.
    Chunk(Option<u64>),
    /// All that comes.
    UntilClose,
}

/// Reads the head of an answer; what is returned with the status reads its body.
///
/// # Errors
/// The connection ends or pauses too long, or this is no HTTP.
pub(super) fn read<R: Read>(stream: R) -> io::Result<(u16, Body<R>)> {
    let mut reader = BufReader::new(stream);
    let head = lines(&mut reader)?;
    let status = head.first().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| malformed("the status line"))?;
    let field = |name: &str| {
        let mut fields = head.iter().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let left = match (field("transfer-encoding"), field("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Left::Chunk(None),
        (Some(_), _) => return Err(malformed("the transfer coding")),
        (None, Some(length)) => Left::Length(length.parse().map_err(|_| malformed("the content length"))?),
        (None, None) => Left::UntilClose,
    };
    Ok((status, Body { reader, left }))
}

/// The lines of a head, without its empty last one.
fn lines(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut head = reader.take(LONGEST_HEAD);
    let mut lines = Vec::new();
    loop {
        let line = line(&mut head)?;
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line);
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.strip_suffix('\r').unwrap_or(line).to_owned()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before the answer did")),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what answers is no HTTP ({what})"))
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.left {
            Left::UntilClose => self.reader.read(buf),
            Left::Length(0) => Ok(0),
            Left::Length(left) => {
                let read = self.some(buf, left)?;
                self.left = Left::Length(left - read as u64);
                Ok(read)
            }
            Left::Chunk(Some(left @ 1..)) => {
                let read = self.some(buf, left)?;
                self.left = Left::Chunk(Some(left - read as u64));
                Ok(read)
            }
            Left::Chunk(between) => {
                self.left = self.next_chunk(between.is_none())?;
                self.read(buf)
            }
        }
    }
}

impl<R: Read> Body<R> {
    /// Reads some of the `left` bytes that must still come.
    fn some(&mut self, buf: &mut [u8], left: u64) -> io::Result<usize> {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        match self.reader.read(&mut buf[..most])? {
            0 if most > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }

    fn next_chunk(&mut self, first: bool) -> io::Result<Left> {
        let mut head = (&mut self.reader).take(LONGEST_HEAD);
        if !first && !line(&mut head)?.is_empty() {
            return Err(malformed("the end of a chunk"));
        }
        let size = line(&mut head)?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        match u64::from_str_radix(digits, 16).map_err(|_| malformed("the size of a chunk"))? {
            0 => Ok(Left::Length(0)),
            size => Ok(Left::Chunk(Some(size))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(answer: &str) -> io::Result<(u16, String)> {
        let (status, mut body) = read(answer.as_bytes())?;
        let mut text = String::new();
        body.read_to_string(&mut text)?;
        Ok((status, text))
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        let whole = |answer| body(answer).unwrap();
        assert_eq!(whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore"), (200, "ok".into()));
        assert_eq!(whole("HTTP/1.1 503 No\r\n\r\nuntil the end"), (503, "until the end".into()));
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(whole(chunked), (200, "abc0123456789".into()));
    }

    #[test]
    fn a_cut_answer_is_an_error_and_not_a_short_one() {
        for cut in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "SSH-2.0\r\n\r\n",
        ] {
            assert!(body(cut).is_err(), "{cut:?}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_ends_or_is_a_fault(
            framing in "(content-length|transfer-encoding): ?(chunked|[0-9]{0,20}|-1)", rest in "[0-9a-f;\\r\\n +-]{0,40}"
        ) {
            if let Ok((_, text)) = body(&format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{rest}")) {
                prop_assert!(text.len() <= rest.len());
            }
        }
    }
}
