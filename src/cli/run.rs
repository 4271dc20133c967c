//! `roundel -c FILE`: runs the proxy.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{check, complain, print};
use crate::server::handover::predecessor::Predecessor;
use crate::server::{self, Options};

/// Pingora's own flags.
#[derive(Debug, clap::Args)]
#[group(id = "running")]
pub(super) struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// Run in the background; returns once the start has succeeded, or says why it has not
    #[arg(short, long)]
    daemon: bool,
    /// Take the listening sockets over from a running process (send it SIGQUIT once this one waits)
    #[arg(short, long)]
    upgrade: bool,
    /// Test the configuration and exit
    #[arg(short, long)]
    test: bool,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let Some(conf) = &args.conf else {
        return Err(io::Error::other("no configuration: write `roundel -c FILE`, or try `roundel demo` (see --help)"));
    };
    if check::is_stdin(conf) && !args.test {
        complain(
            "a proxy reads its configuration again: write it to a file, and `-c FILE` (`-t -c -` checks what comes in)",
        );
        return Ok(ExitCode::from(check::ERRORS));
    }
    let predecessor = Predecessor::from_environment()?;
    let loaded = match check::load(conf) {
        Ok(loaded) => loaded,
        Err(refusal) => {
            if let Some(predecessor) = &predecessor {
                predecessor.fail(&refusal.told);
            }
            return Ok(refusal.status);
        }
    };
    if args.test {
        return print(format_args!("{}: the configuration is good\n", check::name(conf)));
    }
    let file = Some(conf.clone());
    server::run(loaded.plan, Options { file, daemon: args.daemon, upgrade: args.upgrade, predecessor })
}
