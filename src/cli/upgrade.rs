//! `roundel upgrade`: has a running proxy start a new process in its place, waits, and reports.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::print;
use super::speak::{Line, PATIENCE, Which, segment};
use crate::base::units::{format_duration, parse_duration};

/// How long the answers of the old process may go on when the new one serves.
const CHANGE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The new binary; without it the running one's path, where the file has been replaced
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// How long the new process may take to serve
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    which: Which,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("no duration above zero (write 30s or 5m)".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let line = args.which.find()?;
    let binary = args.binary.as_deref().map(whole_path).transpose()?;
    let named = binary.map(|path| format!("&binary={}", segment(&path))).unwrap_or_default();
    let target = format!("/api/v1/upgrade?timeout={}{named}", format_duration(args.timeout));
    // The old process bounds the time by itself, and needs a little more to end a new one that has failed.
    let told = line.ask("POST", &target, args.timeout + CHANGE + PATIENCE)?.json()?;
    prove(&line, &told)?;
    if args.json {
        return print(format_args!("{told}\n"));
    }
    let seconds = told["duration_ms"].as_f64().unwrap_or_default() / 1000.0;
    print(format_args!(
        "upgraded in {seconds:.2}s: process {} serves (version {}, generation {}), process {} drains\n",
        told["pid"],
        told["version"].as_str().unwrap_or_default(),
        told["generation"],
        told["old_pid"],
    ))
}

/// The path as the proxy will find it, which may have another working directory.
fn whole_path(path: &Path) -> io::Result<String> {
    let whole = path.canonicalize().map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    whole.to_str().map(str::to_owned).ok_or_else(|| io::Error::other(format!("{}: is no UTF-8", path.display())))
}

/// Asks who answers, until it is the new process: the old one has said that it would be.
fn prove(line: &Line, told: &Value) -> io::Result<()> {
    let deadline = Instant::now() + CHANGE;
    loop {
        let status = line.get("/api/v1/status");
        match &status {
            Ok(status) if (&status["pid"], &status["generation"]) == (&told["pid"], &told["generation"]) => {
                return Ok(());
            }
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Ok(status) => {
                let why = format!("process {} was to serve, and {} answers", told["pid"], status["pid"]);
                return Err(io::Error::other(why));
            }
            Err(error) => return Err(io::Error::other(format!("the new process does not answer: {error}"))),
        }
    }
}
