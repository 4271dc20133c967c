//! `routes`: which request goes where.

use super::ErrorPages;
use super::collection::{List, Named, OneOrMany, OrNone};
use super::filter::Filter;
use super::leaf::{Integer, Name, Positive, Size};
use super::message::Status;
use super::section::{section, words};
use http::Method;

section! {
    /// Which requests go where. The most specific route wins, whatever the order of the file.
    Route {
        /// Its name in logs and metrics. Without it: its place in the file, such as `routes[0]`.
        name: Name,
        /// The hosts it serves, exact or with `*.` in front. Without it: all.
        hosts: OneOrMany<String>,
        /// Any of these must match. Without it: everything does.
        matches as "match": OneOrMany<Match>,
        /// What is done to a request and its answer, in the fixed order of the manual.
        filters: List<Filter>,
        /// Deadlines.
        timeouts: RouteTimeouts,
        /// Bounds.
        limits: RouteLimits,
        /// Protocols that a request may be upgraded to.
        upgrade: OrNone<List<Upgrade>> = OrNone::Some(List::of([Upgrade::Websocket])),
        /// Own error pages, before those of the listener.
        errors: ErrorPages,
        /// The upstream it is sent to, or several with weights. Exactly one of `to`, `redirect` and `respond` must be written.
        to: OneOrMany<Split>,
        /// Answers with a redirect.
        redirect: Redirect,
        /// Answers as written.
        respond: Respond,
    }
}

section! {
    /// One way to match; all parts must hold.
    Match {
        /// The whole path.
        path: String,
        /// The beginning of the path, by element: `/v1` is `/v1` and `/v1/x`, not `/v10`.
        path_prefix: String,
        /// A regular expression for the path, not anchored unless written so.
        path_regex: String,
        /// The methods.
        method: OneOrMany<Method>,
        /// Header fields and their exact values.
        headers: Named<String>,
        /// Query parameters and their exact values.
        query: Named<String>,
    }
}

words! {
    /// A protocol that a request may be upgraded to.
    Upgrade {
        /// WebSocket (RFC 6455).
        Websocket = "websocket",
    }
}

section! {
    /// Deadlines of a route.
    RouteTimeouts {
        /// All tries, waits and the answer.
        request: OrNone<Positive> = OrNone::None,
    }
}

section! {
    /// Bounds of a route.
    RouteLimits {
        /// The size of a request's body, in place of the listener's.
        body: OrNone<Size>,
    }
}

section! {
    /// An upstream with its weight.
    Split or its upstream {
        /// The upstream. Required.
        upstream: String,
        /// Its share of the requests.
        weight: Integer<0, 1_000_000> = Integer(1),
    }
}

words! {
    /// A scheme.
    RedirectScheme {
        /// HTTP.
        Http = "http",
        /// HTTPS.
        Https = "https",
    }
}

section! {
    /// An answer that sends the client elsewhere.
    Redirect {
        /// The new scheme. Without it: the request's.
        scheme: RedirectScheme,
        /// The new host. Without it: the request's.
        host: String,
        /// The new port. Without it: the request's, or the scheme's own where the scheme changes.
        port: Integer<1, 65_535>,
        /// The new path. Without it: the request's.
        path: String,
        /// In place of the prefix that matched.
        path_prefix: String,
        /// 301, 302, 303, 307 or 308.
        status: Status = Status(302),
    }
}

section! {
    /// An answer as written.
    Respond {
        /// Its status.
        status: Status = Status(200),
        /// Its body.
        body: String = String::new(),
        /// Its header fields.
        headers: Named<http::HeaderValue> = Named::default(),
    }
}
