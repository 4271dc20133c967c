//! What systemd is told of the process: ready, reloading, stopping, alive, and which process is the main one.
//!
//! The protocol is that of `sd_notify(3)`: datagrams of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names. Without that
//! variable nobody is told anything.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::pipe2;

/// How long systemd may take to read what it was told.
const PATIENCE_MS: u16 = 5_000;

/// Whoever supervises the process.
#[derive(Debug, Clone, Default)]
pub struct Notify {
    socket: Option<SocketName>,
    watchdog: Option<Duration>,
}

#[derive(Debug, Clone)]
struct SocketName(OsString);

impl Notify {
    /// Whom the environment names.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::read(&|name| std::env::var_os(name), std::process::id())
    }

    fn read(environment: &dyn Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let text = |name: &str| environment(name).and_then(|value| value.into_string().ok());
        // A watchdog that names another process is not for this one.
        let ours = text("WATCHDOG_PID").is_none_or(|value| value.parse() == Ok(pid));
        let micros = text("WATCHDOG_USEC").filter(|_| ours).and_then(|value| value.parse().ok());
        Self {
            socket: environment("NOTIFY_SOCKET").filter(|name| !name.is_empty()).map(SocketName),
            watchdog: micros.filter(|micros| *micros > 0).map(Duration::from_micros),
        }
    }

    /// Whether somebody is told.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// How often the process must say that it is alive: half of what it may be silent for. None: nobody wants to know.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.is_heard()).map(|silence| silence / 2)
    }

    /// Clients are served.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again; [`Notify::ready`] ends it.
    pub fn reloading(&self) {
        // systemd asks for the time so that it can tell this from an earlier `READY=1`.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", now.as_micros()));
    }

    /// The process is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// The process is alive.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// Another process is the main one from now on. Returns when systemd knows it, or after five seconds: were this process
    /// to end before, systemd would take that for the end of the service.
    pub fn main_pid(&self, pid: u32, status: &str) {
        let Some(name) = &self.socket else { return };
        self.tell(&format!("MAINPID={pid}\nSTATUS={status}"));
        if let Err(error) = name.barrier() {
            log::warn!("systemd may not have heard of the new main process: {error}");
        }
    }

    fn tell(&self, message: &str) {
        let Some(name) = &self.socket else { return };
        if let Err(error) = name.send(message) {
            log::warn!("cannot notify: socket={} error=\"{error}\"", name.0.display());
        }
    }
}

impl SocketName {
    /// A path, or with a leading `@` a name in the abstract namespace.
    fn address(&self) -> io::Result<SocketAddr> {
        match self.0.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            path => SocketAddr::from_pathname(std::path::Path::new(std::ffi::OsStr::from_bytes(path))),
        }
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&self.address()?)?;
        Ok(socket)
    }

    fn send(&self, message: &str) -> io::Result<()> {
        let socket = self.connect()?;
        // A supervisor that does not read must not hold up the proxy.
        socket.set_nonblocking(true)?;
        socket.send(message.as_bytes()).map(drop)
    }

    /// Waits until all that was sent has been read: the other end of a pipe goes along, and systemd closes it when it comes to
    /// it.
    fn barrier(&self) -> io::Result<()> {
        let socket = self.connect()?;
        let (ours, theirs) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let rights = [theirs.as_raw_fd()];
        sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(b"BARRIER=1")],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        drop(theirs);
        let mut closed = [PollFd::new(ours.as_fd(), PollFlags::empty())];
        match poll(&mut closed, PollTimeout::from(PATIENCE_MS))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(pairs: &[(&str, &str)]) -> Notify {
        let value = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into());
        Notify::read(&value, 7)
    }

    #[test]
    fn nobody_is_told_without_a_socket() {
        let silent = notify(&[("WATCHDOG_USEC", "1000000")]);
        silent.ready("serving");
        silent.main_pid(1, "serving");
        assert!(!silent.is_heard());
        assert_eq!(silent.watchdog(), None);
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let of = |pairs: &[(&str, &str)]| notify(&[pairs, &[("NOTIFY_SOCKET", "/s")]].concat()).watchdog();
        assert_eq!(of(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "7")]), Some(Duration::from_millis(1500)));
        assert_eq!(of(&[("WATCHDOG_USEC", "3000000")]), Some(Duration::from_millis(1500)));
        assert_eq!(of(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "8")]), None);
        assert_eq!(of(&[("WATCHDOG_USEC", "soon")]), None);
    }

    #[test]
    fn messages_reach_the_socket_and_the_barrier_waits_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notify = notify(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
        let receive = || {
            let mut bytes = [0; 256];
            let read = socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..read]).into_owned()
        };
        notify.ready("serving");
        assert_eq!(receive(), "READY=1\nSTATUS=serving");
        notify.reloading();
        assert!(receive().starts_with("RELOADING=1\nMONOTONIC_USEC="));

        std::thread::scope(|scope| {
            let telling = scope.spawn(|| notify.main_pid(42, "serving"));
            assert_eq!(receive(), "MAINPID=42\nSTATUS=serving");
            assert!(!telling.is_finished());
            // Read without taking the descriptor: the kernel closes it.
            assert_eq!(receive(), "BARRIER=1");
            telling.join().unwrap();
        });
    }

    #[test]
    fn an_abstract_name_is_one() {
        let address = SocketName("@roundel".into()).address().unwrap();
        assert_eq!(address.as_abstract_name(), Some(&b"roundel"[..]));
    }
}
