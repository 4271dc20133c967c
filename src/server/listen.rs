//! Listening sockets: bound before anything else happens, opened when the backends have been probed.
//!
//! Binding comes first so that a port that is taken, or a directory that cannot be written, ends the start at once with one
//! clear line (Pingora binds inside a task, and a process whose bind failed lives on without listening). A socket that is
//! bound and not yet listening refuses connections, which tells a load balancer in front the truth.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use pingora_core::server::Fds;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::config::plan::ListenAddress;
use crate::edge::transport::Transport;

/// The longest queue of connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// Pingora's protocol hands over at most 32 descriptors, one of which is the pipe of [`WORD`].
const MOST_SOCKETS: usize = 32 - 1;
/// Pingora's protocol sends the names of the sockets in a buffer of this size, and cuts what does not fit.
const MOST_NAME_BYTES: usize = 2048;

/// The name under which the pipe for the new process's word goes along with the sockets: no address looks like it.
const WORD: &str = "serving";
/// The word.
const SERVING: &[u8] = b"serving\n";

/// A socket that is bound to its address.
#[derive(Debug)]
pub struct Bound {
    /// Its address.
    pub address: ListenAddress,
    socket: Socket,
    /// Whether it was handed over by an old process and listens already.
    inherited: bool,
    file: Option<SocketFile>,
}

/// The file of a unix socket. It is removed with the value, unless another process has put its own in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() })
    }

    /// Leaves the file where it is: it is another process's now.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            // A file that cannot be removed is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The files of sockets that another process listens on, and nobody will once it is gone. They stay unless told otherwise.
#[derive(Debug, Default)]
pub struct Abandoned(Vec<SocketFile>);

impl Abandoned {
    /// That process is gone, or as good as gone.
    pub fn remove(mut self) {
        self.0.clear();
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        std::mem::take(&mut self.0).into_iter().for_each(SocketFile::leave);
    }
}

/// Who may connect to a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody who may enter its directory.
    Anybody,
    /// The user of this process alone.
    Owner,
}

impl Bound {
    /// Takes over the socket of an address from an old process where it handed one over, else binds a new one.
    ///
    /// # Errors
    /// The address cannot be bound; the error says which and why.
    pub fn claim(address: &ListenAddress, access: Access, inherited: &mut Inherited) -> io::Result<Self> {
        if let Some(socket) = inherited.take(address) {
            // A process that was ending may have left one: see `Listening::take_no_more`.
            let _ = socket.detach_filter();
            return Ok(Self { address: address.clone(), socket, inherited: true, file: None });
        }
        Self::bind(address, access)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {}: {}", address, reason(&error))))
    }

    /// Binds a new socket beside those of this process that would be in its way: a listener that moves from one address of a
    /// port to all of them, or back, listens at both for a moment.
    ///
    /// # Errors
    /// As for [`Bound::claim`].
    pub fn beside(address: &ListenAddress, access: Access, neighbours: &[&Listening]) -> io::Result<Self> {
        // The kernel lets sockets of one user share a port where all of them agree; they do so only for now.
        let _agreement = neighbours.iter().map(|socket| Agreement::of(socket)).collect::<io::Result<Vec<_>>>()?;
        Self::bind_shared(address, access, !neighbours.is_empty())
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {}: {}", address, reason(&error))))
    }

    fn bind(address: &ListenAddress, access: Access) -> io::Result<Self> {
        Self::bind_shared(address, access, false)
    }

