//! From text to a plan: read → decode → check. Imports no room and does no network input or output.
//!
//! ```text
//! text ── read ──▶ Tree ── file ──▶ File (as written) ── check ──▶ Plan (as it will run)
//! ```
//!
//! What a good plan says that cannot be meant is told by `lint`, what changes from one plan to another by `diff`.
//! Every step tells all its faults as [`Diagnostics`], each with its place and its remedy.

pub mod diagnostic;
pub mod diff;
pub mod dump;
pub mod file;
pub mod plan;
pub mod read;
pub mod reference;
pub mod schema;
pub mod support;

mod check;
pub mod lint;

use std::io;
use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, Diagnostics, Paint, Severity};
pub use diff::Diff;
pub use read::{Environment, Sources};
pub use support::Support;

use file::File;
use file::term::{Decoder, Spanned, Term};
use lint::Certainty;
use plan::Plan;
use read::Tree;

/// A configuration that can run.
#[derive(Debug)]
pub struct Loaded {
    /// The plan.
    pub plan: Plan,
    /// What is accepted, but likely not what is wanted.
    pub warnings: Diagnostics,
    /// What works, and yet seldom as it was meant: told by `check --strict` alone.
    pub doubts: Diagnostics,
}

/// Reads a file, all it includes, and the environment it names (see [`process_environment`]).
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path, environment: Environment<'_>) -> Result<Loaded, Diagnostics> {
    load_with(path, environment, Support::Built)
}

/// Reads the file again for a process that runs it: as [`load`], but it is the same configuration by the name of `source`,
/// wherever a symbolic link on the way to the file leads now.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_again(path: &Path, source: &Path, environment: Environment<'_>) -> Result<Loaded, Diagnostics> {
    compile(&read::file(path, environment)?, source, environment, Support::Built)
}

/// The same as [`load`], with a choice of how much of the language is accepted.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_with(path: &Path, environment: Environment<'_>, support: Support) -> Result<Loaded, Diagnostics> {
    let tree = read::file(path, environment)?;
    compile(&tree, &canonical(path), environment, support)
}

/// Reads what comes from `reader`, such as standard input, and goes by the name `name`; its relative paths start from the
/// working directory.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_stream(name: &str, reader: impl io::Read, environment: Environment<'_>) -> Result<Loaded, Diagnostics> {
    compile(&read::stream(name, reader, environment)?, Path::new(name), environment, Support::Built)
}

/// Reads a text that goes by the name `name`; its relative paths start from the working directory.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text(name: &str, text: &str, environment: Environment<'_>) -> Result<Loaded, Diagnostics> {
    load_text_with(name, text, environment, Support::Built)
}

/// The same as [`load_text`], with a choice of how much of the language is accepted.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text_with(
    name: &str,
    text: &str,
    environment: Environment<'_>,
    support: Support,
) -> Result<Loaded, Diagnostics> {
    let tree = read::text(name, text, environment)?;
    compile(&tree, Path::new(name), environment, support)
}

/// The admin socket of a process that runs the configuration at `path`: it follows from the path and the environment alone, so
/// that it is known even where the file cannot be read.
#[must_use]
pub fn admin_socket(path: &Path, environment: Environment<'_>) -> PathBuf {
    check::admin_socket(&canonical(path), environment)
}

/// The path by which a configuration is known: its directory without symbolic links, its own name as it is. So a file that
/// is a link stays the same configuration when the link is turned to another version (Kubernetes does that).
fn canonical(path: &Path) -> PathBuf {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (directory.canonicalize(), path.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => path.to_owned(),
    }
}

/// The environment of this process. A variable that is no UTF-8 is as if it were not set.
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn compile(tree: &Tree, source: &Path, environment: Environment<'_>, support: Support) -> Result<Loaded, Diagnostics> {
    let mut decoder = Decoder::new(&tree.marks);
    let file = File::decode(&tree.root, &mut decoder).map(|value| Spanned { value, at: tree.root.at });
    let plan = file.map(|file| check::plan(&file, source, environment, &mut decoder));
    let mut found = decoder.found;
    tree.faults.iter().for_each(|fault| found.push(fault.clone()));
    for refusal in support.refusals(tree) {
        // A word that is not known at all is told as such, and not as one that is not built.
        if !found.iter().any(|fault| fault.place == refusal.place) {
            found.push(refusal);
        }
    }
    let found = found.sorted();
    match plan {
        Some(plan) if !found.has_errors() => Ok(Loaded::judged(plan, found, tree)),
        _ => Err(found),
    }
}

impl Loaded {
    fn judged(plan: Plan, mut warnings: Diagnostics, tree: &Tree) -> Self {
        let mut doubts = Diagnostics::default();
        for (certainty, doubt) in lint::doubts(&plan, tree) {
            match certainty {
                Certainty::Sure => warnings.push(doubt),
                Certainty::Likely => doubts.push(doubt),
            }
        }
        Self { plan, warnings: warnings.sorted(), doubts: doubts.sorted() }
    }

    /// Everything that can be said against it: warnings and doubts.
    #[must_use]
    pub fn all_warnings(&self) -> Diagnostics {
        let mut all = self.warnings.clone();
        self.doubts.iter().for_each(|doubt| all.push(doubt.clone()));
        all.sorted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_lines_are_a_whole_configuration() {
        let text = "upstreams:\n  web:\n    backends: [127.0.0.1:8081, 127.0.0.1:8082]\n";
        let loaded = load_text("demo", text, &|_| None).unwrap();
        assert!(loaded.warnings.is_empty());
        assert_eq!(loaded.plan.listeners.len(), 1);
        assert_eq!(&*loaded.plan.routes[0].name, "default");
        assert_eq!(loaded.plan.upstreams[0].backends.len(), 2);
        assert_eq!(loaded.plan.hash.len(), 16);
    }
}
