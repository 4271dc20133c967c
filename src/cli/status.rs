//! `roundel status`: how a running proxy and its backends fare.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use serde_json::Value;

use super::print;
use super::screen::{Colours, Ink, Table, ago, millis, state_ink, text};
use super::speak::Which;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Print the status as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let status = args.which.find()?.get("/api/v1/status")?;
    if args.json {
        return print(format_args!("{status:#}\n"));
    }
    print(page(&status, Colours::of_stdout()))
}

fn page(status: &Value, colours: Colours) -> String {
    let mut page = String::new();
    let heading = format!("roundel {}", text(&status["version"]));
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "{}, pid {}, up {}, configuration {} (generation {})",
        colours.ink(Ink::Heading, &heading),
        status["pid"],
        ago(&status["started_at"]),
        text(&status["config_hash"]),
        status["generation"],
    );
    let mut listeners = Table::new(&["LISTENER", "ADDRESS", "CONNECTIONS"]);
    for listener in list(&status["listeners"]) {
        listeners.row(["name", "address", "connections"].map(|field| (text(&listener[field]), Ink::Plain)));
    }
    let _ = write!(page, "\n{}", listeners.render("", colours));
    for upstream in list(&status["upstreams"]) {
        let _ = write!(page, "\n{}", section(upstream, colours));
    }
    page
}

fn section(upstream: &Value, colours: Colours) -> String {
    let backends = list(&upstream["backends"]);
    let usable = backends.iter().filter(|backend| matches!(backend["state"].as_str(), Some("healthy" | "slow_start")));
    let usable = usable.count();
    let ink = match usable {
        0 => Ink::Bad,
        some if some < backends.len() => Ink::Warn,
        _ => Ink::Good,
    };
    let counts = colours.ink(ink, &format!("{usable} of {} usable", backends.len()));
    let name = colours.ink(Ink::Heading, &text(&upstream["name"]));
    let mut section = format!("upstream {name} ({}), {counts}\n", text(&upstream["balance"]));
    let mut table =
        Table::new(&["BACKEND", "STATE", "FOR", "WEIGHT", "FLYING", "REQUESTS", "FAILED", "P50", "P99", "WHY"]);
    for backend in &backends {
        table.row(row(backend));
    }
    section.push_str(&table.render("  ", colours));
    for name in list(&upstream["unresolved"]) {
        let line = format!("  {}: {}", text(&name["name"]), text(&name["reason"]));
        let _ = writeln!(section, "{}", colours.ink(Ink::Bad, &line));
    }
    section
}

fn row(backend: &Value) -> [(String, Ink); 10] {
    let plain = |text: String| (text, Ink::Plain);
    let state = text(&backend["state"]);
    let backup = if backend["backup"] == true { " (backup)" } else { "" };
    let ink = state_ink(&state);
    let failures = backend["failures"].as_u64().unwrap_or_default();
    [
        plain(format!("{}{backup}", text(&backend["address"]))),
        (state, ink),
        plain(ago(&backend["since"])),
        plain(text(&backend["weight"])),
        plain(text(&backend["in_flight"])),
        plain(text(&backend["requests"])),
        (failures.to_string(), if failures > 0 { Ink::Warn } else { Ink::Plain }),
        plain(millis(&backend["latency_ms"]["p50"])),
        plain(millis(&backend["latency_ms"]["p99"])),
        (text(&backend["reason"]), Ink::Faint),
    ]
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}
