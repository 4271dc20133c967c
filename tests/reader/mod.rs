//! A strict reader of HTTP/1.1 that shares nothing with the proxy: the grammar of RFC 9112 written down once more, naively, to
//! hold the proxy's own reading against it.
//!
//! It reads messages that stand whole in memory. What is written here is for tests alone, and slow.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

/// What bytes begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading<M> {
    /// A whole message of so many bytes.
    Whole(M, usize),
    /// The beginning of one.
    Begun,
    /// Nothing that a strict reader takes.
    Malformed,
}

/// Field lines: names in small letters, values without the white space around them.
pub type Fields = Vec<(String, Vec<u8>)>;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Vec<u8>,
    /// The target as it was written.
    pub target: Vec<u8>,
    /// Whether it is of HTTP/1.0.
    pub old: bool,
    /// The field lines.
    pub fields: Fields,
    /// The content.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of the only field of this name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        only(&self.fields, name)
    }

    /// What its receiver must take it for, whoever passed it on: the method, the target in origin form (RFC 9112, 3.2.1) and the
    /// content.
    pub fn meaning(&self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        (self.method.clone(), origin_form(&self.method, &self.target), self.body.clone())
    }

    /// Whom it is for: `Host`, or the authority of an absolute target (RFC 9112, 3.2.2), in small letters.
    pub fn host(&self) -> Vec<u8> {
        let named = absolute(&self.target).map(|(authority, _)| authority.to_vec());
        named.or_else(|| self.field("host").map(<[u8]>::to_vec)).unwrap_or_default().to_ascii_lowercase()
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method.escape_ascii(), self.target.escape_ascii())?;
        for (name, value) in &self.fields {
            write!(f, " | {name}: {}", value.escape_ascii())?;
        }
        write!(f, " | {:?}", self.body.escape_ascii().to_string())
    }
}

/// One answer, informational ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The field lines.
    pub fields: Fields,
    /// The content.
    pub body: Vec<u8>,
    /// Whether another may follow on the connection (RFC 9112, 9.3).
    pub persistent: bool,
}

impl Answer {
    /// The value of the only field of this name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        only(&self.fields, name)
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunks,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerHead {
    /// The status.
    pub status: u16,
    /// How its body is framed, where the head says so.
    pub framing: Option<Framing>,
    /// Whether another may follow.
    pub persistent: bool,
    /// The field lines.
    pub fields: Fields,
    /// How many bytes it takes.
    pub len: usize,
}

/// Reads one request. One empty line before it is passed over (RFC 9112, 2.2).
pub fn request(bytes: &[u8]) -> Reading<Request> {
    let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let bytes = &bytes[skipped..];
    let Some(end) = end_of_head(bytes) else {
        // A line end that is none is malformed before its head has ended; nothing waits for it here.
        return Reading::Begun;
    };
    let Some((mut request, framing)) = request_head(&bytes[..end]) else { return Reading::Malformed };
    match body(&bytes[end..], framing) {
        Reading::Whole(body, len) => {
            request.body = body;
            Reading::Whole(request, skipped + end + len)
        }
        Reading::Begun => Reading::Begun,
        Reading::Malformed => Reading::Malformed,
    }
}

/// All requests that `bytes` begin with.
pub fn requests(bytes: &[u8]) -> Vec<Request> {
    requests_and_rest(bytes).0
}

/// The same, and what follows them.
pub fn requests_and_rest(mut bytes: &[u8]) -> (Vec<Request>, &[u8]) {
    let mut all = Vec::new();
    while let Reading::Whole(request, len) = self::request(bytes) {
        all.push(request);
        bytes = &bytes[len..];
    }
    (all, bytes)
}

/// Reads one answer to a request of `method`. Where `closed`, nothing follows `bytes`: the connection has ended.
pub fn answer(bytes: &[u8], method: &[u8], closed: bool) -> Reading<Answer> {
    let Some(end) = end_of_head(bytes) else { return Reading::Begun };
    let Some(head) = answer_head(bytes) else { return Reading::Malformed };
    let bodiless = method == b"HEAD" || matches!(head.status, 100..=199 | 204 | 304);
    let read = match head.framing {
        _ if bodiless => Reading::Whole(Vec::new(), 0),
        Some(framing) => body(&bytes[end..], framing),
        None if closed => Reading::Whole(bytes[end..].to_vec(), bytes.len() - end),
        None => Reading::Begun,
    };
    match read {
        Reading::Whole(body, len) => {
            let persistent = head.persistent && (bodiless || head.framing.is_some());
            Reading::Whole(Answer { status: head.status, fields: head.fields, body, persistent }, end + len)
        }
        Reading::Begun => Reading::Begun,
        Reading::Malformed => Reading::Malformed,
    }
}

/// Reads the answers to a request of `method` up to the final one, which stands last; None where it is not whole.
pub fn final_answer(bytes: &[u8], method: &[u8], closed: bool) -> Option<(Vec<Answer>, usize)> {
    let (mut answers, mut at) = (Vec::new(), 0);
    loop {
        let Reading::Whole(answer, len) = answer(&bytes[at..], method, closed) else { return None };
        at += len;
        let informational = (100..200).contains(&answer.status);
        answers.push(answer);
        if !informational {
            return Some((answers, at));
        }
    }
}

/// Reads the head of an answer that `bytes` begin with.
pub fn answer_head(bytes: &[u8]) -> Option<AnswerHead> {
    let len = end_of_head(bytes)?;
    let lines = lines(&bytes[..len])?;
    let line = lines[0];
    let old = line.starts_with(b"HTTP/1.0 ");
    if !(old || line.starts_with(b"HTTP/1.1 ")) || !matches!(line.get(12), None | Some(b' ')) {
        return None;
    }
    let status = number(line.get(9..12)?)?;
    let status = u16::try_from(status).ok().filter(|status| (100..600).contains(status))?;
    let fields = fields(&lines[1..])?;
    let options: Vec<Vec<u8>> = all(&fields, "connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|option| option.trim_ascii().to_ascii_lowercase())
        .collect();
    let has = |option: &[u8]| options.iter().any(|one| one == option);
    let persistent = !has(b"close") && (!old || has(b"keep-alive"));
    Some(AnswerHead { status, framing: framing(&fields, old)?, persistent, fields, len })
}

/// Reads the head of a request, which is all there is of `bytes`, and how its body is framed.
pub fn request_head(bytes: &[u8]) -> Option<(Request, Framing)> {
    let lines = lines(bytes)?;
    let words: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return None };
    let old = version == b"HTTP/1.0";
    if !is_token(method) || target.is_empty() || !(old || version == b"HTTP/1.1") {
        return None;
    }
    let fields = fields(&lines[1..])?;
    let hosts = all(&fields, "host").count();
    if hosts > 1 || hosts == 0 && !old {
        return None;
    }
    let framing = framing(&fields, old)?.unwrap_or(Framing::Length(0));
    let (method, target) = (method.to_vec(), target.to_vec());
    Some((Request { method, target, old, fields, body: Vec::new() }, framing))
}

/// Where the head ends that `bytes` begin with, its empty line included.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    Some(bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4)
}

