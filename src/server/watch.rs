//! `reload: watch`: reads the configuration again when a file that it comes from changes.
//!
//! The files are looked at, not subscribed to: so it does not matter how a change comes about (an editor that writes in
//! place or renames, a symbolic link that is turned, as Kubernetes does, a network file system that tells nobody), and a file
//! that is created beside the others is seen where `include` has a pattern for it. A change counts once it has come to rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;

use super::reload::Reloader;
use crate::base::stamp::{Settled, Stamp};
use crate::config::plan::{self, Plan};
use crate::config::{Sources, process_environment};
use crate::exchange::snapshot::Current;

/// How often the files are looked at. A change must look the same twice.
const LOOK: Duration = Duration::from_millis(500);

/// Reads the configuration again when its files change, whenever the plan says so.
pub struct ConfigurationWatch {
    /// The files.
    pub files: Arc<Files>,
    /// What is being served.
    pub current: Current,
    /// What reads the configuration again.
    pub reloader: Reloader,
}

/// The files of the configuration, and how they looked when they were read last.
pub struct Files {
    file: PathBuf,
    read: Mutex<Seen>,
    in_use: Mutex<Stamps>,
}

/// What the configuration consists of, and how that looks.
pub struct Seen {
    sources: Sources,
    files: Settled<Stamps>,
}

/// How files look: what tells two versions of one apart, or none where it is missing.
type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// How the files that a plan names beside the configuration looked when they were read for it.
pub struct Named(Stamps);

#[async_trait]
impl BackgroundService for ConfigurationWatch {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        loop {
            tokio::select! {
                _ = shutdown.changed() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let plan = self.current.load().plan.clone();
            if plan.reload != plan::Reload::Watch {
                continue;
            }
            let files = Arc::clone(&self.files);
            // A file system that hangs holds up this service and nobody else. The task does not panic.
            if let Ok(true) = tokio::task::spawn_blocking(move || files.have_changed(&plan)).await {
                log::info!("configuration is read again: a file has changed");
                self.reloader.reload_unasked().await;
            }
        }
    }
}

impl Files {
    /// The files of the configuration at `file`, from which `plan` has just been read.
    #[must_use]
    pub fn new(file: PathBuf, plan: &Plan) -> Self {
        let seen = Seen::of(&file, plan);
        let in_use = seen.named(plan);
        Self { file, read: Mutex::new(seen), in_use: Mutex::new(in_use.0) }
    }

    /// The configuration's own file, as an absolute path.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How the files look just before they are read again, with those that `plan`, which was read last, names.
    #[must_use]
    pub fn before_reading(&self, plan: &Plan) -> Seen {
        Seen::of(&self.file, plan)
    }

    /// The files have been read again: from now on a change is what differs from `before`. Those that only `plan`, which was
    /// read, names are known as they look now.
    pub fn have_been_read(&self, before: Seen, plan: &Plan) {
        let mut stamps = stamps(&before.sources, plan);
        let looked = before.files.looks();
        stamps.iter_mut().for_each(|(path, stamp)| *stamp = looked.get(path).copied().unwrap_or(*stamp));
        *self.read.lock() = Seen { files: Settled::new(stamps), ..before };
    }

    /// Which of the files that were read for a new plan look otherwise than those in use.
    #[must_use]
    pub fn read_again(&self, named: &Named) -> Vec<PathBuf> {
        let in_use = self.in_use.lock();
        let is_other = |(path, stamp): &(&PathBuf, &_)| in_use.get(*path).is_some_and(|before| before != *stamp);
        named.0.iter().filter(is_other).map(|(path, _)| path.clone()).collect()
    }

    /// A plan serves for which these files were read.
    pub fn are_in_use(&self, named: Named) {
        *self.in_use.lock() = named.0;
    }

    fn have_changed(&self, plan: &Plan) -> bool {
        let mut read = self.read.lock();
        let now = stamps(&read.sources, plan);
        read.files.rested(now).is_some()
    }
}

impl Seen {
    fn of(file: &Path, plan: &Plan) -> Self {
        let sources = Sources::of(file, &process_environment);
        Self { files: Settled::new(stamps(&sources, plan)), sources }
    }

    /// The files that `plan`, which has been read since, names. Those that nobody had named before are known as they look now.
    #[must_use]
    pub fn named(&self, plan: &Plan) -> Named {
        let known = |path: &Path| self.files.looks().get(path).copied().unwrap_or_else(|| Stamp::of(path).ok());
        Named(plan.files().chain(plan.users()).map(|path| (path.to_path_buf(), known(path))).collect())
    }
}

fn stamps(sources: &Sources, plan: &Plan) -> Stamps {
    let files = sources.files().into_iter().chain(plan.files().map(Path::to_path_buf));
    files.map(|path| (path.clone(), Stamp::of(&path).ok())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_new_beside_the_others_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("a.yaml");
        fs::write(&main, "include: [\"*.more\"]\n").unwrap();
        let sources = Sources::of(&main, &|_| None);
        assert_eq!(sources.files(), std::slice::from_ref(&main));
        let more = directory.path().join("b.more");
        fs::write(&more, "a: [fault\n").unwrap();
        assert_eq!(sources.files(), [main.clone(), more.clone()]);
        fs::write(&main, "include: [other.yaml]\nand: a fault").unwrap();
        assert_eq!(Sources::of(&main, &|_| None).files(), [main, directory.path().join("other.yaml")]);
    }
}
