//! What the program prints about itself: the schema, completions, the manual page.

use std::io;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Args, print};
use crate::config::{Support, schema};

pub(super) fn schema() -> io::Result<ExitCode> {
    print(format_args!("{:#}\n", schema::schema(Support::Built)))
}

pub(super) fn completions(shell: clap_complete::Shell) -> io::Result<ExitCode> {
    let mut page = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "roundel", &mut page);
    print(String::from_utf8_lossy(&page))
}

pub(super) fn man() -> io::Result<ExitCode> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Args::command()).render(&mut page)?;
    print(String::from_utf8_lossy(&page))
}
