//! By what a change of a file is seen, without reading it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells one state of a file from another: which file it is, its size, and when its content and its state (mode and owner
/// too) were changed last. A file that becomes readable has changed, and so has one whose old time of change was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The file at a path as it is now; symbolic links are followed: what they lead to counts.
    ///
    /// # Errors
    /// As the system says: it is missing, or a directory above it may not be entered.
    pub fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// How something looked when it was taken up. What differs from it counts as a change once it has looked the same twice: half of a
/// file that is being written is a file too, and a pair of files is often replaced in two steps.
#[derive(Debug)]
pub struct Settled<T> {
    looks: T,
    /// How it looks since it has changed and may still be changing.
    unrest: Option<T>,
}

impl<T: PartialEq + Clone> Settled<T> {
    /// Taken up as it looks.
    pub const fn new(looks: T) -> Self {
        Self { looks, unrest: None }
    }

    /// How it looked when it was taken up.
    pub const fn looks(&self) -> &T {
        &self.looks
    }

    /// How it looks `now`, where that is a change that has come to rest. It is one until it is taken up.
    pub fn rested(&mut self, now: T) -> Option<T> {
        if now == self.looks {
            self.unrest = None;
            return None;
        }
        let before = self.unrest.replace(now.clone());
        (before.as_ref() == Some(&now)).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    #[test]
    fn another_mode_and_a_time_that_was_set_back_are_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "one").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let first = Stamp::of(&path).unwrap();
        assert_eq!(first, Stamp::of(&path).unwrap());

        // The system's clock for files may stand still for some milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let second = Stamp::of(&path).unwrap();
        assert_ne!(first, second);

        std::thread::sleep(Duration::from_millis(20));
        fs::write(&path, "two").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_ne!(second, Stamp::of(&path).unwrap());

        fs::remove_file(&path).unwrap();
        assert!(Stamp::of(&path).is_err());
    }

    #[test]
    fn a_change_counts_once_it_looks_the_same_twice() {
        let mut settled = Settled::new('a');
        let looks = ['a', 'b', 'a', 'b', 'c', 'c', 'c'];
        let rested = looks.map(|now| settled.rested(now));
        assert_eq!(rested, [None, None, None, None, None, Some('c'), Some('c')]);
        assert_eq!(*settled.looks(), 'a');
    }
}
