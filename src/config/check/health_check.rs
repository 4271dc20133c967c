//! `upstreams.*.health_check`: how backends are probed.

use std::time::Duration;

use super::{Checker, header};
use crate::base::units::format_duration;
use crate::config::file::collection::OrNone;
use crate::config::file::health_check::{self as file, ProbeType};
use crate::config::file::term::{Field, written_or_default};
use crate::config::plan::{self, HttpProbe, Probe};
use crate::config::read::At;

pub(super) fn plan(
    field: &Field<OrNone<file::HealthCheck>>,
    checker: &mut Checker<'_, '_>,
) -> Option<plan::HealthCheck> {
    let written = match field.value() {
        Some(OrNone::None) => return None,
        Some(OrNone::Some(written)) => written.clone(),
        None => file::HealthCheck::default(),
    };
    check_fit(&written, checker);
    let probe = match written.kind() {
        ProbeType::None => return None,
        ProbeType::Tcp => Probe::Tcp,
        ProbeType::Http => Probe::Http(http(&written, checker)),
        ProbeType::Grpc => Probe::Grpc { service: written.service.value().cloned().unwrap_or_default() },
    };
    let times = times(&written, checker);
    Some(plan::HealthCheck {
        probe,
        interval: times.interval,
        timeout: times.timeout,
        fast_interval: times.fast,
        fall: written.fall().small(),
        rise: written.rise().small(),
        start: match written.start() {
            file::Start::Probe => plan::Start::Probe,
            file::Start::Healthy => plan::Start::Healthy,
        },
        port: written.port.value().and_then(|port| u16::try_from(port.0).ok()),
        tls: written.tls.value().copied(),
    })
}

/// Refuses the keys that mean nothing to this type of probe.
fn check_fit(written: &file::HealthCheck, checker: &mut Checker<'_, '_>) {
    if matches!(written.kind, Field::Faulty) {
        return;
    }
    let kind = written.kind();
    let http = [ProbeType::Http].as_slice();
    let spoken = [ProbeType::Http, ProbeType::Grpc].as_slice();
    let any = [ProbeType::Tcp, ProbeType::Http, ProbeType::Grpc].as_slice();
    let keys: [(&str, Option<At>, &[ProbeType]); 14] = [
        ("method", written.method.at(), http),
        ("path", written.path.at(), http),
        ("host", written.host.at(), http),
        ("headers", written.headers.at(), http),
        ("expect", written.expect.at(), http),
        ("tls", written.tls.at(), spoken),
        ("service", written.service.at(), &[ProbeType::Grpc]),
        ("interval", written.interval.at(), any),
        ("timeout", written.timeout.at(), any),
        ("fast_interval", written.fast_interval.at(), any),
        ("fall", written.fall.at(), any),
        ("rise", written.rise.at(), any),
        ("start", written.start.at(), any),
        ("port", written.port.at(), any),
    ];
    for (key, at, kinds) in keys {
        if let (Some(at), false) = (at, kinds.contains(&kind)) {
            let message = format!("`{key}` has no effect on a probe of type `{}`", kind.as_str());
            let help = if kinds == any {
                "remove it".to_owned()
            } else {
                format!("write `type: {}`, or remove it", kinds[0].as_str())
            };
            checker.error(at, message, help);
        }
    }
}

struct Times {
    interval: Duration,
    timeout: Duration,
    fast: Duration,
}

fn times(written: &file::HealthCheck, checker: &mut Checker<'_, '_>) -> Times {
    let interval = written.interval().0;
    // The defaults give way to a short interval; what is written does not.
    let timeout = match written.timeout.value() {
        Some(timeout) => timeout.0,
        None => written.timeout().0.min(interval / 2),
    };
    let fast = match written.fast_interval.value() {
        Some(fast) => fast.0,
        None => written.fast_interval().0.min(interval),
    };
    if let (true, Some(at)) = (timeout >= interval, written.timeout.at()) {
        let message = format!("the timeout must be shorter than the interval, which is {}", format_duration(interval));
        checker.error(at, message, "write a shorter `timeout`, or a longer `interval`");
    }
    if let (true, Some(at)) = (fast > interval, written.fast_interval.at()) {
        let message = format!("`fast_interval` is longer than the interval, which is {}", format_duration(interval));
        checker.error(at, message, "write a shorter `fast_interval`");
    }
    Times { interval, timeout, fast }
}

fn http(written: &file::HealthCheck, checker: &mut Checker<'_, '_>) -> HttpProbe {
    let expect = written_or_default(&written.expect);
    let path = written.path();
    let is_target = path.parse::<http::uri::PathAndQuery>().is_ok();
    if let (false, Some(at)) = (path.starts_with('/') && is_target && !path.contains('#'), written.path.at()) {
        checker.error(at, format!("`{path}` is not a path"), "begin it with `/`, without white space");
    }
    if let (true, Some(at)) = (expect.status().0.is_empty(), expect.status.at()) {
        checker.error(at, "no status is good, so that no probe ever is", "write the good ones, such as `[\"2xx\"]`");
    }
    HttpProbe {
        method: written.method(),
        path,
        host: written.host.value().cloned(),
        headers: header::pairs(&written.headers(), checker),
        expect_status: expect.status(),
        expect_body: expect.body.value().cloned(),
    }
}
