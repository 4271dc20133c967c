//! `roundel healthcheck`: asks a running proxy whether it is ready.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use super::speak::Which;
use super::{complain, print};

/// How long the proxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let reply = args.which.find()?.ask("GET", "/readyz", PATIENCE)?;
    if reply.status == 200 {
        return print(format_args!("{}\n", String::from_utf8_lossy(&reply.body).trim_end()));
    }
    complain(reply.refusal());
    Ok(ExitCode::FAILURE)
}
