//! A diff in words and as JSON.

use std::fmt;

use serde_json::{Value as Json, json};

use super::{Change, Diff, Edit, Kind, Loss, Subject};

/// How many phrases a summary has before it says "and more".
const PHRASES: usize = 6;

impl Diff {
    /// One line: `2 routes changed, upstream web loses 1 of 4 backends (25 % of its weight)`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut phrases = self.phrases();
        if phrases.is_empty() {
            return "nothing changes".to_owned();
        }
        let more = phrases.len().saturating_sub(PHRASES);
        phrases.truncate(PHRASES);
        if more > 0 {
            phrases.push(format!("and {more} more"));
        }
        phrases.join(", ")
    }

    fn phrases(&self) -> Vec<String> {
        let mut phrases = Vec::new();
        for subject in [Subject::Listener, Subject::Upstream, Subject::Route] {
            for kind in [Kind::Added, Kind::Removed, Kind::Changed] {
                let told_alone = |change: &&Change| self.own_words(change).is_some();
                let same = self.changes.iter().filter(|change| (change.subject, change.kind) == (subject, kind));
                let (alone, together): (Vec<_>, Vec<_>) = same.partition(told_alone);
                phrases.extend(together_in_words(subject, kind, &together));
                phrases.extend(alone.into_iter().filter_map(|change| self.own_words(change)));
            }
        }
        let sections = self.changes.iter().filter(|change| change.subject == Subject::Section);
        phrases.extend(sections.map(|change| format!("{} changed", change.name)));
        phrases
    }

    /// What is worth a phrase of its own: an upstream that loses or gains backends, a listener that moves.
    fn own_words(&self, change: &Change) -> Option<String> {
        let Change { subject, name, .. } = change;
        match subject {
            Subject::Upstream => {
                let loss = self.losses.iter().find(|loss| *loss.upstream == **name);
                loss.map(ToString::to_string).or_else(|| gains(change))
            }
            Subject::Listener => change.edits.iter().find_map(|edit| match edit {
                Edit::Set { path, from, to } if path == "address" => {
                    Some(format!("listener {name} moves from {} to {}", text(from), text(to)))
                }
                _ => None,
            }),
            Subject::Route | Subject::Section => None,
        }
    }

    /// As JSON: `summary`, `changes` (each with `subject`, `name`, `change`, `edits`), `losses` (each with `upstream`,
    /// `backends`, `of`, `share`, `grave`), `beyond_a_reload`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let losses = self.losses.iter().map(|loss| {
            json!({
                "upstream": &*loss.upstream, "backends": loss.backends, "of": loss.of,
                "share": loss.share, "grave": loss.is_grave(),
            })
        });
        json!({
            "summary": self.summary(),
            "changes": self.changes.iter().map(Change::to_json).collect::<Vec<_>>(),
            "losses": losses.collect::<Vec<_>>(),
            "beyond_a_reload": self.beyond_a_reload(),
        })
    }
}

/// A line for each change, and one for each key below it; nothing where nothing changes.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            let sign = match change.kind {
                Kind::Added => '+',
                Kind::Removed => '-',
                Kind::Changed => '~',
            };
            write!(f, "{sign} {} {}", change.subject.word(), change.name)?;
            let loss = self.losses.iter().find(|loss| *loss.upstream == change.name);
            match loss.filter(|_| change.subject == Subject::Upstream) {
                Some(loss) => writeln!(f, ": {}", loss.words())?,
                None => writeln!(f)?,
            }
            change.edits.iter().try_for_each(|edit| writeln!(f, "    {edit}"))?;
        }
        Ok(())
    }
}

impl Change {
    fn to_json(&self) -> Json {
        json!({
            "subject": self.subject.word(), "name": self.name, "change": self.kind.word(),
            "edits": self.edits.iter().map(Edit::to_json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { path, from, to } => write!(f, "{path}: {} → {}", text(from), text(to)),
            Self::Gain { path, item } => write!(f, "{path}: + {}", text(item)),
            Self::Lose { path, item } => write!(f, "{path}: - {}", text(item)),
            Self::Hidden => f.write_str("something that is not shown (a header's value, a body, a page)"),
        }
    }
}

/// `upstream web loses 1 of 4 backends (25 % of its weight)`.
impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upstream {} {}", self.upstream, self.words())
    }
}

impl Loss {
    fn words(&self) -> String {
        let Self { backends, of, share, .. } = self;
        let noun = if *of == 1 { "backend" } else { "backends" };
        match (self.whole, (share * 100.0).round()) {
            (true, _) => format!("goes with all it served ({of} {noun})"),
            (false, 0.0) => format!("exchanges {backends} of {of} {noun}"),
            (false, percent) => format!("loses {backends} of {of} {noun} ({percent} % of its weight)"),
        }
    }
}

impl Subject {
    fn word(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Upstream => "upstream",
            Self::Route => "route",
            Self::Section => "section",
        }
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

fn together_in_words(subject: Subject, kind: Kind, changes: &[&Change]) -> Option<String> {
    match changes {
        [] => None,
        [one] => Some(format!("{} {} {}", subject.word(), one.name, kind.word())),
        many => Some(format!("{} {}s {}", many.len(), subject.word(), kind.word())),
    }
}

fn gains(change: &Change) -> Option<String> {
    let is_gain = |edit: &&Edit| matches!(edit, Edit::Gain { path, .. } if path == "backends");
    match change.edits.iter().filter(is_gain).count() {
        0 => None,
        1 => Some(format!("upstream {} gains 1 backend", change.name)),
        many => Some(format!("upstream {} gains {many} backends", change.name)),
    }
}

fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
