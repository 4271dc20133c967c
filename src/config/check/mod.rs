//! `File` → `Plan`: fills every default, resolves every name, compiles every pattern, and tells every fault at its place.
//!
//! One file a section. What cannot be judged because a key was misread is left alone: its fault is told already.

mod admin;
mod certificate;
mod filter;
mod header;
mod health_check;
mod listener;
mod logs;
mod matching;
mod pages;
mod rate_limit;
mod route;
mod runtime;
mod server;
mod upstream;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::base::template::Fault;
use crate::base::units::Misread;
use crate::config::diagnostic::Diagnostic;
use crate::config::file::term::{Decoder, Field, Spanned, instead, written_or_default};
use crate::config::file::{File, Reload};
use crate::config::plan::{self, Drain, Plan};
use crate::config::read::{At, Environment};

/// Checks a file and makes the plan; faults and doubts go to `checker`.
pub(super) fn plan(
    file: &Spanned<File>,
    source: &Path,
    environment: Environment<'_>,
    decoder: &mut Decoder<'_>,
) -> Plan {
    let runtime = runtime::Runtime::of(source, environment);
    let mut checker = Checker { decoder, root: file.at };
    let file = &file.value;
    let upstreams = upstream::plan(file, &mut checker);
    let routes = route::plan(file, &upstreams, &mut checker);
    let drain = written_or_default(&file.drain);
    let mut plan = Plan {
        source: source.to_owned(),
        hash: String::new(),
        server: server::plan(&written_or_default(&file.server), &runtime, &mut checker),
        drain: Drain { delay: drain.delay(), idle: drain.idle(), tunnels: drain.tunnels(), floor: drain.floor().0 },
        reload: match file.reload() {
            Reload::Signal => plan::Reload::Signal,
            Reload::Watch => plan::Reload::Watch,
        },
        expose_reason: file.expose_reason(),
        errors: pages::read(&file.errors, &mut checker),
        listeners: listener::plan(file, &mut checker),
        upstreams,
        routes,
        admin: admin::plan(file, &runtime, &mut checker),
        access_log: logs::access_log(&file.access_log, &mut checker),
        log: logs::log(&written_or_default(&file.log)),
        prometheus: logs::prometheus(&file.metrics),
        tracing: logs::tracing(&file.tracing, &mut checker),
    };
    plan.hash = hash(&plan);
    plan
}

/// The admin socket of a process that runs the configuration at this canonical path.
pub(super) fn admin_socket(source: &Path, environment: Environment<'_>) -> PathBuf {
    admin::socket(&runtime::Runtime::of(source, environment))
}

/// Hash of what a plan means: where its file lies, and what follows from that alone, does not count.
fn hash(plan: &Plan) -> String {
    let mut meaning = plan.clone();
    meaning.source = PathBuf::new();
    let server = &mut meaning.server;
    let private = std::mem::take(&mut server.runtime_directory);
    server.instance = String::new();
    for path in [&mut server.pid_file, &mut server.upgrade_sock, &mut meaning.admin.socket] {
        if path.starts_with(&private) {
            *path = PathBuf::new();
        }
    }
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(format!("{meaning:?}").as_bytes()))
}

/// What checking carries along.
struct Checker<'c, 'm> {
    decoder: &'c mut Decoder<'m>,
    /// Where the file begins.
    root: At,
}

/// What is wrong with a template, for the operator.
fn misread_of(fault: Fault<Misread>) -> Misread {
    match fault {
        Fault::Name(misread) => misread,
        Fault::LoneBrace(brace) => {
            Misread::new(format!("a lone `{brace}`"), format!("write `{brace}{brace}` for a brace"))
        }
    }
}

impl Checker<'_, '_> {
    fn error(&mut self, at: At, message: impl Into<String>, help: impl Into<String>) {
        self.decoder.error(at, message, help);
    }

    fn warning(&mut self, at: At, message: impl Into<String>, help: impl Into<String>) {
        if self.decoder.found.is_full() {
            return;
        }
        let place = self.decoder.marks.place(at);
        self.decoder.found.push(Diagnostic::warning(message).at(place).help(help));
    }

    /// Tells that two places contradict each other.
    fn clash(&mut self, at: At, message: impl Into<String>, first: (At, &str), help: &str) {
        if self.decoder.found.is_full() {
            return;
        }
        let (place, other) = (self.decoder.marks.place(at), self.decoder.marks.place(first.0));
        self.decoder.found.push(Diagnostic::error(message).at(place).other(first.1, other).help(help));
    }

    /// Tells that a key is not written without which its section, at `at`, makes no sense.
    fn required<T>(&mut self, field: &Field<T>, at: At, message: &str, help: &str) {
        if field.is_absent() {
            self.error(at, message, help);
        }
    }

    /// Tells that a name is not known, with the known one that looks most like it.
    fn unknown(&mut self, at: At, message: &str, name: &str, known: &[&str]) {
        let help = instead(name, known, "known here:");
        self.error(at, message, help);
    }

    /// Reads a text with a function of small texts; a fault is told at its place.
    fn read<T>(&mut self, text: &Spanned<String>, read: impl FnOnce(&str) -> Result<T, Misread>) -> Option<T> {
        read(&text.value).map_err(|misread| self.decoder.misread(text.at, misread)).ok()
    }

    /// Warns of a secret that users beside its owner and group may read.
    fn warn_if_others_can_read(&mut self, path: &Path, at: At) {
        let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o004 != 0) {
            let message = format!("every user can read {}", path.display());
            self.warning(at, message, format!("run `chmod o-r {}`", path.display()));
        }
    }
}
