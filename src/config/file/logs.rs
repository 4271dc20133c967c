//! `admin`, `access_log`, `log`, `metrics` and `tracing`: what the proxy tells about itself.

use super::address::ListenAddress;
use super::collection::List;
use super::leaf::{FilePath, Share, Url};
use super::section::{section, words};

section! {
    /// The admin listener. It always listens on a socket in the runtime directory, too.
    Admin {
        /// Where it listens. Without it: `127.0.0.1:9901`. Beyond loopback a `token_file` is required.
        address: ListenAddress,
        /// The file that holds the token: required to write over TCP, and to listen beyond loopback.
        token_file: FilePath,
        /// Further `Host` values that are accepted; IP addresses and `localhost` always are.
        hosts: List<String> = List::default(),
    }
}

section! {
    /// The access log: one line a request.
    AccessLog {
        /// Where lines go: `stdout`, `stderr`, a file (opened again on SIGUSR1), or `none`.
        path: String = "stdout".to_owned(),
        /// What a line looks like: `json`, `combined`, or a template such as `{method} {path} {status}`.
        format: String = "json".to_owned(),
        /// The share of requests that are logged.
        sample: Share = Share(1.0),
    }
}

section! {
    /// The process's own log.
    Log {
        /// The least severe level that is written.
        level: Level = Level::Info,
    }
}

words! {
    /// A level of the process's own log.
    Level {
        /// Nothing.
        Off = "off",
        /// Someone must act.
        Error = "error",
        /// The proxy coped.
        Warn = "warn",
        /// What the operator asked for happened.
        Info = "info",
        /// What happens to each request and connection, Pingora's own words included: for the search of a fault.
        Debug = "debug",
        /// Every step of it.
        Trace = "trace",
    }
}

section! {
    /// Metrics.
    Metrics {
        /// Whether `/metrics` is served on the admin listener, in the text format of Prometheus.
        prometheus: bool = true,
    }
}

section! {
    /// Traces.
    Tracing {
        /// The address of an OpenTelemetry receiver (OTLP over HTTP, in JSON); spans go to `v1/traces` below it. Required.
        otlp: Url,
        /// The share of requests that are traced; failures are traced all.
        sample: Share = Share(0.01),
    }
}
