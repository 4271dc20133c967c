//! What is seen: a model, drawn into a buffer. The same model and size always give the same picture; `table` draws the backends,
//! `dialog` what lies over them.

mod dialog;
mod table;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::look::{Fold, Look, cells, curve, millis, short, since};
use super::model::{Mode, Model};
use super::report::{Probe, Report};
use crate::cli::screen::{Ink, span};

/// Lines beneath the table: a rule, two of the selected backend, a notice, the keys.
const BELOW: u16 = 5;
/// With fewer lines the curves give way to the table.
const ROOM_FOR_CURVES: u16 = 20;
/// How many seconds the proxy keeps.
const HISTORY: u64 = 300;
/// How long an answer may be due before that is told, in seconds.
const LATE: u64 = 4;

/// Draws the model.
pub(super) fn draw(model: &Model, look: Look, area: Rect, buf: &mut Buffer) {
    let mut pen = Pen { look, area, buf, line: area.y };
    pen.title(model);
    if let Some(report) = &model.report {
        pen.sums(report);
        if area.height >= ROOM_FOR_CURVES {
            pen.curves(report, model);
            pen.listeners(report);
        }
        let bottom = area.bottom().saturating_sub(BELOW).max(pen.line);
        let place = Rect { y: pen.line, height: bottom - pen.line, ..area };
        table::draw(model, &mut pen, place);
        pen.line = bottom;
        pen.selected(model);
        pen.notice(model);
    }
    pen.line = area.bottom().saturating_sub(1);
    pen.keys(model);
    match &model.mode {
        Mode::Confirm(order) => dialog::question(model, order, &mut pen),
        Mode::Help => dialog::help(&mut pen),
        Mode::Watch | Mode::Filter => {}
    }
}

/// Where the next line goes. What lies beyond the area is not drawn.
struct Pen<'a> {
    look: Look,
    area: Rect,
    buf: &'a mut Buffer,
    line: u16,
}

