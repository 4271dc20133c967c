//! The floors of the house, as a test: which room may import which, where Pingora may be named, and a few habits.
//!
//! It reads the sources as text and resolves `crate::` paths itself; what the compiler and clippy already check is left to
//! them.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from top to bottom. A room imports only rooms of lower floors; rooms of one floor do not import each other.
const FLOORS: [&[&str]; 11] = [
    &["cli"],
    &["server"],
    &["admin"],
    &["edge"],
    &["lane", "proxy"],
    &["exchange"],
    &["route", "upstream", "filter", "wire"],
    &["tls"],
    &["telemetry"],
    &["config"],
    &["base"],
];

/// The rooms that may name Pingora.
const PINGORA: [&str; 7] = ["server", "admin", "edge", "lane", "proxy", "upstream", "tls"];

#[test]
fn imports_run_only_downward() {
    let faults = sources().iter().flat_map(Source::wrong_imports).collect::<Vec<_>>();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn pingora_is_named_only_where_it_lives() {
    let faults = sources().iter().flat_map(Source::pingora_out_of_place).collect::<Vec<_>>();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_serves_with_static_mut_or_unwrap() {
    let faults = sources().iter().flat_map(Source::forbidden_words).collect::<Vec<_>>();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//!")).map(|source| source.path);
    let silent = silent.map(|path| format!("{}: no opening `//!`", path.display())).collect::<Vec<_>>();
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

#[test]
fn the_files_that_the_architecture_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("it lies beside the manifest");
    // What stands between two backticks is every second part.
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter(|name| name.contains('/') && (name.ends_with(".rs") || name.ends_with('/')));
    let is_there = |name: &&str| root.join(name).exists() || root.join("src").join(name).exists();
    let missing = named.filter(|name| !is_there(name)).collect::<Vec<_>>();
    assert!(missing.is_empty(), "not there: {}", missing.join(", "));
}

/// A source file under `src`.
struct Source {
    path: PathBuf,
    /// The names of its modules from the crate's root: `["upstream", "health", "tcp"]`.
    modules: Vec<String>,
    text: String,
    /// Its code with comments and literals blanked, line breaks kept.
    code: String,
    /// Whether it is the file of a test module.
    for_tests: bool,
}

impl Source {
    fn new(path: &Path, text: String) -> Self {
        let mut modules =
            path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect::<Vec<_>>();
        if modules.last().is_some_and(|last| last == "mod" || last == "lib" || last == "main") {
            modules.pop();
        }
        let code = blank(&text);
        Self { path: path.to_owned(), modules, text, code, for_tests: false }
    }

    /// The room it stands in; none for `lib.rs` and `main.rs`, which stand above all.
    fn room(&self) -> Option<&str> {
        self.modules.first().map(String::as_str)
    }

    /// The code that is built for more than tests: none of a test module's file, and all before a test module in a file.
    fn serving(&self) -> &str {
        let inline = self.test_modules().find(|(_, _, after)| after.starts_with('{'));
        match inline {
            _ if self.for_tests => "",
            Some((at, ..)) => &self.code[..at],
            None => &self.code,
        }
    }

    /// Every `#[cfg(test)] mod NAME`: where it stands, its name, and what comes after the name.
    fn test_modules(&self) -> impl Iterator<Item = (usize, String, &str)> {
        self.code.match_indices("#[cfg(test)]").filter_map(|(at, attribute)| {
            let item = after_visibility(self.code[at + attribute.len()..].trim_start());
            let name = item.strip_prefix("mod ")?;
            Some((at, head(name), name.trim_start_matches(is_word).trim_start()))
        })
    }

    /// The module paths of the test modules that have files of their own.
    fn test_files(&self) -> Vec<Vec<String>> {
        let outside = self.test_modules().filter(|(_, _, after)| after.starts_with(';'));
        outside.map(|(_, name, _)| [self.modules.as_slice(), &[name]].concat()).collect()
    }

    fn wrong_imports(&self) -> Vec<String> {
        let Some(room) = self.room() else { return Vec::new() };
        let Some(own) = floor(room) else {
            return vec![format!("{}: `{room}` is on no floor of this test", self.path.display())];
        };
        let mut faults = Vec::new();
        for (line, imported) in self.imports() {
            let below = imported == room || floor(&imported).is_some_and(|floor| floor > own);
            if !below {
                faults.push(format!("{}:{line}: `{room}` must not import `{imported}`", self.path.display()));
            }
        }
        let climb = "super::".repeat(self.modules.len());
        if let Some(at) = self.serving().find(&climb) {
            let line = line_of(&self.code, at);
            faults.push(format!("{}:{line}: `{climb}` leaves the room (write `crate::`)", self.path.display()));
        }
        faults
    }

    /// Every room named by a `crate::` path, with its line.
    fn imports(&self) -> Vec<(usize, String)> {
        let starts = self.code.match_indices("crate::").filter(|(at, _)| {
            let before = self.code[..*at].chars().next_back();
            !before.is_some_and(|before| before == '$' || is_word(before))
        });
        starts
            .flat_map(|(at, start)| {
                let line = line_of(&self.code, at);
                let rest = self.code[at + start.len()..].trim_start();
                let heads = match rest.strip_prefix('{') {
                    Some(group) => heads_of_group(group),
                    None => vec![head(rest)],
                };
                heads.into_iter().map(move |head| (line, head))
            })
            // `crate::Something` is a name that lib.rs itself exports.
            .filter(|(_, head)| head.starts_with(|first: char| first.is_lowercase()))
            .collect()
    }

    fn pingora_out_of_place(&self) -> Vec<String> {
        if self.room().is_some_and(|room| PINGORA.contains(&room)) {
            return Vec::new();
        }
        let named = self.code.match_indices("pingora").filter(|(at, _)| {
            let before = self.code[..*at].chars().next_back();
            !before.is_some_and(is_word)
        });
        // A word of ours that merely begins so (`pingora_conf`) is no path into Pingora.
        let named = named.filter(|(at, _)| self.code[*at..].trim_start_matches(is_word).trim_start().starts_with("::"));
        named
            .map(|(at, _)| format!("{}:{}: Pingora is named here", self.path.display(), line_of(&self.code, at)))
            .collect()
    }

    fn forbidden_words(&self) -> Vec<String> {
        let found = ["static mut ", ".unwrap()"].into_iter().flat_map(|word| self.serving().match_indices(word));
        found.map(|(at, word)| format!("{}:{}: `{word}`", self.path.display(), line_of(&self.code, at))).collect()
    }
}

/// How far down a room stands.
fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The first word of each path in a group, of which the opening brace has been read.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut expecting = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expecting = true,
            _ if expecting && is_word(letter) => {
                heads.push(head(&group[at..]));
                expecting = false;
            }
            _ => {}
        }
    }
    heads
}

