//! What is told: `access_log`, `log`, `tracing`.

use std::fmt;
use std::path::PathBuf;

use crate::base::template::Part;

/// The access log.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Where lines go.
    pub path: LogPath,
    /// What a line looks like.
    pub format: LogFormat,
    /// The share of requests that are logged (0.0 to 1.0).
    pub sample: f64,
}

/// Where spans are sent, and of which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The host of the receiver.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path that spans are posted to.
    pub path: String,
    /// The share of requests that are traced (0.0 to 1.0); failures are traced all.
    pub sample: f64,
}

impl fmt::Display for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}{}", self.host, self.port, self.path),
            false => write!(f, "http://{}:{}{}", self.host, self.port, self.path),
        }
    }
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPath {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to and opened again on SIGUSR1.
    File(PathBuf),
}

/// What a line of the access log looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// The format of Apache and nginx that goes by this name.
    Combined,
    /// Text with `{field}` in it; `{{` and `}}` are braces.
    Template(Vec<TemplatePart>),
}

/// A part of a log line's template: text as it stands, or the value of a field of the access log; `-` where it has none.
pub type TemplatePart = Part<LogField>;

/// The fields of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // docs/access-log.md tells what each holds.
pub enum LogField {
    Time,
    RequestId,
    Client,
    Listener,
    Method,
    Scheme,
    Host,
    Path,
    Protocol,
    Status,
    Reason,
    DryRun,
    Route,
    Upstream,
    Backend,
    Attempts,
    DurationMs,
    ConnectMs,
    FirstByteMs,
    Reused,
    BytesIn,
    BytesOut,
    UserAgent,
    Referer,
    Tls,
    TraceId,
}

impl LogField {
    /// Every field with its name, in the order of a JSON line.
    pub const ALL: [(Self, &'static str); 26] = [
        (Self::Time, "time"),
        (Self::RequestId, "request_id"),
        (Self::Client, "client"),
        (Self::Listener, "listener"),
        (Self::Method, "method"),
        (Self::Scheme, "scheme"),
        (Self::Host, "host"),
        (Self::Path, "path"),
        (Self::Protocol, "protocol"),
        (Self::Status, "status"),
        (Self::Reason, "reason"),
        (Self::DryRun, "dry_run"),
        (Self::Route, "route"),
        (Self::Upstream, "upstream"),
        (Self::Backend, "backend"),
        (Self::Attempts, "attempts"),
        (Self::DurationMs, "duration_ms"),
        (Self::ConnectMs, "connect_ms"),
        (Self::FirstByteMs, "first_byte_ms"),
        (Self::Reused, "reused"),
        (Self::BytesIn, "bytes_in"),
        (Self::BytesOut, "bytes_out"),
        (Self::UserAgent, "user_agent"),
        (Self::Referer, "referer"),
        (Self::Tls, "tls"),
        (Self::TraceId, "trace_id"),
    ];
}

/// The process's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: log::LevelFilter,
}
