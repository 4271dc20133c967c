//! Where the bytes of the access log end up: a stream of the process, or a file that can be opened again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::config::plan::LogPath;
use crate::telemetry::file::append_to;

/// A place for the lines, open for writing.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    path: Option<PathBuf>,
    name: String,
}

/// What [`Sink::reopen`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reopened {
    /// The file was opened by its path.
    New,
    /// A stream is what it was.
    Same,
}

impl Sink {
    /// Opens the place that a plan names.
    pub(super) fn open(path: &LogPath) -> io::Result<Self> {
        match path {
            LogPath::Stdout => Self::stream(io::stdout(), "stdout"),
            LogPath::Stderr => Self::stream(io::stderr(), "stderr"),
            LogPath::File(path) => Self::file(path),
        }
    }

    /// A stream of the process, without the buffer and the lock that the standard library puts before it.
    pub(super) fn stream(stream: impl AsFd, name: &str) -> io::Result<Self> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Self { file, path: None, name: name.to_owned() })
    }

    fn file(path: &Path) -> io::Result<Self> {
        Ok(Self { file: append_to(path)?, path: Some(path.to_owned()), name: path.display().to_string() })
    }

    /// Opens a file again by its path; a stream stays as it is. After an error the old file goes on.
    pub(super) fn reopen(&mut self) -> io::Result<Reopened> {
        let Some(path) = &self.path else {
            return Ok(Reopened::Same);
        };
        self.file = append_to(path)?;
        Ok(Reopened::New)
    }

    /// The place as the operator knows it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Writes some of `bytes`; returns how many.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.file.write(bytes)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        }
    }
}
