//! `roundel simulate health`: what an upstream's health settings detect, how fast, and at what cost.
//!
//! The simulation itself is `exchange::rehearsal`; here are its arguments, and `page` is what is printed.

mod page;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use super::{Conf, check};
use crate::base::units::{Misread, parse_rate, parse_share};
use crate::config::plan::Upstream;
use crate::exchange::rehearsal::{Breakdown, Report, Terms, rehearse};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Let one backend of an upstream break down, in virtual time, and tell what its health settings make of it
    Health(Health),
}

#[derive(Debug, clap::Args)]
struct Health {
    #[command(flatten)]
    conf: Conf,
    /// Only this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only this failure: crash, unreachable, hang, errors=20% or flapping=30s; may be repeated
    #[arg(long, value_name = "FAILURE", value_parser = failure)]
    failure: Vec<Breakdown>,
    /// Requests to the whole upstream
    #[arg(long, default_value = "100/s", value_parser = rate)]
    rate: f64,
    /// The share of a healthy backend's probes that get lost, for the chance of a false alarm
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    probe_loss: f64,
    /// Runs for each number, at most; fewer where requests are many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(5..=100_000))]
    runs: u32,
    /// The same seed brings the same output
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let What::Health(health) = &args.what;
    let plan = match check::load(&health.conf.conf) {
        Ok(loaded) => loaded.plan,
        Err(refusal) => return Ok(refusal.status),
    };
    let upstreams = chosen(&plan.upstreams, health.upstream.as_deref())?;
    let breakdowns = if health.failure.is_empty() { &Breakdown::EACH[..] } else { &health.failure };
    let terms = Terms { rate: health.rate, probe_loss: health.probe_loss, runs: health.runs, seed: health.seed };
    let reports = upstreams.iter().map(|upstream| rehearse(upstream, breakdowns, terms));
    let reports = reports.collect::<Result<Vec<Report>, _>>().map_err(io::Error::other)?;
    if health.json {
        writeln!(io::stdout(), "{:#}", json!({ "upstreams": reports }))?;
    } else {
        write!(io::stdout(), "{}", page::page(&reports, page::Glyphs::of_locale()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen<'a>(upstreams: &'a [Arc<Upstream>], name: Option<&str>) -> io::Result<Vec<&'a Arc<Upstream>>> {
    let found: Vec<_> = upstreams.iter().filter(|upstream| name.is_none_or(|name| *upstream.name == *name)).collect();
    match name {
        Some(name) if found.is_empty() => {
            let names: Vec<_> = upstreams.iter().map(|upstream| &*upstream.name).collect();
            Err(io::Error::other(format!("there is no upstream `{name}` (write one of: {})", names.join(", "))))
        }
        _ => Ok(found),
    }
}

fn failure(text: &str) -> Result<Breakdown, String> {
    text.parse().map_err(told)
}

fn rate(text: &str) -> Result<f64, String> {
    parse_rate(text).map(|(count, time)| count as f64 / time.as_secs_f64()).map_err(told)
}

fn share(text: &str) -> Result<f64, String> {
    parse_share(text).map_err(told)
}

fn told(misread: Misread) -> String {
    format!("{} ({})", misread.fault, misread.remedy)
}
