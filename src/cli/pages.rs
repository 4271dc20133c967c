//! What the program prints about itself: the schema, completions, the manual page.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;

use super::Args;
use crate::config::{Support, schema};

pub(super) fn schema() -> io::Result<ExitCode> {
    writeln!(io::stdout(), "{:#}", schema::schema(Support::Built))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn completions(shell: clap_complete::Shell) -> io::Result<ExitCode> {
    let mut page = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "roundel", &mut page);
    io::stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man() -> io::Result<ExitCode> {
    clap_mangen::Man::new(Args::command()).render(&mut io::stdout())?;
    Ok(ExitCode::SUCCESS)
}
