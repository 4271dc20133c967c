//! An explanation as a page of text.

use std::fmt::Write as _;

use crate::base::request::Scheme;
use crate::base::units::{format_duration, format_share, format_size};
use crate::config::Paint;
use crate::config::plan::Listener;
use crate::exchange::explain::{Backend, Delivery, Explanation, Limit, Outcome, Step, Verdict, listener};

/// What was asked.
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    pub(super) url: &'a str,
    pub(super) scheme: Scheme,
    pub(super) listener: &'a Listener,
}

/// Which rows of the route table are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// The winner, and of each other route the one that came nearest.
    Nearest,
    /// All.
    All,
}

/// The page, each line ended.
pub(super) fn render(asked: &Asked<'_>, explanation: &Explanation, rows: Rows, paint: Paint) -> String {
    let mut page = Page { text: String::new(), paint };
    page.opening(asked, explanation);
    page.routes(explanation, rows);
    page.filters(explanation);
    // Nothing of this happens to a request that was answered or refused.
    if explanation.outcome == Outcome::Forwarded {
        page.deliveries(&explanation.deliveries);
        page.section("body");
        page.line(
            &explanation.body_limit.map_or("no limit".to_owned(), |limit| format!("at most {}", format_size(limit))),
        );
    }
    page.text
}

struct Page {
    text: String,
    paint: Paint,
}

/// How a word is shown on a terminal (ECMA-48 SGR).
#[derive(Clone, Copy)]
enum Ink {
    Heading,
    Good,
    Bad,
    Faint,
}

impl Page {
    fn opening(&mut self, asked: &Asked<'_>, explanation: &Explanation) {
        let heading = self.inked(Ink::Heading, &format!("{} {}", asked.method, asked.url));
        let _ = writeln!(self.text, "{heading}");
        let verdict = match explanation.outcome {
            Outcome::Forwarded => self.inked(Ink::Good, "goes to a backend"),
            Outcome::Answered { status, by } => self.inked(Ink::Good, &format!("is answered {status} by `{by}`")),
            Outcome::Refused { reason, by } => {
                let (status, word) = (reason.status(), reason.as_str());
                self.inked(Ink::Bad, &format!("is refused with {status} by `{by}`: {} ({word})", reason.text()))
            }
        };
        self.line(&verdict);
        let client = explanation.client.map_or("without an address".to_owned(), |client| client.to_string());
        let address = asked.listener.address.to_string();
        let name = match *asked.listener.name == *address {
            true => format!("`{address}`"),
            false => format!("`{}` ({address})", asked.listener.name),
        };
        self.line(&format!("comes in by the listener {name}, from the client {client}"));
        let scheme = listener::scheme(asked.listener);
        if scheme != asked.scheme {
            self.line(&format!("the listener speaks plain {}: filters see that scheme", scheme.as_str()));
        }
    }

    fn routes(&mut self, explanation: &Explanation, rows: Rows) {
        if explanation.rules.considered.is_empty() {
            return;
        }
        self.section("routes, in order of precedence");
        let rejected = explanation.rules.rejected();
        for rule in &explanation.rules.considered {
            match rule.verdict.why() {
                None => {
                    let won = self.inked(Ink::Good, &format!("{:<16} wins", rule.route));
                    self.line(&format!("{won}  {}", rule.rule));
                }
                Some(why) if rows == Rows::All => {
                    self.line(&format!("{:<16} lost  {}", rule.route, rule.rule));
                    let why = self.inked(Ink::Faint, why);
                    self.line(&format!("{:<21}  {why}", ""));
                }
                Some(why) if rejected.iter().any(|nearest| std::ptr::eq(*nearest, rule)) => {
                    let why = self.inked(Ink::Faint, why);
                    self.line(&format!("{:<16} lost  {why}", rule.route));
                }
                Some(_) => {}
            }
        }
    }

    fn filters(&mut self, explanation: &Explanation) {
        if explanation.filters.is_empty() {
            return;
        }
        self.section("filters, in their order");
        for step in &explanation.filters {
            self.filter(step);
        }
    }

    fn filter(&mut self, step: &Step) {
        let verdict = match step.verdict {
            Verdict::Passes => String::new(),
            Verdict::Answers(status) => self.inked(Ink::Good, &format!("answers {status}")),
            Verdict::Refuses(reason) => self.inked(Ink::Bad, &format!("refuses with {}", reason.status())),
            Verdict::NotReached => self.inked(Ink::Faint, "not reached"),
        };
        let mut said = Some(verdict).filter(|verdict| !verdict.is_empty()).into_iter().chain(step.does.iter().cloned());
        self.line(&format!("{:<16} {}", step.filter, said.next().unwrap_or_else(|| "changes nothing".to_owned())));
        for more in said {
            self.line(&format!("{:<16} {more}", ""));
        }
    }

    fn deliveries(&mut self, deliveries: &[Delivery]) {
        let total: u64 = deliveries.iter().map(|delivery| u64::from(delivery.weight)).sum();
        for delivery in deliveries {
            let share = f64::from(delivery.weight) / total.max(1) as f64;
            self.delivery(delivery, Some(share).filter(|_| deliveries.len() > 1));
        }
    }

    fn delivery(&mut self, delivery: &Delivery, share: Option<f64>) {
        let share = share.map_or(String::new(), |share| format!(", {} of the requests", format_share(share)));
        self.section(&format!("upstream `{}`{share}", delivery.upstream));
        self.line(&format!("a backend is chosen {}", delivery.balance));
        if let Some(discovery) = &delivery.discovery {
            self.line(&format!("backends are {discovery}, found by the running proxy"));
        }
        delivery.backends.iter().for_each(|backend| self.backend(backend));
        self.section(&format!("timeouts, by `{}`", delivery.upstream));
        let width = delivery.limits.iter().map(|limit| limit.name.len()).max().unwrap_or(0).max(12);
        delivery.limits.iter().for_each(|limit| self.limit(limit, width));
        self.section(&format!("retries, by `{}`", delivery.upstream));
        delivery.retries.words.iter().for_each(|words| self.line(words));
    }

    fn backend(&mut self, backend: &Backend) {
        let why = self.inked(Ink::Faint, &backend.why);
        let verdict =
            if backend.eligible { self.inked(Ink::Good, "may be chosen") } else { "is not chosen".to_owned() };
        self.line(&format!("{:<24} {verdict}  {why}", backend.address));
    }

    fn limit(&mut self, limit: &Limit, width: usize) {
        let time = limit.time.map_or("none".to_owned(), format_duration);
        let void = limit.void.as_ref().map_or(String::new(), |void| format!("; {void}"));
        let whose = self.inked(Ink::Faint, &format!("({}{void})", limit.whose));
        self.line(&format!("{:<width$} {time:<7} {} {whose}", limit.name, limit.what));
    }

    fn section(&mut self, title: &str) {
        let title = self.inked(Ink::Heading, title);
        let _ = writeln!(self.text, "\n{title}");
    }

    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "  {}", line.trim_end());
    }

    fn inked(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            _ if self.paint == Paint::Plain => return text.to_owned(),
            Ink::Heading => "1",
            Ink::Good => "32",
            Ink::Bad => "31",
            Ink::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
