//! What is wrong with a configuration, where, and what to write instead.
//!
//! A [`Diagnostic`] owns all it shows, so it outlives the text it came from: the command line renders it like a compiler
//! does, the admin API sends it as JSON, a log takes its one-line form.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use serde_json::{Value as Json, json};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is accepted, but it is likely not what is wanted.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A place in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// How many characters are meant.
    pub length: u32,
    /// The path of the value, such as `upstreams.api.backends[2]`; empty for the whole file.
    pub path: String,
    /// The line's text; of a long line the part around the column.
    pub text: String,
    /// How many characters of the line are left out before `text`.
    pub skipped: u32,
}

/// One fault or doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// Where; none where no file could be read.
    pub place: Option<Box<Place>>,
    /// What to do.
    pub help: Option<String>,
    /// A second place that matters, and why.
    pub other: Option<Box<(String, Place)>>,
}

impl Diagnostic {
    /// An error without a place.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), place: None, help: None, other: None }
    }

    /// A warning without a place.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// The same, at a place.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { place: Some(Box::new(place)), ..self }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same, with a second place and why it matters.
    #[must_use]
    pub fn other(self, why: impl Into<String>, place: Place) -> Self {
        Self { other: Some(Box::new((why.into(), place))), ..self }
    }

    /// The diagnostic as a compiler shows it: several lines, each ended.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut out = String::new();
        let (start, end) = paint.severity(self.severity);
        let (bold, plain) = paint.bold();
        let _ = writeln!(out, "{start}{}{end}{bold}: {}{plain}", self.severity.as_str(), self.message);
        let places = self.place.iter().map(|place| &**place).chain(self.other.iter().map(|other| &other.1));
        let width = places.map(|place| place.line.to_string().len()).max().unwrap_or(1);
        if let Some(place) = &self.place {
            excerpt(&mut out, paint, width, ("-->", '^', ""), place);
        }
        if let Some((why, place)) = self.other.as_deref() {
            excerpt(&mut out, paint, width, (":::", '-', why), place);
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "{:width$}  = help: {help}", "");
        }
        out
    }

    /// The diagnostic as JSON: `severity`, `message`, and where known `file`, `line`, `column`, `path`, `help`, `other`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut object = json!({ "severity": self.severity.as_str(), "message": self.message });
        if let Some(place) = &self.place {
            object["file"] = json!(place.file.to_string_lossy());
            object["line"] = json!(place.line);
            object["column"] = json!(place.column);
            object["path"] = json!(place.path);
        }
        if let Some(help) = &self.help {
            object["help"] = json!(help);
        }
        if let Some((why, place)) = self.other.as_deref() {
            let (file, line, column) = (place.file.to_string_lossy(), place.line, place.column);
            object["other"] = json!({ "why": why, "file": file, "line": line, "column": column });
        }
        object
    }
}

/// One line: `conf.yaml:7:9: upstreams.api.backends[2]: port missing (write "10.0.0.7:8080")`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", place.file.display(), place.line, place.column)?;
            if !place.path.is_empty() {
                write!(f, "{}: ", place.path)?;
            }
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Whether terminal colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Text alone.
    Plain,
    /// ANSI colours (ECMA-48 SGR).
    Coloured,
}

impl Paint {
    fn severity(self, severity: Severity) -> (&'static str, &'static str) {
        match (self, severity) {
            (Self::Plain, _) => ("", ""),
            (Self::Coloured, Severity::Error) => ("\x1b[1;31m", "\x1b[0m"),
            (Self::Coloured, Severity::Warning) => ("\x1b[1;33m", "\x1b[0m"),
        }
    }

    fn bold(self) -> (&'static str, &'static str) {
        if self == Self::Coloured { ("\x1b[1m", "\x1b[0m") } else { ("", "") }
    }

    fn gutter(self) -> (&'static str, &'static str) {
        if self == Self::Coloured { ("\x1b[1;34m", "\x1b[0m") } else { ("", "") }
    }
}

