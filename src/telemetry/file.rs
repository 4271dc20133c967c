//! How a log's file is opened; the access log and the process log open theirs alike.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a log to append to, created with mode 0640. A named pipe is not waited for: without a reader it is an error.
///
/// # Errors
/// As the system says, with the path.
pub(super) fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| {
            let why = match error.raw_os_error() {
                Some(libc::ENXIO) => {
                    "it is a named pipe that nobody reads (start its reader first), or a socket".to_owned()
                }
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("cannot open the log {}: {why}", path.display()))
        })
}
