//! `server`: the process.

use std::path::PathBuf;
use std::time::Duration;

use super::Checker;
use super::runtime::Runtime;
use super::{certificate, logs};
use crate::config::file::address::LONGEST_SOCKET;
use crate::config::file::leaf::{FilePath, Integer};
use crate::config::file::server::Server;
use crate::config::file::term::{Field, Spanned};
use crate::config::plan;

pub(super) fn plan(server: &Server, runtime: &Runtime, checker: &mut Checker<'_, '_>) -> plan::Server {
    check_offload(server, checker);
    check_socket(&server.upgrade_sock, checker);
    if let Some(Spanned { value: FilePath(path), at }) = server.error_log.given() {
        logs::check_file(path, *at, checker);
    }
    plan::Server {
        daemon: server.daemon(),
        error_log: path(&server.error_log),
        pid_file: path(&server.pid_file).unwrap_or_else(|| runtime.path("roundel", "pid")),
        upgrade_sock: path(&server.upgrade_sock).unwrap_or_else(|| runtime.path("upgrade", "sock")),
        user: server.user.value().cloned(),
        group: server.group.value().cloned(),
        working_directory: path(&server.working_directory),
        threads: number(&server.threads).unwrap_or_else(cores),
        listener_tasks_per_fd: server.listener_tasks_per_fd().size(),
        work_stealing: server.work_stealing(),
        ca_file: certificate::roots(&server.ca_file, checker),
        grace_period: Duration::from_secs(server.grace_period_seconds().0),
        client_bind_to_ipv4: server.client_bind_to_ipv4().values().iter().map(ToString::to_string).collect(),
        client_bind_to_ipv6: server.client_bind_to_ipv6().values().iter().map(ToString::to_string).collect(),
        upstream_keepalive_pool_size: server.upstream_keepalive_pool_size().size(),
        upstream_connect_offload_threadpools: number(&server.upstream_connect_offload_threadpools),
        upstream_connect_offload_thread_per_pool: number(&server.upstream_connect_offload_thread_per_pool),
        upstream_debug_ssl_keylog: server.upstream_debug_ssl_keylog(),
        max_blocking_threads: number(&server.max_blocking_threads),
        blocking_threads_ttl_seconds: server.blocking_threads_ttl_seconds.value().map(|seconds| seconds.0),
        daemon_wait_for_ready: server.daemon_wait_for_ready(),
        daemon_ready_timeout_seconds: server.daemon_ready_timeout_seconds.value().map(|seconds| seconds.0),
        runtime_directory: runtime.directory.clone(),
        instance: runtime.instance.clone(),
    }
}

fn check_socket(field: &Field<FilePath>, checker: &mut Checker<'_, '_>) {
    if let Some(Spanned { value: FilePath(path), at }) = field.given()
        && path.as_os_str().len() > LONGEST_SOCKET
    {
        checker.error(*at, "the path is too long for a socket", format!("write at most {LONGEST_SOCKET} bytes"));
    }
}

/// Pingora makes the pools only where both numbers are written.
fn check_offload(server: &Server, checker: &mut Checker<'_, '_>) {
    let pools = &server.upstream_connect_offload_threadpools;
    let threads = &server.upstream_connect_offload_thread_per_pool;
    let help = "write both, or neither";
    match (pools.at(), threads.at()) {
        (Some(at), None) if threads.is_absent() => {
            checker.error(at, "has no effect without `upstream_connect_offload_thread_per_pool`", help);
        }
        (None, Some(at)) if pools.is_absent() => {
            checker.error(at, "has no effect without `upstream_connect_offload_threadpools`", help);
        }
        _ => {}
    }
}

fn path(field: &Field<FilePath>) -> Option<PathBuf> {
    field.value().map(|path| path.0.clone())
}

fn number<const MIN: u64, const MAX: u64>(field: &Field<Integer<MIN, MAX>>) -> Option<usize> {
    field.value().map(|number| number.size())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
