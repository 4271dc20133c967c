//! The plan of the process in Pingora's words, and what Pingora would panic at.

use std::io;
use std::path::Path;

use pingora_core::server::configuration::ServerConf;
use pingora_core::tls::load_native_certs;

use crate::config::plan;
use crate::upstream::peer::default_roots;

/// Seconds that tasks may take to be dropped at the end.
const LAST_MOMENTS: u64 = 2;

/// Pingora's configuration. What Roundel does itself (the daemon, the user, the pid file, the drain) stays at Pingora's
/// defaults, which do nothing of it.
pub(super) fn server_conf(server: &plan::Server) -> ServerConf {
    let text = |path: &Path| path.display().to_string();
    ServerConf {
        threads: server.threads,
        listener_tasks_per_fd: server.listener_tasks_per_fd,
        work_stealing: server.work_stealing,
        ca_file: server.ca_file.as_deref().map(text),
        pid_file: text(&server.pid_file),
        upgrade_sock: text(&server.upgrade_sock),
        // The grace period is over when Pingora is told of the end (`lifecycle`); what is left then is dropped at once.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(LAST_MOMENTS),
        client_bind_to_ipv4: server.client_bind_to_ipv4.clone(),
        client_bind_to_ipv6: server.client_bind_to_ipv6.clone(),
        upstream_keepalive_pool_size: server.upstream_keepalive_pool_size,
        upstream_connect_offload_threadpools: server.upstream_connect_offload_threadpools,
        upstream_connect_offload_thread_per_pool: server.upstream_connect_offload_thread_per_pool,
        upstream_debug_ssl_keylog: server.upstream_debug_ssl_keylog,
        max_blocking_threads: server.max_blocking_threads,
        blocking_threads_ttl_seconds: server.blocking_threads_ttl_seconds,
        // How often a request is tried is decided by `exchange::retry`; Pingora's bound must never come first.
        max_retries: usize::MAX,
        ..ServerConf::default()
    }
}

/// Pingora panics where it cannot read the roots that backends are verified with. A system that has none is no fault of the
/// start: backends that need some are told apart when they are connected to.
pub(super) fn check_roots(ca_file: Option<&Path>) -> io::Result<()> {
    if let Some(path) = ca_file {
        default_roots(Some(path)).map_err(|error| io::Error::other(format!("server.ca_file: {error}")))?;
    }
    // Those of the system are read even where others are written.
    load_native_certs().map(drop).map_err(|error| {
        io::Error::other(format!(
            "the system's root certificates cannot be read: {error} (correct or unset SSL_CERT_FILE and SSL_CERT_DIR)"
        ))
    })
}
