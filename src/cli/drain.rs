//! `roundel drain` and `roundel resume`: takes one backend of a running proxy out of use, and back.

use std::io;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::speak::{PATIENCE, Which, segment};
use super::{complain, print};
use crate::base::units::{format_duration, parse_duration};

#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// The backend, by its address or the name that is written for it
    #[arg(value_name = "UPSTREAM/BACKEND")]
    backend: Named,
    /// Wait so long for its requests to end
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// Drain it even where less than `drain.floor` of the upstream stays in use
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    which: Which,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// The backend, by its address or the name that is written for it
    #[arg(value_name = "UPSTREAM/BACKEND")]
    backend: Named,
    #[command(flatten)]
    which: Which,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// `UPSTREAM/BACKEND`; a backend may have slashes of its own (`web/unix:/run/app.sock`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Named {
    pub(super) upstream: String,
    pub(super) backend: String,
}

impl FromStr for Named {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((upstream, backend)) if !upstream.is_empty() && !backend.is_empty() => {
                Ok(Self { upstream: upstream.into(), backend: backend.into() })
            }
            _ => Err("write UPSTREAM/BACKEND, such as web/10.0.0.2:8080"),
        }
    }
}

impl Named {
    /// Where the admin API takes a `deed` to it.
    pub(super) fn path(&self, deed: &str) -> String {
        format!("/api/v1/upstreams/{}/backends/{}/{deed}", segment(&self.upstream), segment(&self.backend))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|_| "no duration (write 30s or 5m)".to_owned())
}

pub(super) fn drain(args: &DrainArgs) -> io::Result<ExitCode> {
    let wait = args.wait.unwrap_or_default();
    let target = format!("{}?wait={}&force={}", args.backend.path("drain"), format_duration(wait), args.force);
    let answer = args.which.find()?.ask("POST", &target, wait + PATIENCE)?.json()?;
    show(&answer, args.json)?;
    // Without `--wait` nobody asked for the end of anything.
    let left = in_flight(&answer);
    if args.wait.is_some() && left > 0 {
        complain(format_args!("{left} requests are still in flight there (it gets no new ones)"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn resume(args: &ResumeArgs) -> io::Result<ExitCode> {
    let answer = args.which.find()?.ask("POST", &args.backend.path("resume"), PATIENCE)?.json()?;
    show(&answer, args.json)
}

fn backends(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["backends"].as_array().into_iter().flatten()
}

fn in_flight(answer: &Value) -> u64 {
    backends(answer).filter_map(|backend| backend["in_flight"].as_u64()).sum()
}

/// A line for each backend of the name: its address, its state, why, and what is in flight there.
fn show(answer: &Value, json: bool) -> io::Result<ExitCode> {
    if json {
        return print(format_args!("{answer}\n"));
    }
    let upstream = answer["upstream"].as_str().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |backend: &Value| {
        let (address, state, why) = (text(&backend["address"]), text(&backend["state"]), text(&backend["reason"]));
        let flying = backend["in_flight"].as_u64().unwrap_or_default();
        format!("{upstream}/{address}: {state} ({why}), in flight: {flying}\n")
    };
    print(backends(answer).map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_with_its_upstream() {
        let named: Named = "web/unix:/run/app.sock".parse().unwrap();
        assert_eq!((named.upstream.as_str(), named.backend.as_str()), ("web", "unix:/run/app.sock"));
        for wrong in ["web", "/10.0.0.1:80", "web/", ""] {
            assert!(wrong.parse::<Named>().is_err(), "{wrong}");
        }
    }
}
