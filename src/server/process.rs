//! The process itself: its private directory, its pid file, its user.

use std::fs;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Group, Uid, User, chown, initgroups, setgid, setgroups, setuid};

use parking_lot::Mutex;

use crate::config::plan::{self, Plan};

/// Makes the private directory for sockets and the pid file, or checks that it is private.
///
/// # Errors
/// It cannot be made, or others could put something into it.
pub fn prepare_runtime_directory(path: &Path) -> io::Result<()> {
    let fault = |what: &str| io::Error::other(format!("runtime directory {}: {what}", path.display()));
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) => return Err(fault(&format!("cannot be made: {error} (set RUNTIME_DIRECTORY to one that can)"))),
    }
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Err(fault("is not a directory"));
    }
    let ours = Uid::effective().is_root() || meta.uid() == Uid::effective().as_raw();
    if !ours {
        return Err(fault("belongs to another user (set RUNTIME_DIRECTORY to one of your own)"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(fault("can be written by others (chmod 700)"));
    }
    Ok(())
}

/// Whether another process serves while this one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// None does.
    Afresh,
    /// One does, hands over by Pingora's protocol, and serves on where this one fails: the file names this process from the
    /// start, and the other one again where this one ends before it serves.
    InPlaceOfAnother,
    /// One does, and knows how this one fares: the file names this one when it has taken over ([`PidFile::claim`]).
    Heir,
}

/// The pid file; it is removed with the value, unless it names another process by then. Where it named the process whose
/// place this one was to take, it names that again, until [`PidFile::forget_predecessor`].
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    pid: u32,
    predecessor: Mutex<Option<String>>,
}

impl PidFile {
    /// Writes the pid of this process, or finds out that it could be written.
    ///
    /// # Errors
    /// The file cannot be written; the error names it.
    pub fn write(path: &Path, start: Start) -> io::Result<Self> {
        let predecessor = match start {
            Start::InPlaceOfAnother => fs::read_to_string(path).ok(),
            Start::Afresh | Start::Heir => None,
        };
        let file = Self { path: path.to_owned(), pid: std::process::id(), predecessor: Mutex::new(predecessor) };
        let written = if start == Start::Heir { try_beside(path) } else { replace(path, &file.text()) };
        written.map_err(|error| {
            io::Error::new(error.kind(), format!("pid file {}: cannot be written: {error}", path.display()))
        })?;
        Ok(file)
    }

    fn text(&self) -> String {
        format!("{}\n", self.pid)
    }

    /// Writes the pid of this process, whatever the file names.
    pub fn claim(&self) {
        if let Err(error) = replace(&self.path, &self.text()) {
            log::error!("pid file {}: cannot be written: {error}", self.path.display());
        }
    }

    /// Writes the pid of this process where the file names another: one that was to take its place, and has ended.
    pub fn claim_again(&self) {
        if !self.names_this_process() {
            self.claim();
        }
    }

    /// This process has taken the place of the one before.
    pub fn forget_predecessor(&self) {
        *self.predecessor.lock() = None;
    }

    fn names_this_process(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == self.pid.to_string())
    }
}

/// Finds out whether a file can be put in the place of this one, and leaves nothing behind.
fn try_beside(path: &Path) -> io::Result<()> {
    let fresh = fresh(path);
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
    fs::remove_file(&fresh)
}

fn fresh(path: &Path) -> PathBuf {
    path.with_extension(format!("pid.{}", std::process::id()))
}

/// A fresh file under another name takes the place of the old one: readers see one text or the other, whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = fresh(path);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // What cannot be removed bears the name of no pid file.
        let _ = fs::remove_file(&fresh);
    }
    written
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.names_this_process() {
            // What cannot be changed is replaced by the next start.
            let _ = match &*self.predecessor.lock() {
                Some(predecessor) => replace(&self.path, predecessor),
                None => fs::remove_file(&self.path),
            };
        }
    }
}

/// Raises the number of descriptors that the process may have to what the system allows it, and warns where that is less
/// than the connections that the plan allows may need: one to the client and one to a backend each.
pub fn raise_descriptor_limit(plan: &Plan) {
    let most: usize = plan.listeners.iter().map(|listener| listener.max_connections).sum();
    let needed = u64::try_from(most).unwrap_or(u64::MAX).saturating_mul(2);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard) } else { Ok(soft) }
    });
    match raised {
        Ok(limit) if limit < needed => log::warn!(
            "too few descriptors for all connections that are allowed: limit={limit} needed={needed} \
             (raise LimitNOFILE or `ulimit -Hn`, or lower max_connections)"
        ),
        Ok(_) => {}
        Err(error) => log::warn!("the limit on descriptors cannot be raised: {error}"),
    }
}

