//! The process's own log: what happened that an operator should know of, on stderr or in `error_log`.
//!
//! The house logs through the `log` crate, with constant messages and facts as fields; here is where such a record becomes
//! a line, and which records do. Pingora logs through the same crate, much of it for each request: at `info` and above that
//! is left out, since it is the access log's business.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use env_logger::{Builder, Logger, Target};
use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use parking_lot::Mutex;

use super::file::append_to;

/// The longest line: what a pipe that is ready takes without blocking (PIPE_BUF, pipe(7)).
const LONGEST_LINE: usize = 4096;
/// How long a line waits for a stream whose reader is slow, in milliseconds.
const PATIENCE_MS: u8 = 10;

/// Why the process's log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened; the message names it.
    #[error(transparent)]
    Open(#[from] io::Error),
    /// There is a logger already: this was called twice.
    #[error("the process's log is set up already")]
    Twice(#[from] log::SetLoggerError),
}

/// Sets up the log of the process: to `error_log`, else to stderr. `RUST_LOG`, where it is set, decides in place of
/// `level`, in the syntax of `env_logger`.
///
/// # Errors
/// The file cannot be opened, or there is a logger already.
pub fn init(level: LevelFilter, error_log: Option<&Path>) -> Result<ProcessLog, Error> {
    let output = Output::open(error_log)?;
    let rules = std::env::var("RUST_LOG").ok().filter(|rules| !rules.is_empty());
    let log = ProcessLog {
        current: Arc::new(ArcSwap::from_pointee(logger(level, rules.as_deref(), &output))),
        output,
        rules,
    };
    log::set_boxed_logger(Box::new(Switch(Arc::clone(&log.current))))?;
    log.set_level(level);
    Ok(log)
}

/// A place for the log of the process, opened and not used yet; none: it goes where it went.
#[derive(Debug)]
pub struct Opened(Option<Place>);

/// The log of the process, to be told of a new level, another place or a rotation.
#[derive(Debug, Clone)]
pub struct ProcessLog {
    current: Arc<ArcSwap<Logger>>,
    output: Output,
    rules: Option<String>,
}

impl ProcessLog {
    /// Changes the level (a reload); without effect where `RUST_LOG` decides.
    pub fn set_level(&self, level: LevelFilter) {
        let logger = logger(level, self.rules.as_deref(), &self.output);
        log::set_max_level(logger.filter());
        self.current.store(Arc::new(logger));
        if level > log::STATIC_MAX_LEVEL {
            log::warn!(level:% = level, most:% = log::STATIC_MAX_LEVEL; "this build has no such detail in its log");
        }
    }

    /// Opens the place that a new plan names, where it is another one.
    ///
    /// # Errors
    /// It cannot be opened; the message names it.
    pub fn open(&self, error_log: Option<&Path>) -> io::Result<Opened> {
        let same = match &*self.output.0.lock() {
            Place::File { path, .. } => error_log == Some(path),
            Place::Stream { .. } => error_log.is_none(),
        };
        if same { Ok(Opened(None)) } else { Place::open(error_log).map(|place| Opened(Some(place))) }
    }

    /// Writes to a place that was opened for it from now on.
    pub fn go_on_in(&self, opened: Opened) {
        if let Some(place) = opened.0 {
            *self.output.0.lock() = place;
        }
    }

    /// Opens `error_log` again by its path (SIGUSR1, after a rotation has renamed it); stderr stays as it is.
    ///
    /// # Errors
    /// The file cannot be opened; the old one goes on.
    pub fn reopen(&self) -> io::Result<()> {
        self.output.reopen()
    }
}

/// The logger that the `log` crate knows, which cannot be changed, before the one that acts, which can.
struct Switch(Arc<ArcSwap<Logger>>);

impl Log for Switch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.load().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.0.load().log(record);
    }

    fn flush(&self) {}
}

fn logger(level: LevelFilter, rules: Option<&str>, output: &Output) -> Logger {
    let mut builder = Builder::new();
    match rules {
        Some(rules) => builder.parse_filters(rules),
        None => filter(&mut builder, level),
    };
    let quiet = rules.is_none() && level <= LevelFilter::Info;
    builder
        .format(move |out, record| {
            if quiet && is_noise(record) {
                return Ok(());
            }
            out.write_all(line(SystemTime::now(), record).as_bytes())
        })
        .target(Target::Pipe(Box::new(output.clone())))
        .build()
}