    fn bind_shared(address: &ListenAddress, access: Access, shares: bool) -> io::Result<Self> {
        let (socket, file) = match address {
            ListenAddress::Inet(inet) => {
                let socket = Socket::new(Domain::for_address(*inet), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                if inet.is_ipv6() {
                    // "[::]" means IPv6: an IPv4 listener beside it must be able to have the same port.
                    socket.set_only_v6(true)?;
                }
                if shares {
                    socket.set_reuse_port(true)?;
                    socket.bind(&(*inet).into())?;
                    socket.listen(BACKLOG)?;
                    socket.set_reuse_port(false)?;
                } else {
                    socket.bind(&(*inet).into())?;
                }
                (socket, None)
            }
            ListenAddress::Unix(path) => bind_unix(path, access)?,
        };
        socket.set_nonblocking(true)?;
        Ok(Self { address: address.clone(), socket, inherited: false, file })
    }

    /// The address as it is: with the port that the system chose where port 0 was asked for.
    #[must_use]
    pub fn local(&self) -> ListenAddress {
        match self.socket.local_addr().ok().and_then(|address| address.as_socket()) {
            Some(inet) => ListenAddress::Inet(inet),
            None => self.address.clone(),
        }
    }

    /// Whether an old process handed it over. It listens already, and the old process may serve there still.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Takes charge of the file of a unix socket; one that was handed over brings its file along.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        match &self.address {
            ListenAddress::Unix(path) if self.inherited => SocketFile::at(path).ok(),
            _ => self.file.take(),
        }
    }

    /// Begins to accept connections.
    ///
    /// # Errors
    /// Another process began to listen on the address meanwhile.
    pub fn listen(self) -> io::Result<Listening> {
        if !self.inherited {
            self.socket.listen(BACKLOG)?;
        }
        self.socket.set_nonblocking(true)?;
        let listening = match self.address {
            ListenAddress::Inet(_) => {
                // Its connections inherit it, which saves each of them a system call: they send what they have at once.
                self.socket.set_tcp_nodelay(true)?;
                Listening::Tcp(tokio::net::TcpListener::from_std(self.socket.into())?)
            }
            ListenAddress::Unix(_) => Listening::Unix(tokio::net::UnixListener::from_std(self.socket.into())?),
        };
        Ok(listening)
    }

    /// The descriptor, once more.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }
}

/// A socket that lets others of this user have its port, as long as this lives.
struct Agreement<'a>(SockRef<'a>);

impl<'a> Agreement<'a> {
    fn of(listening: &'a Listening) -> io::Result<Self> {
        let socket = listening.socket();
        // Unix sockets have no ports.
        if matches!(listening, Listening::Tcp(_)) {
            socket.set_reuse_port(true)?;
        }
        Ok(Self(socket))
    }
}

impl Drop for Agreement<'_> {
    fn drop(&mut self) {
        // The system takes back what it has given.
        let _ = self.0.set_reuse_port(false);
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(tokio::net::TcpListener),
    /// A unix socket.
    Unix(tokio::net::UnixListener),
}

impl Listening {
    /// The next connection.
    ///
    /// # Errors
    /// The process is out of descriptors or memory, or the client is gone already.
    pub async fn accept(&self) -> io::Result<Transport> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Transport::Tcp(stream, peer)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Transport::Unix(stream)),
        }
    }

    fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener),
            Self::Unix(listener) => SockRef::from(listener),
        }
    }

    /// From now on the system takes no further connection into its queue: a client's SYN is dropped, and the one it sends a
    /// second later finds the socket closed, or another process. Without this, a connection that comes between the last look into the
    /// queue and the close is reset with its request. A TCP socket's filter sees the TCP header first (socket(7),
    /// `SO_ATTACH_FILTER`). Nobody else may listen on the same socket.
    pub fn take_no_more(&self) {
        /// Offset of the byte of flags in a TCP header (RFC 9293, 3.1), and its bits.
        const FLAGS: u32 = 13;
        const SYN: u32 = 0x02;
        const SYN_ACK: u32 = 0x12;
        let drop_syns = [
            filter::load_byte(FLAGS),
            filter::and(SYN_ACK),
            filter::skip_next_unless(SYN),
            filter::verdict(0),
            filter::verdict(u32::MAX),
        ];
        if let Self::Tcp(listener) = self {
            // Where the system cannot do it, the risk above remains.
            let _ = SockRef::from(listener).attach_filter(&drop_syns);
        }
    }

    /// What waits in its queue: to be taken before the socket is closed, as the system would reset it.
    #[must_use]
    pub fn waiting(&self) -> Vec<Transport> {
        let socket = self.socket();
        let mut waiting = Vec::new();
        while let Ok((stream, peer)) = socket.accept() {
            let transport = stream.set_nonblocking(true).and_then(|()| match peer.as_socket() {
                Some(peer) => tokio::net::TcpStream::from_std(stream.into()).map(|stream| Transport::Tcp(stream, peer)),
                None => tokio::net::UnixStream::from_std(stream.into()).map(Transport::Unix),
            });
            waiting.extend(transport);
        }
        waiting
    }

    /// The descriptor, once more.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn share(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener) => listener.as_fd().try_clone_to_owned(),
        }
    }
}

/// Instructions of the classic packet filter (bpf(4) of BSD; Linux: Documentation/networking/filter.rst).
mod filter {
    use nix::libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
    use socket2::SockFilter;

    pub(super) fn load_byte(offset: u32) -> SockFilter {
        SockFilter::new((BPF_LD | BPF_B | BPF_ABS) as u16, 0, 0, offset)
    }

    pub(super) fn and(mask: u32) -> SockFilter {
        SockFilter::new((BPF_ALU | BPF_AND | BPF_K) as u16, 0, 0, mask)
    }

