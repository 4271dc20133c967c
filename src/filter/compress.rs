//! Whether an answer is compressed, and by what: negotiation and eligibility. The streams are in `encode`.
//!
//! The client's quality values decide; among equals, the order of the configuration. An answer is left alone where
//! compression would break it (ranges, digests, `no-transform`) or gain nothing (small, no body, already encoded).

use http::header::{self, HeaderName, HeaderValue};

use super::edit::Edit;
use super::encode::{Encoder, Flush};
use crate::base::request::{Fields, RequestView};
use crate::config::plan::{self, Algorithm};

/// The compression of a route.
#[derive(Debug)]
pub struct Compress {
    algorithms: Vec<Algorithm>,
    min_bytes: u64,
    types: Vec<MediaType>,
}

/// What is done to one answer: the changes to its fields, and the encoder that its body goes through.
#[derive(Debug, Default)]
pub struct Compression {
    /// The changes, none where the answer is left alone.
    pub edits: Vec<Edit>,
    /// The coding; none where the body stays as it is (fields may change all the same: `Vary`).
    pub coding: Option<Coding>,
}

/// A coding chosen for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// When its output must be complete.
    pub flush: Flush,
}

impl Coding {
    /// An encoder for the body.
    ///
    /// # Errors
    /// The compression library has no memory.
    pub fn encoder(self) -> std::io::Result<Encoder> {
        Encoder::new(self.algorithm, self.flush)
    }
}

/// A media type or, where `essence` ends in a slash, all types that begin with it.
#[derive(Debug)]
struct MediaType(String);

impl MediaType {
    fn new(text: &str) -> Self {
        Self(text.strip_suffix('*').unwrap_or(text).to_ascii_lowercase())
    }

    fn covers(&self, essence: &str) -> bool {
        if self.0.ends_with('/') { essence.starts_with(&self.0) } else { essence == self.0 }
    }
}

impl Compress {
    /// The compression as planned.
    #[must_use]
    pub fn build(plan: &plan::Compress) -> Self {
        Self {
            algorithms: plan.algorithms.clone(),
            min_bytes: plan.min_bytes,
            types: plan.types.iter().map(|text| MediaType::new(text)).collect(),
        }
    }

    /// What is done to the answer with `status` and `answer`'s fields to `request`.
    #[must_use]
    pub fn decide(&self, request: &RequestView<'_>, status: u16, answer: &dyn Fields) -> Compression {
        if status == 304 {
            return Compression { edits: self.revalidated(request, answer), coding: None };
        }
        let Some(essence) = self.eligible(status, answer) else { return Compression::default() };
        // A HEAD has no body to encode, and its fields may not promise a length that GET would not have. That its answer
        // depends on Accept-Encoding is true all the same.
        let Some(algorithm) = self.algorithm(request) else {
            return Compression { edits: vary(answer).into_iter().collect(), coding: None };
        };
        let flush = if essence == "text/event-stream" { Flush::EachChunk } else { Flush::WhenFull };
        Compression { edits: encoded_fields(algorithm, answer), coding: Some(Coding { algorithm, flush }) }
    }

    /// What a 304 says in the place of the 200 that it stands for: `Vary`, and the ETag that the client got with its encoded form
    /// (RFC 9110, 15.4.5). It seldom tells type and length, so that it is taken for one that is compressed unless it says otherwise.
    fn revalidated(&self, request: &RequestView<'_>, answer: &dyn Fields) -> Vec<Edit> {
        let is_other = answer.get("content-type").is_some_and(|written| self.covered(written).is_none());
        if is_other || self.is_left_alone(answer) {
            return Vec::new();
        }
        let etag = self.algorithm(request).and_then(|_| weakened(answer)).map(|etag| Edit::Set(header::ETAG, etag));
        etag.into_iter().chain(vary(answer)).collect()
    }

    /// The algorithm for the answer's body; none where there is no body or the client wants it as it is.
    fn algorithm(&self, request: &RequestView<'_>) -> Option<Algorithm> {
        if request.method == "HEAD" { None } else { self.negotiate(request.fields) }
    }

