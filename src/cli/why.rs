//! `roundel why`: what became of a request, and why; or which requests to ask about.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use serde_json::Value;

use super::print;
use super::screen::{Colours, Ink, Table, millis, state_ink, status_ink, text};
use super::speak::{Which, segment};
use crate::exchange::recent::Wanted;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The request's id, as it stands in the access log and in `X-Request-Id`
    #[arg(value_name = "REQUEST_ID", required_unless_present = "last", conflicts_with = "last")]
    id: Option<String>,
    /// List the last requests instead: all, failed, a class (5xx), a status (503), a reason (connection_refused)
    #[arg(long, value_name = "WHICH", value_parser = wanted)]
    last: Option<String>,
    /// How many of them
    #[arg(long, value_name = "COUNT", default_value_t = 20, requires = "last")]
    limit: u32,
    #[command(flatten)]
    which: Which,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// What can be asked for has no letter that a query would have to escape.
fn wanted(text: &str) -> Result<String, &'static str> {
    let known = Wanted::parse(text).map(|_| text.to_owned());
    known.ok_or("write all, failed, a class (5xx), a status (503) or a reason (connection_refused)")
}

pub(super) fn run(args: &Args) -> io::Result<ExitCode> {
    let line = args.which.find()?;
    let answer = match (&args.id, &args.last) {
        (Some(id), _) => line.get(&format!("/api/v1/requests/{}", segment(id)))?,
        (None, last) => {
            let wanted = last.as_deref().unwrap_or("all");
            line.get(&format!("/api/v1/requests?last={wanted}&limit={}", args.limit))?
        }
    };
    let colours = Colours::of_stdout();
    match (args.json, &args.id) {
        (true, _) => print(format_args!("{answer:#}\n")),
        (false, Some(_)) => print(page(&answer, colours)),
        (false, None) => print(list(&answer, colours)),
    }
}

fn list(answer: &Value, colours: Colours) -> String {
    let mut table = Table::new(&["REQUEST", "TIME", "STATUS", "REASON", "METHOD", "PATH", "WHY"]);
    let requests = items(&answer["requests"]);
    for request in &requests {
        let status = request["status"].as_u64().unwrap_or_default();
        table.row([
            (text(&request["request_id"]), Ink::Plain),
            (text(&request["time"]), Ink::Faint),
            (status.to_string(), status_ink(status)),
            (text(&request["reason"]), Ink::Plain),
            (text(&request["method"]), Ink::Plain),
            (text(&request["path"]), Ink::Plain),
            (text(&request["verdict"]), Ink::Faint),
        ]);
    }
    if requests.is_empty() { "no such request lately\n".to_owned() } else { table.render("", colours) }
}

fn page(request: &Value, colours: Colours) -> String {
    let mut page = Page { text: String::new(), colours };
    page.opening(request);
    page.route(&request["route"]);
    page.filters(request);
    page.attempts(request);
    for note in items(&request["notes"]) {
        page.line(0, Ink::Faint, &format!("note: {}", text(note)));
    }
    page.text
}

struct Page {
    text: String,
    colours: Colours,
}

impl Page {
    fn line(&mut self, depth: usize, ink: Ink, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{}{}", "  ".repeat(depth), self.colours.ink(ink, line));
    }

    fn opening(&mut self, request: &Value) {
        let scheme = request["scheme"].as_str().unwrap_or("http");
        let heading = match request["method"].as_str() {
            Some("") | None => "a head that never became a request".to_owned(),
            Some(method) if request["protocol"].is_null() => {
                format!("{} {} (a head that never became a request)", text(&method.into()), text(&request["path"]))
            }
            Some(_) => {
                format!("{} {scheme}://{}{}", text(&request["method"]), text(&request["host"]), text(&request["path"]))
            }
        };
        self.line(0, Ink::Heading, &heading);
        let status = request["status"].as_u64().unwrap_or_default();
        self.line(1, status_ink(status), &text(&request["verdict"]));
        let reason = request["reason"].as_str().map(|reason| format!(", reason {reason}")).unwrap_or_default();
        self.line(1, Ink::Plain, &format!("status {status}{reason}"));
        self.line(
            1,
            Ink::Plain,
            &format!(
                "at {}, from {}, by the listener {}, configuration generation {}",
                text(&request["time"]),
                text(&request["client"]),
                text(&request["listener"]),
                request["generation"],
            ),
        );
        self.line(
            1,
            Ink::Plain,
            &format!(
                "{} bytes of body in, {} out, id {}",
                request["bytes_in"],
                request["bytes_out"],
                text(&request["request_id"])
            ),
        );
    }

