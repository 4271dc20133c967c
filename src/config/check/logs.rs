//! `access_log`, `log`, `metrics` and `tracing`.

use std::path::Path;

use super::{Checker, misread_of};
use crate::base::template;
use crate::base::units::Misread;
use crate::config::file::collection::OrNone;
use crate::config::file::logs::{AccessLog, Level, Log, Metrics, Tracing};
use crate::config::file::term::{Field, Spanned, instead};
use crate::config::plan::{self, LogField, LogFormat, LogPath};
use crate::config::read::At;

pub(super) fn access_log(field: &Field<OrNone<AccessLog>>, checker: &mut Checker<'_, '_>) -> Option<plan::AccessLog> {
    let written = match field.value() {
        Some(OrNone::None) => return None,
        Some(OrNone::Some(written)) => written.clone(),
        None => AccessLog::default(),
    };
    let format = match written.format.given() {
        Some(format) => checker.read(format, log_format),
        None => Some(LogFormat::Json),
    };
    let path = match written.path.given() {
        Some(path) => path_of(path, checker)?,
        None => LogPath::Stdout,
    };
    Some(plan::AccessLog { path, format: format?, sample: written.sample().0 })
}

fn path_of(path: &Spanned<String>, checker: &mut Checker<'_, '_>) -> Option<LogPath> {
    match path.value.as_str() {
        "none" => None,
        "stdout" => Some(LogPath::Stdout),
        "stderr" => Some(LogPath::Stderr),
        "" => {
            checker.error(path.at, "this is not a path", "write `stdout`, `stderr`, `none`, or a file");
            None
        }
        file => {
            let file = checker.decoder.marks.directory(path.at).join(file);
            check_file(&file, path.at, checker);
            Some(LogPath::File(file))
        }
    }
}

/// Tells what will keep a log from being opened. A directory may be made between now and the start, and by somebody else.
pub(super) fn check_file(path: &Path, at: At, checker: &mut Checker<'_, '_>) {
    if path.is_dir() {
        let message = format!("{} is a directory", path.display());
        checker.error(at, message, format!("write a file, such as `{}`", path.join("roundel.log").display()));
    } else if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
        let message = format!("the directory {} does not exist", directory.display());
        checker.warning(at, message, "create it before the start: the log is created in it, but not the directory");
    }
}

fn log_format(text: &str) -> Result<LogFormat, Misread> {
    match text {
        "json" => Ok(LogFormat::Json),
        "combined" => Ok(LogFormat::Combined),
        _ if text.contains('{') => template::parse(text, log_field).map_err(misread_of).map(LogFormat::Template),
        _ => Err(Misread::new(
            format!("`{text}` is not a format"),
            "write `json`, `combined`, or a template such as `{method} {path} {status}`",
        )),
    }
}

fn log_field(name: &str) -> Result<LogField, Misread> {
    let known = LogField::ALL.iter().find(|(_, known)| *known == name);
    known.map(|(field, _)| *field).ok_or_else(|| {
        let names = LogField::ALL.map(|(_, name)| name);
        let remedy = instead(name, &names, "known here:");
        Misread::new(format!("`{{{name}}}` is not a field of the access log"), remedy)
    })
}

pub(super) fn log(written: &Log) -> plan::Log {
    let level = match written.level() {
        Level::Off => log::LevelFilter::Off,
        Level::Error => log::LevelFilter::Error,
        Level::Warn => log::LevelFilter::Warn,
        Level::Info => log::LevelFilter::Info,
        Level::Debug => log::LevelFilter::Debug,
        Level::Trace => log::LevelFilter::Trace,
    };
    plan::Log { level }
}

pub(super) fn prometheus(field: &Field<OrNone<Metrics>>) -> bool {
    match field.value() {
        Some(OrNone::None) => false,
        Some(OrNone::Some(metrics)) => metrics.prometheus(),
        None => Metrics::default().prometheus(),
    }
}

pub(super) fn tracing(field: &Field<OrNone<Tracing>>, checker: &mut Checker<'_, '_>) -> Option<plan::Tracing> {
    let given = field.given()?;
    let OrNone::Some(written) = &given.value else { return None };
    checker.required(&written.otlp, given.at, "`tracing` has no receiver", "write `otlp: http://127.0.0.1:4318`");
    let otlp = written.otlp.given()?;
    let Some((host, port, path)) = receiver(&otlp.value.0) else {
        let message = "spans are sent over plain HTTP, to a host without credentials or query";
        checker.error(
            otlp.at,
            message,
            "write `http://127.0.0.1:4318`: a collector beside the proxy can send on over TLS",
        );
        return None;
    };
    Some(plan::Tracing { host, port, path, sample: written.sample().0 })
}

/// Host, port and path of an OTLP receiver: spans go to `v1/traces` below the path that is written.
fn receiver(url: &str) -> Option<(String, u16, String)> {
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    if uri.scheme_str() != Some("http") || authority.as_str().contains('@') || uri.query().is_some() {
        return None;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let path = format!("{}/v1/traces", uri.path().trim_end_matches('/'));
    Some((host, authority.port_u16().unwrap_or(80), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_a_host_a_port_and_a_path() {
        let parts = |url| receiver(url).map(|(host, port, path)| format!("{host} {port} {path}"));
        assert_eq!(parts("http://127.0.0.1:4318").as_deref(), Some("127.0.0.1 4318 /v1/traces"));
        assert_eq!(parts("http://[::1]:4318/otlp/").as_deref(), Some("::1 4318 /otlp/v1/traces"));
        for wrong in ["https://a:4318", "http://u:p@a", "http://a/?x=1"] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }
}
