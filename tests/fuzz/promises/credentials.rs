//! Any htpasswd file and any `Authorization`: no panic, no hash that costs more than the bound, and nobody let in by a file
//! without users.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, header};
use roundel::base::clock::Moment;
use roundel::base::request::{RequestView, Scheme};
use roundel::config::plan;
use roundel::filter::auth::basic::{Basic, Check};
use roundel::filter::auth::users::{Hash, Users};

/// The authentication of a route whose file has no users.
static NOBODY: LazyLock<Basic> = LazyLock::new(|| {
    let users = std::env::temp_dir().join(format!("roundel-fuzz-{}", std::process::id()));
    std::fs::write(&users, "# nobody\n").expect("the temporary directory can be written");
    let basic = Basic::build(&plan::AuthBasic { users: users.clone(), realm: "fuzz".into() });
    std::fs::remove_file(users).expect("it was written above");
    basic.expect("a file of comments is a file of users")
});

/// Holds the promise to these bytes.
pub fn holds(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        match Users::parse(text) {
            Ok(users) => {
                let names = text.lines().filter_map(|line| Some(line.trim().split_once(':')?.0));
                for hash in names.filter_map(|name| users.hash(name)) {
                    assert!(is_within_bounds(hash), "{hash:?}");
                }
            }
            Err(faults) => assert!(!faults.is_empty()),
        }
    }
    let mut fields = HeaderMap::new();
    for value in bytes.split(|byte| *byte == b'\n') {
        fields.extend(HeaderValue::from_bytes(value).map(|value| (header::AUTHORIZATION, value)));
    }
    let request = RequestView {
        method: "GET",
        scheme: Scheme::Http,
        host: "h",
        path: "/",
        query: None,
        client: None,
        fields: &fields,
    };
    match NOBODY.check(&request, Moment::START) {
        Check::Known(good) => assert!(!good),
        Check::MustHash(job) => assert!(fields.len() == 1 && !job.run()),
        Check::Busy => unreachable!("each job is done before the next"),
    }
}

/// bcrypt to cost 16; argon2 to 256 MiB and 64 passes.
fn is_within_bounds(hash: &Hash) -> bool {
    let number = |text: &str, name: &str| text.strip_prefix(name).and_then(|number| number.parse::<u32>().ok());
    match hash {
        Hash::Bcrypt(text) => text.split('$').nth(2).and_then(|cost| number(cost, "")).is_some_and(|cost| cost <= 16),
        Hash::Argon2(text) => text.split(['$', ',']).all(|part| {
            number(part, "m=").is_none_or(|kib| kib <= 256 * 1024)
                && number(part, "t=").is_none_or(|passes| passes <= 64)
        }),
    }
}
