//! Any `Accept-Encoding` and any fields of an answer: no panic, and a coding only where the client takes it and the body may
//! be changed.

use http::{HeaderMap, HeaderValue, header};
use roundel::base::request::{RequestView, Scheme};
use roundel::config::plan::{self, Algorithm};
use roundel::filter::compress::Compress;
use roundel::filter::edit;

/// The fields of the answer that decide, in the order in which the fuzzer's lines fill them.
const ANSWER: [header::HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CACHE_CONTROL,
    header::VARY,
    header::ETAG,
    header::CONTENT_RANGE,
];

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut lines = rest.split(|byte| *byte == b'\n');
    let (mut asked, mut answer) = (HeaderMap::new(), HeaderMap::new());
    let accept = lines.next().unwrap_or_default();
    asked.extend(HeaderValue::from_bytes(accept).map(|value| (header::ACCEPT_ENCODING, value)));
    for (name, line) in ANSWER.into_iter().zip(lines).filter(|(_, line)| !line.is_empty()) {
        answer.extend(HeaderValue::from_bytes(line).map(|value| (name, value)));
    }
    let status = [200, 204, 206, 304, 404, 500][usize::from(first % 6)];
    let request = RequestView {
        method: if first & 0x80 == 0 { "GET" } else { "HEAD" },
        scheme: Scheme::Http,
        host: "h",
        path: "/",
        query: None,
        client: None,
        fields: &asked,
    };
    let compression = compress().decide(&request, status, &answer);
    if let Some(coding) = compression.coding {
        assert!(request.method == "GET" && !matches!(status, 204 | 206 | 304));
        assert!(!answer.contains_key(header::CONTENT_ENCODING) && !answer.contains_key(header::CONTENT_RANGE));
        let name = match coding.algorithm {
            Algorithm::Zstd => "zstd",
            Algorithm::Brotli => "br",
            Algorithm::Gzip => "gzip",
        };
        let accept = String::from_utf8_lossy(accept).to_ascii_lowercase();
        assert!(accept.contains(name) || accept.contains('*'), "{name} for {accept:?}");
        edit::apply(compression.edits, &mut answer);
        assert_eq!(answer[header::CONTENT_ENCODING], name);
        assert!(!answer.contains_key(header::CONTENT_LENGTH));
        assert!(answer.get(header::ETAG).is_none_or(|etag| etag.as_bytes().starts_with(b"W/")));
        assert!(answer.contains_key(header::VARY));
    } else {
        assert!(compression.edits.iter().all(|edit| match edit {
            edit::Edit::Add(name, _) => name == header::VARY,
            // A 304 has the ETag of the form that its client has.
            edit::Edit::Set(name, etag) => status == 304 && name == header::ETAG && etag.as_bytes().starts_with(b"W/"),
            edit::Edit::Remove(_) => false,
        }));
    }
}

fn compress() -> Compress {
    Compress::build(&plan::Compress {
        algorithms: vec![Algorithm::Zstd, Algorithm::Brotli, Algorithm::Gzip],
        min_bytes: 1024,
        types: vec!["text/*".into(), "application/json".into()],
    })
}
