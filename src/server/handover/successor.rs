//! The old process's side of an upgrade.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::channel::{Channel, MOST_DESCRIPTORS, memory_file};
use super::message::{Message, Offer, PROTOCOL};
use super::predecessor::VARIABLE;

/// How long a new process that has accepted clients already may take to finish with them, where the upgrade fails after all.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often a process that must end is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What the new process is started with.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The binary.
    pub binary: PathBuf,
    /// The configuration, by an absolute path.
    pub conf: PathBuf,
    /// Where this process keeps its pid file and sockets.
    pub runtime_directory: PathBuf,
}

/// What it is given.
pub struct Gifts {
    /// The listening sockets by their names.
    pub sockets: Vec<(String, OwnedFd)>,
    /// The generation that it begins with.
    pub generation: u64,
    /// What this process has learnt, asked for when the new one is ready for it.
    pub estate: Box<dyn Fn() -> Vec<u8> + Send>,
}

/// A new process that serves in place of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its process id.
    pub pid: u32,
    /// The generation of what it serves by.
    pub generation: u64,
    /// Its version.
    pub version: String,
}

/// How far a new process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Started,
    Taken,
    Ready,
    Serving,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "it had not taken the listening sockets yet",
            Self::Taken => "it had the listening sockets, and was not ready yet",
            Self::Ready => "it was ready, and had not opened its listeners yet",
            Self::Serving => "it served, and had not taken over yet",
        })
    }
}

/// An upgrade under way.
pub struct Attempt {
    channel: Arc<Channel>,
    theirs: Channel,
}

/// Calls an upgrade off, from another thread.
#[derive(Debug, Clone)]
pub struct Canceller(Arc<Channel>);

impl Canceller {
    /// The new process ends, and the attempt fails.
    pub fn cancel(&self) {
        // The new process may be gone already.
        let _ = self.0.send(&Message::Cancelled, &[]);
        self.0.hang_up();
    }
}

impl Attempt {
    /// Prepares an upgrade.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        Ok(Self { channel: Arc::new(ours), theirs })
    }

    /// What calls it off.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(self.channel.clone())
    }

    /// Starts the new process, and returns when it serves in place of this one. Blocks, for `patience` and a little more at
    /// the most.
    ///
    /// # Errors
    /// It does not; it has been ended, and nothing has changed. The error says why.
    pub fn run(self, launch: &Launch, gifts: &Gifts, patience: Duration) -> Result<Served, String> {
        let deadline = Instant::now() + patience;
        let mut child = start(launch, self.theirs.fd())
            .map_err(|error| format!("cannot start {}: {error}", launch.binary.display()))?;
        // Only the new process has that end now: its death closes it.
        drop(self.theirs);
        let mut stage = Stage::Started;
        let served = converse(&self.channel, child.id(), gifts, deadline, &mut stage);
        served.map_err(|broken| {
            let broken = last_words(&self.channel).map_or(broken, Broken::Failed);
            self.channel.hang_up();
            let ended = end(&mut child, stage);
            broken.told(stage, ended, patience)
        })
    }
}

