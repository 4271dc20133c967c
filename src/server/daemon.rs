//! Going into the background, with an honest exit status: the parent waits until the daemon says that it has started, or
//! why it has not, and tells the shell.
//!
//! Pingora can do this too, but its parent has left before a port turns out to be taken.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{ForkResult, fork, pipe, setsid};
use parking_lot::Mutex;

/// What the daemon writes to its parent when it has started.
const STARTED: &[u8] = b"\0";

/// Tells the parent how the start went. Without a parent (in the foreground) it tells nobody.
#[derive(Debug, Clone, Default)]
pub struct Parent(Arc<Mutex<Option<File>>>);

impl Parent {
    /// The daemon has started: the parent leaves with success.
    pub fn started(&self) {
        self.tell(STARTED);
    }

    /// The daemon has failed: the parent repeats `why` and leaves with failure. Whether there was a parent to tell.
    #[must_use]
    pub fn failed(&self, why: &str) -> bool {
        self.tell(why.as_bytes())
    }

    fn tell(&self, message: &[u8]) -> bool {
        let Some(mut pipe) = self.0.lock().take() else { return false };
        // A parent that was killed meanwhile hears nothing; the daemon goes on.
        let _ = pipe.write_all(message);
        true
    }
}

/// Which side of the fork this is.
pub enum Side {
    /// The process that was started: it leaves with this status.
    Parent(ExitCode),
    /// The daemon.
    Daemon(Parent),
}

/// Forks into the background. Must be called before any thread is started: threads do not survive a fork.
///
/// # Errors
/// The system refuses a pipe, a fork or a session.
pub fn daemonize(patience: Duration) -> std::io::Result<Side> {
    let (read, write) = pipe()?;
    // SAFETY: no thread has been started, so that the child has everything it needs.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(write);
            Ok(Side::Parent(wait_for(read, patience)))
        }
        ForkResult::Child => {
            drop(read);
            setsid()?;
            // SAFETY: as above. The second fork gives up the right to a terminal.
            if let ForkResult::Parent { .. } = unsafe { fork() }? {
                std::process::exit(0);
            }
            Ok(Side::Daemon(Parent(Arc::new(Mutex::new(Some(File::from(write)))))))
        }
    }
}

/// Lets go of the terminal and goes to the directory that is written. Done before anything takes a copy of stdout or stderr, such
/// as a log: whoever reads the other end of a pipe would wait for its end as long as the daemon lives. Errors of the start are
/// told to the parent.
///
/// # Errors
/// The directory cannot be entered, or `/dev/null` cannot be opened.
pub fn detach(working_directory: Option<&Path>) -> std::io::Result<()> {
    if let Some(directory) = working_directory {
        std::env::set_current_dir(directory).map_err(|error| {
            let directory = directory.display();
            std::io::Error::other(format!(
                "server.working_directory {directory}: {error} (write a directory that may be entered)"
            ))
        })?;
    }
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

fn wait_for(pipe: OwnedFd, patience: Duration) -> ExitCode {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut message = Vec::new();
        let read = File::from(pipe).read_to_end(&mut message);
        // The receiver may have given up; then the process is about to end.
        let _ = sender.send(read.map(|_| message));
    });
    match receiver.recv_timeout(patience) {
        Ok(Ok(message)) if message == STARTED => ExitCode::SUCCESS,
        Ok(Ok(message)) if message.is_empty() => complain("the daemon ended before it had started"),
        Ok(Ok(message)) => complain(&String::from_utf8_lossy(&message)),
        Ok(Err(error)) => complain(&format!("nothing is known of the daemon: {error}")),
        Err(_) => complain(&format!(
            "the daemon was not ready within {}s, and goes on (see its log; its pid file tells whom to stop)",
            patience.as_secs()
        )),
    }
}

fn complain(why: &str) -> ExitCode {
    // Who has closed stderr does not want to know.
    let _ = writeln!(std::io::stderr(), "roundel: {why}");
    ExitCode::FAILURE
}
