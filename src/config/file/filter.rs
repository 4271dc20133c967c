//! `routes[].filters`: what is done to a request and its answer.

use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;

use super::collection::{List, Named, OneOrMany, OrNone};
use super::leaf::{FilePath, Integer, Rate, Share, Size, Url};
use super::section::{section, words};

section! {
    /// One filter: exactly one key; `none` turns it off.
    Filter {
        /// Networks that are refused.
        deny: OrNone<OneOrMany<IpNet>>,
        /// Networks beside which all else is refused.
        allow: OrNone<OneOrMany<IpNet>>,
        /// Bounds the requests that come in a time; may stand more than once, and then all must let a request pass.
        rate_limit: OrNone<RateLimit>,
        /// Cross-origin requests (the Fetch standard).
        cors: OrNone<Cors>,
        /// Who may pass: exactly one of `basic`, `jwt` and `forward`.
        auth: OrNone<Auth>,
        /// Changes path and host before the request is sent.
        rewrite: OrNone<Rewrite>,
        /// Changes the request's header fields.
        request_headers: OrNone<HeaderRules>,
        /// Sends a copy of a share of the requests elsewhere.
        mirror: OrNone<Mirror>,
        /// Keeps answers.
        cache: OrNone<Cache>,
        /// Compresses answers.
        compress: OrNone<Compress>,
        /// Changes the answer's header fields.
        response_headers: OrNone<HeaderRules>,
    }
}

section! {
    /// Bounds the requests that come in a time.
    RateLimit {
        /// What is counted by: `client_ip`, `header:NAME`, `cookie:NAME`, `query:NAME`, or `route` for all requests together. A
        /// request without the field, the cookie or the parameter is not counted.
        key: String = "client_ip".to_owned(),
        /// How many, such as `100/s`, `30/m` or `1000/h`; at most a million a second. Required.
        rate: Rate,
        /// How many at once after a pause; as many as the number of the rate where it is not written.
        burst: Integer<1, 1_000_000>,
        /// The bits of an IPv4 address that count, for `client_ip`.
        ipv4_prefix: Integer<1, 32> = Integer(32),
        /// The bits of an IPv6 address that count, for `client_ip`.
        ipv6_prefix: Integer<1, 128> = Integer(64),
        /// How many keys are told apart, each in 20 bytes; beyond that the one that has used the least is forgotten.
        max_keys: Integer<1_000, 100_000_000> = Integer(1_000_000),
        /// Whether answers to requests that pass bear `RateLimit` and `RateLimit-Policy`, as those to refused ones do.
        headers: bool = false,
        /// Whether it only counts and logs what it would refuse.
        dry_run: bool = false,
    }
}

section! {
    /// Cross-origin requests.
    Cors {
        /// The origins that may ask, or `*`. Required.
        origins: OneOrMany<String>,
        /// Methods beyond the simple ones.
        methods: List<Method> = List::of([Method::GET]),
        /// Request fields that may be sent.
        headers: List<HeaderName> = List::default(),
        /// Whether credentials may be sent.
        credentials: bool = false,
        /// How long a preflight may be remembered.
        max_age: Duration = Duration::from_secs(600),
    }
}

section! {
    /// Who may pass.
    Auth {
        /// HTTP basic authentication.
        basic: Basic,
        /// JSON web tokens.
        jwt: Jwt,
        /// Asks another service.
        forward: Forward,
    }
}

section! {
    /// HTTP basic authentication (RFC 7617).
    Basic {
        /// An htpasswd file with bcrypt or argon2 hashes, read again when it changes. Required.
        users: FilePath,
        /// The realm that clients are shown.
        realm: String = "restricted".to_owned(),
    }
}

section! {
    /// JSON web tokens (RFC 7519).
    Jwt {
        /// The issuer that is expected.
        issuer: String,
        /// The audience that is expected.
        audience: OneOrMany<String>,
        /// The file with the issuer's keys (JWKS).
        jwks: FilePath,
    }
}

section! {
    /// Asks another service.
    Forward {
        /// Its address. Required.
        url: Url,
        /// Fields of its answer that are passed on.
        headers: List<HeaderName> = List::default(),
    }
}

section! {
    /// Changes path and host before the request is sent.
    Rewrite {
        /// The new path; the query stays.
        path: String,
        /// In place of the prefix that matched.
        path_prefix: String,
        /// The new host.
        host: http::HeaderValue,
    }
}

section! {
    /// Changes header fields.
    HeaderRules {
        /// Replaces fields.
        set: Named<String> = Named::default(),
        /// Adds values to fields.
        add: Named<String> = Named::default(),
        /// Removes fields.
        remove: OneOrMany<HeaderName>,
    }
}

section! {
    /// Sends a copy of a share of the requests elsewhere.
    Mirror {
        /// The upstream. Required.
        upstream: String,
        /// The share of requests that are copied.
        share: Share = Share(1.0),
    }
}

section! {
    /// Keeps answers.
    Cache {
        /// How much is kept.
        max_bytes: Size = Size(256 * 1024 * 1024),
        /// How long: `respect` follows the answer's own fields, a duration holds for all.
        ttl: String = "respect".to_owned(),
    }
}

words! {
    /// A content coding.
    Algorithm {
        /// Zstandard.
        Zstd = "zstd",
        /// Brotli.
        Brotli = "br",
        /// Gzip.
        Gzip = "gzip",
    }
}

section! {
    /// Compresses answers.
    Compress {
        /// The codings, in order of preference.
        algorithms: List<Algorithm> = List::of([Algorithm::Zstd, Algorithm::Brotli, Algorithm::Gzip]),
        /// The smallest body that is compressed, where its length is known.
        min_bytes: Size = Size(1024),
        /// Media types that are compressed.
        types: List<String> = List::of(COMPRESSED.map(str::to_owned)),
    }
}

/// The media types that are compressed unless others are written.
const COMPRESSED: [&str; 8] = [
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/problem+json",
    "application/wasm",
    "image/svg+xml",
    "font/ttf",
];