fn excerpt(out: &mut String, paint: Paint, width: usize, (arrow, underline, why): (&str, char, &str), place: &Place) {
    let (blue, plain) = paint.gutter();
    let _ = write!(out, "{:width$} {blue}{arrow}{plain} {}:{}:{}", "", place.file.display(), place.line, place.column);
    if !place.path.is_empty() {
        let _ = write!(out, " ({})", place.path);
    }
    let _ = if why.is_empty() { writeln!(out) } else { writeln!(out, " {why}") };
    let text: String = place.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let indent = place.column.saturating_sub(place.skipped + 1) as usize;
    let room = text.chars().count().saturating_sub(indent).max(1);
    let marks = underline.to_string().repeat((place.length as usize).clamp(1, room));
    let _ = writeln!(out, "{:width$}  {blue}|{plain}", "");
    let _ = writeln!(out, "{blue} {:>width$} |{plain} {}", place.line, text.trim_end());
    let _ = writeln!(out, "{:width$}  {blue}|{plain} {:indent$}{marks}", "", "");
}

/// The longest message, in bytes.
const LONGEST: usize = 1_000;

fn cut(text: &mut String) {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

/// The most diagnostics that are kept: nobody reads on, and a hostile file shall not fill the memory.
pub const MOST: usize = 500;

/// Everything that was found in a configuration, in the order of file, line and column; at most [`MOST`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Adds one, unless they are full; a text that is quoted at great length is cut.
    pub fn push(&mut self, mut diagnostic: Diagnostic) {
        if self.is_full() {
            return;
        }
        cut(&mut diagnostic.message);
        diagnostic.help.as_mut().map(cut);
        self.0.push(diagnostic);
    }

    /// Whether no more are kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many were found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one of them refuses the configuration.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// The same in order, the same fault told once.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.0.sort_by(|a, b| a.place.cmp(&b.place).then_with(|| a.message.cmp(&b.message)));
        self.0.dedup();
        self
    }

    /// All of them as a compiler shows them, with an empty line between two.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        self.0.iter().map(|diagnostic| diagnostic.render(paint)).collect::<Vec<_>>().join("\n")
    }

    /// All of them as a JSON array.
    #[must_use]
    pub fn to_json(&self) -> Json {
        self.0.iter().map(Diagnostic::to_json).collect()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One line for each.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let end = if index + 1 == self.0.len() { "" } else { "\n" };
            write!(f, "{}: {diagnostic}{end}", diagnostic.severity.as_str())?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Diagnostic {
        let text = "      - { address: 10.0.0.2:8080, wieght: 3 }".to_owned();
        let path = "upstreams.web.backends[1]".to_owned();
        let place = Place { file: "conf.yaml".into(), line: 7, column: 35, length: 6, path, text, skipped: 0 };
        Diagnostic::error("unknown key `wieght`").at(place).help("did you mean `weight`?")
    }

    #[test]
    fn a_diagnostic_looks_as_the_manual_shows_it() {
        let expected = "\
error: unknown key `wieght`
  --> conf.yaml:7:35 (upstreams.web.backends[1])
   |
 7 |       - { address: 10.0.0.2:8080, wieght: 3 }
   |                                   ^^^^^^
   = help: did you mean `weight`?
";
        assert_eq!(sample().render(Paint::Plain), expected);
    }

    #[test]
    fn its_one_line_form_can_be_grepped() {
        let line = "conf.yaml:7:35: upstreams.web.backends[1]: unknown key `wieght` (did you mean `weight`?)";
        assert_eq!(sample().to_string(), line);
        assert_eq!(sample().to_json()["column"], 35);
    }

    #[test]
    fn endless_faults_are_cut_off() {
        let mut found = Diagnostics::default();
        (0..MOST + 5).for_each(|n| found.push(Diagnostic::error(format!("fault {n}"))));
        assert_eq!(found.len(), MOST);
        assert!(found.is_full());
    }
}
