//! The process: `server`, `drain`, `reload`.

use std::path::PathBuf;
use std::time::Duration;

/// The process: Pingora's `ServerConf` with Roundel's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // Pingora's own keys: its documentation of `ServerConf` applies.
pub struct Server {
    pub daemon: bool,
    pub error_log: Option<PathBuf>,
    pub pid_file: PathBuf,
    pub upgrade_sock: PathBuf,
    pub user: Option<String>,
    pub group: Option<String>,
    pub working_directory: Option<PathBuf>,
    pub threads: usize,
    pub listener_tasks_per_fd: usize,
    pub work_stealing: bool,
    pub ca_file: Option<PathBuf>,
    pub grace_period: Duration,
    pub client_bind_to_ipv4: Vec<String>,
    pub client_bind_to_ipv6: Vec<String>,
    pub upstream_keepalive_pool_size: usize,
    pub upstream_connect_offload_threadpools: Option<usize>,
    pub upstream_connect_offload_thread_per_pool: Option<usize>,
    pub upstream_debug_ssl_keylog: bool,
    pub max_blocking_threads: Option<usize>,
    pub blocking_threads_ttl_seconds: Option<u64>,
    pub daemon_wait_for_ready: bool,
    pub daemon_ready_timeout_seconds: Option<u64>,
    /// The private directory for the pid file and sockets; created with mode 0700 when the process starts.
    pub runtime_directory: PathBuf,
    /// Eight hex digits of the hash of the canonical configuration path: tells instances in one directory apart.
    pub instance: String,
}

/// When the configuration is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// When the process is told to.
    Signal,
    /// Also when a file that it comes from changes.
    Watch,
}

/// How the process stops, and what draining a backend must leave (`drain`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drain {
    /// From "not ready" to the closing of the listeners.
    pub delay: Duration,
    /// How long an idle keep-alive connection may wait for one more request.
    pub idle: Duration,
    /// How long tunnels may go on.
    pub tunnels: Duration,
    /// The share of an upstream's weight (0.0 to 1.0) that must stay usable where one backend is drained.
    pub floor: f64,
}
