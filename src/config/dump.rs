//! The plan as JSON, secrets left out: what `GET /api/v1/config` shows.
//!
//! Keys and values are those of the language, so that an operator recognises the file, with every default filled in. Header
//! values and bodies that are configured are left out, as they may hold credentials; of files only the path is shown.

mod routes;

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::plan::{
    AccessLog, Admin, Backend, Balance, CertificateFiles, ClientAuthMode, Discovery, HashKey, HealthCheck, Lane,
    ListenAddress, Listener, ListenerRedirect, ListenerTls, LogFormat, LogPath, Plan, Probe, Protocols, Reload, Retry,
    Server, Start, StatusSet, Target, TemplatePart, TlsVersion, Upstream, UpstreamProtocol, WhenNoneHealthy,
};
use crate::base::proxy_protocol::Version;
use crate::base::units::{format_duration, format_share, format_size};

/// The plan as JSON.
#[must_use]
pub fn dump(plan: &Plan) -> Json {
    json!({
        "source": plan.source.display().to_string(),
        "hash": plan.hash,
        "server": server(&plan.server),
        "drain": {
            "delay": time(plan.drain.delay), "idle": time(plan.drain.idle), "tunnels": time(plan.drain.tunnels),
            "floor": format_share(plan.drain.floor),
        },
        "reload": match plan.reload {
            Reload::Signal => "signal",
            Reload::Watch => "watch",
        },
        "expose_reason": plan.expose_reason,
        "errors": pages(&plan.errors),
        "listeners": plan.listeners.iter().map(listener).collect::<Vec<_>>(),
        "upstreams": plan.upstreams.iter().map(|one| (one.name.to_string(), upstream(one))).collect::<Map<_, _>>(),
        "routes": plan.routes.iter().map(|route| routes::route(route)).collect::<Vec<_>>(),
        "admin": admin(&plan.admin),
        "access_log": plan.access_log.as_ref().map_or(json!("none"), access_log),
        "log": { "level": plan.log.level.as_str().to_ascii_lowercase() },
        "metrics": { "prometheus": plan.prometheus },
        "tracing": plan.tracing.as_ref().map_or(json!("none"), |tracing| {
            json!({ "otlp": tracing.to_string(), "sample": format_share(tracing.sample) })
        }),
    })
}

fn time(duration: Duration) -> String {
    format_duration(duration)
}

fn or_none<T>(value: Option<T>, show: impl FnOnce(T) -> Json) -> Json {
    value.map_or_else(|| json!("none"), show)
}

fn pages(pages: &super::plan::ErrorPages) -> Json {
    let shown = pages.iter().map(|(status, page)| (status.to_string(), json!(page.path.display().to_string())));
    Json::Object(shown.collect())
}

fn server(server: &Server) -> Json {
    json!({
        "daemon": server.daemon,
        "error_log": server.error_log,
        "pid_file": server.pid_file,
        "upgrade_sock": server.upgrade_sock,
        "user": server.user,
        "group": server.group,
        "working_directory": server.working_directory,
        "threads": server.threads,
        "listener_tasks_per_fd": server.listener_tasks_per_fd,
        "work_stealing": server.work_stealing,
        "ca_file": server.ca_file,
        "grace_period_seconds": server.grace_period.as_secs(),
        "client_bind_to_ipv4": server.client_bind_to_ipv4,
        "client_bind_to_ipv6": server.client_bind_to_ipv6,
        "upstream_keepalive_pool_size": server.upstream_keepalive_pool_size,
        "upstream_connect_offload_threadpools": server.upstream_connect_offload_threadpools,
        "upstream_connect_offload_thread_per_pool": server.upstream_connect_offload_thread_per_pool,
        "upstream_debug_ssl_keylog": server.upstream_debug_ssl_keylog,
        "max_blocking_threads": server.max_blocking_threads,
        "blocking_threads_ttl_seconds": server.blocking_threads_ttl_seconds,
        "daemon_wait_for_ready": server.daemon_wait_for_ready,
        "daemon_ready_timeout_seconds": server.daemon_ready_timeout_seconds,
    })
}