/// What follows `pub`, `pub(crate)`, `pub(in path)` or nothing.
fn after_visibility(item: &str) -> &str {
    let Some(rest) = item.strip_prefix("pub") else { return item };
    let rest = match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(')').map_or("", |(_, after)| after),
        None => rest,
    };
    rest.trim_start()
}

fn head(path: &str) -> String {
    path.chars().take_while(|&letter| is_word(letter)).collect()
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Replaces comments and the insides of string and character literals by blanks.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = code.chars().next_back().is_some_and(is_word);
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest, '"'),
            'r' if !word => raw_string(rest).unwrap_or(0),
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a literal that ends at the next `quote` without a backslash before it.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|&letter| letter == '#').count();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

/// The length of a character literal; none where the quote begins a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut letters = text.char_indices().skip(1);
    let (_, first) = letters.next()?;
    let (at, second) = letters.next()?;
    match (first, second) {
        ('\\', _) => Some(quoted(text, '\'')),
        (_, '\'') => Some(at + 1),
        _ => None,
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    assert!(!paths.is_empty(), "no sources under {}", root.display());
    paths.sort();
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a source file is UTF-8 text");
    let under = |path: &PathBuf| path.strip_prefix(&root).expect("it was found under the root").to_owned();
    let mut sources = paths.iter().map(|path| Source::new(&under(path), read(path))).collect::<Vec<_>>();
    let for_tests = sources.iter().flat_map(Source::test_files).collect::<Vec<_>>();
    for source in &mut sources {
        source.for_tests = for_tests.iter().any(|modules| source.modules.starts_with(modules));
    }
    sources
}

fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the sources are readable") {
        let path = entry.expect("the sources are readable").path();
        if path.is_dir() {
            walk(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn source(path: &str, text: &str) -> Source {
    Source::new(Path::new(path), text.to_owned())
}

#[test]
fn an_import_upward_or_sideways_is_found_with_its_line() {
    let wrong = |path, text| source(path, text).wrong_imports();
    assert_eq!(
        wrong("route/mod.rs", "//! x\nuse crate::proxy::Flow;"),
        ["route/mod.rs:2: `route` must not import `proxy`"]
    );
    assert_eq!(wrong("lane/mod.rs", "fn f() { crate::proxy::go() }").len(), 1);
    assert_eq!(wrong("config/file/mod.rs", "use crate::{base::clock, telemetry::{log, reason}};").len(), 1);
    assert_eq!(wrong("base/clock.rs", "use crate::config::Plan;").len(), 1);
    assert_eq!(wrong("route/mod.rs", "use super::proxy;").len(), 1);
    assert_eq!(wrong("attic/mod.rs", "").len(), 1);
}

#[test]
fn an_import_downward_is_fine_and_so_is_talk_about_rooms() {
    let wrong = |path, text| source(path, text).wrong_imports();
    assert_eq!(wrong("proxy/flow.rs", "use crate::{exchange, upstream::Lease}; use crate::proxy::forward;"), [""; 0]);
    assert_eq!(wrong("config/plan.rs", "use crate::base::clock;"), [""; 0]);
    assert_eq!(
        wrong("route/mod.rs", "// crate::proxy\n/* /* crate::cli */ */ const X: &str = \"crate::cli\";"),
        [""; 0]
    );
    assert_eq!(
        wrong("route/mod.rs", "const X: &str = r#\"crate::cli \"#; fn f<'a>(x: &'a str) -> char { '\"' }"),
        [""; 0]
    );
    assert_eq!(wrong("route/host.rs", "use super::path;"), [""; 0]);
}

#[test]
fn tests_may_unwrap_and_the_rest_may_not() {
    let text = "fn f() { g().unwrap() }\n#[cfg(test)]\nmod tests { fn t() { g().unwrap() } }";
    assert_eq!(source("route/mod.rs", text).forbidden_words(), ["route/mod.rs:1: `.unwrap()`"]);
    let text = "#[cfg(test)]\npub(in crate::route) mod fixture;\nfn f() { g().unwrap() }";
    assert_eq!(source("route/mod.rs", text).forbidden_words().len(), 1, "a test module elsewhere ends nothing here");
    assert_eq!(source("route/mod.rs", text).test_files(), [["route", "fixture"]]);
    assert_eq!(source("route/mod.rs", "use pingora_http::X;").pingora_out_of_place().len(), 1);
    assert_eq!(source("lane/mod.rs", "use pingora_http::X;").pingora_out_of_place().len(), 0);
}
