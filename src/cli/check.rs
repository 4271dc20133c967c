//! `roundel check`: tells every fault and warning of a file.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{Conf, print};
use crate::config::{self, Diagnostics, Loaded, Paint};

/// Exit statuses that scripts may rely on.
const WARNINGS: u8 = 1;
pub(super) const ERRORS: u8 = 2;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    conf: Conf,
    /// Tell also what works but is seldom meant, and let every warning count
    #[arg(long)]
    strict: bool,
    /// Print the diagnostics as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let (diagnostics, status) = match read(&args.conf.conf) {
        Ok(loaded) if args.strict => match loaded.all_warnings() {
            none if none.is_empty() => (none, 0),
            some => (some, WARNINGS),
        },
        Ok(Loaded { warnings, .. }) => (warnings, 0),
        Err(errors) => (errors, ERRORS),
    };
    if args.json {
        print(format_args!("{}\n", diagnostics.to_json()))?;
        return Ok(ExitCode::from(status));
    }
    tell(&diagnostics);
    if status == 0 {
        print(format_args!("{}: the configuration is good\n", name(&args.conf.conf)))?;
    }
    Ok(ExitCode::from(status))
}

/// What `-c` says for standard input, and how that is called in what is told of it.
const STDIN: (&str, &str) = ("-", "<stdin>");

/// Whether standard input is meant.
pub(super) fn is_stdin(conf: &Path) -> bool {
    conf.as_os_str() == STDIN.0
}

/// What a configuration is called.
pub(super) fn name(conf: &Path) -> impl Display {
    if is_stdin(conf) { Path::new(STDIN.1) } else { conf }.display()
}

fn read(conf: &Path) -> Result<Loaded, Diagnostics> {
    match is_stdin(conf) {
        true => config::load_stream(STDIN.1, io::stdin().lock(), &config::process_environment),
        false => config::load(conf, &config::process_environment),
    }
}

/// Loads a file for a command that needs it whole; what is wrong with it has been told when this returns.
pub(super) fn load(conf: &Path) -> Result<Loaded, Refusal> {
    let loaded = read(conf);
    match &loaded {
        Ok(loaded) => tell(&loaded.warnings),
        Err(errors) => tell(errors),
    }
    loaded.map_err(|errors| Refusal { status: ExitCode::from(ERRORS), told: errors.render(Paint::Plain) })
}

/// A file that cannot be loaded.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The status to end with.
    pub(super) status: ExitCode,
    /// What has been told of it.
    pub(super) told: String,
}

fn tell(diagnostics: &Diagnostics) {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let paint = if colours { Paint::Coloured } else { Paint::Plain };
    // Who has closed stderr does not want to know.
    let _ = write!(io::stderr(), "{}", diagnostics.render(paint));
}
