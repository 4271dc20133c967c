//! The access log: one line for each request, told at its end.
//!
//! The data path fills a [`Record`] on its stack and hands it over. `format` makes the line, `writer` takes it to its
//! file without ever making the request wait: a line that finds no room is dropped and counted. `second` is the time as text. docs/access-log.md is the
//! operator's side of this.

mod escape;
mod format;
mod record;
mod second;
mod sink;
mod writer;

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use crate::config::plan;

pub use self::format::Format;
pub use self::record::Record;
pub use self::second::Second;
use self::sink::Sink;
use self::writer::Writer;

/// A line's buffer that has grown beyond this many bytes is not kept.
const SCRATCH_KEPT: usize = 64 * 1024;

thread_local! {
    // Scratch memory, not state: each line is made here before it enters the queue, so that a line allocates nothing and
    // the queue's lock is held for a copy only.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { line: Vec::new(), second: Second::new() }) };
}

struct Scratch {
    line: Vec<u8>,
    second: Second,
}

/// The access log of the process.
///
/// The thread that writes starts with the first line. So an access log may be opened for a plan that is then given up, and
/// before the process becomes a daemon (threads do not survive a fork).
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    sample: Sample,
    writer: Writer,
}

impl AccessLog {
    /// Opens the log of a plan; a file is created with mode 0640 and appended to.
    ///
    /// # Errors
    /// The file or stream cannot be opened for writing; the message names it.
    pub fn open(plan: &plan::AccessLog) -> io::Result<Self> {
        Ok(Self::to_sink(plan, Sink::open(&plan.path)?))
    }

    fn to_sink(plan: &plan::AccessLog, sink: Sink) -> Self {
        Self { format: Format::new(&plan.format), sample: Sample::new(plan.sample), writer: Writer::new(sink) }
    }

    /// Whether this request is among the share that is logged. `dice` is any evenly spread number that belongs to the
    /// request: the same number gets the same verdict.
    #[must_use]
    pub fn wants(&self, dice: u64) -> bool {
        self.sample.takes(dice)
    }

    /// Puts the line of a request on its way. Never waits for the file: without room the line is dropped and counted.
    pub fn write(&self, record: &Record<'_>) {
        let written = SCRATCH.try_with(|scratch| {
            let Scratch { line, second } = &mut *scratch.borrow_mut();
            line.clear();
            self.format.write(record, second, line);
            self.writer.append(line);
            line.shrink_to(SCRATCH_KEPT);
        });
        // A thread that is ending has no scratch memory any more.
        if written.is_err() {
            let mut line = Vec::new();
            self.format.write(record, &mut Second::new(), &mut line);
            self.writer.append(&line);
        }
    }

    /// Lines dropped since the start: the queue was full, or the file could not be written before the end.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }

    /// Opens the file again by its path (SIGUSR1, after a rotation has renamed it). Returns at once; lines that wait go to
    /// the old file or the new one, each whole. Where the new file cannot be opened the old one goes on and the process log
    /// says so.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Waits until all lines handed over before this call are written, at most `patience`. Returns whether they are. It
    /// blocks the thread that calls.
    ///
    /// The process calls this when it stops. Dropping the log alone does not wait: its thread writes what is left, and gives
    /// up after two seconds.
    pub fn flush(&self, patience: Duration) -> bool {
        self.writer.flush(patience)
    }
}

/// The share of requests that is logged, as a bound on a 64-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sample {
    All,
    Below(u64),
}

impl Sample {
    fn new(share: f64) -> Self {
        if share >= 1.0 {
            return Self::All;
        }
        // A cast from f64 saturates, and NaN becomes 0: every share has a bound.
        Self::Below((share * (u64::MAX as f64)) as u64)
    }

    fn takes(self, dice: u64) -> bool {
        match self {
            Self::All => true,
            Self::Below(bound) => dice < bound,
        }
    }
}

#[cfg(test)]
mod tests;
