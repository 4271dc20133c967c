//! Why the proxy answered by itself: one closed list of reasons, the same word in the access log, the metrics, the admin
//! API and `Proxy-Status`.
//!
//! Where RFC 9209, section 2.3, has an error type for the case, the reason bears its name.

/// Why the proxy answered by itself, or why a request ended without its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // `status` and `text` say of each what it is.
pub enum Reason {
    NoRoute,
    Auth,
    HttpRequestDenied,
    RateLimited,
    HttpRequestError,
    PlainHttp,
    HeaderBytes,
    HeaderCount,
    UriTooLong,
    BodyTooLarge,
    ClientTimeout,
    EnhanceYourCalm,
    DestinationUnavailable,
    ConnectionLimitReached,
    PendingTimeout,
    ConnectionRefused,
    ConnectionTimeout,
    TlsProtocolError,
    TlsCertificateError,
    ConnectionTerminated,
    HttpResponseIncomplete,
    HttpProtocolError,
    HttpResponseTimeout,
    RequestTimeout,
    DnsError,
    MethodNotAllowed,
    UpgradeRefused,
    ExpectationFailed,
    ProxyLoopDetected,
    ProxyInternalError,
    ProxyShutdown,
    ClientGone,
}

impl Reason {
    /// Every reason with its word, its status and one sentence for the client, which never names a backend.
    const TABLE: [(Self, &'static str, u16, &'static str); 32] = [
        (Self::NoRoute, "no_route", 404, "nothing is served at this address"),
        (Self::Auth, "auth", 401, "authentication is required"),
        (Self::HttpRequestDenied, "http_request_denied", 403, "access is denied"),
        (Self::RateLimited, "rate_limited", 429, "too many requests"),
        (Self::HttpRequestError, "http_request_error", 400, "the request is malformed"),
        (Self::PlainHttp, "http_request_error", 400, "this port speaks HTTPS, and the request came in plain HTTP"),
        (Self::HeaderBytes, "header_bytes", 431, "the request's header is too large"),
        (Self::HeaderCount, "header_count", 431, "the request's header has too many fields"),
        (Self::UriTooLong, "uri_too_long", 414, "the request's target is too long"),
        (Self::BodyTooLarge, "body", 413, "the request's body is too large"),
        (Self::ClientTimeout, "client_timeout", 408, "the request took too long to arrive"),
        (Self::EnhanceYourCalm, "enhance_your_calm", 429, "the connection has asked for too much"),
        (Self::DestinationUnavailable, "destination_unavailable", 503, "no server is available for this request"),
        (Self::ConnectionLimitReached, "connection_limit_reached", 503, "the server is at its limit"),
        (Self::PendingTimeout, "connection_limit_reached", 503, "the server is at its limit"),
        (Self::ConnectionRefused, "connection_refused", 502, "the server behind the proxy could not be reached"),
        (
            Self::ConnectionTimeout,
            "connection_timeout",
            504,
            "the server behind the proxy could not be reached in time",
        ),
        (
            Self::TlsProtocolError,
            "tls_protocol_error",
            502,
            "the server behind the proxy could not be reached securely",
        ),
        (Self::TlsCertificateError, "tls_certificate_error", 502, "the server behind the proxy could not be trusted"),
        (Self::ConnectionTerminated, "connection_terminated", 502, "the server behind the proxy closed the connection"),
        (
            Self::HttpResponseIncomplete,
            "http_response_incomplete",
            502,
            "the server behind the proxy sent half an answer",
        ),
        (
            Self::HttpProtocolError,
            "http_protocol_error",
            502,
            "the server behind the proxy sent an answer that is not HTTP",
        ),
        (Self::HttpResponseTimeout, "http_response_timeout", 504, "the server behind the proxy did not answer in time"),
        (Self::RequestTimeout, "request_timeout", 504, "the request was not finished in time"),
        (Self::DnsError, "dns_error", 502, "the server behind the proxy could not be found"),
        (Self::MethodNotAllowed, "http_request_error", 405, "the method is not allowed"),
        (Self::UpgradeRefused, "http_request_error", 501, "the upgrade is not supported"),
        (Self::ExpectationFailed, "http_request_error", 417, "the expectation is not supported"),
        (Self::ProxyLoopDetected, "proxy_loop_detected", 502, "the request has come back to the proxy"),
        (Self::ProxyInternalError, "proxy_internal_error", 500, "the proxy failed"),
        (Self::ProxyShutdown, "proxy_shutdown", 503, "the proxy is being stopped"),
        (Self::ClientGone, "client_gone", 499, "the client left"),
    ];

    /// Every reason.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, u16, &'static str) {
        // The table is in the order of the enum: a test holds it.
        &Self::TABLE[self as usize]
    }

    /// The word for it in logs, metrics and `Proxy-Status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The status that the client sees (499 stands in logs only).
    #[must_use]
    pub fn status(self) -> u16 {
        self.row().2
    }

    /// One sentence for the client.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.row().3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, reason) in Reason::all().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
        }
    }
}