fn listen_address(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Inet(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn listener(listener: &Listener) -> Json {
    let (timeouts, limits) = (&listener.timeouts, &listener.limits);
    json!({
        "name": &*listener.name,
        "address": listen_address(&listener.address),
        "protocols": match listener.protocols {
            Protocols::Http1 => json!(["h1"]),
            Protocols::Http2 => json!(["h2"]),
            Protocols::Both => json!(["h2", "h1"]),
        },
        "tls": or_none(listener.tls.as_deref(), listener_tls),
        "redirect": or_none(listener.redirect, |ListenerRedirect::Https| json!("https")),
        "proxy_protocol": or_none(listener.proxy_protocol.as_deref(), |from| json!({
            "from": from.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })),
        "trusted_proxies": listener.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "max_connections": listener.max_connections,
        "lane": match listener.lane { Lane::Auto => "auto", Lane::Off => "off" },
        "timeouts": {
            "tls_handshake": time(timeouts.tls_handshake),
            "header": time(timeouts.header),
            "body_idle": time(timeouts.body_idle),
            "write_idle": time(timeouts.write_idle),
            "keepalive": time(timeouts.keepalive),
            "tunnel_idle": time(timeouts.tunnel_idle),
        },
        "limits": {
            "header_bytes": format_size(limits.header_bytes as u64),
            "header_count": limits.header_count,
            "body": or_none(limits.body, |size| json!(format_size(size))),
            "keepalive_requests": limits.keepalive_requests,
            "h2_streams": limits.h2_streams,
            "connections_per_client": or_none(limits.connections_per_client, |count| json!(count)),
        },
        "errors": pages(&listener.errors),
    })
}

fn listener_tls(tls: &ListenerTls) -> Json {
    let certificate = |files: &CertificateFiles| json!({ "cert": files.cert, "key": files.key, "ocsp": files.ocsp });
    json!({
        "certificates": tls.certificates.iter().map(certificate).collect::<Vec<_>>(),
        "client_auth": or_none(tls.client_auth.as_ref(), |auth| json!({
            "ca": auth.ca,
            "mode": match auth.mode {
                ClientAuthMode::Required => "required",
                ClientAuthMode::Optional => "optional",
            },
        })),
        "min_version": match tls.min_version {
            TlsVersion::V12 => "1.2",
            TlsVersion::V13 => "1.3",
        },
    })
}

fn upstream(upstream: &Upstream) -> Json {
    let (timeouts, keepalive, limits) = (&upstream.timeouts, &upstream.keepalive, &upstream.limits);
    json!({
        "backends": upstream.backends.iter().map(backend).collect::<Vec<_>>(),
        "discovery": or_none(upstream.discovery.as_ref(), discovery),
        "balance": balance(&upstream.balance),
        "health_check": or_none(upstream.health_check.as_deref(), health_check),
        "outlier": or_none(upstream.outlier.as_ref(), |outlier| json!({
            "consecutive_errors": outlier.consecutive_errors,
            "base_ejection": time(outlier.base_ejection),
            "max_ejection": time(outlier.max_ejection),
            "max_ejected": format_share(outlier.max_ejected),
        })),
        "slow_start": time(upstream.slow_start),
        "when_none_healthy": match upstream.when_none_healthy {
            WhenNoneHealthy::Fail => "fail",
            WhenNoneHealthy::FailOpen => "fail_open",
        },
        "protocol": match upstream.protocol {
            UpstreamProtocol::Http1 => "h1",
            UpstreamProtocol::Http2 => "h2",
            UpstreamProtocol::Auto => "auto",
        },
        "tls": or_none(upstream.tls.as_deref(), |tls| json!({
            "sni": tls.sni,
            "ca": tls.ca,
            "verify": tls.verify,
            "cert": tls.identity.as_ref().map(|identity| &identity.0),
            "key": tls.identity.as_ref().map(|identity| &identity.1),
        })),
        "send_proxy_protocol": or_none(upstream.send_proxy_protocol, |version| json!(match version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        })),
        "timeouts": {
            "connect": time(timeouts.connect),
            "first_byte": time(timeouts.first_byte),
            "idle": time(timeouts.idle),
            "total": or_none(timeouts.total, |total| json!(time(total))),
        },
        "retry": retry(&upstream.retry),
        "limits": {
            "connections": or_none(limits.connections, |count| json!(count)),
            "requests": or_none(limits.requests, |count| json!(count)),
            "pending": or_none(limits.pending, |count| json!(count)),
            "pending_timeout": time(limits.pending_timeout),
        },
        "keepalive": {
            "idle": time(keepalive.idle),
            "max_idle": keepalive.max_idle,
            "max_requests": or_none(keepalive.max_requests, |count| json!(count)),
        },
        "sticky": or_none(upstream.sticky.as_ref(), |sticky| json!({
            "cookie": sticky.cookie, "max_age": or_none(sticky.max_age, |age| json!(time(age))),
        })),
    })
}

fn backend(backend: &Backend) -> Json {
    let address = match &backend.target {
        Target::Inet(address) => address.to_string(),
        Target::Name(name, port) => format!("{name}:{port}"),
        Target::Unix(path) => format!("unix:{}", path.display()),
    };
    json!({
        "name": &*backend.name, "address": address, "tls": backend.tls,
        "weight": backend.weight, "backup": backend.backup,
        "max_requests": or_none(backend.max_requests, |count| json!(count)),
        "max_connections": or_none(backend.max_connections, |count| json!(count)),
    })
}

fn retry(retry: &Retry) -> Json {
    json!({
        "attempts": retry.attempts,
        "budget": format_share(retry.budget),
        "min_per_second": retry.min_per_second,
        "statuses": statuses(&retry.statuses),
        "grpc_statuses": retry.grpc_statuses,
        "backoff": time(retry.backoff),
        "max_backoff": time(retry.max_backoff),
        "body": format_size(retry.body),
    })
}

fn discovery(discovery: &Discovery) -> Json {
    match discovery {
        Discovery::Dns { name, port, refresh } => json!({ "dns": &**name, "port": port, "refresh": time(*refresh) }),
        Discovery::File { path } => json!({ "file": path }),
    }
}

fn balance(balance: &Balance) -> Json {
    match balance {
        Balance::RoundRobin => json!("round_robin"),
        Balance::LeastRequests => json!("least_requests"),
        Balance::PeakEwma => json!("peak_ewma"),
        Balance::Random { choices } => json!({ "random": { "choices": choices } }),
        Balance::Hash { key, load_factor } => {
            json!({ "hash": { "key": hash_key(key), "load_factor": or_none(*load_factor, |factor| json!(factor)) } })
        }
    }
}

fn hash_key(key: &HashKey) -> String {
    match key {
        HashKey::ClientIp => "client_ip".to_owned(),
        HashKey::Uri => "uri".to_owned(),
        HashKey::Path => "path".to_owned(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Cookie(name) => format!("cookie:{name}"),
        HashKey::Query(name) => format!("query:{name}"),
    }
}

fn health_check(check: &HealthCheck) -> Json {
    let mut shown = match &check.probe {
        Probe::Tcp => json!({ "type": "tcp" }),
        Probe::Http(http) => json!({
            "type": "http",
            "method": http.method.as_str(),
            "path": http.path,
            "host": http.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes())),
            "headers": http.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            "expect": { "status": statuses(&http.expect_status), "body": http.expect_body },
        }),
        Probe::Grpc { service } => json!({ "type": "grpc", "service": service }),
    };
    shown["interval"] = json!(time(check.interval));
    shown["timeout"] = json!(time(check.timeout));
    shown["fast_interval"] = json!(time(check.fast_interval));
    shown["fall"] = json!(check.fall);
    shown["rise"] = json!(check.rise);
    shown["start"] = match check.start {
        Start::Probe => json!("probe"),
        Start::Healthy => json!("healthy"),
    };
    shown["port"] = json!(check.port);
    shown["tls"] = json!(check.tls);
    shown
}