    pub(super) fn skip_next_unless(equal: u32) -> SockFilter {
        SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, 1, equal)
    }

    /// How many bytes of the packet pass; zero: it is dropped.
    pub(super) fn verdict(bytes: u32) -> SockFilter {
        SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, bytes)
    }
}

fn bind_unix(path: &Path, access: Access) -> io::Result<(Socket, Option<SocketFile>)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let mode = match access {
        Access::Anybody => 0o666,
        Access::Owner => 0o600,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok((socket, Some(SocketFile::at(path)?)))
}

/// A socket file that nobody listens on any more is in the way; anything else is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is taken by something that is no socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The system's reason with what to do about it.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there already (stop it, or choose another address)".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied (a port below 1024 needs root or CAP_NET_BIND_SERVICE; a unix socket needs a directory \
             that can be written)"
                .into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address (write one of its own, or `0.0.0.0`)".into()
        }
        io::ErrorKind::NotFound => "the directory does not exist (create it, or choose another path)".into(),
        io::ErrorKind::InvalidInput => {
            "the path is too long for a socket (at most 107 bytes; set RUNTIME_DIRECTORY to a \
                                        shorter one where it lies there)"
                .into()
        }
        _ => error.to_string(),
    }
}

/// Sockets that an old process handed over, by their names.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<String, OwnedFd>);

/// What a new process tells the old one with: a pipe that comes along with the sockets. Where the new one ends without a
/// word, the pipe closes, and the old one serves on.
#[derive(Debug)]
pub struct Predecessor(fs::File);

impl Predecessor {
    /// This process serves: the old one may leave.
    pub fn relieve(&mut self) {
        // An old process that was killed meanwhile needs no word.
        let _ = self.0.write_all(SERVING);
    }
}

/// A new process that has the sockets and does not serve yet.
#[derive(Debug)]
pub struct Successor(pipe::Receiver);

impl Successor {
    /// Waits until it serves; false where it ended before.
    pub async fn serves(&mut self) -> bool {
        let mut word = [0; SERVING.len()];
        self.0.read_exact(&mut word).await.is_ok()
    }
}

impl From<Named> for Inherited {
    fn from(sockets: Named) -> Self {
        Self(sockets.into_iter().collect())
    }
}

impl Inherited {
    /// Waits at `path` for an old process to hand its sockets over (it does so on SIGQUIT).
    ///
    /// # Errors
    /// No process did so within about six seconds, or `path` cannot be listened on.
    pub fn receive(path: &Path) -> io::Result<Self> {
        let text = path.display().to_string();
        // Pingora panics where it cannot bind; whether it can is found out first.
        SockAddr::unix(path)?;
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let directory = path.parent().unwrap_or_else(|| Path::new("/"));
        nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK)?;
        let mut fds = Fds::new();
        fds.get_from_sock(text.as_str()).map_err(|error| {
            io::Error::other(format!(
                "no running process handed its sockets over at {text} within 6s ({error}); send it SIGQUIT once this \
                 process waits, or start without --upgrade"
            ))
        })?;
        let (names, raw) = fds.serialize();
        // SAFETY: the descriptors were received just now and belong to nobody else.
        let owned = raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self(names.into_iter().zip(owned).collect()))
    }

    /// The way to tell the old process that this one serves.
    pub fn predecessor(&mut self) -> Option<Predecessor> {
        self.0.remove(WORD).map(|pipe| Predecessor(pipe.into()))
    }

    fn take(&mut self, address: &ListenAddress) -> Option<Socket> {
        self.0.remove(&address.to_string()).map(Socket::from)
    }

    /// The names of what nobody has taken: the new configuration does not listen there any more.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The files of those unix sockets that nobody has taken.
    #[must_use]
    pub fn abandoned(&self) -> Abandoned {
        let paths = self.0.keys().filter_map(|name| name.strip_prefix("unix:"));
        Abandoned(paths.filter_map(|path| SocketFile::at(Path::new(path)).ok()).collect())
    }
}

/// Listening sockets by the names under which they are handed over: their addresses as written.
pub type Named = Vec<(String, OwnedFd)>;

