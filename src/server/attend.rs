//! What is left of the first process once another serves in its place: somebody who stays.
//!
//! Whoever started the proxy in the foreground knows one process: a shell, a supervisor, a container, whose end is the end of
//! its first process. So that process stays when it has drained: it passes signals on, collects those who end, and ends
//! with the status of the last. Under systemd, which is told of the new main process, and in the background it is not
//! needed.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::task::Poll;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{self, SignalKind, signal};

/// What is passed on.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// From now on children of children that lose their parent become ours: those that a later upgrade starts.
///
/// # Errors
/// The system refuses.
pub fn adopt() -> nix::Result<()> {
    prctl::set_child_subreaper(true)
}

/// Stays until no child is left, and returns the status of the last that ended.
///
/// # Errors
/// Signals cannot be listened for.
pub fn until_all_have_ended() -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::child())?;
        let mut passed_on = PASSED_ON.map(|kind| (kind, signal(SignalKind::from_raw(kind as i32))));
        let mut last = ExitCode::SUCCESS;
        // Those who ended before anybody listened are seen here too.
        while let Left::Some = collect(&mut last) {
            tokio::select! {
                _ = ended.recv() => {}
                signal = any(&mut passed_on) => pass_on(signal),
            }
        }
        Ok(last)
    })
}

/// The next signal that comes.
async fn any(signals: &mut [(Signal, io::Result<unix::Signal>)]) -> Signal {
    std::future::poll_fn(|cx| {
        for (kind, signal) in signals.iter_mut() {
            if let Ok(signal) = signal
                && signal.poll_recv(cx).is_ready()
            {
                return Poll::Ready(*kind);
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether children are left.
enum Left {
    Some,
    None,
}

/// Collects those who have ended.
fn collect(last: &mut ExitCode) -> Left {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => *last = ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
            // As a shell tells it.
            Ok(WaitStatus::Signaled(_, signal, _)) => *last = ExitCode::from(128_u8.saturating_add(signal as u8)),
            Ok(WaitStatus::StillAlive) => return Left::Some,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Left::None,
        }
    }
}

/// Sends a signal to all children.
pub fn pass_on(signal: Signal) {
    for child in children() {
        // It may have ended just now.
        let _ = kill(child, signal);
    }
}

/// The processes whose parent this one is.
fn children() -> Vec<Pid> {
    let me = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: &i32| parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default());
    pids.filter(|pid| parent(pid) == Some(me)).map(Pid::from_raw).collect()
}

/// The parent in a line of `/proc/PID/stat`: `PID (name) state parent ...`, where the name may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent_in("12 (a) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12 (a) S 9 (b c) R 7 12"), Some(7));
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(children().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
