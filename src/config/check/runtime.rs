//! The private directory of the process, and the names of its files there.

use std::path::{Path, PathBuf};

use crate::config::read::Environment;

/// Where the process keeps its pid file and sockets.
pub(super) struct Runtime {
    /// The directory, which only this user can enter once the process has made it.
    pub(super) directory: PathBuf,
    /// Eight hex digits that tell instances in one directory apart.
    pub(super) instance: String,
}

impl Runtime {
    /// The directory by the environment, the instance by the canonical path of the configuration.
    pub(super) fn of(source: &Path, environment: Environment<'_>) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(source.as_os_str().as_encoded_bytes());
        Self { directory: directory(environment), instance: format!("{:08x}", hash >> 32) }
    }

    /// The path of one of the process's files, such as `roundel-1a2b3c4d.pid`.
    pub(super) fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}-{}.{extension}", self.instance))
    }
}

fn directory(environment: Environment<'_>) -> PathBuf {
    let written = |name: &str| environment(name).filter(|value| value.starts_with('/'));
    // systemd lists several directories with colons between them; the first is the service's own.
    if let Some(list) = written("RUNTIME_DIRECTORY") {
        return PathBuf::from(list.split(':').next().unwrap_or(&list));
    }
    if let Some(directory) = written("XDG_RUNTIME_DIR") {
        return Path::new(&directory).join("roundel");
    }
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return PathBuf::from("/run/roundel");
    }
    let temporary = written("TMPDIR").unwrap_or_else(|| "/tmp".to_owned());
    Path::new(&temporary).join(format!("roundel-{user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_directory_follows_the_environment() {
        let env = |pairs: &'static [(&str, &str)]| {
            directory(&move |name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned()))
        };
        assert_eq!(env(&[("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("XDG_RUNTIME_DIR", "/x")]), Path::new("/run/a"));
        assert_eq!(env(&[("XDG_RUNTIME_DIR", "/run/user/1")]), Path::new("/run/user/1/roundel"));
        assert_eq!(env(&[("RUNTIME_DIRECTORY", "relative"), ("XDG_RUNTIME_DIR", "/x")]), Path::new("/x/roundel"));
        assert!(env(&[]).is_absolute());
    }

    #[test]
    fn two_configurations_have_two_instances() {
        let of = |path: &str| Runtime::of(Path::new(path), &|_| None);
        assert_eq!(of("/a.yaml").instance.len(), 8);
        assert_ne!(of("/a.yaml").instance, of("/b.yaml").instance);
    }
}
