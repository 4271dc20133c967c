//! `upstreams`: where requests are sent.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::address::BackendAddress;
use super::collection::{List, OrNone};
use super::health_check::HealthCheck;
use super::leaf::{Factor, FilePath, Integer, Positive, Share, Size, Url};
use super::section::{section, words};
use super::term::{Decoder, Scope, Term};
use crate::config::plan::StatusSet;
use crate::config::read::{Node, Value};

/// A count of connections or requests.
pub type Count = Integer<1, 10_000_000>;
/// A port.
pub type Port = Integer<1, 65_535>;

section! {
    /// Where requests are sent.
    Upstream {
        /// The backends: `host:port`, `http://host:port`, `https://host:port` or `unix:/path`, alone or as `address` with
        /// further keys. A host name stands for all its addresses.
        backends: List<Backend>,
        /// Backends that come from elsewhere, instead of `backends`.
        discovery: OrNone<Discovery>,
        /// How a backend is chosen: by default in turn, by smooth weighted round robin where weights differ.
        balance: Balance = Balance::RoundRobin,
        /// How backends are probed; `none` turns it off, and every backend starts healthy.
        health_check: OrNone<HealthCheck>,
        /// How backends are taken out for failures of real requests; `none` turns it off.
        outlier: OrNone<Outlier>,
        /// How long a recovered backend is ramped up.
        slow_start: OrNone<Duration> = OrNone::Some(Duration::ZERO),
        /// What happens when no backend is usable: `fail` answers 503 at once, `fail_open` sends to all but drained ones.
        when_none_healthy: WhenNoneHealthy = WhenNoneHealthy::Fail,
        /// The protocol spoken to backends: `h2` by ALPN over TLS and by prior knowledge without; `auto` is what ALPN chooses, and
        /// h1 without TLS.
        protocol: UpstreamProtocol = UpstreamProtocol::H1,
        /// TLS toward all backends. A backend written `https://` is spoken to over TLS without it.
        tls: OrNone<UpstreamTls>,
        /// The version of the PROXY protocol that connections to backends begin with. A connection then serves one client alone.
        send_proxy_protocol: OrNone<ProxyVersion>,
        /// Deadlines.
        timeouts: UpstreamTimeouts,
        /// What is tried again.
        retry: OrNone<Retry>,
        /// Bounds over the whole upstream.
        limits: OrNone<UpstreamLimits>,
        /// Idle connections to backends.
        keepalive: Keepalive,
        /// Sessions that stay with a backend, by a cookie.
        sticky: OrNone<Sticky>,
    }
}

section! {
    /// A backend.
    Backend or its address {
        /// Its address: `host:port`, `http://host:port`, `https://host:port` or `unix:/path`. Required.
        address: BackendAddress,
        /// Its share of the requests, beside the other backends; 0: no new requests.
        weight: Integer<0, 65_535> = Integer(1),
        /// Whether it is used only when no other backend is usable.
        backup: bool = false,
        /// Requests at once. At its bound it is passed over; where all are, requests wait (`limits`).
        max_requests: OrNone<Count> = OrNone::None,
        /// Connections at once, idle ones included.
        max_connections: OrNone<Count> = OrNone::None,
    }
}

section! {
    /// Backends that come from elsewhere: exactly one of `dns`, `file`, `etcd`, `kubernetes`.
    Discovery {
        /// A DNS name: with `port` its A and AAAA records, without it its SRV records.
        dns: String,
        /// The port of every backend.
        port: Port,
        /// The longest time between two lookups.
        refresh: Positive = Positive::seconds(30),
        /// A file with a YAML list of backends, read again when it changes.
        file: FilePath,
        /// A prefix of keys in etcd.
        etcd: Etcd,
        /// A service of Kubernetes.
        kubernetes: Kubernetes,
    }
}

section! {
    /// Backends from etcd.
    Etcd {
        /// The addresses of etcd.
        endpoints: List<Url>,
        /// The prefix of the keys whose values are backends.
        prefix: String,
    }
}