/// The highest descriptor that a client's connection may have: the system gives out the lowest that is free, so that a quarter is
/// left for connections to backends, files and operators, however many clients come.
#[must_use]
pub fn highest_descriptor_of_clients() -> RawFd {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    RawFd::try_from(limit - limit / 4).unwrap_or(RawFd::MAX)
}

/// The user and group to become.
#[derive(Debug, Clone)]
pub struct Identity {
    user: Option<User>,
    gid: Option<Gid>,
}

impl Identity {
    /// Looks the names of `server.user` and `server.group` up.
    ///
    /// # Errors
    /// A name is unknown, or this process may not become another user.
    pub fn of(server: &plan::Server) -> io::Result<Self> {
        let user = server.user.as_deref().map(find_user).transpose()?;
        let group = server.group.as_deref().map(find_group).transpose()?;
        let gid = group.or(user.as_ref().map(|user| user.gid));
        let me = Uid::effective();
        let changes =
            user.as_ref().is_some_and(|user| user.uid != me) || gid.is_some_and(|gid| gid != Gid::effective());
        if changes && !me.is_root() {
            return Err(io::Error::other("server.user and server.group need root (start as root, or leave them out)"));
        }
        Ok(Self { user, gid })
    }

    /// Gives a file or directory to the user.
    ///
    /// # Errors
    /// The system refuses.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        if self.user.is_none() && self.gid.is_none() {
            return Ok(());
        }
        chown(path, self.user.as_ref().map(|user| user.uid), self.gid).map_err(io::Error::from)
    }

    /// Gives a regular file or a socket to the user, where there is one; a device or a link (`/dev/null`) stays whose it is.
    ///
    /// # Errors
    /// The system refuses.
    pub fn own_file(&self, path: &Path) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() || meta.file_type().is_socket() => self.own(path),
            _ => Ok(()),
        }
    }

    /// Becomes the user, for good: supplementary groups, group, user, in this order.
    ///
    /// # Errors
    /// The system refuses.
    pub fn assume(&self) -> io::Result<()> {
        if !Uid::effective().is_root() {
            return Ok(());
        }
        if let Some(gid) = self.gid {
            match &self.user {
                Some(user) => {
                    let name = std::ffi::CString::new(user.name.as_str()).map_err(io::Error::other)?;
                    initgroups(&name, gid)?;
                }
                None => setgroups(&[gid])?,
            }
            setgid(gid)?;
        }
        if let Some(user) = &self.user {
            setuid(user.uid)?;
        }
        Ok(())
    }
}

fn find_user(name: &str) -> io::Result<User> {
    User::from_name(name)?.ok_or_else(|| io::Error::other(format!("server.user: there is no user `{name}`")))
}

fn find_group(name: &str) -> io::Result<Gid> {
    let group = Group::from_name(name)?;
    group.map(|group| group.gid).ok_or_else(|| io::Error::other(format!("server.group: there is no group `{name}`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_runtime_directory_is_made_private_and_refused_where_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        prepare_runtime_directory(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(prepare_runtime_directory(&path).unwrap_err().to_string().contains("written by others"));
    }

    #[test]
    fn the_pid_file_goes_with_its_process_and_not_with_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let file = PidFile::write(&path, Start::Afresh).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists());
        drop(PidFile::write(&path, Start::Afresh).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn an_upgrade_that_fails_gives_the_pid_file_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        fs::write(&path, "1\n").unwrap();
        drop(PidFile::write(&path, Start::InPlaceOfAnother).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        let file = PidFile::write(&path, Start::InPlaceOfAnother).unwrap();
        file.forget_predecessor();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn an_heir_leaves_the_pid_file_alone_until_it_has_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        fs::write(&path, "1\n").unwrap();
        drop(PidFile::write(&path, Start::Heir).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let file = PidFile::write(&path, Start::Heir).unwrap();
        file.claim();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        assert!(PidFile::write(&directory.path().join("none/x.pid"), Start::Heir).is_err());
    }

    #[test]
    fn an_unknown_user_is_told() {
        assert!(find_user("no-such-user-here").unwrap_err().to_string().contains("there is no user"));
    }
}