impl Pen<'_> {
    fn span<'t>(&self, ink: Ink, text: impl Into<std::borrow::Cow<'t, str>>) -> Span<'t> {
        Span::styled(text, self.look.style(ink))
    }

    /// Writes a line and goes to the next.
    fn write(&mut self, line: &Line<'_>) {
        if self.line < self.area.bottom() {
            self.buf.set_line(self.area.x, self.line, line, self.area.width);
            self.line += 1;
        }
    }

    /// Writes at the end of the line that comes next, where there is room after `taken` columns.
    fn at_end(&mut self, taken: usize, line: &Line<'_>) {
        let (width, wide) = (usize::from(self.area.width), line.width());
        if self.line < self.area.bottom() && taken + wide < width {
            let column = self.area.right() - wide as u16;
            self.buf.set_line(column, self.line, line, wide as u16);
        }
    }

    fn title(&mut self, model: &Model) {
        let mut spans = vec![self.span(Ink::Heading, "roundel ")];
        if let Some(Report { status, .. }) = &model.report {
            let dot = self.look.letters.dot();
            spans.push(self.span(Ink::Heading, status.version.clone()));
            let up = since(status.started_at, model.wall);
            let facts = format!("{dot}pid {}{dot}up {up}{dot}generation {}", status.pid, status.generation);
            spans.push(self.span(Ink::Plain, facts));
            if self.area.width >= 100 {
                spans.push(self.span(Ink::Faint, format!(" (configuration {})", status.config_hash)));
            }
        }
        let silent = model.now.as_secs().saturating_sub(model.heard.as_secs());
        let (ink, word) = match &model.lost {
            Some(_) => (Ink::Bad, format!("NO ANSWER for {}", span(silent as i64))),
            None if silent >= LATE => (Ink::Warn, format!("no answer for {}", span(silent as i64))),
            None if model.paused => (Ink::Warn, "PAUSED".to_owned()),
            None => (Ink::Good, "live".to_owned()),
        };
        let title = Line::from(spans);
        self.at_end(title.width(), &Line::from(self.span(ink, word)));
        self.write(&title);
    }

    /// What all of it does just now: the mean of the last seconds.
    fn sums(&mut self, report: &Report) {
        let history = &report.history;
        let requests = mean(history.requests());
        let errors = mean(history.server_errors.iter().copied());
        let latest = |column: &[Option<f64>]| column.iter().rev().take(5).find_map(|ms| *ms);
        let backends = || report.status.upstreams.iter().flat_map(|upstream| &upstream.backends);
        let flying: u64 = backends().map(|backend| backend.in_flight).sum();
        let share = match requests > 0.0 && self.area.width >= 100 {
            true => format!(" ({:.1}%)", errors / requests * 100.0),
            false => String::new(),
        };
        let (usable, members) = (backends().filter(|backend| backend.usable()).count(), backends().count());
        let ink = match (usable, usable == members) {
            (_, true) => Ink::Good,
            (0, _) => Ink::Bad,
            _ => Ink::Warn,
        };
        let dot = self.look.letters.dot();
        let spans = vec![
            self.span(Ink::Heading, format!("{} req/s", short(requests))),
            self.span(if errors > 0.0 { Ink::Bad } else { Ink::Plain }, format!("{dot}{} 5xx/s{share}", short(errors))),
            self.span(
                Ink::Plain,
                format!("{dot}p50 {}{dot}p99 {}", millis(latest(&history.p50_ms)), millis(latest(&history.p99_ms))),
            ),
            self.span(Ink::Plain, format!("{dot}{flying} in flight")),
            self.span(ink, format!("{dot}{usable} of {members} usable")),
        ];
        self.write(&Line::from(spans));
    }

    /// Requests, errors and latency over the last minutes.
    fn curves(&mut self, report: &Report, model: &Model) {
        let history = &report.history;
        let count = |values: Vec<u64>| values.into_iter().map(|one| Some(one as f64)).collect::<Vec<_>>();
        let requests = count(history.requests().collect());
        let errors = count(history.server_errors.clone());
        self.curve("requests", Ink::Good, &requests, Fold::Mean, model, |most| format!("{}/s", short(most)));
        self.curve("5xx", Ink::Bad, &errors, Fold::Peak, model, |most| format!("{}/s", short(most)));
        self.curve("p99", Ink::Warn, &history.p99_ms, Fold::Peak, model, |most| millis(Some(most)));
    }

    fn curve(
        &mut self,
        name: &str,
        ink: Ink,
        values: &[Option<f64>],
        fold: Fold,
        model: &Model,
        told: impl Fn(f64) -> String,
    ) {
        let width = usize::from(self.area.width).saturating_sub(9 + 16).min(HISTORY as usize);
        let step = HISTORY.div_ceil(width.max(1) as u64);
        let width = width.min(HISTORY.div_ceil(step) as usize);
        let newest = model.heard_at();
        let first = (newest + 1).saturating_sub(values.len() as u64);
        let samples = values.iter().zip(first..).filter_map(|(value, second)| Some((second, (*value)?)));
        let cells = cells(samples, newest, step, width, fold);
        let most = cells.iter().flatten().copied().fold(0.0, f64::max);
        let line = Line::from(vec![
            self.span(Ink::Faint, format!("{name:<9}")),
            self.span(ink, curve(&cells, most, self.look.letters)),
            self.span(Ink::Faint, if most > 0.0 { format!("  most {}", told(most)) } else { String::new() }),
        ]);
        self.write(&line);
    }

    fn listeners(&mut self, report: &Report) {
        let mut line = format!("{:<9}", "clients");
        let (width, listeners) = (usize::from(self.area.width), &report.status.listeners);
        for (number, listener) in listeners.iter().enumerate() {
            let open = listener.connections.unwrap_or_default();
            let name = match listener.name == listener.address {
                true => listener.name.clone(),
                false => format!("{} {}", listener.name, listener.address),
            };
            let dot = if number == 0 { "" } else { self.look.letters.dot() };
            let next = format!("{dot}{name}: {open} open");
            let left = listeners.len() - number;
            if number > 0 && line.chars().count() + next.chars().count() + 10 > width {
                line.push_str(&format!("{dot}{left} more"));
                break;
            }
            line.push_str(&next);
        }
        let (label, rest) = line.split_at(9);
        let line = Line::from(vec![self.span(Ink::Faint, label.to_owned()), self.span(Ink::Plain, rest.to_owned())]);
        self.write(&line);
    }

    /// More of the selected backend than its row has room for.
    fn selected(&mut self, model: &Model) {
        let rule = self.look.letters.rule().to_string().repeat(self.area.width.into());
        self.write(&Line::from(self.span(Ink::Faint, rule)));
        let Some((upstream, backend)) = model.selected() else {
            let empty = if model.arrangement.filter.is_empty() { "" } else { "no backend matches the filter" };
            self.write(&Line::from(self.span(Ink::Warn, empty)));
            self.line += 1;
            return;
        };
        let named = match backend.name == backend.address {
            true => String::new(),
            false => format!(" ({})", backend.name),
        };
        let backup = if backend.backup { ", backup" } else { "" };
        let probe = backend.last_probe.as_ref().map(|probe| probed(probe, model)).unwrap_or_default();
        let facts = format!(
            "{named} weight {}{backup}, {} requests, {} failed{probe}",
            backend.weight, backend.requests, backend.failures
        );
        let name = format!("{}/{}", upstream.name, backend.address);
        let line = Line::from(vec![self.span(Ink::Heading, name), self.span(Ink::Plain, facts)]);
        self.write(&line);
        let why = format!("{}: {}", backend.state.replace('_', " "), backend.reason);
        self.write(&Line::from(self.span(table::ink(backend), why)));
    }

    fn notice(&mut self, model: &Model) {
        let line = match (&model.lost, model.notice()) {
            (Some(why), _) => self.span(Ink::Bad, format!("{why} (asking on)")),
            (None, Some(notice)) => self.span(if notice.good { Ink::Good } else { Ink::Bad }, notice.text.clone()),
            (None, None) => return,
        };
        self.write(&Line::from(line));
    }

    /// The keys of the moment, or the filter that is being written.
    fn keys(&mut self, model: &Model) {
        let arrows = self.look.letters.arrows();
        let keys: &[(&str, &str)] = match model.mode {
            Mode::Filter => {
                let text = format!("filter: {}", model.arrangement.filter);
                let cursor = Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED));
                let hint = self.span(Ink::Faint, "  (Enter keeps it, Esc clears it)");
                let line = Line::from(vec![self.span(Ink::Heading, text), cursor, hint]);
                return self.write(&line);
            }
            Mode::Confirm(_) => &[("y", "yes"), ("n", "no")],
            Mode::Help => &[("any key", "back")],
            Mode::Watch => &[
                (arrows, "choose"),
                ("s", "sort"),
                ("/", "filter"),
                ("d", "drain"),
                ("u", "resume"),
                ("p", "pause"),
                ("?", "all keys"),
                ("q", "quit"),
            ],
        };
        let mut spans = Vec::new();
        for (key, what) in keys {
            spans.push(self.span(Ink::Heading, *key));
            spans.push(self.span(Ink::Faint, format!(" {what}  ")));
        }
        if model.mode == Mode::Watch && !model.arrangement.filter.is_empty() {
            let filter = self.span(Ink::Warn, format!("filter: {}", model.arrangement.filter));
            let taken = spans.iter().map(Span::width).sum();
            self.at_end(taken, &Line::from(filter));
        }
        self.write(&Line::from(spans));
    }
}

impl Model {
    /// The second in which the proxy last answered: the newest one of its history.
    fn heard_at(&self) -> u64 {
        self.heard.as_secs()
    }
}

fn probed(probe: &Probe, model: &Model) -> String {
    let when = since(probe.at, model.wall);
    match (&probe.error, probe.ok) {
        (Some(error), _) => format!(", probed {when} ago: {error}"),
        (None, true) => format!(", probed {when} ago: good in {}", millis(probe.duration_ms)),
        (None, false) => format!(", probed {when} ago: bad"),
    }
}

/// The mean of the last three seconds.
fn mean(seconds: impl DoubleEndedIterator<Item = u64>) -> f64 {
    let (mut sum, mut count) = (0, 0_u32);
    for second in seconds.rev().take(3) {
        sum += second;
        count += 1;
    }
    if count == 0 { 0.0 } else { sum as f64 / f64::from(count) }
}

#[cfg(test)]
mod tests;