section! {
    /// Backends from Kubernetes.
    Kubernetes {
        /// The namespace.
        namespace: String = "default".to_owned(),
        /// The service.
        service: String,
        /// The port of the service, by name or number.
        port: String,
    }
}

/// How a backend is chosen.
#[derive(Debug, Clone)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// Fewest requests in flight.
    LeastRequests,
    /// Latency times load.
    PeakEwma,
    /// Random choices.
    Random(Random),
    /// Consistent hashing.
    Hash(Hash),
}

impl Balance {
    const WORDS: &'static [&'static str] = &["round_robin", "least_requests", "peak_ewma", "random", "hash"];
    const EXAMPLE: &'static str = "write a word like `least_requests`, or `{ hash: { key: client_ip } }`";
}

impl Term for Balance {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        if let Value::Mapping(entries) = &node.value {
            return match entries.as_slice() {
                [entry] if entry.key == "random" => Term::decode(&entry.value, decoder).map(Self::Random),
                [entry] if entry.key == "hash" => Term::decode(&entry.value, decoder).map(Self::Hash),
                [entry] => {
                    decoder.unknown_key(entry, &["random", "hash"]);
                    None
                }
                _ => decoder.expected(node, "one policy", Self::EXAMPLE),
            };
        }
        match decoder.text(node, "a policy", Self::EXAMPLE)? {
            "round_robin" => Some(Self::RoundRobin),
            "least_requests" => Some(Self::LeastRequests),
            "peak_ewma" => Some(Self::PeakEwma),
            "random" => Some(Self::Random(Random::default())),
            "hash" => {
                decoder.error(node.at, "`hash` needs a key", "write `{ hash: { key: client_ip } }`");
                None
            }
            other => {
                decoder.unknown_word(node.at, other, Self::WORDS);
                None
            }
        }
    }

    fn describe(scope: &Scope) -> Json {
        let one = |key: &str, schema: Json| {
            let mut properties = serde_json::Map::new();
            properties.insert(key.to_owned(), schema);
            json!({ "type": "object", "properties": properties, "required": [key], "additionalProperties": false })
        };
        json!({ "anyOf": [
            { "enum": Self::WORDS[..4] },
            one("random", Random::describe(&scope.key("random"))),
            one("hash", Hash::describe(&scope.key("hash"))),
        ] })
    }

    fn written(&self) -> Option<Json> {
        matches!(self, Self::RoundRobin).then(|| json!("round_robin"))
    }
}

section! {
    /// Random choices.
    Random {
        /// How many backends are drawn; the least loaded of them wins. 1 is plain weighted random.
        choices: Integer<1, 16> = Integer(2),
    }
}

section! {
    /// Consistent hashing.
    Hash {
        /// What is hashed: `client_ip`, `uri`, `path`, `header:NAME`, `cookie:NAME` or `query:NAME`. Required.
        key: String,
        /// No backend holds more than this times its share of the load.
        load_factor: OrNone<Factor> = OrNone::None,
    }
}

section! {
    /// How backends are taken out for failures of real requests.
    Outlier {
        /// Gateway errors or failed connects in a row.
        consecutive_errors: Integer<1, 1_000_000> = Integer(5),
        /// How long the first ejection lasts; the n-th lasts n times as long.
        base_ejection: Positive = Positive::seconds(30),
        /// How long the longest ejection lasts.
        max_ejection: Positive = Positive::seconds(300),
        /// The share of backends that may be out at once; one always may, and the last usable one never.
        max_ejected: Share = Share(0.1),
    }
}

words! {
    /// What happens when no backend is usable.
    WhenNoneHealthy {
        /// 503 at once.
        Fail = "fail",
        /// Send to all but drained ones.
        FailOpen = "fail_open",
    }
}

words! {
    /// A protocol spoken to backends.
    UpstreamProtocol {
        /// HTTP/1.1.
        H1 = "h1",
        /// HTTP/2.
        H2 = "h2",
        /// Whichever ALPN chooses.
        Auto = "auto",
    }
}