    /// The media type of an answer that may be compressed; none where it must be left alone.
    fn eligible(&self, status: u16, answer: &dyn Fields) -> Option<String> {
        let has_body = !matches!(status, 100..=199 | 204 | 205 | 206);
        if !has_body || self.is_left_alone(answer) {
            return None;
        }
        self.covered(answer.get("content-type")?)
    }

    /// Whether an answer's fields forbid that it is compressed, or it is too small to gain by it.
    fn is_left_alone(&self, answer: &dyn Fields) -> bool {
        // A digest (RFC 9530; Content-MD5 before it) is of the body as the backend sent it.
        let fixed = ["content-encoding", "content-range", "content-digest", "repr-digest", "digest", "content-md5"];
        let length =
            answer.get("content-length").and_then(|value| std::str::from_utf8(value).ok()?.trim().parse::<u64>().ok());
        fixed.iter().any(|name| answer.get(name).is_some())
            || is_fixed(answer)
            || length.is_some_and(|length| length < self.min_bytes)
    }

    /// The media type that `content_type` names, where it is one of those that are compressed.
    fn covered(&self, content_type: &[u8]) -> Option<String> {
        let essence = essence(content_type)?;
        self.types.iter().any(|known| known.covers(&essence)).then_some(essence)
    }

    /// The algorithm that the client likes best of ours; none where it likes the plain form better or takes none of ours.
    fn negotiate(&self, fields: &dyn Fields) -> Option<Algorithm> {
        let mut accepted = Accepted::default();
        fields.each("accept-encoding", &mut |value| accepted.read(value));
        let best = self
            .algorithms
            .iter()
            .map(|algorithm| (accepted.quality(token(*algorithm)), *algorithm))
            // `max_by_key` keeps the last of equals; reversed, that is the first as written.
            .rev()
            .max_by_key(|(quality, _)| *quality)?;
        (best.0 > 0 && best.0 >= accepted.identity.unwrap_or(0)).then_some(best.1)
    }
}

/// `no-transform` forbids a proxy any change to the body (RFC 9111, 5.2.2.6).
fn is_fixed(answer: &dyn Fields) -> bool {
    let mut found = false;
    answer.each("cache-control", &mut |value| {
        found |= value.split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"no-transform"));
    });
    found
}

/// A media type without parameters, in lower case.
fn essence(content_type: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content_type).ok()?;
    Some(text.split(';').next()?.trim().to_ascii_lowercase())
}

fn encoded_fields(algorithm: Algorithm, answer: &dyn Fields) -> Vec<Edit> {
    let mut edits = vec![
        Edit::Set(header::CONTENT_ENCODING, HeaderValue::from_static(token(algorithm))),
        Edit::Remove(header::CONTENT_LENGTH),
        // Ranges would be of the encoded form, which is made anew for each answer.
        Edit::Remove(header::ACCEPT_RANGES),
    ];
    edits.extend(weakened(answer).map(|etag| Edit::Set(header::ETAG, etag)));
    edits.extend(vary(answer));
    edits
}

/// The answer's strong ETag as a weak one: the encoded form has other bytes (RFC 9110, 8.8.1).
fn weakened(answer: &dyn Fields) -> Option<HeaderValue> {
    let strong = answer.get("etag").filter(|etag| !etag.starts_with(b"W/"))?;
    HeaderValue::from_bytes(&[b"W/", strong].concat()).ok()
}

/// `Vary: Accept-Encoding`, unless the answer says so already.
fn vary(answer: &dyn Fields) -> Option<Edit> {
    let mut said = false;
    answer.each("vary", &mut |value| {
        said |= value
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"));
    });
    let name: HeaderName = header::VARY;
    (!said).then(|| Edit::Add(name, HeaderValue::from_static("Accept-Encoding")))
}

/// The name of a coding in header fields.
fn token(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Zstd => "zstd",
        Algorithm::Brotli => "br",
        Algorithm::Gzip => "gzip",
    }
}