/// Hands sockets over to the process that waits at `path`. Must be called within a Tokio runtime.
///
/// # Errors
/// Nobody took them; the error says why, and nothing has changed.
pub fn hand_over(sockets: &Named, path: &Path) -> io::Result<Successor> {
    let names: usize = sockets.iter().map(|(name, _)| name.len() + 1).sum();
    if sockets.len() > MOST_SOCKETS || names + WORD.len() + 1 > MOST_NAME_BYTES {
        return Err(io::Error::other(format!(
            "{} sockets are too many to hand over: at most {MOST_SOCKETS}, with {MOST_NAME_BYTES} bytes of names",
            sockets.len()
        )));
    }
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut fds = Fds::new();
    for (name, fd) in sockets {
        fds.add(name.clone(), fd.as_raw_fd());
    }
    fds.add(WORD.to_owned(), write.as_raw_fd());
    fds.send_to_sock(path.display().to_string().as_str()).map_err(io::Error::from)?;
    pipe::Receiver::from_owned_fd(read).map(Successor)
}

/// Whether a process waits at `path` for sockets. Connecting would use up the one connection that it accepts, so the
/// kernel's table is read (Linux).
#[must_use]
pub fn is_awaited(path: &Path) -> bool {
    // The flag 00010000 is __SO_ACCEPTCON: the socket listens.
    let suffix = format!(" {}", path.display());
    fs::read_to_string("/proc/net/unix").is_ok_and(|table| {
        table.lines().any(|line| line.ends_with(&suffix) && line.split_whitespace().nth(3) == Some("00010000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> ListenAddress {
        ListenAddress::Inet("127.0.0.1:0".parse().unwrap())
    }

    #[tokio::test]
    async fn a_taken_port_is_told_with_its_remedy() {
        let listening =
            Bound::claim(&any_port(), Access::Anybody, &mut Inherited::default()).unwrap().listen().unwrap();
        let Listening::Tcp(listener) = &listening else { unreachable!() };
        let taken = ListenAddress::Inet(listener.local_addr().unwrap());
        let error = Bound::claim(&taken, Access::Anybody, &mut Inherited::default()).unwrap_err().to_string();
        assert!(error.contains("another process listens there already"), "{error}");
    }

    #[tokio::test]
    async fn a_bound_socket_refuses_until_it_listens() {
        let bound = Bound::claim(&any_port(), Access::Anybody, &mut Inherited::default()).unwrap();
        let ListenAddress::Inet(address) = bound.local() else { unreachable!() };
        assert!(std::net::TcpStream::connect(address).is_err());
        let _listening = bound.listen().unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok());
    }

    #[tokio::test]
    async fn a_connection_sends_what_it_has_at_once_whichever_way_it_was_accepted() {
        let listening =
            Bound::claim(&any_port(), Access::Anybody, &mut Inherited::default()).unwrap().listen().unwrap();
        let Listening::Tcp(listener) = &listening else { unreachable!() };
        let address = listener.local_addr().unwrap();
        let first = std::net::TcpStream::connect(address).unwrap();
        let accepted = listening.accept().await.unwrap();
        let second = std::net::TcpStream::connect(address).unwrap();
        let waiting = listening.waiting();

        for (transport, client) in [(&accepted, &first), (&waiting[0], &second)] {
            let Transport::Tcp(stream, peer) = transport else { unreachable!() };
            assert!(stream.nodelay().unwrap());
            assert_eq!(*peer, client.local_addr().unwrap());
            assert_eq!(transport.local(), Some(address));
        }
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let address = ListenAddress::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let mut bound = Bound::claim(&address, Access::Owner, &mut Inherited::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let file = bound.take_file();
        let listening = bound.listen().unwrap();
        assert!(Bound::claim(&address, Access::Owner, &mut Inherited::default()).is_err());
        drop(listening);
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_listener_may_move_to_all_addresses_of_its_port_and_back() {
        let anew = |address: &ListenAddress, beside: &[&Listening]| {
            Bound::beside(address, Access::Anybody, beside).and_then(Bound::listen)
        };
        let one = anew(&any_port(), &[]).unwrap();
        let Listening::Tcp(listener) = &one else { unreachable!() };
        let port = listener.local_addr().unwrap().port();
        let all = ListenAddress::Inet((std::net::Ipv4Addr::UNSPECIFIED, port).into());
        assert!(anew(&all, &[]).unwrap_err().to_string().contains("another process"));
        let wide = anew(&all, &[&one]).unwrap();
        drop(one);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let narrow = ListenAddress::Inet((std::net::Ipv4Addr::LOCALHOST, port).into());
        let back = anew(&narrow, &[&wide]).unwrap();
        drop(wide);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(anew(&narrow, &[]).is_err(), "nobody else may share it afterwards");
        drop(back);
    }

    #[test]
    fn nobody_waits_where_there_is_no_socket() {
        assert!(!is_awaited(Path::new("/nonexistent/upgrade.sock")));
    }
}
