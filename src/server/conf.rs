//! The plan of the process in Pingora's words, and what Pingora would panic at.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pingora_core::server::configuration::ServerConf;
use pingora_core::tls::load_native_certs;

use crate::config::plan;

/// The variable that names the file for TLS keys, for rustls as for browsers.
const KEY_LOG: &str = "SSLKEYLOGFILE";
/// Seconds that tasks may take to be dropped at the end.
const LAST_MOMENTS: u64 = 2;

/// Pingora's configuration. What Roundel does itself (the daemon, the user, the pid file, the drain, the roots, which peers
/// bring along so that a reload can change them) stays at Pingora's defaults, which do nothing of it.
pub(super) fn server_conf(server: &plan::Server) -> ServerConf {
    let text = |path: &Path| path.display().to_string();
    ServerConf {
        threads: server.threads,
        listener_tasks_per_fd: server.listener_tasks_per_fd,
        work_stealing: server.work_stealing,
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

/// Says where the TLS keys of connections to backends are written, or why they are not: rustls itself says nothing, and whoever
/// has that file reads all that is sent to backends.
pub(super) fn tell_of_keys(server: &plan::Server) {
    if !server.upstream_debug_ssl_keylog {
        return;
    }
    let Some(path) = std::env::var_os(KEY_LOG) else {
        log::warn!(
            "TLS keys are not written (set {KEY_LOG} to the file for them, or remove server.upstream_debug_ssl_keylog)"
        );
        return;
    };
    let shown = Path::new(&path).display();
    match OpenOptions::new().append(true).create(true).mode(0o600).open(&path) {
        Ok(_) => log::warn!("TLS keys of connections to backends are written: path={shown}"),
        Err(error) => log::warn!("TLS keys are not written: path={shown} error=\"{error}\" (correct {KEY_LOG})"),
    }
}

/// Pingora panics where it cannot read the system's roots, and reads them even where others are written. A system that has none
/// is no fault of the start: backends that need some are told apart when they are connected to.
pub(super) fn check_system_roots() -> io::Result<()> {
    load_native_certs().map(drop).map_err(|error| {
        io::Error::other(format!(
            "the system's root certificates cannot be read: {error} (correct or unset SSL_CERT_FILE and SSL_CERT_DIR)"
        ))
    })
}
