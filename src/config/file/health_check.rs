//! `upstreams.*.health_check`: how backends are probed.

use http::Method;

use super::collection::Named;
use super::leaf::{Integer, Positive};
use super::section::{section, words};
use super::upstream::Port;
use crate::config::plan::StatusSet;

section! {
    /// How backends are probed.
    HealthCheck {
        /// What a probe does: `tcp` connects, `http` sends a request, `grpc` asks `grpc.health.v1.Health`.
        kind as "type": ProbeType = ProbeType::Tcp,
        /// Between two probes of a backend, with ±10 % jitter.
        interval: Positive = Positive::seconds(10),
        /// When a probe has failed; always shorter than `interval` (half of it, where `interval` is under 6s and this is not written).
        timeout: Positive = Positive::seconds(3),
        /// Between two probes of a backend that is between two states, or has just joined and was never up; never longer than `interval`.
        fast_interval: Positive = Positive::seconds(1),
        /// Failures in a row that take a backend out.
        fall: Integer<1, 1_000> = Integer(3),
        /// Successes in a row that bring it back.
        rise: Integer<1, 1_000> = Integer(2),
        /// Whether a backend is used before its first good probe: `probe` (not before) or `healthy` (at once).
        start: Start = Start::Probe,
        /// The method of an http probe.
        method: Method = Method::GET,
        /// The path, with query, of an http probe.
        path: String = "/".to_owned(),
        /// The `Host` of an http probe. Without it: the backend's.
        host: http::HeaderValue,
        /// Further header fields of an http probe.
        headers: Named<http::HeaderValue> = Named::default(),
        /// What is expected of the answer to an http probe.
        expect: Expect,
        /// Another port of the same address.
        port: Port,
        /// Whether an http or grpc probe uses TLS. Without it: as the backend does.
        tls: bool,
        /// The service that a grpc probe asks for. Without it: the whole server.
        service: String,
    }
}

words! {
    /// What a probe does.
    ProbeType {
        /// Connects.
        Tcp = "tcp",
        /// Sends a request.
        Http = "http",
        /// Asks `grpc.health.v1.Health`.
        Grpc = "grpc",
        /// Nothing.
        None = "none",
    }
}

words! {
    /// Whether a backend is used before its first good probe.
    Start {
        /// Not before.
        Probe = "probe",
        /// At once.
        Healthy = "healthy",
    }
}

section! {
    /// What is expected of the answer to a probe.
    Expect {
        /// The statuses that are good.
        status: StatusSet = StatusSet(vec![(200, 299), (300, 399)]),
        /// A text that the first 64KiB of the body must contain.
        body: String,
    }
}
