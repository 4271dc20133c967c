//! `POST /api/v1/reload`: what may be asked of a reload, and what is answered. Reloading itself is the server's.

use std::path::PathBuf;

use async_trait::async_trait;
use http::StatusCode;
use serde_json::{Value, json};

use super::Answer;
use crate::config::{Diagnostics, Diff, Paint};

/// How many files a summary names before it says "and more".
const FILES: usize = 4;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// Only tell what would change.
    pub dry_run: bool,
    /// Go on where an upstream loses more than half of its capacity.
    pub confirm_loss: bool,
}

/// What a reload came to.
#[derive(Debug)]
pub struct Done {
    /// What has changed, or would change.
    pub diff: Diff,
    /// The files whose content is new since they were last read: those that the configuration names beside its own.
    pub files: Vec<PathBuf>,
    /// What is accepted, but likely not what is wanted.
    pub warnings: Diagnostics,
    /// The number of the configuration that serves now.
    pub generation: u64,
    /// Its hash.
    pub hash: String,
}

/// Why nothing was reloaded: what serves has not changed at all.
#[derive(Debug)]
pub enum Refusal {
    /// The file has faults.
    Faulty(Diagnostics),
    /// Something that the file names cannot be had: a socket, a certificate, a log. In words, with the remedy.
    Unusable(String, Box<Diff>),
    /// These keys only a new process can follow.
    BeyondAReload(Vec<String>, Box<Diff>),
    /// An upstream would lose more than half of its capacity, and nobody has confirmed that.
    GraveLoss(Box<Diff>),
    /// The process does not serve, or not for long: why.
    NotNow(&'static str),
    /// The configuration is no file that could be read again.
    NoFile,
    /// The reload has ended otherwise than it may: in words.
    Broken(String),
}

/// Who reloads.
#[async_trait]
pub trait Reload: Send + Sync {
    /// Reads the configuration again and lets it serve, or only tells what would change. One at a time; whoever asks
    /// meanwhile waits.
    async fn reload(&self, wish: Wish) -> Result<Done, Refusal>;
}

impl Wish {
    /// The wish that a query gives: `dry_run` and `confirm_loss`, each `true` or `false`.
    pub(super) fn parse(query: &str) -> Result<Self, Answer> {
        let mut wish = Self::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, "true"));
            let flag = match name {
                "dry_run" => &mut wish.dry_run,
                "confirm_loss" => &mut wish.confirm_loss,
                _ => return Err(unknown("unknown parameter (a reload knows `dry_run` and `confirm_loss`)")),
            };
            *flag = value.parse().map_err(|_| unknown("a parameter is neither `true` nor `false`"))?;
        }
        Ok(wish)
    }
}

fn unknown(detail: &str) -> Answer {
    Answer::problem(StatusCode::BAD_REQUEST, detail)
}

/// Reloads, and answers with what came of it.
pub(super) async fn answer(reload: &dyn Reload, wish: Wish) -> Answer {
    match reload.reload(wish).await {
        Ok(done) => Answer::json(StatusCode::OK, &done.to_json(wish)),
        Err(refusal) => refusal.answer(),
    }
}

impl Done {
    /// One line: what changes in the configuration, and which of the files that it names were read again.
    #[must_use]
    pub fn summary(&self) -> String {
        let changes = self.diff.summary();
        let mut files = self.files();
        files.truncate(FILES);
        match self.files.len().saturating_sub(FILES) {
            _ if files.is_empty() => return changes,
            0 => {}
            more => files.push(format!("and {more} more")),
        }
        let where_nothing = if self.diff.is_empty() { " in the configuration" } else { "" };
        format!("{changes}{where_nothing}, files read again: {}", files.join(", "))
    }

    fn files(&self) -> Vec<String> {
        self.files.iter().map(|path| path.display().to_string()).collect()
    }

    fn to_json(&self, wish: Wish) -> Value {
        json!({
            "applied": !wish.dry_run,
            "generation": self.generation,
            "config_hash": self.hash,
            "summary": self.summary(),
            "files": self.files(),
            "text": self.diff.to_string(),
            "diff": self.diff.to_json(),
            "warnings": self.warnings.to_json(),
            "report": self.warnings.render(Paint::Plain),
        })
    }
}

impl Refusal {
    /// Why, in one line with the remedy.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Faulty(faults) => match faults.len() {
                1 => "the configuration has a fault".to_owned(),
                many => format!("the configuration has {many} faults"),
            },
            Self::Unusable(why, _) | Self::Broken(why) => why.clone(),
            Self::BeyondAReload(keys, _) => {
                format!("only a new process can follow a change of {} (use `roundel upgrade`)", keys.join(", "))
            }
            Self::GraveLoss(diff) => {
                let losses: Vec<_> = diff.grave_losses().map(ToString::to_string).collect();
                format!("{} (use `roundel reload --confirm-loss` where that is meant)", losses.join(", "))
            }
            Self::NotNow(why) => (*why).to_owned(),
            Self::NoFile => "the configuration is no file that could be read again".to_owned(),
        }
    }

    /// The faults that are told one by one.
    #[must_use]
    pub const fn faults(&self) -> Option<&Diagnostics> {
        match self {
            Self::Faulty(faults) => Some(faults),
            _ => None,
        }
    }

    const fn diff(&self) -> Option<&Diff> {
        match self {
            Self::Unusable(_, diff) | Self::BeyondAReload(_, diff) | Self::GraveLoss(diff) => Some(diff),
            Self::Faulty(_) | Self::NotNow(_) | Self::NoFile | Self::Broken(_) => None,
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Faulty(_) | Self::Unusable(..) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BeyondAReload(..) | Self::GraveLoss(_) | Self::NoFile => StatusCode::CONFLICT,
            Self::NotNow(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// `application/problem+json` (RFC 9457) with the faults (`diagnostics`, and `report` for people) and, where it came so
    /// far, the `diff` and its `text`.
    fn answer(&self) -> Answer {
        let mut more = serde_json::Map::new();
        if let Some(faults) = self.faults() {
            more.insert("diagnostics".to_owned(), faults.to_json());
            more.insert("report".to_owned(), json!(faults.render(Paint::Plain)));
        }
        if let Some(diff) = self.diff() {
            more.insert("diff".to_owned(), diff.to_json());
            more.insert("text".to_owned(), json!(diff.to_string()));
        }
        Answer::problem_with(self.status(), &self.words(), more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_from_the_query() {
        let wish = |query| Wish::parse(query).ok().map(|wish| (wish.dry_run, wish.confirm_loss));
        assert_eq!(wish(""), Some((false, false)));
        assert_eq!(wish("dry_run=true"), Some((true, false)));
        assert_eq!(wish("dry_run&confirm_loss=true"), Some((true, true)));
        assert_eq!(wish("confirm_loss=false&"), Some((false, false)));
        for wrong in ["dryrun=true", "dry_run=1", "dry_run=", "force"] {
            assert_eq!(wish(wrong), None, "{wrong}");
        }
    }
}
