//! What header fields cost on their way: which of a browser's and an application's pass, and the edits of a filter.

mod measure;

use std::net::{IpAddr, Ipv4Addr};

use http::header::{CACHE_CONTROL, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue};
use measure::measure;
use roundel::config::plan;
use roundel::exchange::forward::passes_to_client;
use roundel::filter::edit::{Edit, apply};
use roundel::filter::headers::{HeaderRules, Variables};

const TIMES: usize = 500_000;

/// The fields of an application's answer.
const ANSWER: [(&str, &str); 12] = [
    ("date", "Sun, 22 Nov 2026 20:00:00 GMT"),
    ("server", "app/1.0"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-length", "5120"),
    ("connection", "keep-alive"),
    ("vary", "accept-encoding"),
    ("cache-control", "max-age=60"),
    ("etag", "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
    ("set-cookie", "session=0123456789abcdef; Path=/; HttpOnly; Secure"),
    ("strict-transport-security", "max-age=63072000"),
    ("x-content-type-options", "nosniff"),
    ("x-request-id", "48e1a09d01c72dd075c8cdd125c316dc"),
];

fn main() {
    measure("an answer's 12 fields: which pass", TIMES, |_| {
        ANSWER.iter().filter(|(name, _)| passes_to_client(name, 200)).count()
    });
    let fixed = rules(&[(SERVER, "roundel"), (CACHE_CONTROL, "no-store")]);
    measure("edits: two fixed values, one removed", TIMES, |_| fixed.edits(&facts()));
    let name = HeaderName::from_static;
    let templates = rules(&[(name("x-client"), "{client_ip}"), (name("x-id"), "{request_id} by {route}")]);
    measure("edits: two templates, one removed", TIMES, |_| templates.edits(&facts()));
    let answer = answer();
    measure("a copy of the 12 fields", TIMES / 5, |_| answer.clone());
    let edits: Vec<Edit> = fixed.edits(&facts());
    measure("a copy, and the edits made to it", TIMES / 5, |_| {
        let mut fields = answer.clone();
        apply(edits.iter().cloned(), &mut fields);
        fields
    });
}

fn rules(set: &[(HeaderName, &str)]) -> HeaderRules {
    let set = set.iter().map(|(name, value)| (name.clone(), (*value).to_owned())).collect();
    let plan = plan::HeaderRules { set, add: Vec::new(), remove: vec![HeaderName::from_static("x-debug")] };
    HeaderRules::build(&plan).expect("these names and values are plain")
}

fn facts() -> Variables<'static> {
    Variables {
        client_ip: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))),
        request_id: "48e1a09d01c72dd075c8cdd125c316dc",
        route: "site",
        ..Variables::default()
    }
}

fn answer() -> HeaderMap {
    let fields = ANSWER.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    fields.collect()
}
