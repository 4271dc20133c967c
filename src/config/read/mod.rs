//! Files → one tree of nodes: YAML, includes, variables. Knows no key but `include`, and types nothing.

mod include;
mod node;
mod variables;
mod yaml;

use std::io::Read;
use std::path::{Path, PathBuf};

pub use node::{At, Entry, Marks, Node, Scalar, Style, Value};
pub use variables::Environment;

use crate::config::diagnostic::{Diagnostic, Diagnostics};
use node::Source;

/// The largest configuration file, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// How many files one configuration may have.
const MAX_FILES: usize = 1_000;
/// How deep includes may be nested.
const MAX_NESTING: usize = 16;

/// The whole configuration as text, placed.
#[derive(Debug)]
pub struct Tree {
    /// The merged document: always a mapping.
    pub root: Node,
    /// The place of every node.
    pub marks: Marks,
    /// What is wrong so far, although the rest can be read on: missing variables, names defined twice.
    pub faults: Diagnostics,
}

/// Reads a file and all it includes.
///
/// # Errors
/// What kept the whole from being read.
pub fn file(path: &Path, environment: Environment<'_>) -> Result<Tree, Diagnostics> {
    let mut reading = Reading::new(environment);
    let root = contents(path).map_err(Diagnostic::error).and_then(|text| reading.document(path, &text));
    reading.finish(root)
}

/// Reads what comes from `reader` and goes by a name; its relative paths start from the working directory.
///
/// # Errors
/// What kept the whole from being read.
pub fn stream(name: &str, reader: impl Read, environment: Environment<'_>) -> Result<Tree, Diagnostics> {
    let mut reading = Reading::new(environment);
    let name = Path::new(name);
    let root = whole(name, reader).map_err(Diagnostic::error).and_then(|text| reading.document(name, &text));
    reading.finish(root)
}

/// Reads a text that goes by a name; its relative paths start from the working directory.
///
/// # Errors
/// What kept the whole from being read.
pub fn text(name: &str, text: &str, environment: Environment<'_>) -> Result<Tree, Diagnostics> {
    let mut reading = Reading::new(environment);
    let root = reading.document(Path::new(name), text);
    reading.finish(root)
}

/// Where a configuration comes from: its file, and what that includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    file: PathBuf,
    /// What is included: patterns, each with the directory that it starts from.
    included: Vec<(PathBuf, String)>,
}

impl Sources {
    /// The sources of the configuration at `path`, as far as they can be read: a fault in a file hides only what that file
    /// would include.
    #[must_use]
    pub fn of(path: &Path, environment: Environment<'_>) -> Self {
        let mut reading = Reading::new(environment);
        // Whoever reads the whole is told what is wrong with it.
        let _ = contents(path).map_err(Diagnostic::error).and_then(|text| reading.document(path, &text));
        Self { file: path.to_owned(), included: reading.included }
    }

    /// The files by now; one that is named may be missing.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let included = self.included.iter().flat_map(|(directory, pattern)| {
            // A directory that cannot be read has no files now.
            include::expand(directory, pattern).unwrap_or_default()
        });
        [self.file.clone()].into_iter().chain(included).collect()
    }
}

struct Reading<'a> {
    environment: Environment<'a>,
    marks: Marks,
    faults: Diagnostics,
    /// The canonical paths of the files that are being read, outermost first.
    open: Vec<PathBuf>,
    files: usize,
    included: Vec<(PathBuf, String)>,
    /// Whether every included file could be read, so that what is missing is really missing.
    is_whole: bool,
}

impl<'a> Reading<'a> {
    fn new(environment: Environment<'a>) -> Self {
        Self {
            environment,
            marks: Marks::default(),
            faults: Diagnostics::default(),
            open: Vec::new(),
            files: 0,
            included: Vec::new(),
            is_whole: true,
        }
    }