/// The lines of a head without their ends, and without the empty one; none where a line does not end with CRLF, or holds a
/// control character.
fn lines(head: &[u8]) -> Option<Vec<&[u8]>> {
    let mut lines = Vec::new();
    for line in head.strip_suffix(b"\r\n\r\n")?.split(|byte| *byte == b'\n') {
        lines.push(line);
    }
    let last = lines.len() - 1;
    for (at, line) in lines.iter_mut().enumerate() {
        if at < last {
            *line = line.strip_suffix(b"\r")?;
        }
        if line.iter().any(|byte| *byte < 0x20 && *byte != b'\t' || *byte == 0x7f) {
            return None;
        }
    }
    Some(lines)
}

fn fields(lines: &[&[u8]]) -> Option<Fields> {
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_token(name) {
            return None;
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
    Some(fields)
}

/// The values of all lines of one name.
pub fn all<'f, 'n>(fields: &'f Fields, name: &'n str) -> impl Iterator<Item = &'f [u8]> + use<'f, 'n> {
    fields.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_slice())
}

fn only<'f>(fields: &'f Fields, name: &str) -> Option<&'f [u8]> {
    let mut values = all(fields, name);
    values.next().filter(|_| values.next().is_none())
}

/// The one framing that fields name (RFC 9112, 6.3); None where they name two, or one that is not understood.
#[allow(clippy::option_option)]
fn framing(fields: &Fields, old: bool) -> Option<Option<Framing>> {
    let lengths: Vec<&[u8]> = all(fields, "content-length").collect();
    let codings: Vec<&[u8]> = all(fields, "transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Some(None),
        ([length], []) => Some(Some(Framing::Length(number(length)?))),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && !old => Some(Some(Framing::Chunks)),
        _ => None,
    }
}

fn body(bytes: &[u8], framing: Framing) -> Reading<Vec<u8>> {
    match framing {
        Framing::Length(length) => match usize::try_from(length).ok().and_then(|length| bytes.get(..length)) {
            Some(body) => Reading::Whole(body.to_vec(), body.len()),
            None => Reading::Begun,
        },
        Framing::Chunks => chunks(bytes),
    }
}

/// A body in chunks (RFC 9112, 7.1), and its length on the wire.
pub fn chunks(bytes: &[u8]) -> Reading<Vec<u8>> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let Some(line) = line(&bytes[at..]) else { return Reading::Begun };
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let digits = std::str::from_utf8(size).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let Some(size) = size.filter(|_| !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))) else {
            return Reading::Malformed;
        };
        at += line.len() + 2;
        if size == 0 {
            break;
        }
        let Some(data) = at.checked_add(size).and_then(|end| bytes.get(at..end)) else { return Reading::Begun };
        body.extend_from_slice(data);
        at += size;
        match bytes.get(at..at + 2) {
            None => return Reading::Begun,
            Some(b"\r\n") => at += 2,
            Some(_) => return Reading::Malformed,
        }
    }
    loop {
        let Some(line) = line(&bytes[at..]) else { return Reading::Begun };
        at += line.len() + 2;
        match line.iter().position(|byte| *byte == b':') {
            _ if line.is_empty() => return Reading::Whole(body, at),
            Some(colon) if is_token(&line[..colon]) => {}
            _ => return Reading::Malformed,
        }
    }
}

/// The line that `bytes` begin with, without its CRLF.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    bytes.windows(2).position(|two| two == b"\r\n").map(|end| &bytes[..end])
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// `1*DIGIT` that fits 64 bits.
fn number(digits: &[u8]) -> Option<u64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

/// Authority and the rest of an absolute target.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    })?;
    Some(rest.split_at(rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len())))
}

fn origin_form(method: &[u8], target: &[u8]) -> Vec<u8> {
    match absolute(target) {
        None => target.to_vec(),
        // RFC 9112, 3.2.4.
        Some((_, b"")) if method == b"OPTIONS" => b"*".to_vec(),
        Some((_, rest)) if rest.starts_with(b"/") => rest.to_vec(),
        Some((_, rest)) => [b"/", rest].concat(),
    }
}
