//! `errors`: own error pages, read while the configuration is checked.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::Checker;
use crate::config::file::ErrorPages;
use crate::config::file::message;
use crate::config::file::term::Field;
use crate::config::plan;

/// The largest error page, in bytes.
const MAX_PAGE: u64 = 1024 * 1024;

pub(super) fn read(errors: &Field<ErrorPages>, checker: &mut Checker<'_, '_>) -> plan::ErrorPages {
    let mut pages = plan::ErrorPages::new();
    for (status, path) in errors.value().map_or(&[][..], |errors| &errors.items) {
        let number = checker.read(status, error_status);
        match (number, page(&path.value.0)) {
            (Some(number), Ok(page)) => {
                pages.insert(number, Arc::new(page));
            }
            (_, Err(fault)) => checker.error(path.at, fault, "write the path of a file of at most 1MiB"),
            (None, Ok(_)) => {}
        }
    }
    pages
}

fn error_status(text: &str) -> Result<u16, crate::base::units::Misread> {
    match message::status(text) {
        Ok(status) if status.0 >= 400 => Ok(status.0),
        _ => Err(crate::base::units::Misread::new(
            format!("`{text}` is not the status of an error"),
            "write a number from 400 to 599",
        )),
    }
}

fn page(path: &Path) -> Result<plan::ErrorPage, String> {
    regular_file(path)?;
    let fault = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut body = Vec::new();
    File::open(path).map_err(fault)?.take(MAX_PAGE + 1).read_to_end(&mut body).map_err(fault)?;
    if body.len() as u64 > MAX_PAGE {
        return Err(format!("{} is larger than 1MiB", path.display()));
    }
    Ok(plan::ErrorPage { path: path.to_owned(), content_type: content_type(path), body: body.into() })
}

/// Says why a file cannot be read, where it is not there or no regular file (a named pipe would wait for a writer).
pub(super) fn regular_file(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(format!("cannot read {}: it is not a regular file", path.display())),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}