/// Down to `info`, what Pingora tells of each request or connection is left out, and of the rest what is below a warning.
fn filter(builder: &mut Builder, level: LevelFilter) -> &mut Builder {
    builder.filter_level(level);
    if level <= LevelFilter::Info {
        builder
            .filter_module("pingora", level.min(LevelFilter::Warn))
            .filter_module("pingora_core::protocols", level.min(LevelFilter::Error))
            .filter_module("pingora_proxy", LevelFilter::Off);
    }
    builder
}

/// A failed TLS handshake is the client's affair, but its module also tells of failed accepts, which are ours: only the
/// text tells them apart.
fn is_noise(record: &Record<'_>) -> bool {
    record.target() == "pingora_core::services::listening"
        && record.args().to_string().starts_with("Downstream handshake")
}

/// `2026-01-31T12:00:00.123Z WARN  upstream the message key=value`: one line, whatever the record holds.
fn line(time: SystemTime, record: &Record<'_>) -> String {
    let mut line = Line(timestamp(time));
    // Writing to a String cannot fail, nor can visiting fields of which each is merely written.
    let _ = write!(line.0, " {:<5} {} ", record.level().as_str(), short(record.target()));
    line.push_on_one_line(&record.args().to_string());
    let _ = record.key_values().visit(&mut line);
    line.end()
}

fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "-".to_owned(), |time| format!("{time:.3}"))
}

/// The room where the house speaks, the crate where others do.
fn short(target: &str) -> &str {
    let mut names = target.split("::");
    match (names.next(), names.next()) {
        (Some("roundel"), Some(room)) => room,
        (Some(name), _) => name,
        _ => target,
    }
}

/// A line while it is written.
struct Line(String);

impl Line {
    fn push_on_one_line(&mut self, text: &str) {
        for character in text.chars() {
            if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
    }

    fn end(mut self) -> String {
        if self.0.len() >= LONGEST_LINE {
            let cut = (0..LONGEST_LINE - 4).rev().find(|at| self.0.is_char_boundary(*at)).unwrap_or(0);
            self.0.truncate(cut);
            self.0.push_str("...");
        }
        self.0.push('\n');
        self.0
    }
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let value = value.to_string();
        let plain =
            !value.is_empty() && value.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=');
        if plain {
            write!(self.0, " {key}={value}")?;
        } else {
            write!(self.0, " {key}={value:?}")?;
        }
        Ok(())
    }
}

/// Where lines go. A line for a stream whose reader stands still is given up after [`PATIENCE_MS`], the following ones at
/// once: whoever logs is never held up for long.
#[derive(Debug, Clone)]
struct Output(Arc<Mutex<Place>>);

#[derive(Debug)]
enum Place {
    File { file: File, path: PathBuf },
    Stream { stream: File, lost: u64 },
}

