//! The `roundel` binary: argv in, exit code out.

fn main() {}
