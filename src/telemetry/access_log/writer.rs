//! The queue between requests and the log's file, and the thread that empties it.
//!
//! A request appends its line under a short lock and goes on. The thread swaps the queue for an empty one and writes it in
//! one piece: at once when little happens, at most every [`GATHER`] when much does, so that under load hundreds of lines
//! share a system call. Both halves together hold at most [`QUEUE_BYTES`]; a line that finds no room is dropped and counted.
//!
//! Whatever happens to the file (full disk, closed pipe, a reader that stands still), it happens to this thread alone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::sink::{Reopened, Sink};

/// The most bytes that wait for the file.
pub(super) const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// So many bytes are worth a write of their own.
const BATCH_BYTES: usize = 256 * 1024;
/// The least time between two writes of less than a batch.
const GATHER: Duration = Duration::from_millis(50);
/// Between two tries at a file that cannot be written.
const RETRY: Duration = Duration::from_secs(1);
/// Between two tries at a pipe that is full and does not block.
const FULL_PIPE: Duration = Duration::from_millis(10);
/// The least time between two complaints about dropped lines.
const COMPLAINT: Duration = Duration::from_secs(10);
/// How long the thread goes on trying once the log has no owner.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Takes lines to a sink without ever making their writers wait. The thread starts with the first line.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Tells the thread that there is something to do.
    work: Condvar,
    /// Tells those who wait that the thread has got on.
    progress: Condvar,
    dropped: AtomicU64,
    complaints: Mutex<Complaints>,
}

#[derive(Debug)]
struct Queue {
    /// Lines that wait.
    pending: Vec<u8>,
    /// Bytes that the thread has taken and not written yet.
    taken: usize,
    /// Bytes that ever entered, and bytes that ever left, written or given up.
    entered: u64,
    left: u64,
    /// Someone waits: write what there is at once.
    hurry: bool,
    reopen: bool,
    /// The log is being closed, and when its thread gives up.
    closing: Option<Instant>,
    /// Until the thread starts, the sink that it will own.
    idle: Option<Sink>,
}

impl Queue {
    /// Whether what waits is written without gathering more.
    fn is_urgent(&self) -> bool {
        self.pending.len() >= BATCH_BYTES || self.hurry || self.closing.is_some()
    }
}

#[derive(Debug, Default)]
struct Complaints {
    last: Option<Instant>,
    untold: u64,
}

impl Writer {
    /// A writer that will own `sink`.
    pub(super) fn new(sink: Sink) -> Self {
        let queue = Queue {
            pending: Vec::new(),
            taken: 0,
            entered: 0,
            left: 0,
            hurry: false,
            reopen: false,
            closing: None,
            idle: Some(sink),
        };
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(queue),
                work: Condvar::new(),
                progress: Condvar::new(),
                dropped: AtomicU64::new(0),
                complaints: Mutex::new(Complaints::default()),
            }),
        }
    }

    /// Queues a line (with its line feed), or drops it where there is no room.
    pub(super) fn append(&self, line: &[u8]) {
        let mut queue = self.shared.queue.lock();
        if queue.pending.len() + queue.taken + line.len() > QUEUE_BYTES {
            drop(queue);
            self.shared.drop_lines(1);
            return;
        }
        let before = queue.pending.len();
        queue.pending.extend_from_slice(line);
        queue.entered += line.len() as u64;
        if let Some(sink) = queue.idle.take() {
            self.start(sink);
        }
        let worth_a_wake = before == 0 || (before < BATCH_BYTES && queue.pending.len() >= BATCH_BYTES);
        drop(queue);
        if worth_a_wake {
            self.shared.work.notify_one();
        }
    }

    fn start(&self, sink: Sink) {
        let courier = Courier { sink, shared: Arc::clone(&self.shared), broken: false };
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || courier.run());
        if let Err(error) = thread {
            log::error!(error:% = error; "the access log's thread cannot be started, no line will be written");
        }
    }

    /// See [`super::AccessLog::dropped`].
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// See [`super::AccessLog::reopen`].
    pub(super) fn reopen(&self) {
        let mut queue = self.shared.queue.lock();
        queue.reopen = true;
        if let Some(sink) = queue.idle.take() {
            self.start(sink);
        }
        drop(queue);
        self.shared.work.notify_one();
    }

    /// See [`super::AccessLog::flush`].
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = self.shared.queue.lock();
        let goal = queue.entered;
        while queue.left < goal {
            queue.hurry = true;
            self.shared.work.notify_one();
            if self.shared.progress.wait_until(&mut queue, until).timed_out() {
                return queue.left >= goal;
            }
        }
        true
    }
}

impl Drop for Writer {
    // Does not wait: the last owner may be a request that outlived a reload.
    fn drop(&mut self) {
        self.shared.queue.lock().closing = Some(Instant::now() + LAST_WORDS);
        self.shared.work.notify_one();
    }
}

