//! Any template filled with any values: no panic, and no value that could split a header.

use std::net::Ipv6Addr;

use http::HeaderName;
use roundel::config::plan;
use roundel::filter::edit::Edit;
use roundel::filter::headers::{HeaderRules, Variables};

/// Ends the template and each value in the fuzzer's bytes; no line break, so that the fuzzer can put one anywhere.
const END: char = '\u{1f}';

/// Holds the promise to these bytes, where they are text.
pub fn holds(bytes: &[u8]) {
    let Ok(input) = std::str::from_utf8(bytes) else { return };
    let mut texts = input.split(END);
    let mut next = || texts.next().unwrap_or_default();
    let template = next().to_owned();
    let name = HeaderName::from_static("x-fuzz");
    let plan = plan::HeaderRules {
        set: vec![(name.clone(), template.clone())],
        add: vec![(name.clone(), template.clone())],
        remove: vec![name],
    };
    let Ok(rules) = HeaderRules::build(&plan) else { return };
    let facts = Variables {
        client_ip: Some(Ipv6Addr::LOCALHOST.into()),
        request_id: next(),
        scheme: "http",
        host: next(),
        method: next(),
        path: next(),
        query: next(),
        listener: next(),
        route: next(),
        tls: None,
    };
    for edit in rules.edits(&facts) {
        if let Edit::Set(_, value) | Edit::Add(_, value) = edit {
            let value = value.as_bytes();
            assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{template:?}: {value:?}");
        }
    }
}