    fn finish(mut self, root: Result<Node, Diagnostic>) -> Result<Tree, Diagnostics> {
        match root {
            Ok(root) if self.is_whole => {
                self.marks.name_paths(&root);
                Ok(Tree { root, marks: self.marks, faults: self.faults })
            }
            Ok(_) => Err(self.faults.sorted()),
            Err(fault) => {
                self.faults.push(fault);
                Err(self.faults.sorted())
            }
        }
    }

    fn document(&mut self, path: &Path, text: &str) -> Result<Node, Diagnostic> {
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(Diagnostic::error(format!("more than {MAX_FILES} files are included")));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().map(str::to_owned).collect();
        let source = self.marks.add_source(Source { name: path.to_owned(), directory: directory_of(path), lines });
        let mut root = yaml::read(text, source, &mut self.marks)?;
        // Until includes are merged, paths within this file are the best that can be told.
        self.marks.name_paths(&root);
        if root.is_null() {
            root.value = Value::Mapping(Vec::new());
        }
        variables::fill(&mut root, self.environment, &self.marks, &mut self.faults);
        match root.value {
            Value::Mapping(entries) => {
                let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
                self.open.push(canonical);
                let entries = self.with_includes(entries, path);
                self.open.pop();
                Ok(Node { at: root.at, value: Value::Mapping(entries) })
            }
            _ => Err(Diagnostic::error("a configuration is a mapping of sections")
                .at(self.marks.place(root.at))
                .help("begin with `upstreams:`")),
        }
    }

    fn with_includes(&mut self, mut entries: Vec<Entry>, path: &Path) -> Vec<Entry> {
        let patterns: Vec<Node> =
            match entries.iter().find(|entry| entry.key == "include").map(|entry| &entry.value.value) {
                Some(Value::Sequence(patterns)) => patterns.clone(),
                _ => Vec::new(),
            };
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        for pattern in patterns {
            let Some(text) = pattern.text() else { continue };
            self.included.push((directory.clone(), text.to_owned()));
            match include::expand(&directory, text) {
                Ok(files) => files.iter().for_each(|file| self.include(&mut entries, file, &pattern)),
                Err(fault) => self.fault(&pattern, format!("cannot include `{text}`: {fault}")),
            }
        }
        entries
    }

    fn include(&mut self, entries: &mut Vec<Entry>, file: &Path, pattern: &Node) {
        let canonical = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        if self.open.contains(&canonical) {
            return self.fault(pattern, format!("{} includes itself", file.display()));
        }
        if self.open.len() >= MAX_NESTING {
            return self.fault(pattern, format!("includes are nested deeper than {MAX_NESTING} files"));
        }
        let text = match contents(file) {
            Ok(text) => text,
            Err(fault) => return self.fault(pattern, fault),
        };
        match self.document(file, &text) {
            Ok(Node { value: Value::Mapping(more), .. }) => {
                include::merge(entries, more, &self.marks, &mut self.faults);
            }
            Ok(_) => {}
            Err(fault) => {
                self.is_whole = false;
                self.faults.push(fault);
            }
        }
    }

    fn fault(&mut self, node: &Node, message: String) {
        self.is_whole = false;
        self.faults.push(Diagnostic::error(message).at(self.marks.place(node.at)));
    }
}

/// The absolute directory of a file.
fn directory_of(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().map(Path::to_owned).unwrap_or_default()
}

/// The text of a regular file of at most [`MAX_FILE`] bytes.
fn contents(path: &Path) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    // Opening a named pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(fault)?.is_file() {
        return Err(format!("cannot read {}: it is not a regular file", path.display()));
    }
    whole(path, std::fs::File::open(path).map_err(fault)?)
}

/// The text that comes from `reader`, at most [`MAX_FILE`] bytes of it; its name is `path`.
fn whole(path: &Path, reader: impl Read) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    reader.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("cannot read {}: it is larger than 16MiB", path.display()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("cannot read {}: line {line} is not UTF-8", path.display())
    })
}