    fn route(&mut self, route: &Value) {
        self.line(0, Ink::Heading, "route");
        match route["name"].as_str() {
            Some(_) => self.line(1, Ink::Good, &text(&route["name"])),
            None => self.line(1, Ink::Bad, "none"),
        }
        if route["rule"].is_string() {
            self.line(2, Ink::Plain, &format!("won by its rule {}", text(&route["rule"])));
        }
        for rejected in items(&route["rejected"]) {
            self.line(2, Ink::Faint, &format!("not {}: {}", text(&rejected["route"]), text(&rejected["why"])));
        }
    }

    fn filters(&mut self, request: &Value) {
        let steps = items(&request["filters"]);
        if steps.is_empty() {
            return;
        }
        self.line(0, Ink::Heading, "filters");
        for step in steps {
            let ink = match step["verdict"].as_str() {
                Some("refused") => Ink::Bad,
                Some("not_reached") => Ink::Faint,
                _ => Ink::Good,
            };
            self.line(1, ink, &format!("{}: {}", text(&step["filter"]), text(&step["verdict"]).replace('_', " ")));
        }
    }

    fn attempts(&mut self, request: &Value) {
        let attempts = items(&request["attempts"]);
        if request["upstream"].is_null() {
            return;
        }
        self.line(0, Ink::Heading, &format!("upstream {}", text(&request["upstream"])));
        for (number, attempt) in attempts.iter().enumerate() {
            self.attempt(number + 1, attempt);
        }
        if let Some(left_out @ 1..) = request["attempts_left_out"].as_u64() {
            self.line(1, Ink::Faint, &format!("{left_out} tries before the last are left out"));
        }
        if attempts.is_empty() {
            self.line(1, Ink::Bad, "no backend was tried");
        }
        self.excluded(1, &request["excluded"]);
    }

    fn attempt(&mut self, number: usize, attempt: &Value) {
        let outcome = &attempt["outcome"];
        let (ink, end) = match (outcome["failed"].as_str(), outcome["answered"].as_u64()) {
            (Some(_), _) => (Ink::Bad, text(&outcome["why"])),
            (None, Some(_)) if outcome["why"].is_string() => (Ink::Warn, text(&outcome["why"])),
            (None, Some(status)) => (status_ink(status), format!("answered {status}")),
            (None, None) => (Ink::Warn, "without an answer".to_owned()),
        };
        self.line(1, ink, &format!("{number}. {} {end}", text(&attempt["backend"])));
        self.line(2, Ink::Plain, &format!("chosen: {}", text(&attempt["chosen"])));
        let connection = match (attempt["reused"].as_bool(), attempt["connect_ms"].is_number()) {
            (Some(true), _) => "connection used before".to_owned(),
            (_, true) => format!("connected in {}", millis(&attempt["connect_ms"])),
            _ => "no connection".to_owned(),
        };
        let first_byte = match attempt["first_byte_ms"].is_number() {
            true => format!(", first byte after {}", millis(&attempt["first_byte_ms"])),
            false => String::new(),
        };
        let (began, took) = (millis(&attempt["began_ms"]), millis(&attempt["took_ms"]));
        self.line(2, Ink::Plain, &format!("began at {began}, {connection}{first_byte}, over after {took}"));
        self.excluded(2, &attempt["excluded"]);
    }

    fn excluded(&mut self, depth: usize, excluded: &Value) {
        for one in items(excluded) {
            let (backend, state) = (text(&one["backend"]), text(&one["state"]));
            self.line(depth, state_ink(&state), &format!("not {backend}: {state}, {}", text(&one["why"])));
        }
    }
}

fn items(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}
