//! `server` and `drain`: the process.

use std::time::Duration;

use super::collection::List;
use super::leaf::{FilePath, Integer, Share};
use super::section::section;

/// A number of seconds.
pub type Seconds<const MIN: u64> = Integer<MIN, 315_360_000>;

section! {
    /// The process: Pingora's own `ServerConf`, verbatim, so that its documentation applies.
    Server {
        /// Run in the background.
        daemon: bool = false,
        /// The file that the process's own log is written to; without it, standard error.
        error_log: FilePath,
        /// The file that holds the process id. Without it: in the private runtime directory.
        pid_file: FilePath,
        /// The socket over which listeners are handed to a new process. Without it: in the private runtime directory.
        upgrade_sock: FilePath,
        /// The user to run as.
        user: String,
        /// The group to run as.
        group: String,
        /// The working directory of the process in the background (`daemon`). Relative paths in the configuration do not start from it.
        working_directory: FilePath,
        /// Threads that serve traffic, shared by all listeners. Without it: the number of cores.
        threads: Integer<1, 1024>,
        /// Tasks that accept connections, for each listening socket.
        listener_tasks_per_fd: Integer<1, 1024> = Integer(1),
        /// Whether threads take work from each other.
        work_stealing: bool = true,
        /// The roots that certificates of backends are verified with, PEM, where an upstream names none; without it, the system's. Read again by a reload.
        ca_file: FilePath,
        /// How long requests in flight may take to end when the process stops, in seconds.
        grace_period_seconds: Seconds<0> = Integer(30),
        /// IPv4 addresses that connections to backends are made from.
        client_bind_to_ipv4: List<std::net::Ipv4Addr> = List::default(),
        /// IPv6 addresses that connections to backends are made from.
        client_bind_to_ipv6: List<std::net::Ipv6Addr> = List::default(),
        /// Idle HTTP/2 connections to backends kept for each thread, over all upstreams; those of HTTP/1.1 are bounded by each upstream's `keepalive`.
        upstream_keepalive_pool_size: Integer<1, 1_000_000> = Integer(128),
        /// Pools of threads that make connections to backends; together with `upstream_connect_offload_thread_per_pool`. Requests that do not take the direct lane have as many of their own.
        upstream_connect_offload_threadpools: Integer<1, 1024>,
        /// Threads of each such pool.
        upstream_connect_offload_thread_per_pool: Integer<1, 1024>,
        /// Whether TLS keys of connections to backends, probes included, are written to the file that the variable `SSLKEYLOGFILE` names; the log tells that they are, or why not.
        upstream_debug_ssl_keylog: bool = false,
        /// The most threads for blocking work, such as hashing passwords, of each service; with `work_stealing: false` of each of its threads. Without it: 512.
        max_blocking_threads: Integer<1, 65_536>,
        /// How long an idle thread for blocking work is kept, in seconds. Without it: 10.
        blocking_threads_ttl_seconds: Seconds<0>,
        /// Whether, with `daemon`, the command returns only when the process in the background is ready.
        daemon_wait_for_ready: bool = false,
        /// How long the command waits for the process in the background at most, in seconds; that one goes on. Without it: 600.
        daemon_ready_timeout_seconds: Seconds<1>,
        /// Replaced by `grace_period_seconds`: the process ends as soon as nothing is left.
        graceful_shutdown_timeout_seconds: String,
        /// Nothing to bound: the process in the background tells that it is ready without waiting for anybody.
        daemon_notify_timeout_seconds: String,
        /// Never read by Roundel: it is no setting of the process.
        version: String,
        /// Replaced by `retry.attempts` of an upstream.
        max_retries: String,
        /// Never read by Pingora 0.9.1.
        upgrade_sock_connect_accept_max_retries: String,
        /// Needs a special build of Tokio.
        runtime_enable_alt_timer: String,
        /// Needs a special build of Tokio.
        runtime_metrics_poll_time_histogram: String,
        /// Needs a special build of Tokio.
        runtime_metrics_poll_time_histogram_scale: String,
        /// Needs a special build of Tokio.
        runtime_metrics_poll_time_histogram_resolution_micros: String,
        /// Needs a special build of Tokio.
        runtime_metrics_poll_time_histogram_buckets: String,
        /// Not read by the TLS that Roundel is built with.
        downstream_tls_offload_threadpools: String,
        /// Not read by the TLS that Roundel is built with.
        downstream_tls_offload_thread_per_pool: String,
        /// Kept at Pingora's default.
        fast_timeout_to_tokio_threshold_seconds: String,
    }
}

section! {
    /// How the process stops: on SIGTERM, and the old process at an upgrade; and what draining one backend must leave.
    Drain {
        /// How long clients are still accepted after readiness has turned 503: the time a balancer in front needs to notice.
        delay: Duration = Duration::ZERO,
        /// How long an idle keep-alive connection may wait for one more request.
        idle: Duration = Duration::from_secs(2),
        /// How long tunnels, such as WebSockets, may go on.
        tunnels: Duration = Duration::from_secs(300),
        /// The share of an upstream's weight that must stay usable where `roundel drain` takes a backend out, unless forced.
        floor: Share = Share(0.5),
    }
}