fn statuses(set: &StatusSet) -> Vec<String> {
    set.0.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") }).collect()
}

fn admin(admin: &Admin) -> Json {
    or_none(admin.address.as_ref(), |address| {
        json!({
            "address": listen_address(address),
            "socket": admin.socket,
            "token_file": admin.token_file,
            "hosts": admin.hosts,
        })
    })
}

fn access_log(log: &AccessLog) -> Json {
    let path = match &log.path {
        LogPath::Stdout => "stdout".to_owned(),
        LogPath::Stderr => "stderr".to_owned(),
        LogPath::File(path) => path.display().to_string(),
    };
    let format = match &log.format {
        LogFormat::Json => "json".to_owned(),
        LogFormat::Combined => "combined".to_owned(),
        LogFormat::Template(parts) => parts.iter().map(template_part).collect(),
    };
    json!({ "path": path, "format": format, "sample": format_share(log.sample) })
}

fn template_part(part: &TemplatePart) -> String {
    match part {
        TemplatePart::Text(text) => text.replace('{', "{{").replace('}', "}}"),
        TemplatePart::Name(field) => {
            let name = super::plan::LogField::ALL.iter().find(|(known, _)| known == field).map_or("", |(_, name)| name);
            format!("{{{name}}}")
        }
    }
}