/// How an attempt failed.
#[derive(Debug)]
enum Broken {
    /// The new process said why.
    Failed(String),
    /// The conversation ended.
    Io(io::Error),
    /// It is not whom we talk to.
    Impostor(u32),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Broken {
    fn told(self, stage: Stage, ended: Option<ExitStatus>, patience: Duration) -> String {
        let how = |status: ExitStatus| match (status.code(), status.signal()) {
            (Some(code), _) => format!("with status {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => "somehow".to_owned(),
        };
        match (self, ended) {
            (Self::Failed(why), _) => why,
            (Self::Impostor(pid), _) => format!("process {pid} answered in place of the one that was started"),
            (Self::Io(error), _) if error.kind() == io::ErrorKind::TimedOut => {
                format!("the new process did not serve within {}s ({stage})", patience.as_secs())
            }
            (Self::Io(_), Some(status)) => format!("the new process ended {}: {stage} (see the log)", how(status)),
            (Self::Io(error), None) => format!("the new process cannot be talked to: {error} ({stage})"),
        }
    }
}

/// Starts the new process: with the stdio, environment, directory and control group of this one.
fn start(launch: &Launch, theirs: RawFd) -> io::Result<Child> {
    let mut command = Command::new(&launch.binary);
    command.arg("-c").arg(&launch.conf).env(VARIABLE, format!("{theirs}:{}", std::process::id()));
    // It runs as this process's user, which may be another than the one that this process was started by (`server.user`): left
    // to itself, it would look for its sockets and pid file elsewhere, and commands would not find it.
    command.env("RUNTIME_DIRECTORY", &launch.runtime_directory);
    // It would say that the watchdog is another process's business.
    command.env_remove("WATCHDOG_PID");
    // SAFETY: fcntl is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            let end = BorrowedFd::borrow_raw(theirs);
            fcntl(end, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    command.spawn()
}

fn converse(
    channel: &Channel,
    pid: u32,
    gifts: &Gifts,
    deadline: Instant,
    stage: &mut Stage,
) -> Result<Served, Broken> {
    let offer = Offer {
        protocol: PROTOCOL,
        pid: std::process::id(),
        generation: gifts.generation,
        sockets: gifts.sockets.len(),
    };
    channel.send(&Message::Offer(offer), &[])?;
    for batch in gifts.sockets.chunks(MOST_DESCRIPTORS) {
        let names = batch.iter().map(|(name, _)| name.clone()).collect();
        let descriptors: Vec<_> = batch.iter().map(|(_, socket)| socket.as_fd()).collect();
        channel.send(&Message::Sockets { names }, &descriptors)?;
    }
    loop {
        match channel.receive(deadline)?.0 {
            Message::Taken { .. } => *stage = Stage::Taken,
            Message::Ready => {
                *stage = Stage::Ready;
                give_estate(channel, gifts)?;
            }
            Message::Serving { pid: said, generation, version } => {
                if said != pid {
                    return Err(Broken::Impostor(said));
                }
                *stage = Stage::Serving;
                channel.send(&Message::Relieved, &[])?;
                return confirm(channel, deadline, Served { pid, generation, version });
            }
            Message::Failed { why } => return Err(Broken::Failed(why)),
            other => return Err(unexpected(&other).into()),
        }
    }
}

/// Hands over what this process has learnt; without it the new one begins as at any start.
fn give_estate(channel: &Channel, gifts: &Gifts) -> io::Result<()> {
    match memory_file(&(gifts.estate)()) {
        Ok(file) => channel.send(&Message::Estate, &[file.as_fd()]),
        Err(error) => {
            log::warn!("the new process begins without what this one has learnt: {error}");
            channel.send(&Message::Estate, &[])
        }
    }
}

/// The new process has the last word: then it has taken over for good.
fn confirm(channel: &Channel, deadline: Instant, served: Served) -> Result<Served, Broken> {
    match channel.receive(deadline)?.0 {
        Message::Thanks => Ok(served),
        Message::Failed { why } => Err(Broken::Failed(why)),
        other => Err(unexpected(&other).into()),
    }
}

/// Why the new process could not serve, where it has said so and the conversation broke before that was heard.
fn last_words(channel: &Channel) -> Option<String> {
    loop {
        if let Message::Failed { why } = channel.receive(Instant::now()).ok()?.0 {
            return Some(why);
        }
    }
}

fn unexpected(message: &Message) -> io::Error {
    io::Error::other(format!("the new process says what is not expected now: {message:?}"))
}

/// Ends a new process that does not come to serve. One that has accepted clients may finish with them.
fn end(child: &mut Child, stage: Stage) -> Option<ExitStatus> {
    if let Some(status) = ended_within(child, LOOK * 20) {
        return Some(status);
    }
    if stage == Stage::Serving {
        signal(child, Signal::SIGTERM);
        if let Some(status) = ended_within(child, FAREWELL) {
            return Some(status);
        }
    }
    signal(child, Signal::SIGKILL);
    // A killed process cannot refuse; only its kernel can keep it waiting, and that no bound would help.
    let _ = child.wait();
    None
}

fn ended_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(LOOK),
            _ => return None,
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended since: it is our child, so that its number is nobody else's until we have waited for it.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

impl Launch {
    /// What this process was started with: the binary by the path that it was called by, so that a link or a file that is
    /// replaced leads to the new one.
    ///
    /// # Errors
    /// The path of the binary cannot be found out.
    pub fn of_this_process(conf: &Path, runtime_directory: &Path) -> io::Result<Self> {
        let running = std::env::current_exe()?;
        let called = std::env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
        let called = called.and_then(|path| std::path::absolute(path).ok()).or_else(|| found_in_path(&running));
        let same = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path == running);
        let binary = called.filter(same).unwrap_or(running);
        Ok(Self { binary, conf: conf.to_owned(), runtime_directory: runtime_directory.to_owned() })
    }
}

/// The path by which a shell would find this binary.
fn found_in_path(running: &Path) -> Option<PathBuf> {
    let name = std::env::args_os().next()?;
    let directories = std::env::var_os("PATH")?;
    let found =
        std::env::split_paths(&directories).map(|directory| directory.join(&name)).find(|path| path.is_file())?;
    (found.canonicalize().ok()? == running).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_known_by_an_absolute_path() {
        let launch = Launch::of_this_process(Path::new("/roundel.yaml"), Path::new("/run")).unwrap();
        assert!(launch.binary.is_absolute() && launch.binary.is_file());
    }

    fn gifts() -> Gifts {
        Gifts { sockets: Vec::new(), generation: 2, estate: Box::new(Vec::new) }
    }

    /// A shell in place of the proxy: `sh -c PROGRAM`.
    fn attempt(program: &str, patience: Duration) -> Result<Served, String> {
        let launch = Launch { binary: "/bin/sh".into(), conf: program.into(), runtime_directory: "/run".into() };
        Attempt::new().unwrap().run(&launch, &gifts(), patience)
    }

    #[test]
    fn a_new_process_that_ends_or_hangs_is_told() {
        let long = Duration::from_secs(60);
        let ended = attempt("exit 7", long).unwrap_err();
        assert!(ended.contains("ended with status 7"), "{ended}");
        let killed = attempt("kill -9 $$", long).unwrap_err();
        assert!(killed.contains("by signal 9"), "{killed}");
        let hung = attempt("exec sleep 600", Duration::from_millis(100)).unwrap_err();
        assert!(hung.contains("did not serve within"), "{hung}");
    }

    #[test]
    fn an_attempt_can_be_called_off() {
        let attempt = Attempt::new().unwrap();
        let canceller = attempt.canceller();
        let launch =
            Launch { binary: "/bin/sh".into(), conf: "exec sleep 600".into(), runtime_directory: "/run".into() };
        canceller.cancel();
        assert!(attempt.run(&launch, &gifts(), Duration::from_secs(60)).is_err());
    }

    #[test]
    fn a_binary_that_is_none_is_told() {
        let launch = Launch {
            binary: "/nonexistent/roundel".into(),
            conf: "/dev/null".into(),
            runtime_directory: "/run".into(),
        };
        let why = Attempt::new().unwrap().run(&launch, &gifts(), Duration::from_secs(60)).unwrap_err();
        assert!(why.contains("cannot start /nonexistent/roundel"), "{why}");
    }
}
