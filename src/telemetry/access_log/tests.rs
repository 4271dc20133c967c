//! The promises of the access log: lines are whole, requests never wait, what is dropped is counted.

use std::fs;
use std::io::{PipeReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use super::record::tests::a_request;
use super::writer::QUEUE_BYTES;
use super::*;
use crate::config::plan::{LogFormat, LogPath};

/// Longer than anything here takes, short enough for a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn plan(path: LogPath) -> plan::AccessLog {
    plan::AccessLog { path, format: LogFormat::Json, sample: 1.0 }
}

fn to_file(path: &Path) -> AccessLog {
    AccessLog::open(&plan(LogPath::File(path.to_owned()))).unwrap()
}

fn to_pipe() -> (AccessLog, PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    let sink = Sink::stream(&writer, "a pipe").unwrap();
    (AccessLog::to_sink(&plan(LogPath::Stdout), sink), reader)
}

fn write_with_id(log: &AccessLog, request_id: &str) {
    log.write(&Record { request_id, ..a_request() });
}

/// The ids of the whole lines: the last may be on its way.
fn ids(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["request_id"].to_string())
        .collect()
}

fn wait_until(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_line_is_on_its_way_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = to_file(&path);
    for count in 1..=3 {
        let begin = Instant::now();
        write_with_id(&log, "x");
        wait_until(|| ids(&path).len() == count);
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn a_dropped_log_still_writes_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = to_file(&path);
    (0..1000).for_each(|_| log.write(&a_request()));
    drop(log);
    wait_until(|| ids(&path).len() == 1000);
}

#[test]
fn lines_of_many_threads_arrive_whole_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = to_file(&path);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || (0..2000).for_each(|n| write_with_id(log, &format!("{thread}-{n}"))));
        }
    });
    assert!(log.flush(PATIENCE));
    let mut ids = ids(&path);
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), log.dropped()), (8000, 0));
}

#[test]
fn reopen_writes_to_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = to_file(&path);
    write_with_id(&log, "old");
    assert!(log.flush(PATIENCE));
    fs::rename(&path, &rotated).unwrap();
    log.reopen();
    wait_until(|| path.exists());
    write_with_id(&log, "new");
    assert!(log.flush(PATIENCE));
    assert_eq!(ids(&rotated), ["\"old\""]);
    assert_eq!(ids(&path), ["\"new\""]);
}

#[test]
fn a_reopen_that_fails_goes_on_with_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = to_file(&path);
    fs::rename(&path, &rotated).unwrap();
    fs::create_dir(&path).unwrap();
    log.reopen();
    write_with_id(&log, "x");
    assert!(log.flush(PATIENCE));
    assert_eq!(ids(&rotated), ["\"x\""]);
}

#[test]
fn a_full_queue_drops_lines_and_counts_them() {
    let (log, mut reader) = to_pipe();
    let mut one = Vec::new();
    Format::new(&LogFormat::Json).write(&a_request(), &mut super::second::Second::new(), &mut one);
    let handed_over = 2 * QUEUE_BYTES / one.len();
    for _ in 0..handed_over {
        log.write(&a_request());
    }
    let dropped = log.dropped();
    assert!(dropped > 0);
    let arrives = (handed_over as u64 - dropped) * one.len() as u64;
    let mut arrived = Vec::new();
    assert_eq!(reader.by_ref().take(arrives).read_to_end(&mut arrived).unwrap() as u64, arrives);
    assert!(log.flush(PATIENCE));
    assert!(arrived.chunks(one.len()).all(|line| line == one));
}

/// The thread of a dropped log ends, and with it the pipe: its reader sees the end.
fn reads_to_the_end(mut reader: PipeReader) {
    let _ = reader.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_reader_that_stands_still_never_blocks() {
    let (log, reader) = to_pipe();
    let begin = Instant::now();
    (0..1000).for_each(|_| log.write(&a_request()));
    assert!(!log.flush(Duration::from_millis(10)));
    log.reopen();
    drop(log);
    assert!(begin.elapsed() < Duration::from_secs(1), "the end is not waited for");
    reads_to_the_end(reader);
}

#[test]
fn a_closed_pipe_never_blocks() {
    let (log, reader) = to_pipe();
    drop(reader);
    (0..100_000).for_each(|_| log.write(&a_request()));
    assert!(!log.flush(Duration::from_millis(10)));
}

#[test]
fn a_full_disk_is_tried_again_and_loses_nothing_that_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let log = to_file(&path);
    write_with_id(&log, "x");
    assert!(!log.flush(Duration::from_millis(10)));
    fs::remove_file(&path).unwrap();
    log.reopen();
    assert!(log.flush(PATIENCE));
    assert_eq!(ids(&path), ["\"x\""]);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn files_are_created_for_owner_and_group_only_and_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    for count in 1..=2 {
        let log = to_file(&path);
        log.write(&a_request());
        assert!(log.flush(PATIENCE));
        assert_eq!(ids(&path).len(), count);
    }
    // The process's umask may take bits away, never add some.
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error = AccessLog::open(&plan(LogPath::File("/nowhere/access.log".into()))).unwrap_err().to_string();
    assert!(error.contains("/nowhere/access.log"), "{error}");
}

#[test]
fn a_named_pipe_without_a_reader_is_an_error_and_no_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = AccessLog::open(&plan(LogPath::File(path))).unwrap_err().to_string();
    assert!(error.contains("nobody reads (start its reader first)"), "{error}");
}

#[test]
fn an_unused_log_has_no_thread_and_ends_at_once() {
    let (log, _reader) = to_pipe();
    assert!(log.flush(Duration::ZERO));
    drop(log);
}

#[test]
fn the_manual_lists_every_field_in_the_order_of_a_line() {
    let manual = include_str!("../../../docs/access-log.md");
    let listed = manual.lines().skip_while(|line| *line != "## Fields").take_while(|line| *line != "## Formats");
    let listed: Vec<&str> = listed.filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(listed, plan::LogField::ALL.map(|(_, name)| name));
}

#[test]
fn a_share_of_requests_is_logged() {
    let step = u64::MAX / 1000;
    let taken = |share| (0..1000).filter(|n| Sample::new(share).takes(n * step + step / 2)).count();
    assert_eq!([1.0, 0.25, 0.001, 0.0].map(taken), [1000, 250, 1, 0]);
}