impl Shared {
    fn drop_lines(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        let mut complaints = self.complaints.lock();
        complaints.untold += lines;
        let now = Instant::now();
        if complaints.last.is_some_and(|last| now.duration_since(last) < COMPLAINT) {
            return;
        }
        complaints.last = Some(now);
        let count = std::mem::take(&mut complaints.untold);
        drop(complaints);
        log::warn!(count = count; "access log lines were dropped: the log cannot be written fast enough");
    }
}

/// The thread's side: carries what is queued to the sink.
struct Courier {
    sink: Sink,
    shared: Arc<Shared>,
    /// The last write failed, and this has been told.
    broken: bool,
}

enum Next {
    Write,
    End,
}

impl Courier {
    fn run(mut self) {
        let mut batch = Vec::new();
        let mut last_write = None;
        while let Next::Write = self.take(&mut batch, last_write) {
            last_write = Some(Instant::now());
            self.deliver(&batch);
            batch.clear();
            batch.shrink_to(BATCH_BYTES);
        }
    }

    /// Waits for lines and swaps them into the empty `batch`.
    fn take(&mut self, batch: &mut Vec<u8>, last_write: Option<Instant>) -> Next {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue.lock();
        queue.left += std::mem::take(&mut queue.taken) as u64;
        shared.progress.notify_all();
        let mut gathered = last_write.is_none();
        loop {
            if std::mem::take(&mut queue.reopen) {
                let _ = MutexGuard::unlocked(&mut queue, || self.reopen());
            } else if queue.pending.is_empty() && queue.closing.is_some() {
                return Next::End;
            } else if queue.pending.is_empty() {
                shared.work.wait(&mut queue);
            } else if gathered || queue.is_urgent() {
                queue.hurry = false;
                std::mem::swap(&mut queue.pending, batch);
                queue.taken = batch.len();
                return Next::Write;
            } else if let Some(last) = last_write {
                gathered = shared.work.wait_until(&mut queue, last + GATHER).timed_out();
            }
        }
    }

    /// Writes the whole batch, however long it takes; gives up only when the log is being closed.
    fn deliver(&mut self, batch: &[u8]) {
        let mut written = 0;
        while written < batch.len() {
            match self.sink.write(&batch[written..]) {
                Ok(count) => {
                    written += count;
                    self.tell_of_recovery();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let pause = self.pause_after(&error);
                    match self.wait(pause) {
                        Waited::Out => {}
                        // The new file gets the line whole that the old one has half.
                        Waited::Reopened => written = line_start(batch, written),
                        Waited::Closing => return self.give_up(&batch[written..]),
                    }
                }
            }
        }
    }

    fn pause_after(&mut self, error: &io::Error) -> Duration {
        if error.kind() == io::ErrorKind::WouldBlock {
            return FULL_PIPE;
        }
        if !self.broken {
            self.broken = true;
            log::error!(path = self.sink.name(), error:% = error; "the access log cannot be written, it is tried again");
        }
        RETRY
    }

    fn tell_of_recovery(&mut self) {
        if std::mem::take(&mut self.broken) {
            log::info!(path = self.sink.name(); "the access log is written again");
        }
    }

    /// Waits before another try, or until the log is to be opened again or closed.
    fn wait(&mut self, pause: Duration) -> Waited {
        let shared = Arc::clone(&self.shared);
        let until = Instant::now() + pause;
        let mut queue = shared.queue.lock();
        while !queue.reopen && (queue.closing.is_none() || !self.broken) {
            if shared.work.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        if std::mem::take(&mut queue.reopen) {
            return MutexGuard::unlocked(&mut queue, || self.reopen());
        }
        match queue.closing {
            Some(deadline) if self.broken || Instant::now() >= deadline => Waited::Closing,
            _ => Waited::Out,
        }
    }

    fn reopen(&mut self) -> Waited {
        match self.sink.reopen() {
            Ok(Reopened::New) => Waited::Reopened,
            Ok(Reopened::Same) => Waited::Out,
            Err(error) => {
                log::error!(error:% = error; "the access log cannot be opened again, the old file goes on");
                Waited::Out
            }
        }
    }

    fn give_up(&self, rest: &[u8]) {
        self.shared.drop_lines(memchr::memchr_iter(b'\n', rest).count() as u64);
    }
}

/// How a wait before another try ended.
enum Waited {
    /// There is nothing new.
    Out,
    /// There is another file now.
    Reopened,
    /// There will be no other try.
    Closing,
}

/// Where the line begins that holds the byte at `at`.
fn line_start(batch: &[u8], at: usize) -> usize {
    memchr::memrchr(b'\n', &batch[..at]).map_or(0, |feed| feed + 1)
}