/// What `Accept-Encoding` says (RFC 9110, 12.5.3); qualities in thousandths.
#[derive(Debug, Default)]
struct Accepted {
    zstd: Option<u16>,
    br: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Accepted {
    fn read(&mut self, value: &[u8]) {
        for member in String::from_utf8_lossy(value).split(',') {
            let mut parts = member.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = quality(parts);
            if let Some(slot) = self.slot(&coding) {
                *slot = Some(quality);
            }
        }
    }

    fn slot(&mut self, coding: &str) -> Option<&mut Option<u16>> {
        match coding {
            "zstd" => Some(&mut self.zstd),
            "br" => Some(&mut self.br),
            // A recipient takes the old name for the new (RFC 9110, 8.4.1.3).
            "gzip" | "x-gzip" => Some(&mut self.gzip),
            "identity" => Some(&mut self.identity),
            "*" => Some(&mut self.any),
            _ => None,
        }
    }

    fn quality(&mut self, coding: &str) -> u16 {
        let any = self.any;
        self.slot(coding).and_then(|slot| *slot).or(any).unwrap_or(0)
    }
}

/// The `q` among `parameters` in thousandths; 1000 where there is none, 0 where it is malformed.
fn quality<'a>(mut parameters: impl Iterator<Item = &'a str>) -> u16 {
    let named = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(text) = named else { return 1000 };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return 0;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().unwrap_or(0);
    match (whole, thousandths) {
        ("0", thousandths) => thousandths,
        ("1", 0) => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::request::Scheme;
    use http::HeaderMap;

    fn compress() -> Compress {
        Compress::build(&plan::Compress {
            algorithms: vec![Algorithm::Zstd, Algorithm::Brotli, Algorithm::Gzip],
            min_bytes: 1024,
            types: vec!["text/*".into(), "application/json".into(), "image/svg+xml".into()],
        })
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn decide(method: &str, accept: &[(&'static str, &'static str)], status: u16, answer: &HeaderMap) -> Compression {
        let fields = map(accept);
        let request = RequestView {
            method,
            scheme: Scheme::Http,
            host: "h",
            path: "/",
            query: None,
            client: None,
            fields: &fields,
        };
        compress().decide(&request, status, answer)
    }

    fn chosen(accept: &'static str) -> Option<Algorithm> {
        decide("GET", &[("accept-encoding", accept)], 200, &map(&[("content-type", "text/html")]))
            .coding
            .map(|coding| coding.algorithm)
    }

    #[test]
    fn the_clients_quality_decides_and_among_equals_our_order() {
        for (accept, expected) in [
            ("gzip, br, zstd", Some(Algorithm::Zstd)),
            ("gzip, deflate, br", Some(Algorithm::Brotli)),
            ("gzip;q=1.0, br;q=0.9, zstd;q=0.5", Some(Algorithm::Gzip)),
            ("GZIP", Some(Algorithm::Gzip)),
            ("x-gzip", Some(Algorithm::Gzip)),
            ("*", Some(Algorithm::Zstd)),
            ("*;q=0.5, br", Some(Algorithm::Brotli)),
            ("zstd;q=0, *", Some(Algorithm::Brotli)),
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0.5, identity;q=0.5", Some(Algorithm::Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=2", None),
            ("gzip;q=0.0001", None),
            ("gzip;q=x", None),
            ("gzip ; q = 0.2", Some(Algorithm::Gzip)),
            ("identity", None),
            ("deflate", None),
            ("", None),
        ] {
            assert_eq!(chosen(accept), expected, "{accept}");
        }
    }

    #[test]
    fn an_encoded_answer_tells_so_and_loses_what_is_no_longer_true() {
        let mut answer = map(&[
            ("content-type", "text/html; charset=utf-8"),
            ("content-length", "5000"),
            ("accept-ranges", "bytes"),
            ("etag", "\"abc\""),
            ("vary", "Origin"),
        ]);
        let compression = decide("GET", &[("accept-encoding", "br")], 200, &answer);
        super::super::edit::apply(compression.edits, &mut answer);
        assert_eq!(answer["content-encoding"], "br");
        assert_eq!(answer["etag"], "W/\"abc\"");
        assert_eq!(answer.get_all("vary").iter().collect::<Vec<_>>(), ["Origin", "Accept-Encoding"]);
        assert!(!answer.contains_key("content-length") && !answer.contains_key("accept-ranges"));
    }

    #[test]
    fn an_answer_that_could_have_been_encoded_varies() {
        for (method, accept) in [("GET", "identity"), ("HEAD", "br")] {
            let compression =
                decide(method, &[("accept-encoding", accept)], 200, &map(&[("content-type", "text/css")]));
            assert_eq!(compression.coding, None);
            assert_eq!(compression.edits, [Edit::Add(header::VARY, HeaderValue::from_static("Accept-Encoding"))]);
        }
        let said = map(&[("content-type", "text/css"), ("vary", "origin, ACCEPT-encoding")]);
        assert!(decide("GET", &[], 200, &said).edits.is_empty());
    }

    #[test]
    fn a_304_says_what_its_200_would_have_said() {
        let told = |method, accept: &'static str, fields: &[(&'static str, &'static str)]| {
            let compression = decide(method, &[("accept-encoding", accept)], 304, &map(fields));
            assert_eq!(compression.coding, None);
            let mut answer = map(fields);
            super::super::edit::apply(compression.edits, &mut answer);
            let field = |name| answer.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
            (field("vary"), field("etag").unwrap())
        };
        let (varies, weak, strong) = (Some("Accept-Encoding".to_owned()), "W/\"1\"".to_owned(), "\"1\"".to_owned());
        let etag = ("etag", "\"1\"");
        assert_eq!(told("GET", "br", &[etag]), (varies.clone(), weak.clone()));
        assert_eq!(told("GET", "br", &[("etag", "W/\"1\"")]), (varies.clone(), weak.clone()));
        assert_eq!(told("GET", "br", &[etag, ("content-type", "text/css")]), (varies.clone(), weak));
        assert_eq!(told("GET", "identity", &[etag]), (varies.clone(), strong.clone()));
        assert_eq!(told("HEAD", "br", &[etag]), (varies, strong.clone()));
        for other in [("content-type", "image/png"), ("cache-control", "no-transform"), ("content-encoding", "gzip")] {
            assert_eq!(told("GET", "br", &[etag, other]), (None, strong.clone()), "{other:?}");
        }
    }

    #[test]
    fn answers_that_must_stay_as_they_are_do() {
        let html = ("content-type", "text/html");
        for (status, fields) in [
            (206, vec![html]),
            (204, vec![html]),
            (200, vec![html, ("content-encoding", "gzip")]),
            (200, vec![html, ("content-range", "bytes 0-1/2")]),
            (200, vec![html, ("cache-control", "public, No-Transform")]),
            (200, vec![html, ("content-digest", "sha-256=:x:")]),
            (200, vec![html, ("content-length", "1023")]),
            (200, vec![("content-type", "image/png")]),
            (200, vec![("content-type", "texts/html")]),
            (200, vec![]),
        ] {
            let compression = decide("GET", &[("accept-encoding", "br")], status, &map(&fields));
            assert!(compression.coding.is_none() && compression.edits.is_empty(), "{status} {fields:?}");
        }
        for fields in [vec![html, ("content-length", "1024")], vec![("content-type", "IMAGE/SVG+xml ;a=b")]] {
            assert!(decide("GET", &[("accept-encoding", "br")], 200, &map(&fields)).coding.is_some(), "{fields:?}");
        }
    }

    #[test]
    fn event_streams_are_flushed_event_by_event() {
        let answer = map(&[("content-type", "text/event-stream")]);
        let coding = decide("GET", &[("accept-encoding", "gzip")], 200, &answer).coding.unwrap();
        assert_eq!(coding.flush, Flush::EachChunk);
    }
}
