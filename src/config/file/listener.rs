//! `listeners`: where clients are accepted.

use ipnet::IpNet;

use super::ErrorPages;
use super::address::ListenAddress;
use super::collection::{List, OneOrMany, OrNone};
use super::leaf::{FilePath, Integer, Name, Positive, Size, Url};
use super::section::{section, words};

section! {
    /// Where clients are accepted.
    Listener {
        /// Its name in logs and metrics. Without it: the address as written.
        name: Name,
        /// Where to listen: `address:port`, `"[address]:port"` or `unix:/path`. Required.
        address: ListenAddress,
        /// The protocols spoken. Without it: h2 and h1 with TLS, h1 without. Over TLS the client chooses by ALPN; without TLS
        /// it speaks HTTP/2 by prior knowledge, and its first bytes decide.
        protocols: List<Protocol>,
        /// TLS toward clients.
        tls: OrNone<Tls>,
        /// Answers every request with a redirect (308) to the same host and path by HTTPS, on port 443.
        redirect: Redirect,
        /// The PROXY protocol, version 1 or 2, from proxies in front.
        proxy_protocol: OrNone<ProxyProtocol>,
        /// Peers whose `X-Forwarded-For` and `Forwarded` are believed. Without it: nobody's.
        trusted_proxies: OrNone<OneOrMany<IpNet>>,
        /// Connections at once; more are answered 503 and closed.
        max_connections: Integer<1, 10_000_000> = Integer(20_000),
        /// Which way plain requests take (docs/lane.md): without it `auto`, the direct lane where it fits; `off` sends
        /// every request through Pingora's own proxy.
        lane: Lane,
        /// Deadlines.
        timeouts: Timeouts,
        /// Bounds.
        limits: Limits,
        /// Own error pages, before those of the whole configuration.
        errors: ErrorPages,
    }
}

words! {
    /// A protocol that clients may speak.
    Protocol {
        /// HTTP/1.1 and HTTP/1.0.
        H1 = "h1",
        /// HTTP/2.
        H2 = "h2",
    }
}

words! {
    /// Where a listener sends clients instead.
    Redirect {
        /// HTTPS.
        Https = "https",
    }
}

words! {
    /// Which way plain requests take.
    Lane {
        /// The direct lane where it fits.
        Auto = "auto",
        /// Pingora's proxy.
        Off = "off",
    }
}

section! {
    /// TLS toward clients.
    Tls {
        /// Certificates, chosen by SNI; the first answers clients that send none.
        certificates: List<Certificate>,
        /// Certificates by ACME (RFC 8555).
        acme: OrNone<Acme>,
        /// Certificates asked of clients.
        client_auth: OrNone<ClientAuth>,
        /// The lowest version that is spoken.
        min_version: TlsVersion = TlsVersion::V12,
    }
}

words! {
    /// A version of TLS.
    TlsVersion {
        /// TLS 1.2.
        V12 = "1.2",
        /// TLS 1.3.
        V13 = "1.3",
    }
}

section! {
    /// A certificate and its key.
    Certificate {
        /// The certificate chain, PEM.
        cert: FilePath,
        /// Its key, PEM.
        key: FilePath,
        /// What the authority says of it: an OCSP response, DER, which is sent along.
        ocsp: FilePath,
    }
}

section! {
    /// Certificates by ACME (RFC 8555).
    Acme {
        /// The address of whoever answers for the account.
        email: String,
        /// The hosts that certificates are asked for.
        hosts: List<String>,
        /// The directory of the authority.
        directory: Url,
        /// The directory that account and certificates are kept in.
        storage: FilePath,
    }
}

section! {
    /// Certificates asked of clients.
    ClientAuth {
        /// The roots they are verified with, PEM.
        ca: FilePath,
        /// Whether a client may come without one.
        mode: ClientAuthMode = ClientAuthMode::Required,
    }
}

words! {
    /// Whether a client may come without a certificate.
    ClientAuthMode {
        /// It may not.
        Required = "required",
        /// It may.
        Optional = "optional",
    }
}

section! {
    /// The PROXY protocol, version 1 or 2.
    ProxyProtocol {
        /// The peers whose connections must begin with it; those of all others must not. On a unix socket all must.
        from: OneOrMany<IpNet>,
    }
}

section! {
    /// Deadlines toward clients.
    Timeouts {
        /// For the TLS handshake.
        tls_handshake: Positive = Positive::seconds(10),
        /// From the first byte of a request's head (or the accept) to its last.
        header: Positive = Positive::seconds(10),
        /// Between two reads of a request's body.
        body_idle: Positive = Positive::seconds(60),
        /// Between two writes that the client accepts.
        write_idle: Positive = Positive::seconds(60),
        /// Between two requests on a connection.
        keepalive: Positive = Positive::seconds(75),
        /// Between two reads of a tunnel, such as a WebSocket.
        tunnel_idle: Positive = Positive::seconds(3_600),
    }
}

section! {
    /// Bounds toward clients.
    Limits {
        /// The size of a request's head; more is answered 431 (414 where the request line alone is longer).
        header_bytes: Size = Size(32 * 1024),
        /// The fields of a request's head; more is answered 431.
        header_count: Integer<1, 10_000> = Integer(100),
        /// The size of a request's body; more is answered 413.
        body: OrNone<Size> = OrNone::None,
        /// Requests on one connection, after which it is closed.
        keepalive_requests: Integer<1, 4_294_967_295> = Integer(1_000),
        /// Streams at once on an HTTP/2 connection.
        h2_streams: Integer<1, 100_000> = Integer(100),
        /// Connections at once from one client, an IPv4 address or a /64 of IPv6; more are answered 503 and closed (with TLS: closed).
        connections_per_client: OrNone<Integer<1, 10_000_000>> = OrNone::None,
    }
}
