//! The socket pair between an old and a new process: whole messages, with descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, getsockopt,
    recvmsg, sendmsg, shutdown, socketpair, sockopt,
};

use super::message::Message;

/// The most descriptors in one message; the kernel allows 253.
pub const MOST_DESCRIPTORS: usize = 64;
/// The longest message: more than the names of so many sockets, less than a socket's buffer.
const LONGEST: usize = 64 * 1024;
/// The longest reason that is told; the rest is in the log.
const LONGEST_REASON: usize = 32 * 1024;
/// The most that is read from a memory file.
const LARGEST_FILE: u64 = 512 * 1024 * 1024;

/// One end of the pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(one), Self(other)))
    }

    /// The end that this process was started with.
    ///
    /// # Errors
    /// The descriptor is none of such a pair.
    pub fn inherited(fd: RawFd) -> io::Result<Self> {
        let alien = || io::Error::other(format!("descriptor {fd} is no end of a hand-over"));
        if fd <= 2 {
            return Err(alien());
        }
        // SAFETY: nothing has opened or closed a descriptor of this number since the process was started; where it is none at
        // all, the next call says so.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|_| alien())?;
        if getsockopt(&borrowed, sockopt::SockType).ok() != Some(SockType::SeqPacket) {
            return Err(alien());
        }
        // SAFETY: it is open, as the calls above have shown, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The other end is closed, or takes nothing for so long that it must hang.
    pub fn send(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let deadline = Instant::now() + SENDING;
        loop {
            match sendmsg::<UnixAddr>(self.fd(), &[IoSlice::new(&bytes)], control, flags, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, deadline)?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives the next message, with the descriptors that come along.
    ///
    /// # Errors
    /// `UnexpectedEof` where the other end is closed, `TimedOut` at the deadline; or what comes is no message.
    pub fn receive(&self, deadline: Instant) -> io::Result<(Message, Vec<OwnedFd>)> {
        let mut bytes = vec![0; LONGEST];
        loop {
            self.wait(PollFlags::POLLIN, deadline)?;
            match self.take(&mut bytes) {
                // Told once where the other end was closed before it had read everything; what it said before comes next.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNRESET) => {}
                Err(error) => return Err(error.into()),
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((read, descriptors)) => return Ok((serde_json::from_slice(&bytes[..read])?, descriptors)),
            }
        }
    }

    fn take(&self, bytes: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
        let mut control = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let received = recvmsg::<UnixAddr>(self.fd(), &mut parts, Some(&mut control), flags)?;
        let mut descriptors = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                // SAFETY: the descriptors were received just now and belong to nobody else.
                descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        if received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Err(Errno::EMSGSIZE);
        }
        Ok((received.bytes, descriptors))
    }

    fn wait(&self, events: PollFlags, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the last wait is not a busy one.
        let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        let mut polled = [PollFd::new(self.0.as_fd(), events)];
        match poll(&mut polled, PollTimeout::from(millis)) {
            Ok(0) if Instant::now() >= deadline => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says why it ends, cut to what a message can bear.
    ///
    /// # Errors
    /// The other end is closed.
    pub fn fail(&self, why: &str) -> io::Result<()> {
        let end = (0..=LONGEST_REASON.min(why.len())).rfind(|end| why.is_char_boundary(*end)).unwrap_or_default();
        self.send(&Message::Failed { why: why[..end].trim_end().to_owned() }, &[])
    }

    /// Ends the conversation for both, from any thread: whoever receives, hears no more.
    pub fn hang_up(&self) {
        // It fails only where it is closed already.
        let _ = shutdown(self.fd(), Shutdown::Both);
    }
}

/// How long a message may wait for room: the other end has nothing to do but to read.
const SENDING: Duration = Duration::from_secs(5);

/// A file in memory with this content, to be sent along with a message.
///
/// # Errors
/// The system has no memory or no descriptor left.
pub fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create("roundel-estate", MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content)?;
    Ok(file.into())
}

/// The content of such a file.
///
/// # Errors
/// It cannot be read, or is too large to be meant.
pub fn read_memory_file(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::from(fd);
    file.seek(SeekFrom::Start(0))?;
    let mut content = Vec::new();
    if Read::take(&mut file, LARGEST_FILE).read_to_end(&mut content)? as u64 == LARGEST_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn messages_arrive_whole_in_order_and_with_their_descriptors() {
        let (old, new) = Channel::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let many = vec![listener.as_fd(); MOST_DESCRIPTORS];
        let sockets =
            Message::Sockets { names: vec!["unix:/a/rather/long/path/of/a/socket".repeat(3); MOST_DESCRIPTORS] };
        old.send(&Message::Ready, &[]).unwrap();
        old.send(&sockets, &many).unwrap();

        assert_eq!(new.receive(soon()).unwrap().0, Message::Ready);
        let (message, descriptors) = new.receive(soon()).unwrap();
        assert_eq!((message, descriptors.len()), (sockets, MOST_DESCRIPTORS));
        let copy = std::net::TcpListener::from(descriptors.into_iter().next().unwrap());
        assert_eq!(copy.local_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[test]
    fn an_end_that_is_closed_or_silent_is_told_apart() {
        let (old, new) = Channel::pair().unwrap();
        assert_eq!(new.receive(Instant::now()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        old.send(&Message::Cancelled, &[]).unwrap();
        drop(old);
        assert_eq!(new.receive(soon()).unwrap().0, Message::Cancelled);
        assert_eq!(new.receive(soon()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_last_words_of_an_end_that_did_not_listen_arrive() {
        let (old, new) = Channel::pair().unwrap();
        old.send(&Message::Ready, &[]).unwrap();
        new.fail("no such file").unwrap();
        drop(new);
        assert_eq!(old.receive(soon()).unwrap().0, Message::Failed { why: "no such file".into() });
        assert_eq!(old.receive(soon()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn hanging_up_ends_a_wait_in_another_thread() {
        let (old, _new) = Channel::pair().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| old.receive(soon()).map(|(message, _)| message));
            old.hang_up();
            assert!(waiting.join().unwrap().is_err());
        });
    }

    #[test]
    fn a_long_reason_is_cut_and_arrives() {
        let (old, new) = Channel::pair().unwrap();
        new.fail(&"é".repeat(LONGEST)).unwrap();
        let Message::Failed { why } = old.receive(soon()).unwrap().0 else { unreachable!() };
        assert_eq!(why.len(), LONGEST_REASON);
    }

    #[test]
    fn what_is_no_end_of_a_pair_is_refused() {
        assert!(Channel::inherited(0).is_err());
        assert!(Channel::inherited(9999).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(Channel::inherited(file.as_raw_fd()).is_err());
    }

    #[test]
    fn a_memory_file_carries_more_than_a_message() {
        let content = vec![7; 3_000_000];
        assert_eq!(read_memory_file(memory_file(&content).unwrap()).unwrap(), content);
    }
}
