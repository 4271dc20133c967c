//! The configuration as the operator wrote it: every key of the language, with its description, its term and its default.
//!
//! One declaration a section (see [`section`]) is the single source of its struct, its reading, its known keys, its JSON
//! Schema and its page in the manual. What keys mean together is left to `check`.

pub mod address;
pub mod collection;
pub mod filter;
pub mod health_check;
pub mod leaf;
pub mod listener;
pub mod logs;
pub mod message;
pub mod route;
pub mod section;
pub mod server;
pub mod term;
pub mod upstream;

use collection::{List, Named, OrNone};
use leaf::FilePath;
use listener::Listener;
use logs::{AccessLog, Admin, Log, Metrics, Tracing};
use route::Route;
use section::{section, words};
use server::{Drain, Server};
use upstream::Upstream;

/// Own error pages: files by status.
pub type ErrorPages = Named<FilePath>;

words! {
    /// When the configuration is read again.
    Reload {
        /// When the process is told to.
        Signal = "signal",
        /// Also when a file changes.
        Watch = "watch",
    }
}

section! {
    /// The configuration of a Roundel proxy. Only `upstreams` must be written.
    File {
        /// Further files that are merged into this one: paths relative to this file, with `*` and `?` in their last part.
        /// The same name defined in two files is an error.
        include: List<String>,
        /// The process: Pingora's own `ServerConf`, so that its documentation applies.
        server: Server,
        /// How the process stops.
        drain: Drain,
        /// When the configuration is read again: `signal` (SIGHUP, or `roundel reload`), or `watch`, also when a file changes.
        reload: Reload = Reload::Signal,
        /// Whether answers by the proxy itself carry their reason as `Proxy-Status` (RFC 9209).
        expose_reason: bool = false,
        /// Own error pages: a file by status, at most 1MiB each.
        errors: ErrorPages,
        /// Where clients are accepted. Without it: plain HTTP/1.1 on `127.0.0.1:8080`.
        listeners: List<Listener>,
        /// Where requests are sent, by name.
        upstreams: Named<Upstream>,
        /// Which request goes where. Without it everything goes to the only upstream; with several it is required.
        routes: List<Route>,
        /// The admin listener; `none` turns it off, with its socket.
        admin: OrNone<Admin>,
        /// The access log; `none` turns it off.
        access_log: OrNone<AccessLog>,
        /// The process's own log.
        log: Log,
        /// Metrics; `none` turns them off.
        metrics: OrNone<Metrics>,
        /// Traces.
        tracing: OrNone<Tracing>,
    }
}
