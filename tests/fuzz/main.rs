//! The short run of fuzzing, on a stable compiler and without instrumentation: every promise holds for its seeds, for what has
//! broken it before, and for some mutations of both.
//!
//! `seeds/TARGET` holds both. The mutations are drawn from a seed, so that a run can be repeated: `ROUNDEL_SEED` is that seed, and
//! `ROUNDEL_FUZZ` multiplies the number of mutations. An input that breaks a promise is printed, and left in the system's directory for temporary
//! files; in `seeds/TARGET` it becomes a regression test. `docs/fuzzing.md` tells of the long run.

#![allow(missing_docs, unreachable_pub, reason = "modules of a test")]

mod mutate;
mod promises;
#[path = "../reader/mod.rs"]
mod reader;

use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use self::mutate::Mutator;

/// Holds the promise to its seeds, and to `rounds` mutations of them.
fn hold(name: &str, holds: fn(&[u8]), rounds: usize, directories: &[&str]) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = seeds(directories);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for seed in &seeds {
        hold_one(name, holds, seed);
    }
    let times = usize::try_from(number("ROUNDEL_FUZZ").unwrap_or(1)).expect("a small number");
    let mut rng = Rng::with_seed(number("ROUNDEL_SEED").unwrap_or(20_261_123));
    let mut mutator = Mutator::new(seeds);
    for _ in 0..rounds * times {
        hold_one(name, holds, &mutator.next(&mut rng));
    }
}

fn hold_one(name: &str, holds: fn(&[u8]), input: &[u8]) {
    let told = Told { name, input };
    holds(input);
    drop(told);
}

/// Tells of an input that breaks its promise.
struct Told<'a> {
    name: &'a str,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = std::env::temp_dir().join(format!("roundel-fuzz-{}-{}", self.name, std::process::id()));
            let left =
                fs::write(&path, self.input).map_or_else(|error| error.to_string(), |()| path.display().to_string());
            eprintln!("{} breaks its promise ({left}):\n{}", self.name, self.input.escape_ascii());
        }
    }
}

/// What the files below these directories hold, in the order of their names.
fn seeds(directories: &[&str]) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for directory in directories {
        find(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files);
    }
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a file of the repository")).collect()
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the repository") {
        let path = entry.expect("a directory of the repository").path();
        if path.is_dir() { find(&path, files) } else { files.push(path) }
    }
}

/// A test for each target, with the number of mutations of its short run.
macro_rules! runs {
    ($($target:ident: $rounds:literal $(from $($directory:literal)*)?),* $(,)?) => {
        $(
            #[test]
            fn $target() {
                let own = concat!("tests/fuzz/seeds/", stringify!($target));
                hold(stringify!($target), promises::$target::holds, $rounds, &[own $($(, $directory)*)?]);
            }
        )*

        /// A target without seeds, and seeds without a target, are forgotten ones.
        #[test]
        fn every_target_has_seeds_and_is_fuzzed_at_length_too() {
            let targets = [$(stringify!($target)),*];
            let names = |directory: &str| {
                let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)).expect("a directory");
                let name = |path: PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
                let mut names: Vec<_> = entries.filter_map(|entry| name(entry.expect("an entry").path())).collect();
                names.sort();
                names
            };
            assert_eq!(names("tests/fuzz/seeds"), targets);
            assert_eq!(names("fuzz/fuzz_targets"), targets);
        }
    };
}

runs! {
    answer: 20_000,
    backends: 5_000,
    certificate: 3_000,
    client: 10_000,
    compress: 10_000,
    config: 150 from "conf",
    credentials: 2_000,
    dialogue: 10_000,
    framing: 20_000,
    handover: 10_000,
    head: 5_000,
    headers: 10_000,
    host: 20_000,
    log_line: 1_500,
    path: 20_000,
    proxy_protocol: 20_000,
    road: 600,
    road_answers: 600,
    road_h2: 400,
    road_h2_answers: 400,
    units: 20_000,
}
