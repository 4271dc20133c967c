//! `roundel reload`: has a running proxy read its configuration again, and tells what changes.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::check::ERRORS;
use super::speak::Which;
use super::{complain, print};

/// How long the answer may take: new upstreams are probed before it.
const PATIENCE: Duration = Duration::from_secs(600);
/// The exit status where the reload is refused for what the file asks for, such as a port that is taken: that of a start.
const REFUSED: u8 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Tell what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on where an upstream loses more than half of its capacity
    #[arg(long)]
    confirm_loss: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let target = format!("/api/v1/reload?dry_run={}&confirm_loss={}", args.dry_run, args.confirm_loss);
    let reply = args.which.find()?.ask("POST", &target, PATIENCE)?;
    let answer: Value = serde_json::from_slice(&reply.body)
        .map_err(|error| io::Error::other(format!("what answers is no Roundel: {error}")))?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    if args.json {
        print(format_args!("{answer}\n"))?;
    } else {
        // Who has closed stderr does not want to know.
        let _ = io::Write::write_all(&mut io::stderr(), text("report").as_bytes());
        print(text("text"))?;
    }
    if reply.status != 200 {
        if !args.json {
            complain(format_args!("not reloaded: {}", reply.refusal()));
        }
        return Ok(ExitCode::from(if answer["diagnostics"].is_array() { ERRORS } else { REFUSED }));
    }
    if args.json {
        return Ok(ExitCode::SUCCESS);
    }
    let (generation, summary) = (&answer["generation"], text("summary"));
    match args.dry_run {
        true => print(format_args!("would reload: {summary}\n")),
        false => print(format_args!("reloaded, generation {generation}: {summary}\n")),
    }
}