impl Output {
    fn open(error_log: Option<&Path>) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Place::open(error_log)?))))
    }

    fn reopen(&self) -> io::Result<()> {
        if let Place::File { file, path } = &mut *self.0.lock() {
            *file = append_to(path)?;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock() {
            Place::File { file, .. } => file.write_all(line)?,
            Place::Stream { stream, lost } => write_if_ready(stream, lost, line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Place {
    fn open(error_log: Option<&Path>) -> io::Result<Self> {
        match error_log {
            Some(path) => Ok(Self::File { file: append_to(path)?, path: path.to_owned() }),
            None => Self::stream(io::stderr()),
        }
    }

    fn stream(stream: impl AsFd) -> io::Result<Self> {
        Ok(Self::Stream { stream: File::from(stream.as_fd().try_clone_to_owned()?), lost: 0 })
    }
}

fn write_if_ready(stream: &mut File, lost: &mut u64, line: &[u8]) {
    let patience = if *lost > 0 { PollTimeout::ZERO } else { PollTimeout::from(PATIENCE_MS) };
    if !is_ready(stream, patience) {
        *lost += 1;
        return;
    }
    if *lost > 0 {
        let confession =
            format!("{} WARN  log lines of this log were lost count={lost}\n", timestamp(SystemTime::now()));
        if stream.write_all(confession.as_bytes()).is_err() || !is_ready(stream, PollTimeout::ZERO) {
            *lost += 1;
            return;
        }
        *lost = 0;
    }
    if stream.write_all(line).is_err() {
        *lost += 1;
    }
}

fn is_ready(stream: &File, patience: PollTimeout) -> bool {
    let mut wanted = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    let ready = nix::poll::poll(&mut wanted, patience).is_ok_and(|count| count > 0);
    ready && wanted[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::time::{Duration, Instant, UNIX_EPOCH};

    use log::Level;

    use super::*;

    fn time() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_769_860_800_120)
    }

    fn speak(logger: &Logger, level: Level, target: &str, text: &str) {
        logger.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    }

    /// What of `records` a log of this level writes, as the texts.
    fn written(level: LevelFilter, rules: Option<&str>, records: &[(Level, &str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("error.log");
        let logger = logger(level, rules, &Output::open(Some(&path)).unwrap());
        for (level, target, text) in records {
            speak(&logger, *level, target, text);
        }
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.splitn(4, [' ']).last().unwrap().trim_start().to_owned()).collect()
    }

    #[test]
    fn a_line_is_time_level_room_message_and_facts() {
        let facts = [("listener", "public"), ("error", "no such file: \"x\"\n")];
        let record = Record::builder()
            .level(Level::Warn)
            .target("roundel::server::listen")
            .args(format_args!("the listener is closed"))
            .key_values(&facts)
            .build();
        assert_eq!(
            line(time(), &record),
            "2026-01-31T12:00:00.120Z WARN  server the listener is closed listener=public \
             error=\"no such file: \\\"x\\\"\\n\"\n"
        );
    }

    #[test]
    fn a_record_is_one_line_of_bounded_length() {
        let hostile = "a\nb\r\u{1b}[2J\u{2028}é".repeat(1000);
        let record = Record::builder().level(Level::Error).target("pingora_core").args(format_args!("")).build();
        assert!(line(time(), &record).ends_with("ERROR pingora_core \n"));
        let mut whole = Line(String::new());
        whole.push_on_one_line(&hostile);
        let whole = whole.end();
        assert!(whole.len() <= LONGEST_LINE);
        assert_eq!(whole.find(|c: char| c.is_control() || c == '\u{2028}'), Some(whole.len() - 1));
    }

    #[test]
    fn what_pingora_tells_of_each_request_is_left_out() {
        let listening = "pingora_core::services::listening";
        let records = [
            (Level::Info, "pingora_core::server", "Server starting"),
            (Level::Warn, "pingora_core::server", "careful"),
            (Level::Error, "pingora_proxy", "Fail to proxy: x"),
            (Level::Error, listening, "Downstream handshake error: x"),
            (Level::Error, listening, "Accept() failed x"),
            (Level::Info, "roundel::server", "ready"),
            (Level::Debug, "roundel::server", "detail"),
        ];
        let told = written(LevelFilter::Info, None, &records).join("|");
        assert!(told.contains("careful") && told.contains("Accept() failed") && told.contains("ready"), "{told}");
        assert_eq!(told.matches('|').count(), 2, "{told}");
        assert_eq!(written(LevelFilter::Debug, None, &records).len(), records.len());
    }

    #[test]
    fn rust_log_decides_in_place_of_the_level() {
        let records = [
            (Level::Info, "roundel::server", "ready"),
            (Level::Error, "pingora_core::services::listening", "Downstream handshake error: x"),
            (Level::Error, "pingora_proxy", "Fail to proxy: x"),
        ];
        assert_eq!(written(LevelFilter::Info, Some("error,pingora_proxy=off"), &records).len(), 1);
        assert_eq!(written(LevelFilter::Off, Some("info"), &records).len(), 3);
    }

    #[test]
    fn reopen_writes_to_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("error.log"), dir.path().join("error.log.1"));
        let mut output = Output::open(Some(&path)).unwrap();
        output.write_all(b"old\n").unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        output.reopen().unwrap();
        output.write_all(b"new\n").unwrap();
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(&rotated), read(&path)), ("old\n".to_owned(), "new\n".to_owned()));
    }

    #[test]
    fn a_reader_that_stands_still_never_blocks_and_learns_what_it_missed() {
        let (reader, writer) = io::pipe().unwrap();
        let mut output = Output(Arc::new(Mutex::new(Place::stream(&writer).unwrap())));
        drop(writer);
        let line = format!("{}\n", "x".repeat(999));
        let begin = Instant::now();
        for _ in 0..1000 {
            output.write_all(line.as_bytes()).unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(5));
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        // A pipe is ready again when a page of it is free.
        assert!(lines.by_ref().take(16).all(|line| line.starts_with('x')));
        output.write_all(b"last\n").unwrap();
        drop(output);
        let rest: Vec<String> = lines.skip_while(|line| line.starts_with('x')).collect();
        assert!(rest[0].contains("lines of this log were lost count="), "{rest:?}");
        assert_eq!(rest[1], "last");
    }
}
