//! The command line: one file a command. Without a command the proxy runs.

mod check;
mod demo;
mod drain;
mod events;
mod explain;
mod healthcheck;
mod pages;
mod reload;
mod run;
mod screen;
mod simulate;
mod speak;
mod status;
mod top;
mod upgrade;
mod why;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const AFTER_HELP: &str = "\
Start here:
  roundel demo                    three sample backends and the proxy over them, no file needed
  roundel check -c conf.yaml      every fault of a configuration, each with its line and its remedy
  roundel explain -c conf.yaml GET http://localhost/x
                                  which route, filters and backends would serve a request, and why
  roundel -c conf.yaml            run in the foreground; Ctrl-C ends it

The shortest configuration:
  upstreams:
    web:
      backends: [127.0.0.1:8081, 127.0.0.1:8082]

Signals:
  SIGTERM  finish what is under way, then end (a second one, a second later or more, ends at once)
  SIGINT   end at once
  SIGQUIT  hand the listening sockets to a process started with --upgrade, then end as for SIGTERM
  SIGUSR1  open log files again, after a rotation
  SIGHUP   read the configuration again; the log tells what came of it
  SIGUSR2  nothing

Environment:
  RUST_LOG           what the process logs, in place of log.level
  RUNTIME_DIRECTORY  the private directory for the pid file and sockets
  NO_COLOR           no colours";

/// An HTTP reverse proxy and load balancer that explains itself.
#[derive(Debug, Parser)]
#[command(name = "roundel", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run three sample backends and the proxy over them; no file needed
    Demo(demo::Args),
    /// Tell every fault and warning of a configuration (exit 0: clean, 1: warnings with --strict, 2: errors)
    Check(check::Args),
    /// Tell what would become of a request, and why (exit 0: it is served, 1: it is refused, 2: errors)
    Explain(explain::Args),
    /// Ask a running proxy whether it is ready (exit 0: it is), for containers
    Healthcheck(healthcheck::Args),
    /// Have a running proxy read its configuration again, and tell what changes (exit 1: refused, 2: the file has faults)
    Reload(reload::Args),
    /// Take a backend of a running proxy out of use: it gets nothing new (exit 1: refused, or requests still in flight)
    Drain(drain::DrainArgs),
    /// Take a drained backend of a running proxy back into use
    Resume(drain::ResumeArgs),
    /// Replace a running proxy by a new process, without a refused connection (exit 1: the old one serves on, and why)
    Upgrade(upgrade::Args),
    /// Tell how a running proxy and its backends fare
    Status(status::Args),
    /// Watch a running proxy in the terminal: rates, errors, latencies and backends as they change; drain and resume by key
    Top(top::Args),
    /// Tell what became of a request to a running proxy, and why
    Why(why::Args),
    /// Follow what happens to a running proxy: backends that come and go, reloads
    Events(events::Args),
    /// Tell what the health settings of a configuration detect, how fast, and at what cost
    Simulate(simulate::Args),
    /// Print the JSON Schema of the configuration language
    Schema,
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct Conf {
    /// The configuration file; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    conf: PathBuf,
}

/// Runs the command line and returns the exit status.
#[must_use]
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(argv) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors, and clap knows where each belongs. A closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match args.command {
        None => run::run(&args.run),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Healthcheck(args)) => healthcheck::run(&args),
        Some(Command::Reload(args)) => reload::run(&args),
        Some(Command::Drain(args)) => drain::drain(&args),
        Some(Command::Resume(args)) => drain::resume(&args),
        Some(Command::Upgrade(args)) => upgrade::run(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Top(args)) => top::run(&args),
        Some(Command::Why(args)) => why::run(&args),
        Some(Command::Events(args)) => events::run(&args),
        Some(Command::Simulate(args)) => simulate::run(&args),
        Some(Command::Schema) => pages::schema(),
        Some(Command::Completions { shell }) => pages::completions(shell),
        Some(Command::Man) => pages::man(),
    };
    done.unwrap_or_else(|error| {
        complain(error);
        ExitCode::FAILURE
    })
}

/// Prints what a command is for. Who has closed stdout has seen enough, and that is no failure.
fn print(text: impl Display) -> io::Result<ExitCode> {
    let mut stdout = io::stdout();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(io::Error::new(error.kind(), format!("cannot write to stdout: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Tells on stderr what went wrong.
fn complain(what: impl Display) {
    // Who has closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "roundel: {what}");
}
