//! `roundel events`: what happens to a running proxy, as it happens.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::screen::{Colours, Ink, state_ink, text};
use super::speak::Which;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Begin with so many events that have happened already
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    last: u32,
    /// Print one JSON object for each event
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let stream = args.which.find()?.follow(&format!("/api/v1/events?last={}", args.last))?;
    let (colours, mut stdout) = (Colours::of_stdout(), io::stdout());
    for line in stream.lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Err(io::Error::other(format!("the proxy is gone: {error}"))),
        };
        // What is not data are names, numbers and signs of life.
        let Some(event) = line.strip_prefix("data: ") else { continue };
        let written = match args.json {
            true => writeln!(stdout, "{event}"),
            false => writeln!(stdout, "{}", sentence(event, colours)),
        };
        match written.and_then(|()| stdout.flush()) {
            // Who has closed stdout has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
    }
    Err(io::Error::other("the proxy has ended the stream: it is being stopped"))
}

fn sentence(event: &str, colours: Colours) -> String {
    let Ok(event) = serde_json::from_str::<Value>(event) else { return text(&event.into()) };
    let ink = match (event["kind"].as_str(), event["to"].as_str()) {
        (Some("lost"), _) => Ink::Warn,
        (_, Some(state)) => state_ink(state),
        _ => Ink::Plain,
    };
    let time = event["time"].as_str().map(|time| format!("{} ", text(&time.into()))).unwrap_or_default();
    format!("{}{}", colours.ink(Ink::Faint, &time), colours.ink(ink, &text(&event["text"])))
}