words! {
    /// A version of the PROXY protocol.
    ProxyVersion {
        /// Version 1.
        V1 = "v1",
        /// Version 2.
        V2 = "v2",
    }
}

section! {
    /// TLS toward backends.
    UpstreamTls {
        /// The name that is asked for and verified. Without it: the backend's host as written.
        sni: String,
        /// The roots that certificates are verified with, PEM. Without it: the system's.
        ca: FilePath,
        /// Whether certificates are verified.
        verify: bool = true,
        /// Our certificate, PEM; together with `key`.
        cert: FilePath,
        /// Its key, PEM.
        key: FilePath,
    }
}

section! {
    /// Deadlines toward backends.
    UpstreamTimeouts {
        /// To connect, TLS included.
        connect: Positive = Positive::seconds(3),
        /// From the request's last byte sent to the answer's first byte.
        first_byte: Positive = Positive::seconds(15),
        /// Between two reads or writes.
        idle: Positive = Positive::seconds(60),
        /// One try, from connect to the last byte.
        total: OrNone<Positive> = OrNone::None,
    }
}

section! {
    /// What is tried again.
    Retry {
        /// Tries beyond the first; 0: none (a failed connect still goes to another backend).
        attempts: Integer<0, 100> = Integer(1),
        /// The share of requests that may be retried.
        budget: Share = Share(0.2),
        /// Retries a second that are allowed beside that; ten seconds of them may be saved up.
        min_per_second: Integer<0, 1_000_000> = Integer(3),
        /// Statuses of backends that are retried, where the method is idempotent.
        statuses: StatusSet = StatusSet(Vec::new()),
        /// Statuses of gRPC that are retried, where a call is answered by nothing but a status and was not carried out.
        grpc_statuses: List<GrpcStatus> = List::default(),
        /// The longest wait before the first retry, doubled for each further one; the wait is a random part of it.
        backoff: Duration = Duration::from_millis(25),
        /// The longest wait before any retry. An answer whose `Retry-After` asks for more is passed on.
        max_backoff: Duration = Duration::from_millis(250),
        /// How much of a request's body is kept for another try, at most `64KiB`.
        body: Size = Size(64 * 1024),
    }
}

words! {
    /// A status of gRPC that may mean that a call was not carried out.
    GrpcStatus {
        /// 1: the call was cancelled.
        Cancelled = "cancelled",
        /// 4: its time was over.
        DeadlineExceeded = "deadline_exceeded",
        /// 8: a quota is exhausted.
        ResourceExhausted = "resource_exhausted",
        /// 10: a conflict with another call.
        Aborted = "aborted",
        /// 13: an error of the server.
        Internal = "internal",
        /// 14: the server cannot serve now.
        Unavailable = "unavailable",
    }
}

section! {
    /// Bounds over the whole upstream.
    UpstreamLimits {
        /// Connections that are in use at once; idle ones are bounded by `keepalive.max_idle`.
        connections: OrNone<Count> = OrNone::None,
        /// Requests at once.
        requests: OrNone<Count> = OrNone::None,
        /// Requests that wait for a place; 0: none does. One more is answered 503 at once.
        pending: OrNone<Integer<0, 10_000_000>> = OrNone::None,
        /// How long a request may wait for a place; then it is answered 503.
        pending_timeout: Positive = Positive::seconds(1),
    }
}

section! {
    /// Idle connections to backends.
    Keepalive {
        /// How long one may be idle; shorter than the backend's own time.
        idle: Positive = Positive::seconds(55),
        /// Idle connections kept for each backend; 0: none.
        max_idle: Integer<0, 1_000_000> = Integer(128),
        /// Requests on one connection.
        max_requests: OrNone<Count> = OrNone::None,
    }
}

section! {
    /// Sessions that stay with a backend.
    Sticky {
        /// The name of the cookie. Required.
        cookie: String,
        /// How long the cookie lasts; `none`: until the browser is closed.
        max_age: OrNone<Positive> = OrNone::None,
    }
}
